"""Set decisions against brute force over all sets, on distributions that are listed in full, in part, or twice."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confscore.decisions import COLUMNS, HOWS, How, decide, decide_batch
from confscore.errors import TableError
from confscore.rows import TOP_ANSWERS, FloatArray

CODES = ("S1", "S2", "S10", "S3", "S4")
Row = list[tuple[tuple[int, ...], float]]


def column(rows: Sequence[Row | None]) -> pa.Array:
    """Return a top_answers column; categories are given by their places."""
    lists = [
        None if row is None else [{"categories": [CODES[j] for j in named], "prob": prob} for named, prob in row]
        for row in rows
    ]
    return pa.array(lists, TOP_ANSWERS)


def all_sets(categories: int) -> list[frozenset[int]]:
    pool = range(categories)
    return [frozenset(some) for size in range(categories + 1) for some in itertools.combinations(pool, size)]


def f1(truth: frozenset[int], chosen: frozenset[int]) -> float:
    return 2 * len(truth & chosen) / (len(truth) + len(chosen)) if truth or chosen else 1.0


def expected_f1(distribution: dict[frozenset[int], float], chosen: frozenset[int]) -> float:
    return sum(prob * f1(truth, chosen) for truth, prob in distribution.items())


def probability(distribution: dict[frozenset[int], float], chosen: frozenset[int]) -> float:
    return distribution.get(chosen, 0.0)


WORTH = {"expected-f1": expected_f1, "map": probability}


def chosen_sets(sets: np.ndarray) -> list[frozenset[int]]:
    return [frozenset(np.flatnonzero(row).tolist()) for row in sets]


@st.composite
def distributions(draw: st.DrawFn) -> tuple[int, dict[frozenset[int], float]]:
    """Return N and a distribution over all sets of N categories: dense or sparse, with ties or without."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    categories = draw(st.integers(1, len(CODES)))
    weights: FloatArray = rng.random(2**categories) ** draw(st.sampled_from([1, 4, 12]))
    if draw(st.booleans()):
        weights = np.round(weights * 3)
    weights[rng.integers(len(weights))] += 1
    return categories, dict(zip(all_sets(categories), (weights / weights.sum()).tolist(), strict=True))


@pytest.mark.parametrize("how", HOWS)
@given(st.lists(distributions(), min_size=1, max_size=4))
def test_no_set_of_all_is_better(how: How, cases: list[tuple[int, dict[frozenset[int], float]]]) -> None:
    rows = [[(tuple(named), prob) for named, prob in whole.items()] for _, whole in cases]
    found = decide(column(rows), CODES, how)
    for (categories, whole), chosen, value, loss in zip(
        cases, chosen_sets(found.sets), found.value, found.loss_bound, strict=True
    ):
        best = max(WORTH[how](whole, other) for other in all_sets(categories))
        assert WORTH[how](whole, chosen) == pytest.approx(best, abs=1e-6)
        assert value == pytest.approx(best, abs=1e-6)
        assert loss <= 1e-6


@pytest.mark.parametrize("how", HOWS)
@given(distributions(), st.integers(1, 12), st.randoms(use_true_random=False))
def test_a_cut_list_loses_at_most_what_is_said(
    how: How, case: tuple[int, dict[frozenset[int], float]], kept: int, random: np.random.Generator
) -> None:
    categories, whole = case
    listed = sorted(whole.items(), key=lambda item: -item[1])[:kept]
    # What was explored of a set may be less than all of it.
    listed = [(named, prob * random.choice([1, 1, 0.6])) for named, prob in listed]
    found = decide(column([[(tuple(named), prob) for named, prob in listed]]), CODES, how)
    (chosen,) = chosen_sets(found.sets)
    best = max(WORTH[how](whole, other) for other in all_sets(categories))
    assert best - WORTH[how](whole, chosen) <= found.loss_bound[0] + 1e-6
    assert found.value[0] <= WORTH[how](whole, chosen) + 1e-6
    assert found.loss_bound[0] <= 1 - sum(prob for _, prob in listed) + 1e-6


@pytest.mark.parametrize("how", HOWS)
def test_the_bounds_are_reached(how: How) -> None:
    # {0} is listed with 0.5 and nothing else: the rest could be the same set of another one.
    found = decide(column([[((0,), 0.5)]]), CODES, how)
    assert chosen_sets(found.sets) == [{0}]
    assert found.loss_bound[0] == (0.5 if how == "expected-f1" else 0.0)
    (loss,) = decide(column([[((0,), 0.3), ((1,), 0.2)]]), CODES, how).loss_bound
    assert loss == pytest.approx(0.5 if how == "expected-f1" else 0.4)


def test_answers_with_one_set_are_added_up_whatever_their_order() -> None:
    rows: list[Row] = [[((2,), 0.4), ((0, 1), 0.3), ((1, 0), 0.3)], [((3, 3), 0.3), ((), 0.4), ((3,), 0.3)]]
    found = decide(column(rows), CODES, "map")
    assert chosen_sets(found.sets) == [{0, 1}, {3}]
    np.testing.assert_allclose(found.value, [0.6, 0.6], rtol=1e-6)


