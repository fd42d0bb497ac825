"""Estimates from samples are right on average, and intervals cover as often as they say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import binom
from sklearn.metrics import f1_score, precision_score, recall_score

from confscore.designs import DesignName, survey
from confscore.estimation import STATISTICS, Estimates, estimate
from confscore.intervals import clopper_pearson, count_bounds, linearized, mean_of
from confscore.population import Tally, Totals
from confscore.rows import BoolArray, FloatArray
from confscore.sampling import PoissonDraw

THRESHOLD = 0.5


def world(
    documents: int, rates: list[float], seed: int = 0, *, sharpness: float = 1.0, shift: float = 0.0
) -> tuple[FloatArray, BoolArray]:
    """Return scores and labels: calibrated, or off by a slope and a shift of the log-odds."""
    rng = np.random.default_rng(seed)
    truth = rng.random((documents, len(rates))) < rates
    evidence = rng.normal(np.where(truth, 1.5, -1.5), 1.0)
    odds = 3 * evidence + logit(rates)
    return expit(sharpness * odds + shift), truth


def totals_of(probs: FloatArray, flags: BoolArray) -> Totals:
    tally = Tally(probs.shape[1])
    tally.add(probs, flags)
    return tally.totals()


def inclusion_of(probs: FloatArray, name: DesignName, budget: int) -> FloatArray:
    """Return the inclusion probability of every document."""
    looked, flags = survey(name, budget, 0.2, probs.shape[1]), probs >= THRESHOLD
    looked.add(probs, flags)
    design = looked.design(totals_of(probs, flags))
    drawing = PoissonDraw(design, budget)
    sizes = design.sizes(probs, flags)
    drawing.add(np.zeros((len(probs), 1), dtype=object), sizes, np.full(len(probs), 0.5))
    inclusion = design.floor + drawing.finish().multiplier * sizes
    return np.minimum(1, np.where(inclusion > 1 - 1e-12, 1, inclusion))


def census(probs: FloatArray, truth: BoolArray) -> Estimates:
    flags = probs >= THRESHOLD
    return estimate(truth, probs, flags, np.ones(len(truth)), totals_of(probs, flags))


def values(found: Estimates) -> FloatArray:
    """Return all estimates, shape (N + 2, 4): categories, micro, macro."""
    rows = (*found.categories, found.micro, found.macro)
    return np.array([[getattr(row, name).value for name in STATISTICS] for row in rows])


def covered(found: Estimates, true: FloatArray) -> BoolArray:
    rows = (*found.categories, found.micro, found.macro)
    ends = np.array([[(getattr(row, name).low, getattr(row, name).high) for name in STATISTICS] for row in rows])
    return (ends[..., 0] <= true) & (true <= ends[..., 1])


# -- estimates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scored", [True, False])
def test_of_all_documents_the_numbers_are_those_of_scikit_learn(scored: bool) -> None:
    probs, truth = world(3000, [0.2, 0.05, 0.01])
    flags = probs >= THRESHOLD
    found = estimate(truth, probs if scored else None, flags, np.ones(3000), totals_of(probs, flags))
    by_hand = (precision_score, recall_score, f1_score)
    for j, category in enumerate(found.categories):
        expected = [truth[:, j].mean(), *(score(truth[:, j], flags[:, j]) for score in by_hand)]
        assert [getattr(category, name).value for name in STATISTICS] == pytest.approx(expected)
        assert category.positives == truth[:, j].sum()
    for average, row in (("micro", found.micro), ("macro", found.macro)):
        expected = [truth.mean(), *(score(truth, flags, average=average) for score in by_hand)]
        assert [getattr(row, name).value for name in STATISTICS] == pytest.approx(expected)
    for row in (*found.categories, found.micro, found.macro):
        for name in STATISTICS:
            one = getattr(row, name)
            assert one.low == pytest.approx(one.value, abs=1e-12), "nothing is left to chance"
            assert one.high == pytest.approx(one.value, abs=1e-12)
    assert (found.documents.low, found.documents.value, found.documents.high) == (3000, 3000, 3000)


def test_counts_are_right_on_average_over_all_samples_there_are() -> None:
    truth = np.array([1, 1, 0, 1, 0, 0, 1, 0], dtype=bool)[:, None]
    # Scores are good or bad; only positives have some, so that no estimate has to be cut to [0, 1].
    probs = (np.array([0.9, 0.2, 0, 0.6, 0, 0, 0.05, 0]) * truth[:, 0])[:, None]
    flags = np.array([1, 0, 1, 1, 0, 0, 1, 0], dtype=bool)[:, None]
    inclusion = np.array([0.9, 0.7, 0.8, 0.95, 0.6, 0.7, 1.0, 0.5])
    totals = totals_of(probs, flags)
    mean, chance = np.zeros(2), 0.0
    for drawn in itertools.product([False, True], repeat=8):
        which = np.array(drawn)
        probability = float(np.prod(np.where(which, inclusion, 1 - inclusion)))
        if not probability:
            continue
        (found,) = estimate(truth[which], probs[which], flags[which], inclusion[which], totals).categories
        chance += probability
        mean += probability * np.array([found.prevalence.value, found.precision.value])
    assert chance == pytest.approx(1)
    assert mean == pytest.approx([4 / 8, 3 / 4], abs=1e-12)


def test_a_sample_without_any_document_is_no_sample() -> None:
    probs, truth = world(10, [0.5, 0.5])
    flags = probs >= THRESHOLD
    totals = totals_of(probs, flags)
    with pytest.raises(ValueError, match="do not fit"):
        estimate(truth[:0], probs[:0], flags[:0], np.ones(0), totals)
    with pytest.raises(ValueError, match="do not fit"):
        estimate(truth, probs, flags[:, :1], np.ones(10), totals)
    for bad in (0.0, 1.1, np.nan):
        with pytest.raises(ValueError, match=r"have to lie in \(0, 1\]"):
            estimate(truth, probs, flags, np.full(10, bad), totals)


@given(st.integers(0, 2**32 - 1))
def test_every_estimate_lies_in_its_interval_and_the_interval_in_0_to_1(seed: int) -> None:
    rng = np.random.default_rng(seed)
    documents = int(rng.integers(3, 60))
    probs, truth = world(documents, [0.5, 0.1, 0.02], seed, sharpness=rng.uniform(0.2, 2), shift=rng.normal())
    truth[:, 1] &= rng.random() < 0.5
    flags = probs >= rng.choice([0.0, 0.3, 0.9, 1.1])
    inclusion = np.where(rng.random(documents) < 0.3, 1.0, rng.uniform(0.02, 1, documents))
    drawn = rng.random(documents) < inclusion
    if not drawn.any():
        return
    known = probs[drawn] if rng.random() < 0.7 else None
    found = estimate(truth[drawn], known, flags[drawn], inclusion[drawn], totals_of(probs, flags))
    for row in (*found.categories, found.micro, found.macro):
        for name in STATISTICS:
            one = getattr(row, name)
            if np.isnan(one.low):
                assert name == "precision"
                assert np.isnan(one.value)
                continue
            assert 0 <= one.low <= one.high <= 1
            assert np.isnan(one.value) or one.low <= one.value <= one.high


# -- intervals -----------------------------------------------------------------------------------------------

RATES = [0.1, 0.04, 0.015]


def simulate(
    probs: FloatArray,
    truth: BoolArray,
    name: DesignName,
    draws: int,
    *,
    budget: int = 1000,
    scored: bool = True,
    confidence: float = 0.9,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the true values, the mean estimates in standard errors from them, and the coverage, (N + 2, 4) each."""
    flags = probs >= THRESHOLD
    inclusion, totals = inclusion_of(probs, name, budget), totals_of(probs, flags)
    true = values(census(probs, truth))
    rng = np.random.default_rng(1)
    found, hits = [], np.zeros_like(true)
    for _ in range(draws):
        drawn = rng.random(len(probs)) < inclusion
        known = probs[drawn] if scored else None
        estimates = estimate(truth[drawn], known, flags[drawn], inclusion[drawn], totals, confidence)
        found.append(values(estimates))
        hits += covered(estimates, true)
        assert estimates.documents.low <= len(probs) <= estimates.documents.high
    spread = np.std(found, axis=0)
    off = np.divide(np.mean(found, axis=0) - true, spread, out=np.zeros_like(true), where=spread > 0)
    return true, off, hits / draws


