"""Samples have the probabilities that they say, whatever the order of rows, and their files say how they were drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import kstest

from confscore.designs import DESIGNS, Design, DesignName, influence_squared, plug_in_f1, survey
from confscore.population import Tally
from confscore.rows import FloatArray
from confscore.sampling import Drawn, PoissonDraw, hash_ids, permanent_numbers, solve_multiplier


def population(documents: int, categories: int = 4, seed: int = 0) -> FloatArray:
    """Return probabilities as guards give them: most of them tiny, and each category rarer than the one before."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-3 - np.arange(categories), 2.5, (documents, categories))
    return (1 / (1 + np.exp(-odds))).astype(np.float32).astype(np.float64)


def ids_of(documents: int) -> np.ndarray:
    return np.array([f"d{i}" for i in range(documents)], dtype=object)


def draw(
    probs: FloatArray, name: DesignName, budget: int, *, floor: float = 0.2, seed: int = 0, batches: int = 1
) -> tuple[Drawn, Design, FloatArray]:
    """Return a sample of documents with numbers for ids, its design, and every document's inclusion probability."""
    flags = probs >= 0.5
    looked, tally = survey(name, budget, floor, probs.shape[1]), Tally(probs.shape[1])
    parts = np.array_split(np.arange(len(probs)), batches)
    for part in parts:
        looked.add(probs[part], flags[part])
        tally.add(probs[part], flags[part])
    design = looked.design(tally.totals())
    drawing, ids = PoissonDraw(design, budget), ids_of(len(probs))
    for part in parts:
        numbers = permanent_numbers(hash_ids(ids[part], seed))
        drawing.add(ids[part][:, None], design.sizes(probs[part], flags[part]), numbers)
    drawn = drawing.finish()
    return drawn, design, np.minimum(1, design.floor + drawn.multiplier * design.sizes(probs, flags))


# -- inclusion probabilities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DESIGNS)
@given(st.integers(1, 400), st.integers(1, 500), st.sampled_from([0.05, 0.2, 1.0]), st.integers(0, 99))
def test_inclusion_probabilities_add_up_to_the_budget(
    name: DesignName, documents: int, budget: int, floor: float, seed: int
) -> None:
    probs = population(documents, seed=seed)
    _, _, inclusion = draw(probs, name, budget, floor=floor, batches=3)
    if budget >= documents:
        np.testing.assert_array_equal(inclusion, 1)
        return
    assert inclusion.sum() == pytest.approx(budget, rel=1e-6)
    least = budget / documents * (1 if name == "uniform" else floor if name == "f1" else 0)
    assert inclusion.min() >= least * (1 - 1e-9)
    assert inclusion.min() > 0


@given(
    st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=60),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.95),
)
def test_the_multiplier_is_the_root(sizes: list[float], share: float, floor_share: float) -> None:
    falling = np.sort(sizes)[::-1]
    budget = max(1, int(share * len(sizes)))
    if budget >= len(sizes):
        return
    floor = floor_share * budget / len(sizes)
    found = solve_multiplier(falling[: budget + 1], float(falling.sum()), len(sizes), floor, budget)

    def excess(multiplier: float) -> float:
        return float(np.minimum(1, floor + multiplier * falling).sum() - budget)

    assert found == pytest.approx(brentq(excess, 0, 1e9, xtol=1e-12, rtol=1e-12), rel=1e-6)


@pytest.mark.parametrize("name", DESIGNS)
def test_documents_are_drawn_as_often_as_their_probabilities_say(name: DesignName) -> None:
    probs, seeds = population(120), 700
    counts = np.zeros(len(probs))
    sizes = []
    for seed in range(seeds):
        drawn, _, inclusion = draw(probs, name, 30, seed=seed)
        places = [int(doc_id[1:]) for doc_id in drawn.keys[:, 0]]
        counts[places] += 1
        sizes.append(len(places))
        np.testing.assert_allclose(drawn.inclusion, inclusion[places], rtol=1e-12)
    expected = seeds * inclusion
    spread = np.sqrt(expected * (1 - inclusion))
    assert (np.abs(counts - expected) <= 4.5 * spread + 1e-9).all()
    # The size varies as that of independent draws does.
    assert np.mean(sizes) == pytest.approx(30, abs=4 * np.sqrt((inclusion * (1 - inclusion)).sum() / seeds))
    assert np.var(sizes) == pytest.approx((inclusion * (1 - inclusion)).sum(), rel=0.2)


