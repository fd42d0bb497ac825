"""Which documents tell most: sizes that inclusion probabilities are made of. Pure maths on arrays.

In a Poisson sample each document i is drawn by itself with its own inclusion probability π_i, so that the expected size
is Σ π_i and every document that was drawn stands for 1 / π_i (Särndal, Swensson and Wretman 1992, section 3.5). Here

    π_i = min(1, floor + c · size_i),      floor = ε · budget / M,

with a uniform floor, so that each of M documents can be drawn and no weight is above ``M / (ε · budget)``, and with
the c for which Σ π_i is the budget. A design says what ``size_i`` is:

``uniform``
    1, and no floor. What simple random sampling does.
``top``
    The documents with the largest probabilities are drawn for certain, (1 - ε) · budget of them; the floor is spread
    over the others. What a review queue does, and still without bias.
``f1``
    As below: what tells most about the F1 of every category.

The optimal size for F1
-----------------------
With flags z and labels y, ``F1 = 2 Σ z y / (Σ z + Σ y)``. Its linearization in document i is

    u_i = z_i y_i - F (z_i + y_i) / 2,

up to a factor that is the same for all documents. The variance of the ratio estimator from a Poisson sample is
``Σ_i u_i² (1 - π_i) / π_i``, which for a given Σ π_i is smallest with ``π_i ∝ |u_i|``. Labels are not known before they
are drawn, so u_i² is replaced by its expectation under the calibrated probability p, and F by its plug-in
``F = 2 Σ z p / (Σ z + Σ p)``:

    q_i² = E u_i² = p (1 - F)² + (1 - p) F² / 4     if flagged,
                    p F² / 4                        if not.

This is the optimal instrumental distribution of Sawade, Landwehr and Scheffer 2010 ("Active estimation of F-measures",
NIPS 23, theorem 2) for α = 1/2, as in OASIS (Marchant and Rubinstein 2017, "In search of an entity resolution OASIS",
PVLDB 10(11)), and mixed with a floor as there. Where a category flags nothing F is 0 and q_i has the limit shape √p.

One sample serves all N categories. With budget n, the best variance that category j could have by itself is
``(Σ_i q_ij)² / n``; the sum over categories of (variance / this best one) is smallest for

    size_i = √( Σ_j (q_ij / Σ_k q_kj)² ),

so a rare category counts as much as a common one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from confscore.population import Totals
from confscore.rows import BoolArray, FloatArray, IntArray

DesignName = Literal["f1", "uniform", "top"]
DESIGNS: tuple[DesignName, ...] = get_args(DesignName)
FLOOR_SHARE = 0.2
"""ε, the share of the budget that is spread evenly."""

GRID = 1 << 24
"""Sizes are whole multiples of ``1 / GRID``, so that their sum does not depend on the order of the documents."""
_BINS = 4096


@dataclass(frozen=True, slots=True)
class Design:
    """Inclusion probabilities ``π = min(1, floor + c · size)``.

    Attributes
    ----------
    floor : float
        What every document has.
    multiplier : float or None
        c, where it is known before sizes are added up.
    """

    floor: float
    multiplier: float | None

    def sizes(self, probs: FloatArray, flags: BoolArray) -> FloatArray:
        """Return the size of each document, shape (n,), from its probabilities and flags, shape (n, N) each."""
        return np.ones(len(probs))


@dataclass(frozen=True, slots=True)
class TopScores(Design):
    """The largest probabilities for certain.

    ``cut`` is the smallest of them, and ``tied`` the share that is drawn of the documents that have just it.
    """

    cut: float
    tied: float

    def sizes(self, probs: FloatArray, flags: BoolArray) -> FloatArray:
        """Return 1 above the cut, the tied documents' share at it, and 0 below."""
        largest = probs.max(axis=1)
        return np.where(largest > self.cut, 1.0, np.where(largest == self.cut, self.tied, 0.0))


@dataclass(frozen=True, eq=False, slots=True)
class OptimalF1(Design):
    """The sizes of the module's docstring, times M.

    Attributes
    ----------
    f1 : float array, shape (N,)
        What F1 is thought to be, from the probabilities.
    scales : float array, shape (N,)
        ``Σ_k q_kj / M``, and inf where that is 0, so that such a category does not count.
    """

    f1: FloatArray
    scales: FloatArray

    def sizes(self, probs: FloatArray, flags: BoolArray) -> FloatArray:
        """Return the sizes, on a grid, at least one unit of it."""
        squares = np.zeros(len(probs))
        for j, f1 in enumerate(self.f1):
            squares += influence_squared(probs[:, j], flags[:, j], float(f1)) / self.scales[j] ** 2
        units: FloatArray = np.maximum(np.rint(np.sqrt(squares) * GRID), 1)
        return units / GRID