def test_estimates_are_unbiased_and_intervals_cover() -> None:
    draws = 800
    _, off, coverage = simulate(*world(20_000, RATES), "f1", draws)
    # Prevalence and precision are linear in the labels; recall and F1 are ratios, with a bias of smaller order.
    assert np.abs(off[:-1, :2]).max() < 4 / np.sqrt(draws)
    assert np.abs(off).max() < 0.25
    assert coverage.mean() == pytest.approx(0.9, abs=0.03)
    noise = 2.5 * np.sqrt(0.9 * 0.1 / draws)
    assert coverage.min() > 0.87 - noise
    assert coverage.max() < 0.93 + noise


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "name", "scored"),
    [
        ({}, "f1", True),
        ({}, "uniform", True),
        ({}, "f1", False),
        ({"sharpness": 1.5, "shift": 0.5}, "f1", True),  # scores that are too sure of themselves
        ({"sharpness": 0.7, "shift": -0.5}, "f1", True),
    ],
)
def test_intervals_cover_whatever_scores_are_worth(change: dict[str, float], name: DesignName, scored: bool) -> None:
    draws = 2000
    _, off, coverage = simulate(*world(20_000, RATES, **change), name, draws, scored=scored)
    assert np.abs(off[:-1, :1]).max() < 4 / np.sqrt(draws)
    assert coverage.min() > 0.87
    if name == "uniform":  # a dozen flagged documents of the rarest category, often without an exception among them
        assert coverage.max() < 0.99
    else:
        assert coverage.mean() == pytest.approx(0.9, abs=0.03)
        assert coverage.max() < 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "least"), [(0, 0.87), (4, 0.78)])