@pytest.mark.parametrize("name", DESIGNS)
def test_neither_order_nor_batches_change_a_bit(name: DesignName) -> None:
    probs = population(5000)
    probs[1000:1400] = probs[999]  # documents that tie
    whole, _, _ = draw(probs, name, 200)
    for batches in (2, 61):
        parts, _, _ = draw(probs, name, 200, batches=batches)
        assert parts.keys.tolist() == whole.keys.tolist()
        np.testing.assert_array_equal(parts.inclusion, whole.inclusion)
    # The same documents in another order keep their ids and so their numbers.
    order = np.random.default_rng(1).permutation(len(probs))
    flags = probs >= 0.5
    looked, tally = survey(name, 200, 0.2, 4), Tally(4)
    for part in np.array_split(order, 7):
        looked.add(probs[part], flags[part])
        tally.add(probs[part], flags[part])
    design = looked.design(tally.totals())
    drawing = PoissonDraw(design, 200)
    for part in np.array_split(order, 7):
        ids = ids_of(len(probs))[part]
        drawing.add(ids[:, None], design.sizes(probs[part], flags[part]), permanent_numbers(hash_ids(ids, 0)))
    shuffled = drawing.finish()
    assert shuffled.keys.tolist() == whole.keys.tolist()
    np.testing.assert_array_equal(shuffled.inclusion, whole.inclusion)


def test_memory_is_for_the_sample_and_not_for_the_table() -> None:
    probs = population(40_000)
    flags = probs >= 0.5
    looked, tally = survey("f1", 100, 0.2, 4), Tally(4)
    looked.add(probs, flags)
    tally.add(probs, flags)
    design = looked.design(tally.totals())
    drawing, ids = PoissonDraw(design, 100), ids_of(len(probs))
    for part in np.array_split(np.arange(len(probs)), 100):
        sizes = design.sizes(probs[part], flags[part])
        drawing.add(ids[part][:, None], sizes, permanent_numbers(hash_ids(ids[part], 3)))
        assert len(drawing._number) < 200
        assert len(drawing._largest) <= 101


# -- permanent random numbers --------------------------------------------------------------------------------


def test_a_document_keeps_its_number_for_ever() -> None:
    numbers = permanent_numbers(hash_ids(np.array(["a", "é", "17"], dtype=object), 7))
    assert numbers.tolist() == [0.14918546065131683, 0.6767821973902881, 0.8109753218662612]


