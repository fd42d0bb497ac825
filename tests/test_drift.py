"""Drift of scores: closed forms, invariances, and how often a band is exceeded when nothing has changed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confscore.audit.drift import (
    BINS,
    EDGES,
    LEAST_NIGHTS,
    count_bins,
    normalized_wasserstein,
    population_stability_index,
    upper_band,
)

histograms = st.lists(st.integers(0, 1000), min_size=BINS, max_size=BINS).map(np.array).filter(lambda c: c.sum() > 0)


def shifted(bins: int, count: int = 1000) -> np.ndarray:
    """Return a histogram with everything in one bin."""
    counts = np.zeros(BINS, dtype=np.int64)
    counts[bins] = count
    return counts


def test_every_probability_falls_into_one_bin() -> None:
    probs = np.array([0.0, 1e-30, 1e-3, 0.5, 1 - 1e-7, 1.0], dtype=np.float32)
    counts = count_bins(probs)
    assert counts.shape == (BINS,)
    assert counts.sum() == len(probs)
    assert counts[0] == 2
    assert counts[-1] == 2
    assert counts[np.searchsorted(EDGES, 0.0, side="right")] == 1


def test_the_index_of_two_bins_is_that_of_the_formula() -> None:
    night, baseline = shifted(3, 300), shifted(3, 100)
    night[4], baseline[4] = 100, 300
    q = (night + 0.5) / (400 + BINS / 2)
    b = (baseline + 0.5) / (400 + BINS / 2)
    expected = 2 * (q[3] - b[3]) * np.log(q[3] / b[3])
    assert population_stability_index(night, baseline) == pytest.approx(expected)


@given(histograms, histograms)
def test_the_index_is_symmetric_and_zero_for_equal_histograms_only(a: np.ndarray, b: np.ndarray) -> None:
    assert population_stability_index(a, b) == pytest.approx(population_stability_index(b, a))
    assert population_stability_index(a, a) == 0
    assert population_stability_index(a, b) >= 0


@pytest.mark.parametrize("steps", [1, 5, 12])
def test_a_shift_of_everything_is_the_distance_it_was_shifted(steps: int) -> None:
    width = EDGES[1] - EDGES[0]
    spread = shifted(10) + shifted(14)
    moved = np.roll(spread, steps)
    sd = np.sqrt((2 * width) ** 2 + width**2 / 12)
    assert normalized_wasserstein(moved, spread) == pytest.approx(steps * width / sd)
    assert normalized_wasserstein(spread, spread) == 0


def test_a_band_needs_a_week() -> None:
    assert upper_band([1.0] * (LEAST_NIGHTS - 1), 0.01) is None
    assert upper_band([1.0] * LEAST_NIGHTS, 0.01) == pytest.approx(1.0)


def test_one_wild_night_does_not_widen_a_band() -> None:
    calm = list(np.exp(np.random.default_rng(0).normal(0, 0.1, 28)))
    wild = [*calm[:-1], 1000.0]
    before, after = upper_band(calm, 0.001), upper_band(wild, 0.001)
    assert before is not None
    assert after is not None
    assert after < 1.1 * before


@pytest.mark.parametrize("nights", [14, 28])
def test_quiet_nights_stay_below_the_band_about_as_often_as_promised(nights: int) -> None:
    """The median absolute deviation is a rougher guess of the spread than t allows for: up to three times as often."""
    alpha, draws = 0.02, 4_000
    values = np.exp(np.random.default_rng(1).normal(0.0, 0.3, (draws, nights + 1)))
    bands = [upper_band(list(row[:-1]), alpha) for row in values]
    rate = np.mean([row[-1] > band for row, band in zip(values, bands, strict=True) if band is not None])
    assert alpha / 3 < rate < 3 * alpha