def test_with_five_missed_positives_intervals_are_too_short(seed: int, least: float) -> None:
    probs, truth = world(20_000, [0.05, 0.004, 0.0015], seed)
    missed = (inclusion_of(probs, "f1", 1000) @ (truth & (probs < THRESHOLD)))[2]
    assert (missed > 9) == (seed == 0), "so many are expected in a sample"
    _, _, coverage = simulate(probs, truth, "f1", 2000)
    assert coverage.min() > least


def test_the_f1_design_takes_fewer_labels_than_a_uniform_one() -> None:
    probs, truth = world(20_000, RATES)
    flags, totals = probs >= THRESHOLD, totals_of(probs, probs >= THRESHOLD)
    spread = {}
    rng = np.random.default_rng(2)
    for name in ("f1", "uniform"):
        inclusion, found = inclusion_of(probs, name, 1000), []
        for _ in range(150):
            drawn = rng.random(len(probs)) < inclusion
            found.append(values(estimate(truth[drawn], probs[drawn], flags[drawn], inclusion[drawn], totals)))
        spread[name] = np.std(found, axis=0)[:, 3]
    ratio = (spread["uniform"] / spread["f1"]) ** 2
    assert ratio[2] > 2, "the rarest category would need twice the labels"
    assert ratio[-1] > 1.5, "and so would macro F1"