def test_numbers_are_uniform_and_seeds_are_independent() -> None:
    ids = ids_of(20_000)
    first, second = (permanent_numbers(hash_ids(ids, seed)) for seed in (0, 1))
    assert kstest(first, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(len(ids))
    assert first.min() > 0
    assert first.max() < 1


def test_two_nights_of_one_seed_share_what_they_can() -> None:
    tonight = population(5000)
    tomorrow = tonight.copy()
    tomorrow[:50] = 0.9
    same = {seed: set(draw(tomorrow, "uniform", 300, seed=seed)[0].keys[:, 0]) for seed in (0, 1)}
    before = set(draw(tonight, "uniform", 300)[0].keys[:, 0])
    assert same[0] == before
    assert len(same[1] & before) < 50


def test_the_order_of_a_sample_tells_nothing_of_its_scores() -> None:
    probs = population(20_000)
    drawn, _, _ = draw(probs, "f1", 2000)
    largest = probs.max(axis=1)[[int(doc_id[1:]) for doc_id in drawn.keys[:, 0]]]
    half = len(largest) // 2
    for values in (largest, drawn.inclusion):
        spread = values.std() * np.sqrt(2 / half)
        assert abs(values[:half].mean() - values[half:].mean()) < 3 * spread


# -- designs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prob", "flag", "f1"), [(0.7, True, 0.6), (0.2, False, 0.6), (0.05, True, 0.9), (1, True, 1)])
def test_the_influence_is_that_of_the_linearized_f1(prob: float, flag: bool, f1: float) -> None:
    expected = sum(
        chance * (flag * label - f1 * (flag + label) / 2) ** 2 for label, chance in ((1, prob), (0, 1 - prob))
    )
    assert influence_squared(np.array([prob]), np.array([flag]), f1) == pytest.approx(expected)


def test_one_category_is_sampled_as_its_variance_asks() -> None:
    probs = population(3000, 1)
    _, design, inclusion = draw(probs, "f1", 60, floor=1e-9)
    tally = Tally(1)
    flags = probs >= 0.5
    tally.add(probs, flags)
    (f1,) = plug_in_f1(tally.totals())
    assert f1 == pytest.approx(2 * probs[flags].sum() / (flags.sum() + probs.sum()))
    squares = influence_squared(probs[:, 0], flags[:, 0], float(f1))

    def variance(some: FloatArray) -> float:
        return float((squares * (1 / some - 1)).sum())

    best = variance(inclusion)
    rng = np.random.default_rng(0)
    for size in (0.03, 0.3, 1.0):
        for _ in range(30):
            other = np.minimum(1, inclusion * np.exp(rng.normal(0, size, len(inclusion))))
            for _ in range(60):  # to the same expected size
                other = np.minimum(1, other * 60 / other.sum())
            assert other.sum() == pytest.approx(60, rel=1e-4)
            assert variance(other) > best * (1 - 1e-4)
    assert variance(np.full(len(probs), 60 / len(probs))) > 2 * best
    assert design.floor < 1e-9


def test_a_rare_category_counts_as_much_as_a_common_one() -> None:
    probs = population(30_000, 3)
    probs[:, 2] = np.where(np.arange(30_000) < 300, 0.6, 1e-6)
    _, _, inclusion = draw(probs, "f1", 200, floor=0.1)
    tally = Tally(3)
    tally.add(probs, probs >= 0.5)
    f1 = plug_in_f1(tally.totals()).tolist()
    squares = np.column_stack(
        [influence_squared(column, column >= 0.5, f) for column, f in zip(probs.T, f1, strict=True)]
    )
    best = np.sqrt(squares).sum(axis=0) ** 2 / 200  # with all the budget for one category
    ours = (squares / inclusion[:, None]).sum(axis=0) / best
    uniform = (squares * 30_000 / 200).sum(axis=0) / best
    assert ours.max() < 3
    assert uniform[2] > 20
    assert ours.sum() < uniform.sum() / 4
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = inclusion * np.exp(rng.normal(0, 0.3, len(inclusion)))
        other *= 200 / other.sum()
        assert (squares / other[:, None]).sum(axis=0) @ (1 / best) > ours.sum()


def test_a_category_without_flags_or_without_any_probability_does_no_harm() -> None:
    probs = population(2000)
    probs[:, 2] = np.minimum(probs[:, 2], 0.4)
    probs[:, 3] = 0
    _, _, inclusion = draw(probs, "f1", 100)
    assert np.isfinite(inclusion).all()
    assert inclusion.sum() == pytest.approx(100, rel=1e-6)
    likely, unlikely = probs[:, 2] > 0.3, probs.max(axis=1) < 0.01
    assert inclusion[likely].mean() > 5 * inclusion[unlikely].mean()
    _, _, nothing = draw(np.zeros((500, 2)), "f1", 50)
    np.testing.assert_allclose(nothing, 0.1, rtol=1e-6)


def test_the_largest_scores_are_certain_and_the_rest_is_even() -> None:
    probs = population(1000)
    _, _, inclusion = draw(probs, "top", 100, floor=0.25, batches=9)
    ranked = np.argsort(-probs.max(axis=1))
    np.testing.assert_array_equal(inclusion[ranked[:75]], 1)
    np.testing.assert_allclose(inclusion[ranked[75:]], 25 / 925)


@pytest.mark.parametrize("batches", [1, 7, 40])
def test_documents_that_tie_at_the_cut_share_what_is_left(batches: int) -> None:
    probs = np.random.default_rng(0).permutation(np.repeat([0.9, 0.8, 0.1], [30, 200, 770]))[:, None]
    _, _, inclusion = draw(probs, "top", 100, floor=0.2, batches=batches)
    floor = 20 / 920
    np.testing.assert_array_equal(inclusion[probs[:, 0] == 0.9], 1)
    np.testing.assert_allclose(inclusion[probs[:, 0] == 0.8], floor + (1 - floor) * 50 / 200)
    np.testing.assert_allclose(inclusion[probs[:, 0] == 0.1], floor)
