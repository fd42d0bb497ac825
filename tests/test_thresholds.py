"""Thresholds: by hand, against brute force, and by simulation: what is guaranteed holds as often as is promised."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import beta, binom

from confscore.choosing import Labels, Population, choose, survey
from confscore.curves import Identity, Logistic
from confscore.errors import ConfigError
from confscore.policy import (
    ExpectedCost,
    FBeta,
    Fixed,
    MaxF1,
    Policy,
    PolicyFile,
    PrecisionAtLeast,
    RecallAtLeast,
    ReviewBudget,
    load_policy,
)
from confscore.rows import BoolArray, FloatArray
from confscore.score_counts import ScoreCounts
from confscore.thresholds import (
    APPROXIMATE,
    EXACT_PRECISION,
    EXACT_RECALL,
    Abstained,
    Chosen,
    best_f,
    lower_bound,
    precision_at_least,
    recall_at_least,
    share_interval,
    sizes_to_test,
    smallest_sample,
)

DRAWS = 1000


def noise(delta: float, draws: int = DRAWS) -> float:
    """Return the largest rate of misses in so many draws that a true rate of delta makes plausible."""
    return float(binom.ppf(0.9999, draws, delta)) / draws


class World:
    """All documents: scores, labels and inclusion probabilities; most have no category at all."""

    def __init__(
        self,
        intercept: float,
        slope: float,
        center: float,
        spread: float,
        levels: int = 0,
        nothing_in: tuple[float, float] = (2, 2),
    ) -> None:
        rng = np.random.default_rng(7)
        x = rng.normal(center, spread, 60_000)
        scores = expit(x)
        if levels:
            scores = np.round(scores * levels) / levels
        self.scores: FloatArray = scores.astype(np.float32).astype(np.float64)
        self.truth: BoolArray = rng.random(len(x)) < expit(intercept + slope * x)
        self.truth &= ~((self.scores > nothing_in[0]) & (self.scores < nothing_in[1]))
        self.counts = ScoreCounts(1)
        self.counts.add(self.scores[:, None])
        order = np.argsort(-self.scores)
        self._falling, self._found = -self.scores[order], np.cumsum(self.truth[order])

    def precision(self, threshold: float) -> float:
        flagged = int(np.searchsorted(self._falling, -threshold, side="right"))
        return float(self._found[flagged - 1]) / flagged if flagged else 1.0

    def recall(self, threshold: float) -> float:
        flagged = int(np.searchsorted(self._falling, -threshold, side="right"))
        return float(self._found[flagged - 1] / self._found[-1]) if flagged else 0.0

    def uniform(self, rng: np.random.Generator, size: int) -> tuple[FloatArray, BoolArray, None]:
        drawn = rng.choice(len(self.scores), size, replace=False)
        return self.scores[drawn], self.truth[drawn], None

    def poisson(self, rng: np.random.Generator, size: int) -> tuple[FloatArray, BoolArray, FloatArray]:
        """Draw mostly large scores: π is a floor and a share of the square root of the score."""
        pull = np.sqrt(self.scores)
        chance = np.minimum(1, 0.2 * size / len(pull) + 0.8 * size / pull.sum() * pull)
        drawn = rng.random(len(pull)) < chance
        return self.scores[drawn], self.truth[drawn], 1 / chance[drawn]

    def certain_top(self, rng: np.random.Generator, size: int) -> tuple[FloatArray, BoolArray, FloatArray]:
        """Draw the largest scores for certain, and very few of the others."""
        chance = np.full(len(self.scores), 0.2 * size / len(self.scores))
        chance[np.argsort(-self.scores)[: int(0.8 * size)]] = 1
        drawn = rng.random(len(chance)) < chance
        return self.scores[drawn], self.truth[drawn], 1 / chance[drawn]


Draw = Callable[[World, np.random.Generator, int], tuple[FloatArray, BoolArray, FloatArray | None]]


def miss_rate(
    world: World,
    policy: Policy,
    truth: Callable[[float], float],
    target: float,
    draw: Draw,
    draws: int = DRAWS,
    at_least: float = 0.1,
) -> float:
    """Return how often the true value at a chosen threshold is below the target; and see that there are thresholds."""
    misses = chosen = 0
    for seed in range(draws):
        scores, labels, weights = draw(world, np.random.default_rng(seed), 1500)
        population = Population(world.counts, ScoreCounts(1), (), ("run-1",))
        choice, _ = choose(policy, "S1", 0, Labels(scores, labels, weights, Identity()), population)
        if isinstance(choice, Chosen):
            assert choice.threshold is not None
            chosen += 1
            misses += truth(choice.threshold) < target
    assert chosen >= at_least * draws
    return misses / draws


WORLDS = {
    "calibrated": World(0, 1, -6, 4),
    "overconfident": World(-0.5, 0.6, -5, 4),
    "few levels": World(0, 1, -6, 4, levels=20),
    "precision that falls and rises": World(0.5, 1.2, -6, 4, nothing_in=(0.93, 0.97)),
}


@pytest.mark.parametrize("world", WORLDS)
def test_precision_is_as_promised_as_often_as_promised(world: str) -> None:
    target = 0.6 if world == "overconfident" else 0.75
    policy = PrecisionAtLeast(precision=target, confidence=0.9)
    where = WORLDS[world]
    assert miss_rate(where, policy, where.precision, target, World.uniform) <= noise(0.1)


@pytest.mark.parametrize("world", ["calibrated", "overconfident", "few levels"])
def test_recall_is_as_promised_as_often_as_promised(world: str) -> None:
    policy = RecallAtLeast(recall=0.8, confidence=0.9)
    where = WORLDS[world]
    rate = miss_rate(where, policy, where.recall, 0.8, World.uniform)
    assert rate <= noise(0.1)
    assert world == "few levels" or rate > 0.02  # no wider than need be


def promises_hold(draw: Draw, draws: int) -> None:
    where = WORLDS["calibrated"]
    precise = PrecisionAtLeast(precision=0.75, confidence=0.9)
    assert miss_rate(where, precise, where.precision, 0.75, draw, draws) <= noise(0.1, draws)
    complete = RecallAtLeast(recall=0.8, confidence=0.9)
    assert miss_rate(where, complete, where.recall, 0.8, draw, draws) <= noise(0.1, draws)


def test_documents_that_stand_for_many_and_may_not_be_drawn_are_reckoned_with() -> None:
    # Of the positives outside of the top two or three are drawn, or none, and each stands for 200.
    where = World(0, 1, -12, 6)
    policy = RecallAtLeast(recall=0.9, confidence=0.9)
    assert miss_rate(where, policy, where.recall, 0.9, World.certain_top, 300, at_least=0) <= noise(0.1, 300)


UNEQUAL = pytest.mark.parametrize("draw", [World.poisson, World.certain_top], ids=["by score", "top and few others"])


@UNEQUAL
def test_from_unequal_samples_the_promises_hold_too(draw: Draw) -> None:
    promises_hold(draw, 200)


@pytest.mark.slow
@UNEQUAL
def test_from_unequal_samples_the_promises_hold_too_at_length(draw: Draw) -> None:
    promises_hold(draw, DRAWS)


def test_the_simulation_would_see_a_threshold_without_a_guarantee() -> None:
    where = WORLDS["calibrated"]
    misses = 0
    for seed in range(200):
        scores, labels, _ = where.uniform(np.random.default_rng(seed), 1500)
        order = np.argsort(-scores)
        fits = np.cumsum(labels[order]) / np.arange(1, 1501) >= 0.75
        misses += where.precision(scores[order][np.flatnonzero(fits)[-1]]) < 0.75
    assert misses / 200 > 0.3


def test_a_cut_passes_where_the_binomial_test_rejects() -> None:
    for size in (1, 5, 29, 30, 46, 200):
        for positives in range(max(0, size - 30), size + 1):
            truth = np.arange(size) < positives
            rejects = binom.sf(positives - 1, size, 0.9) <= 0.05
            assert (lower_bound(truth, np.ones(size), 0.95) >= 0.9) == rejects


def test_the_sequence_ends_at_the_first_cut_that_fails() -> None:
    scores = np.repeat([0.9, 0.8, 0.7, 0.6], 50)
    truth = np.ones(200, dtype=bool)
    truth[50:100] = np.arange(50) < 25  # the second block spoils its cut and the next
    truth[150:] = True
    cuts = [0.9, 0.8, 0.7, 0.6]
    assert precision_at_least(scores, truth, None, cuts, 0.7, 0.95) == Chosen(0.9)
    assert lower_bound(truth, np.ones(200), 0.95) > 0.7  # all of them would do
    assert isinstance(precision_at_least(scores[50:], truth[50:], None, cuts, 0.7, 0.95), Abstained)


def test_recall_by_hand() -> None:
    # 0.9^m <= 0.05 needs 29 positives; with 46 the second smallest will do, as Pr(Bin(46, 0.1) <= 1) = 0.048.
    for size, place in ((28, None), (29, 0), (45, 0), (46, 1), (61, 2)):
        scores = np.linspace(0.1, 0.9, size)
        found = recall_at_least(scores, np.ones(size, dtype=bool), None, 0.9, 0.95)
        if place is None:
            assert found == Abstained("too few labels to show a recall of 0.9 at 95%", 1)
        else:
            assert found == Chosen(float(scores[place]))


def test_equal_weights_say_the_same_as_none() -> None:
    where = WORLDS["calibrated"]
    scores, truth, _ = where.uniform(np.random.default_rng(0), 3000)
    weights = np.full(3000, 7.0)
    sizes = sizes_to_test(0.7, 0.9, 3000)
    cuts = where.counts.cuts(0, [size * 20 for size in sizes])
    assert precision_at_least(scores, truth, None, cuts, 0.7, 0.9) == precision_at_least(
        scores, truth, weights, cuts, 0.7, 0.9
    )
    low, high = beta.ppf([0.025, 0.975], [30, 31], [71, 70])
    share = share_interval(np.arange(100) < 30, np.full(100, 3.0), 0.95)
    assert share == (pytest.approx(0.3), pytest.approx(low), pytest.approx(high))


def test_an_interval_of_unequal_weights_is_that_of_korn_and_graubard() -> None:
    truth = np.array([True, True, False, True, False, True])
    weights = np.array([1.0, 2.0, 3.0, 1.0, 2.0, 5.0])
    share = 9 / 14
    variance = (weights**2 * (truth - share) ** 2).sum() * 6 / 5 / 14**2
    trials = min(share * (1 - share) / variance, 14**2 / (weights**2).sum())
    low = beta.ppf(0.025, share * trials, trials - share * trials + 1)
    assert share_interval(truth, weights, 0.95)[:2] == (pytest.approx(share), pytest.approx(low))
    assert share_interval(np.ones(6, dtype=bool), weights, 0.95)[2] == 1
    # A single exception of next to no weight does not vary: labels are worth no more than weights allow.
    light = np.array([0.1, 5.0, 5.0, 1.0, 1.0])
    share, trials = 12 / 12.1, 12.1**2 / (light**2).sum()
    assert share * (1 - share) * 12.1**2 / ((light**2 * ((np.arange(5) > 0) - share) ** 2).sum() * 5 / 4) > trials
    low = beta.ppf(0.025, share * trials, trials - share * trials + 1)
    assert share_interval(np.arange(5) > 0, light, 0.95)[1] == pytest.approx(low)


def test_labels_that_do_not_suffice_say_how_many_more_would() -> None:
    where = WORLDS["calibrated"]
    rng = np.random.default_rng(0)

    def attempt(size: int) -> tuple[Chosen | Abstained, int]:
        scores, truth, _ = where.uniform(rng, size)
        cuts = where.counts.cuts(0, [one * len(where.scores) / size for one in sizes_to_test(0.8, 0.95, size)])
        return precision_at_least(scores, truth, None, cuts, 0.8, 0.95), int(truth.sum())

    enough = asked = 0
    for _ in range(40):
        choice, positives = attempt(500)
        if isinstance(choice, Abstained) and choice.more_positives is not None:
            asked += 1
            larger = math.ceil(500 * (1 + choice.more_positives / positives))
            enough += isinstance(attempt(min(larger, len(where.scores)))[0], Chosen)
    assert asked > 20
    assert enough > 0.5 * asked


def test_more_positives_with_unequal_weights_suffice_too() -> None:
    rng = np.random.default_rng(0)
    weights = np.concatenate([np.full(30, 1.0), np.full(2, 20.0)])
    scores = rng.random(32)
    first = recall_at_least(scores, np.ones(32, dtype=bool), weights, 0.9, 0.95)
    assert isinstance(first, Abstained)
    assert first.more_positives is not None
    assert first.more_positives > 100
    more = np.resize(weights, 32 + first.more_positives)
    assert isinstance(recall_at_least(rng.random(len(more)), np.ones(len(more), dtype=bool), more, 0.9, 0.95), Chosen)


def test_some_labels_never_suffice_and_none_say_how_many_do() -> None:
    half = np.arange(200) % 2 == 0
    hopeless = precision_at_least(np.linspace(1, 0, 200), half, None, [0.5, 0.0], 0.9, 0.95)
    assert hopeless == Abstained("no part of the labels is precise enough to show a precision of 0.9 at 95%")
    nothing = precision_at_least(np.linspace(1, 0, 200), np.zeros(200, dtype=bool), None, [0.5, 0.0], 0.9, 0.95)
    assert nothing == Abstained("no positive label", math.ceil(0.9 * (29 + 2 * math.sqrt(29))))
    assert recall_at_least(np.ones(9), np.zeros(9, dtype=bool), None, 0.9, 0.95) == Abstained("no positive label", 29)
    assert best_f(np.ones(9), np.arange(9) < 4, None) == Abstained("4 positive labels", 6)
    assert smallest_sample(0.9, 0.95) == 29


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 2.0]), st.booleans())
def test_the_best_f_is_the_best_of_all_cuts(seed: int, beta_: float, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random(40), int(rng.integers(1, 4)))
    truth = rng.random(40) < 0.2 + 0.6 * scores
    truth[0] = True
    weights = rng.random(40) + 0.1 if weighted else np.ones(40)

    def f(cut: float) -> float:
        flagged = scores >= cut
        true = float(weights[flagged & truth].sum())
        precision, recall = true / weights[flagged].sum(), true / weights[truth].sum()
        return 0.0 if not true else (1 + beta_**2) * precision * recall / (beta_**2 * precision + recall)

    found = best_f(scores, truth, weights if weighted else None, beta_, 1)
    assert isinstance(found, Chosen)
    assert found.threshold is not None
    best = max(f(cut) for cut in np.unique(scores))
    assert f(found.threshold) == pytest.approx(best)
    assert all(f(cut) < best - 1e-12 for cut in np.unique(scores) if cut > found.threshold)


def population(scores: FloatArray, policy: PolicyFile, codes: tuple[str, ...], runs: int = 1) -> Population:
    curves = [Logistic(intercept=-1, slope=0.8), Logistic(intercept=0, slope=1.2)][: len(codes)]
    batches = [
        (pa.record_batch({"run_id": [f"run-{run}"] * len(part)}), part)
        for run, part in enumerate(np.array_split(scores, runs))
    ]
    return survey(batches, codes, curves, policy)


def scores_of(n: int, columns: int) -> FloatArray:
    x = np.random.default_rng(4).normal(-4, 3, (n, columns))
    return expit(x).astype(np.float32).astype(np.float64)


def test_counts_are_exact_at_every_edge() -> None:
    scores = np.concatenate([scores_of(5000, 1), [[0.0], [1.0], [1.0], [2**-149], [1 - 2**-24], [0.5]]])
    counts = ScoreCounts(1)
    counts.add(scores[:100])
    counts.add(scores[100:])
    ordered = np.sort(scores[:, 0])
    expected = len(ordered) - np.searchsorted(ordered, counts.edges)
    np.testing.assert_array_equal(counts.at_least(0), expected)
    assert counts.within(0, 1) is None
    assert counts.within(0, 2) is not None
    assert counts.within(0, 10_000) == 0
    cuts = counts.cuts(0, [10, 100, 5006, 9999])
    assert [int((scores >= cut).sum()) >= size for cut, size in zip(cuts, [10, 100, 5006], strict=False)] == [True] * 3
    assert cuts == sorted(cuts, reverse=True)
    assert cuts[-1] == 0


@pytest.mark.parametrize("nights", [None, 2])
def test_a_review_budget_is_kept_on_an_average_night(nights: int | None) -> None:
    scores = scores_of(6000, 2)
    own = ReviewBudget(documents=50, nights=nights)
    policy = PolicyFile(default=own, categories={"S1": own})
    known = population(scores, policy, ("S1", "S2"), runs=3)
    budget = 50 * (nights or 3)
    labels = Labels(scores[:9, 0], scores[:9, 0] > 0.5, None, Logistic(intercept=-1, slope=0.8))
    choice, guarantee = choose(own, "S1", 0, labels, known)
    assert isinstance(choice, Chosen)
    assert guarantee is None
    assert 0.9 * budget <= (scores[:, 0] >= choice.threshold).sum() <= budget


def test_categories_that_share_a_budget_count_each_document_once() -> None:
    scores = scores_of(6000, 2)
    policy = PolicyFile(default=ReviewBudget(documents=300))
    codes = ("S1", "S2")
    known = population(scores, policy, codes)
    assert known.sharing == codes
    curves = [Logistic(intercept=-1, slope=0.8), Logistic(intercept=0, slope=1.2)]
    flags = []
    for j, code in enumerate(codes):
        labels = Labels(scores[:9, j], scores[:9, j] > 0.5, None, curves[j])
        choice, _ = choose(policy.of(code), code, j, labels, known)
        assert isinstance(choice, Chosen)
        assert choice.threshold is not None
        flags.append(scores[:, j] >= choice.threshold)
        # One cut on the probability is two on the scores.
        assert curves[j].prob(np.array([choice.threshold]))[0] == pytest.approx(
            curves[0].prob(scores[flags[0], 0]).min(), rel=0.02
        )
    assert 285 <= (flags[0] | flags[1]).sum() <= 300
    assert flags[0].sum() + flags[1].sum() > 300


def test_costs_cut_at_the_probability_where_both_errors_cost_the_same() -> None:
    curve = Logistic(intercept=-1, slope=0.8)
    labels = Labels(np.array([0.5]), np.array([True]), None, curve)
    known = population(scores_of(10, 1), PolicyFile(), ("S1",))
    choice, _ = choose(ExpectedCost(false_positive=1, false_negative=9), "S1", 0, labels, known)
    assert isinstance(choice, Chosen)
    assert choice.threshold is not None
    assert curve.prob(np.array([choice.threshold]))[0] == pytest.approx(0.1, rel=1e-5)
    rare = choose(ExpectedCost(false_positive=1e9, false_negative=1e-9), "S1", 0, labels, known)[0]
    assert rare == Chosen(None)


def test_recall_counts_as_much_as_beta_says() -> None:
    scores, truth, _ = WORLDS["calibrated"].uniform(np.random.default_rng(0), 2000)
    labels = Labels(scores, truth, None, Identity())
    known = population(scores_of(10, 1), PolicyFile(), ("S1",))
    chosen = [choose(policy, "S1", 0, labels, known)[0] for policy in (FBeta(beta=0.3), MaxF1(), FBeta(beta=4))]
    assert chosen == [best_f(scores, truth, None, beta_) for beta_ in (0.3, 1, 4)]
    strict, even, complete = (one.threshold for one in chosen if isinstance(one, Chosen))
    assert strict is not None
    assert even is not None
    assert complete is not None
    assert strict > even > complete
    few = choose(FBeta(beta=4, min_positives=1000), "S1", 0, labels, known)[0]
    assert few == Abstained(f"{truth.sum()} positive labels", 1000 - int(truth.sum()))


def test_a_fixed_threshold_is_read_as_a_float32_number() -> None:
    labels = Labels(np.array([0.5]), np.array([True]), None, Logistic(intercept=-1, slope=0.8))
    known = population(scores_of(10, 1), PolicyFile(), ("S1",))
    assert choose(Fixed(threshold=0.9), "S1", 0, labels, known)[0] == Chosen(float(np.float32(0.9)))
    on_probability = choose(Fixed(threshold=0.9, of="probability"), "S1", 0, labels, known)[0]
    assert isinstance(on_probability, Chosen)
    assert on_probability.threshold is not None
    assert on_probability.threshold > 0.95


def test_a_result_says_what_it_rests_on() -> None:
    known = population(scores_of(500, 1), PolicyFile(), ("S1",))
    scores = scores_of(500, 1)[:, 0]
    for weights, precise, complete in ((None, EXACT_PRECISION, EXACT_RECALL), (scores + 1, APPROXIMATE, APPROXIMATE)):
        labels = Labels(scores, scores > 0.3, weights, Identity())
        assert choose(PrecisionAtLeast(precision=0.6), "S1", 0, labels, known)[1] == precise
        assert choose(RecallAtLeast(recall=0.6), "S1", 0, labels, known)[1] == complete
        assert choose(MaxF1(), "S1", 0, labels, known)[1] is None


def policy_file(folder: Path, text: str) -> str:
    path = folder / "policy.yaml"
    path.write_text(text)
    return str(path)


def test_a_policy_file_names_rules_by_category(tmp_path: Path) -> None:
    path = policy_file(
        tmp_path,
        "calibration: sigmoid\ndefault: max_f1\ncategories:\n"
        "  S1: {policy: precision_at_least, precision: 0.9}\n  S2: {policy: fixed, threshold: 0.5}\n",
    )
    policy = load_policy(path, ("S1", "S2", "S3"))
    assert policy.calibration == "sigmoid"
    assert policy.of("S1") == PrecisionAtLeast(precision=0.9, confidence=0.95)
    assert policy.of("S3") == MaxF1()
    assert load_policy(policy_file(tmp_path, "{}"), ("S1",)) == PolicyFile()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("default: max_f2", "default: has no known policy; they are max_f1, f_beta, expected_cost"),
        ("categories: {S1: {precision: 0.9}}", "categories.S1: has no known policy"),
        ("categories: {S9: max_f1}", "categories.S9 is no category of the score table; they are S1, S2"),
        ("default: {policy: precision_at_least}", "default.precision is missing"),
        ("default: {policy: precision_at_least, precision: 90}", r"default.precision: .*less than 1 \(got 90\)"),
        (
            "default: {policy: f_beta, betta: 2}",
            "default.beta is missing",
        ),
        ("calibratoin: none", "calibratoin is not a known key, did you mean calibration"),
        ("calibration: platt", "calibration: .*hierarchical_platt"),
        ("default: {policy: recall_at_least, recall: 0.9, confidence: 0.4}", "default.confidence: .*greater than 0.5"),
        ("- 1", "the policy file has to be a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_policy_that_cannot_be_understood_is_refused_by_its_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_policy(policy_file(tmp_path, text), ("S1", "S2"))


def test_a_policy_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such policy file"):
        load_policy(f"{tmp_path}/none.yaml", ("S1",))
