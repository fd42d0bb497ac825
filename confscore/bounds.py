"""Certified bounds on category marginals from a partly explored answer tree. Pure functions on arrays.

A category's marginal is the probability that the model's answer names it,
``marginal[c] = sum(P(s) for answers s that name c)`` (the marginal confidence of arXiv 2511.22312, there
approximated, here bounded). Exploring every answer costs 2^N requests, so some probability mass is always
left in unexplored prefixes, the frontier. Nothing is known of how a frontier mass divides among answers,
except what the automaton says: which categories some completion may name and which every completion must.

Columns: ``c = 0`` is "at least one category", ``c = j + 1`` is category ``j``; C = N + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from confscore.rows import BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class Masses:
    """What is known of one document's answers, under one way of weighing tokens.

    Attributes
    ----------
    complete : float
        Probability of all complete answers found.
    complete_with : float array, shape (C,)
        ``complete_with[c]`` is the part of ``complete`` whose answers name ``c``.
    frontier : float array, shape (L,)
        ``frontier[l]`` is the probability of unexplored prefix ``l``.
    may, must : bool array, shape (L, C)
        Whether some, or every, completion of prefix ``l`` names ``c``.
    """

    complete: float
    complete_with: FloatArray
    frontier: FloatArray
    may: BoolArray
    must: BoolArray


@dataclass(frozen=True, slots=True)
class Bounds:
    """``lower[c] <= value[c] <= upper[c]``, and the true marginal of ``c`` lies in the same interval.

    All arrays have shape (C,); values are probabilities.
    """

    lower: FloatArray
    value: FloatArray
    upper: FloatArray

    @property
    def width(self) -> FloatArray:
        """Return ``upper - lower``, shape (C,)."""
        return self.upper - self.lower


def raw_bounds(masses: Masses) -> Bounds:
    """Bound marginals where mass that leaves the grammar counts for no category.

    A frontier prefix may lose all of its mass to texts that are no answers, so it never raises a lower bound.
    """
    done = masses.complete_with
    upper = done + masses.frontier @ masses.may
    return _clipped(done, done + masses.frontier @ indifferent_shares(masses), upper)


def local_bounds(masses: Masses) -> Bounds:
    """Bound marginals where token probabilities were renormalized over the allowed tokens at every step.

    No mass can leave the grammar then, so a prefix that must name ``c`` counts in the lower bound.
    """
    done = masses.complete_with
    value = done + masses.frontier @ indifferent_shares(masses)
    return _clipped(done + masses.frontier @ masses.must, value, done + masses.frontier @ masses.may)


def global_bounds(masses: Masses) -> Bounds:
    """Bound ``P(c named | the text is an answer)``, from raw masses.

    With complete mass D, D_c of it naming c, the smallest quotient lets every prefix that can complete
    without c do so and all others leave the grammar; the largest lets every prefix that can name c do so and
    all others leave. Where no mass is left at all, the quotient is taken to be 0.
    """
    done, total = masses.complete_with, masses.complete
    without = masses.frontier @ ~masses.must
    with_it = masses.frontier @ masses.may
    value = done + masses.frontier @ indifferent_shares(masses)
    return _clipped(
        _quotient(done, total + without),
        _quotient(value, total + masses.frontier.sum()),
        _quotient(done + with_it, total + with_it),
    )


def indifferent_shares(masses: Masses) -> FloatArray:
    """Return the share of each frontier prefix that a point estimate gives to each category.

    A category that must come gets all of it. The rest is indifferent: an open prefix names a category at all
    with probability 1/2, and then exactly one more, each open one alike. Any share in [0, 1] would keep the
    estimate within the bounds; this one keeps apart documents whose unexplored mass differs, so that rankings
    in the tail do not collapse to ties.

    Returns
    -------
    float array, shape (L, C)
    """
    must, may = masses.must, masses.may
    shares = must.astype(np.float64)
    open_any = may[:, 0] & ~must[:, 0]
    shares[open_any, 0] = 0.5
    still_open = may[:, 1:] & ~must[:, 1:]
    each = shares[:, 0] / np.maximum(still_open.sum(axis=1), 1)
    shares[:, 1:] += still_open * each[:, None]
    return shares


def gap_by_leaf(masses: Masses, column: int, normalization: str) -> FloatArray:
    """Return how much of the width of ``column``'s bounds each frontier prefix is responsible for.

    Exact in ``raw`` and ``local``, where the entries add up to the width. In ``global`` it is the derivative of
    the width in the prefix's mass, times that mass.

    Returns
    -------
    float array, shape (L,)
    """
    mass: FloatArray = masses.frontier
    may, must = masses.may[:, column], masses.must[:, column]
    if normalization == "raw":
        return np.multiply(mass, may)
    if normalization == "local":
        return np.multiply(mass, may & ~must)
    if masses.complete <= 0:
        return mass  # no answer is known yet: the quotient has no derivative, and any answer helps
    with_it = masses.complete + mass @ may
    without = masses.complete + mass @ ~must
    # 1 - upper and lower, without the rounding to 0 where next to nothing is complete yet.
    named = masses.complete_with[column]
    rise = may * ((masses.complete - named) / with_it) / with_it
    fall = ~must * (named / without) / without
    result: FloatArray = mass * (rise + fall)
    return result


def _quotient(part: FloatArray, whole: FloatArray | float) -> FloatArray:
    return np.divide(part, whole, out=np.zeros_like(part), where=np.greater(whole, 0))


def _clipped(lower: FloatArray, value: FloatArray, upper: FloatArray) -> Bounds:
    """Remove what rounding adds: bounds stay in [0, 1] and in order."""
    # Not np.clip, which takes several times as long for arrays as small as these.
    lower = np.minimum(np.maximum(lower, 0.0), 1.0)
    upper = np.maximum(np.minimum(upper, 1.0), lower)
    return Bounds(lower, np.minimum(np.maximum(value, lower), upper), upper)
