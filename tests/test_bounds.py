"""Bounds are held against every way in which the unexplored mass could turn out."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from confscore.bounds import Bounds, Masses, gap_by_leaf, global_bounds, indifferent_shares, local_bounds, raw_bounds

BOUNDS = {"raw": raw_bounds, "local": local_bounds, "global": global_bounds}
NONE = np.zeros((0, 2), dtype=bool)


@st.composite
def masses(draw: st.DrawFn, normalization: str = "raw") -> Masses:
    """A few leaves over a few categories; total mass at most 1, and 1 in ``local``."""
    leaves, categories = draw(st.integers(0, 4)), draw(st.integers(1, 3))
    shape = (leaves, categories)
    weights = draw(arrays.arrays(float, leaves + 2, elements=st.floats(1e-6, 1)))
    weights[-1] = 0 if normalization == "local" else weights[-1]
    complete, *frontier = (weights / weights.sum())[:-1]
    must = draw(arrays.arrays(bool, shape))
    may = must | draw(arrays.arrays(bool, shape))
    any_must = (must.any(axis=1) | (draw(arrays.arrays(bool, leaves)) & may.any(axis=1)))[:, None]
    any_may = may.any(axis=1)[:, None]
    named = draw(arrays.arrays(float, categories, elements=st.floats(0, 1))) * complete
    return Masses(
        complete=float(complete),
        complete_with=np.array([named.max(), *named]),
        frontier=np.array(frontier),
        may=np.hstack([any_may, may]),
        must=np.hstack([any_must, must]),
    )


def extremes(masses: Masses, column: int, normalization: str) -> tuple[float, float]:
    """Return the smallest and largest marginal over every fate of every leaf."""
    fates: list[list[tuple[int, int]]] = []  # (names the category, is an answer at all)
    for may, must in zip(masses.may[:, column], masses.must[:, column], strict=True):
        possible = [((1, 1), may), ((0, 1), not must), ((0, 0), normalization != "local")]
        fates.append([fate for fate, is_possible in possible if is_possible])
    found = []
    for fate in product(*fates):
        named = masses.complete_with[column] + sum(m * f[0] for m, f in zip(masses.frontier, fate, strict=True))
        valid = masses.complete + sum(m * f[1] for m, f in zip(masses.frontier, fate, strict=True))
        found.append(named / valid if normalization == "global" else named)
    return min(found), max(found)


def check_order(bounds: Bounds) -> None:
    assert (bounds.lower >= 0).all()
    assert (bounds.upper <= 1).all()
    assert (bounds.lower <= bounds.value).all()
    assert (bounds.value <= bounds.upper).all()


@pytest.mark.parametrize("normalization", BOUNDS)
@settings(max_examples=150)
@given(data=st.data())
def test_bounds_are_the_extremes_of_what_is_possible(normalization: str, data: st.DataObject) -> None:
    known = data.draw(masses(normalization))
    bounds = BOUNDS[normalization](known)
    check_order(bounds)
    for column in range(len(known.complete_with)):
        smallest, largest = extremes(known, column, normalization)
        assert bounds.lower[column] == pytest.approx(smallest, abs=1e-12)
        assert bounds.upper[column] == pytest.approx(largest, abs=1e-12)


@pytest.mark.parametrize("normalization", BOUNDS)
def test_without_frontier_bounds_meet(normalization: str) -> None:
    known = Masses(0.5, np.array([0.3, 0.2]), np.zeros(0), NONE, NONE)
    expected = np.array([0.6, 0.4]) if normalization == "global" else np.array([0.3, 0.2])
    bounds = BOUNDS[normalization](known)
    for values in (bounds.lower, bounds.value, bounds.upper):
        np.testing.assert_allclose(values, expected, rtol=1e-15)


def test_global_bounds_by_hand() -> None:
    # 0.2 is answered with category 0 and 0.4 is safe; a leaf of 0.1 may still name category 1.
    may = np.array([[True, False, True]])
    known = Masses(0.6, np.array([0.2, 0.2, 0.0]), np.array([0.1]), may, np.zeros((1, 3), dtype=bool))
    bounds = global_bounds(known)
    np.testing.assert_allclose(bounds.lower, [0.2 / 0.7, 0.2 / 0.7, 0.0])
    np.testing.assert_allclose(bounds.upper, [0.3 / 0.7, 0.2 / 0.6, 0.1 / 0.7])


@pytest.mark.parametrize(("normalization", "whole"), [("raw", 1.0), ("local", 1.0), ("global", 0.7)])
def test_values_by_hand(normalization: str, whole: float) -> None:
    # A leaf of 0.1 that may name category 1 does so with probability 1/2, one of 0.0 does not count.
    may = np.array([[True, False, True], [True, True, True]])
    known = Masses(0.6, np.array([0.2, 0.2, 0.0]), np.array([0.1, 0.0]), may, np.zeros((2, 3), dtype=bool))
    np.testing.assert_allclose(BOUNDS[normalization](known).value, np.array([0.25, 0.2, 0.05]) / whole)


def test_where_no_mass_is_left_the_quotient_is_zero() -> None:
    bounds = global_bounds(Masses(0.0, np.zeros(2), np.zeros(0), NONE, NONE))
    assert bounds.lower.tolist() == bounds.value.tolist() == bounds.upper.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("normalization", BOUNDS)
def test_rounding_does_not_push_bounds_out_of_order(normalization: str) -> None:
    flags = np.ones((1, 2), dtype=bool)
    known = Masses(0.1, np.array([0.1, 0.1]), np.array([0.9 + 1e-9]), flags, flags)
    check_order(BOUNDS[normalization](known))


@given(known=masses())
def test_shares_respect_what_may_and_what_must_come(known: Masses) -> None:
    shares = indifferent_shares(known)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (shares[known.must] == 1).all()
    assert (shares[~known.may] == 0).all()
    open_ = known.may & ~known.must
    assert (shares[open_] > 0).all(), "documents that differ in unexplored mass get different values"


@pytest.mark.parametrize("normalization", ["raw", "local"])
@given(data=st.data())
def test_gaps_add_up_to_the_width(normalization: str, data: st.DataObject) -> None:
    known = data.draw(masses(normalization))
    bounds = BOUNDS[normalization](known)
    for column in range(len(known.complete_with)):
        gaps = gap_by_leaf(known, column, normalization)
        assert gaps.sum() == pytest.approx(bounds.width[column], abs=1e-12)


@given(known=masses())
def test_a_global_gap_is_the_derivative_of_the_width(known: Masses) -> None:
    bounds, small = global_bounds(known), 1e-6
    for column in range(len(known.complete_with)):
        gaps = gap_by_leaf(known, column, "global")
        assert (gaps >= 0).all()
        for leaf, mass in enumerate(known.frontier):
            less = known.frontier.copy()
            less[leaf] = mass * (1 - small)
            shrunk = global_bounds(Masses(known.complete, known.complete_with, less, known.may, known.must))
            slope = (bounds.width[column] - shrunk.width[column]) / small
            assert gaps[leaf] == pytest.approx(slope, abs=1e-4)


def test_a_global_gap_stays_positive_where_next_to_nothing_is_complete() -> None:
    may, must = np.ones((2, 2), dtype=bool), np.zeros((2, 2), dtype=bool)
    known = Masses(1e-25, np.array([0.0, 0.0]), np.array([1e-3, 1e-6]), may, must)
    assert global_bounds(known).width[0] == 1.0
    larger, smaller = gap_by_leaf(known, 0, "global")
    assert larger > smaller > 0