def test_the_two_ways_differ_where_sets_overlap() -> None:
    # Each set is less probable than the empty one, with its expected F1 of 0.34. All three categories together share
    # two with either set: 0.66 · 4/5.
    rows: list[Row] = [[((), 0.34), ((0, 1), 0.33), ((0, 2), 0.33)]]
    assert chosen_sets(decide(column(rows), CODES, "map").sets) == [frozenset()]
    found = decide(column(rows), CODES, "expected-f1")
    assert chosen_sets(found.sets) == [{0, 1, 2}]
    assert found.value[0] == pytest.approx(0.528)


def test_a_tie_goes_to_the_smaller_set_and_to_the_one_that_is_listed_first() -> None:
    assert chosen_sets(decide(column([[((0,), 0.5), ((), 0.5)]]), CODES, "expected-f1").sets) == [frozenset()]
    assert chosen_sets(decide(column([[((4,), 0.5), ((1,), 0.5)]]), CODES, "map").sets) == [{4}]


@pytest.mark.parametrize("how", HOWS)
def test_rows_do_not_look_at_each_other(how: How) -> None:
    rng = np.random.default_rng(4)
    rows: list[Row | None] = []
    for _ in range(1200):
        probs = rng.dirichlet(np.full(6, 0.3)) * rng.uniform(0.6, 1)
        rows.append([(tuple(np.flatnonzero(rng.random(5) < 0.4).tolist()), float(prob)) for prob in probs])
    rows[7], rows[1199] = None, []
    whole = decide(column(rows), CODES, how)
    parts = [decide(column(rows).slice(first, 170), CODES, how) for first in range(0, 1200, 170)]
    for name in ("sets", "value", "loss_bound"):
        np.testing.assert_array_equal(getattr(whole, name), np.concatenate([getattr(one, name) for one in parts]))
    chunked = pa.chunked_array([column(rows[:500]), column(rows[500:])])
    np.testing.assert_array_equal(decide(chunked, CODES, how).sets, whole.sets)
    assert not whole.sets[[7, 1199]].any()
    np.testing.assert_array_equal(whole.loss_bound[[7, 1199]], 1)
    assert whole.sets.any(axis=1).mean() > 0.5


@pytest.mark.parametrize("how", HOWS)
def test_more_categories_than_bits_of_a_word(how: How) -> None:
    codes = [f"C{i}" for i in range(70)]
    listed = pa.array([[{"categories": ["C69", "C3"], "prob": 0.9}, {"categories": ["C5"], "prob": 0.1}]], TOP_ANSWERS)
    assert np.flatnonzero(decide(listed, codes, how).sets).tolist() == [3, 69]
    assert decide(listed.slice(0, 0), codes, how).sets.shape == (0, 70)


def batch(rows: Sequence[Row | None], answers: Sequence[list[str] | None]) -> pa.RecordBatch:
    ids = [f"d{i}" for i in range(len(rows))]
    return pa.record_batch([pa.array(ids), pa.array(answers, pa.list_(pa.string())), column(rows)], list(COLUMNS))


@pytest.mark.parametrize("how", HOWS)
def test_a_batch_of_a_score_table_is_decided_row_by_row(how: How) -> None:
    rows: list[Row | None] = [[((1,), 0.9)], None, []]
    sets = decide_batch(batch(rows, [["S2"], None, None]), CODES, how)
    np.testing.assert_array_equal(sets, [[False, True, False, False, False], [False] * 5, [False] * 5])


def test_a_guard_that_asks_about_each_category_has_no_sets_to_choose_from() -> None:
    with pytest.raises(TableError, match=r"document 'd1' has an answer and an empty top_answers.*use thresholds"):
        decide_batch(batch([[((1,), 0.9)], []], [["S2"], []]), CODES, "map")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([[((0,), 0.7)], [((0,), 0.7), ((1,), 0.7)]], "row 1: its probabilities are no distribution"),
        ([[((0,), -0.1), ((1,), 0.7)]], "row 0: its probabilities are no distribution"),
        ([[((0,), None)]], "row 0: its probabilities are no distribution"),
        ([[((0,), float("nan"))]], "row 0: its probabilities are no distribution"),
    ],
)
def test_what_is_no_distribution_is_refused(rows: list[Row], sentence: str) -> None:
    with pytest.raises(TableError, match=sentence):
        decide(column(rows), CODES, "map")


def test_a_table_without_answers_is_refused() -> None:
    whole = batch([[((0,), 1.0)]], [["S1"]])
    with pytest.raises(TableError, match=r"has no column top_answers; it is written with scoring\.top_answers"):
        decide_batch(whole.drop_columns(["top_answers"]), CODES, "map")
    with pytest.raises(TableError, match="names 'S10', which is no category; they are S1, S2"):
        decide(column([[((2,), 1.0)]]), CODES[:2], "map")
    with pytest.raises(TableError, match="column top_answers is list<item: string>, not a list of category sets"):
        decide(pa.array([["S1"]]), CODES, "map")