def influence_squared(probs: FloatArray, flags: BoolArray, f1: float) -> FloatArray:
    """Return ``E u²``, the expected square of each document's influence on F1, shape (n,).

    Parameters
    ----------
    probs : float array, shape (n,)
        Calibrated probabilities of one category.
    flags : bool array, shape (n,)
        Which documents are flagged with it.
    f1 : float
        What F1 is thought to be; with 0 the limit shape p.
    """
    if f1 == 0:
        return probs
    flagged = probs * (1 - f1) ** 2 + (1 - probs) * f1**2 / 4
    return np.where(flags, flagged, probs * f1**2 / 4)


class Survey(Protocol):
    """Looks at a population once, so that a design can be made for it."""

    def add(self, probs: FloatArray, flags: BoolArray) -> None:
        """Take in the probabilities and flags of n documents, shape (n, N) each."""

    def design(self, totals: Totals) -> Design:
        """Return the design, when all documents were taken in."""


def survey(name: DesignName, budget: int, floor_share: float, categories: int) -> Survey:
    """Return what has to look at the population for a design.

    Parameters
    ----------
    name : {'f1', 'uniform', 'top'}
        The design.
    budget : int
        Documents that are to be drawn, on average.
    floor_share : float
        ε in (0, 1]: the share of the budget that is spread evenly.
    categories : int
        N.
    """
    surveys = {"f1": _SurveyF1, "top": _SurveyTop, "uniform": _SurveyUniform}
    return surveys[name](budget, floor_share, categories)


class _SurveyUniform:
    def __init__(self, budget: int, floor_share: float, categories: int) -> None:
        self._budget, self._floor_share, self._categories = budget, floor_share, categories

    def add(self, probs: FloatArray, flags: BoolArray) -> None:
        pass

    def design(self, totals: Totals) -> Design:
        return Design(0.0, min(1.0, self._budget / totals.documents))


class _SurveyTop(_SurveyUniform):
    """Keeps the largest values, and how often the smallest of them was met and not kept."""

    def __init__(self, budget: int, floor_share: float, categories: int) -> None:
        super().__init__(budget, floor_share, categories)
        self._keep = int((1 - floor_share) * budget)
        self._largest = np.zeros(0)
        self._tied_beside = 0

    def add(self, probs: FloatArray, flags: BoolArray) -> None:
        if not self._keep:
            return
        values = np.concatenate([self._largest, probs.max(axis=1)])
        if len(values) > self._keep:
            values = -np.partition(-values, self._keep - 1)  # falling up to there
            cut = values[self._keep - 1]
            before = self._tied_beside if self._largest.size == self._keep and self._largest.min() == cut else 0
            self._tied_beside = before + int((values[self._keep :] == cut).sum())
        self._largest = values[: self._keep]

    def design(self, totals: Totals) -> Design:
        if self._budget >= totals.documents:
            return Design(0.0, 1.0)
        floor = (self._budget - self._keep) / (totals.documents - self._keep)
        cut = float(self._largest.min()) if self._keep else np.inf
        kept = int((self._largest == cut).sum())
        return TopScores(floor, 1 - floor, cut, kept / (kept + self._tied_beside) if kept else 0.0)


class _SurveyF1(_SurveyUniform):
    """Counts probabilities in bins, of flagged documents and of others, to add up ``q`` before F1 is known.

    Bins are of equal width in ``p^(1/4)``, so that they are narrow where p is small. They serve the scale between
    categories only; each document's own size is exact.
    """

    def __init__(self, budget: int, floor_share: float, categories: int) -> None:
        super().__init__(budget, floor_share, categories)
        self._counts: IntArray = np.zeros((categories, 2 * _BINS), dtype=np.int64)

    def add(self, probs: FloatArray, flags: BoolArray) -> None:
        bins = np.minimum((np.sqrt(np.sqrt(probs)) * _BINS).astype(np.int64), _BINS - 1)
        bins += _BINS * flags
        for j in range(len(self._counts)):
            self._counts[j] += np.bincount(bins[:, j], minlength=2 * _BINS)

    def design(self, totals: Totals) -> Design:
        if self._budget >= totals.documents:
            return Design(0.0, 1.0)
        f1 = plug_in_f1(totals)
        middles = np.tile(((np.arange(_BINS) + 0.5) / _BINS) ** 4, 2)
        flagged = np.repeat([False, True], _BINS)
        sums = np.array(
            [
                counts @ np.sqrt(influence_squared(middles, flagged, float(value)))
                for counts, value in zip(self._counts, f1, strict=True)
            ]
        )
        scales = np.where(sums > 0, sums / totals.documents, np.inf)
        floor = self._floor_share * self._budget / totals.documents
        return OptimalF1(floor, None, f1, scales)


def plug_in_f1(totals: Totals) -> FloatArray:
    """Return the F1 that the probabilities expect of each category, ``2 Σ z p / (Σ z + Σ p)``, shape (N,)."""
    sums = totals.flagged + totals.expected
    f1: FloatArray = np.divide(2 * totals.expected_flagged, sums, out=np.zeros(len(sums)), where=sums > 0)
    return f1