def test_a_logit_interval_by_hand() -> None:
    rng = np.random.default_rng(0)
    errors, inclusion = rng.normal(0, 0.001, (30, 1)), rng.uniform(0.1, 1, 30)
    terms = (1 - inclusion) / inclusion**2 * errors[:, 0] ** 2
    low, high = linearized(np.array([0.2]), errors, inclusion, 0.9)
    half = logit(high[0]) - logit(0.2)
    assert logit(0.2) - logit(low[0]) == pytest.approx(half)
    assert half > 1.6449 * np.sqrt(terms.sum()) / 0.16, "Student's t is wider than the normal"
    many = linearized(np.array([0.2]), np.repeat(errors, 1000, axis=0) / np.sqrt(1000), np.repeat(inclusion, 1000), 0.9)
    assert logit(many[1][0]) - logit(0.2) == pytest.approx(1.6449 * np.sqrt(terms.sum()) / 0.16, rel=1e-3)
    one_big = np.zeros((30, 1))
    one_big[3] = 0.01
    wide = linearized(np.array([0.2]), one_big, inclusion, 0.9)[1]
    expected = 6.3138 * np.sqrt((1 - inclusion[3]) / inclusion[3] ** 2) * 0.01 / 0.16  # t with one degree of freedom
    assert logit(wide[0]) - logit(0.2) == pytest.approx(expected, rel=1e-4)


def test_the_interval_of_a_mean_knows_what_goes_together() -> None:
    rng = np.random.default_rng(0)
    one, inclusion = rng.normal(0, 0.01, (400, 1)), np.full(400, 0.5)
    ends = (np.array([0.5, 0.5]), np.array([0.4, 0.4]), np.array([0.7, 0.7]))
    alike = mean_of(*ends, np.repeat(one, 2, axis=1), inclusion)
    opposite = mean_of(*ends, np.column_stack([one, -one]), inclusion)
    apart = mean_of(*ends, np.repeat(np.eye(2), 200, axis=0), inclusion)
    assert alike == pytest.approx((0.4, 0.7))
    assert opposite == pytest.approx((0.5, 0.5))
    assert apart == pytest.approx((0.5 - 0.1 / np.sqrt(2), 0.5 + 0.2 / np.sqrt(2)))


@pytest.mark.parametrize(("positives", "trials"), [(0, 20), (3, 20), (20, 20)])
def test_exact_bounds_are_those_of_the_binomial(positives: int, trials: int) -> None:
    low, high = clopper_pearson(positives, trials, 0.9)
    if positives:
        assert binom.sf(positives - 1, trials, low) == pytest.approx(0.05)
    else:
        assert low == 0
    if positives < trials:
        assert binom.cdf(positives, trials, high) == pytest.approx(0.05)
    else:
        assert high == 1


def test_count_bounds_know_what_is_certain() -> None:
    truth, inclusion = np.array([1, 0, 1, 0, 0, 0], dtype=bool), np.array([1, 1, 1, 0.1, 0.1, 0.1])
    assert count_bounds(truth[:3], inclusion[:3], 3, 0.9) == (2, 2)
    assert count_bounds(truth[:3], inclusion[:3], 10, 0.9) == (2, 9)
    low, high = count_bounds(truth, inclusion, 33, 0.9)
    assert low == 2
    assert high == pytest.approx(2 + 30 * (1 - 0.05 ** (1 / 3)))  # three trials without a positive
    unequal = count_bounds(truth[3:], np.array([0.01, 0.5, 0.5]), 100, 0.9)[1]
    assert unequal > count_bounds(truth[3:], np.full(3, 0.1), 100, 0.9)[1], "unequal weights are worth fewer trials"


def sample_with(
    truth: list[int], flags: list[int], flagged: int, documents: int = 1000, prob: float = 0.001
) -> Estimates:
    """Return the estimates of one category from documents that were drawn with the same probability."""
    n = len(truth)
    totals = Totals(documents, np.array([prob * documents]), np.array([flagged]), np.array([prob * flagged]))
    labels, flagged_too = np.array(truth, dtype=bool)[:, None], np.array(flags, dtype=bool)[:, None]
    return estimate(labels, np.full((n, 1), prob), flagged_too, np.full(n, n / documents), totals, 0.9)


def test_no_positive_in_a_sample_is_no_proof_that_there_is_none() -> None:
    found = sample_with([0] * 100, [1] * 10 + [0] * 90, 100)
    (one,) = found.categories
    assert one.positives == 0
    assert one.prevalence.low == 0
    assert one.prevalence.high == pytest.approx(1 - 0.05**0.01)
    assert (one.precision.low, one.precision.high) == (0, pytest.approx(1 - 0.05**0.1))
    assert np.isnan(one.recall.value)
    assert (one.recall.low, one.recall.high) == (0, 1)
    assert one.f1.low == 0
    assert 0.2 < one.f1.high < 0.6
    assert (found.macro.f1.low, found.macro.f1.high) == (0, 1)
    assert np.isnan(found.macro.f1.value)


def test_what_was_found_without_exception_is_not_thought_to_be_perfect() -> None:
    (one,) = sample_with([1] * 10 + [0] * 90, [1] * 10 + [0] * 90, 100, prob=0.1).categories
    assert one.precision.value == 1
    assert (one.precision.low, one.precision.high) == (pytest.approx(0.05**0.1), 1)
    # Two counts with half the error probability each: found among 100 flagged ones, lost among 900 others.
    found, lost = 100 * 0.025 ** (1 / 10), 900 * (1 - 0.025 ** (1 / 90))
    assert (one.recall.low, one.recall.high) == (pytest.approx(found / (found + lost)), 1)
    assert (one.f1.low, one.f1.high) == (pytest.approx(2 * found / (100 + found + lost)), 1)


def test_f1_is_not_sure_that_nothing_is_missed_because_nothing_missed_was_drawn() -> None:
    (one,) = sample_with([1] * 8 + [0] * 92, [1] * 10 + [0] * 90, 100).categories
    assert 0.8 < one.f1.value < 0.95
    lost = 900 * (1 - 0.025 ** (1 / 90))
    found = 100 * clopper_pearson(8, 10, 0.95)[0]
    assert one.f1.low == pytest.approx(2 * found / (100 + found + lost))


def test_a_category_that_is_never_flagged_has_no_precision_and_one_never_drawn_an_open_one() -> None:
    (never,) = sample_with([1] * 5 + [0] * 95, [0] * 100, 0).categories
    assert np.isnan([never.precision.value, never.precision.low, never.precision.high]).all()
    assert (never.recall.value, never.f1.value) == (0, 0)
    (unseen,) = sample_with([1] * 5 + [0] * 95, [0] * 100, 30).categories
    assert np.isnan(unseen.precision.value)
    assert (unseen.precision.low, unseen.precision.high) == (0, 1)


def test_scores_that_are_no_probabilities_take_part_by_their_flags() -> None:
    truth = [1] * 6 + [0] * 4 + [1] * 3 + [0] * 87
    labels = np.array(truth, dtype=bool)[:, None]
    flags = np.array([1] * 10 + [0] * 90, dtype=bool)[:, None]
    # 150 documents are flagged, and not the 100 that ten of a hundred stand for.
    totals = Totals(1000, np.array([np.nan]), np.array([150]), np.array([np.nan]))
    (one,) = estimate(labels, None, flags, np.full(100, 0.1), totals, 0.9).categories
    assert one.precision.value == pytest.approx(0.6)
    assert one.prevalence.value == pytest.approx((150 * 6 / 10 + 850 * 3 / 90) / 1000)
    assert one.recall.value == pytest.approx(90 / (90 + 850 / 30))


def test_a_sample_that_lacks_a_part_does_not_stand_for_the_population() -> None:
    probs, truth = world(20_000, RATES)
    flags, inclusion = probs >= THRESHOLD, inclusion_of(probs, "f1", 1000)
    drawn = np.random.default_rng(0).random(len(probs)) < inclusion
    totals = totals_of(probs, flags)

    def fits(which: BoolArray) -> bool:
        found = estimate(truth[which], probs[which], flags[which], inclusion[which], totals).documents
        return found.low <= 20_000 <= found.high

    assert fits(drawn)
    assert not fits(drawn & (np.arange(len(probs)) % 3 == 0))
