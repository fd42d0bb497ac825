"""What a labelled Poisson sample says about all documents: prevalence, precision, recall and F1, with intervals.

Notation: M documents, N categories. Of n documents that were drawn, document i was drawn with the probability ``π_i``
and labelled ``y_ij``; ``z_ij`` is 1 where it is flagged with category j. ``Σ_U`` is over all documents, ``Σ_s`` over
the sample.

Estimates
---------
Scores are known of every document, so labels only have to say by how much scores are wrong. The number of positives,
and of those that are flagged, are estimated by the difference estimator (Särndal, Swensson and Wretman 1992, "Model
assisted survey sampling", section 6.3), which is unbiased whatever the scores are worth, and precise where they are
good:

    positives_j       = Σ_U p_ij      + Σ_s (y_ij - p_ij) / π_i,
    true positives_j  = Σ_U z_ij p_ij + Σ_s z_ij (y_ij - p_ij) / π_i.

Scores that are no probabilities take part by their flags only: p_ij is then the share of positives, weighted by
1 / π_i, among the sampled documents that are flagged as i is. That is post-stratification (section 7.6 there).

The number of flagged documents is known. So ``precision = true positives / flagged``, ``recall = true positives /
positives`` and ``F1 = 2 · true positives / (flagged + positives)``. *Micro* puts sums over categories in these
formulas; *macro* is the mean over the categories of which a positive was drawn and the number is defined. The
prevalence of both is the share of positives among all pairs of a document and a category. Estimates are cut to [0, 1].

Intervals
---------
See :func:`confscore.intervals.linearized`: logit intervals from linearization, with Student's t. The error of document
i in a statistic f is ``e_i = Σ_j (z_ij ∂f/∂(true positives_j) + ∂f/∂(positives_j)) (y_ij - p_ij)``. Macro averages take
theirs from those of the categories, :func:`confscore.intervals.mean_of`.

Where the labels do not vary as they would have to (no positive label, no negative one among flagged documents, …),
exact bounds take their place, :func:`confscore.intervals.count_bounds`; recall and F1 need bounds on two counts, then
each with half the error probability. They do not trust scores, and so are wide: no positive in a sample does not prove
that there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from confscore.intervals import count_bounds, linearized, mean_of
from confscore.metrics import CONFIDENCE
from confscore.population import Totals
from confscore.rows import BoolArray, FloatArray
from confscore.weights import documents_of

STATISTICS = ("prevalence", "precision", "recall", "f1")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and the ends of its interval; nan where it is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Quality:
    """What is estimated of one category, or of all of them.

    Attributes
    ----------
    positives : int
        Sampled positive labels; of all categories, for averages.
    prevalence, precision, recall, f1 : Estimate
        In the population.
    """

    positives: int
    prevalence: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate


@dataclass(frozen=True, slots=True)
class Estimates:
    """What a sample says of a population.

    Attributes
    ----------
    categories : tuple of Quality, length N
    micro, macro : Quality
    documents : Estimate
        ``Σ_s 1 / π``, which is M but for chance. Its interval is of 5 standard errors of its logarithm to both sides:
        a sample that lacks a part, or is of another population, has M outside of it.
    """

    categories: tuple[Quality, ...]
    micro: Quality
    macro: Quality
    documents: Estimate


def estimate(
    truth: BoolArray,
    probs: FloatArray | None,
    flags: BoolArray,
    inclusion: FloatArray,
    totals: Totals,
    confidence: float = CONFIDENCE,
) -> Estimates:
    """Estimate prevalence, precision, recall and F1 of each category, and their averages.

    Parameters
    ----------
    truth : bool array, shape (n, N)
        Labels of the sample.
    probs : float array, shape (n, N), or None
        Scores of the sample, in [0, 1]; they need not be calibrated. With ``None``, ``totals.expected`` and
        ``totals.expected_flagged`` do not count.
    flags : bool array, shape (n, N)
        Flags of the sample.
    inclusion : float array, shape (n,)
        Inclusion probabilities, in (0, 1].
    totals : Totals
        Of all documents, from the same scores and flags.
    confidence : float
        Of each interval by itself.

    Raises
    ------
    ValueError
        The arrays are empty or do not fit each other, or an inclusion probability lies outside (0, 1].
    """
    n, categories = truth.shape
    if not n or flags.shape != truth.shape or inclusion.shape != (n,) or len(totals.flagged) != categories:
        raise ValueError(f"truth {truth.shape}, flags {flags.shape} and inclusion {inclusion.shape} do not fit")
    if not ((inclusion > 0) & (inclusion <= 1)).all():
        raise ValueError("inclusion probabilities have to lie in (0, 1]")
    if probs is None:
        probs, totals = _shares(truth, flags, inclusion, totals)
    sample = _Sample(truth, flags, truth - probs, inclusion, totals, confidence)
    single, pooled = _linearize(sample, np.eye(categories)), _linearize(sample, np.ones((categories, 1)))
    bounds = _exact_bounds(sample, range(categories))
    micro = {name: one.estimate(0, bounds[name]) for name, one in pooled.items()}
    found = tuple(_category(sample, single, j) for j in range(categories))
    counted: BoolArray = np.any(truth, axis=0)
    macro = {
        name: _mean(single[name], [getattr(one, name) for one in found], counted, inclusion)
        for name in STATISTICS
        if name != "prevalence"
    }
    positives = int(truth.sum())
    return Estimates(
        found,
        Quality(positives, **micro),
        Quality(positives, prevalence=micro["prevalence"], **macro),
        Estimate(*documents_of(1 / inclusion)),
    )


@dataclass(frozen=True, eq=False, slots=True)
class _Sample:
    truth: BoolArray
    flags: BoolArray
    gaps: FloatArray
    inclusion: FloatArray
    totals: Totals
    confidence: float


@dataclass(frozen=True, eq=False, slots=True)
class _Linear:
    """One statistic of K groups of categories: values, ends of linearized intervals, and errors, shape (n, K)."""

    values: FloatArray
    low: FloatArray
    high: FloatArray
    errors: FloatArray

    def estimate(self, k: int, bounds: tuple[float, float], *, varies: bool = True, known: bool = True) -> Estimate:
        """Return group k with its interval, or with bounds where there is none or the labels do not vary.

        Bounds give way to a value outside of them: it rests on scores, and they do not.
        """
        value = float(self.values[k]) if known else np.nan
        if varies and not np.isnan(self.low[k]):
            return Estimate(value, float(self.low[k]), float(self.high[k]))
        return Estimate(value, float(np.fmin(bounds[0], value)), float(np.fmax(bounds[1], value)))


def _linearize(sample: _Sample, groups: FloatArray) -> dict[str, _Linear]:
    """Return the statistics of groups of categories, shape (N, K); values are nan where they are not defined."""
    totals, weights = sample.totals, 1 / sample.inclusion
    gaps, gaps_flagged = sample.gaps @ groups, (sample.gaps * sample.flags) @ groups
    true = totals.expected_flagged @ groups + weights @ gaps_flagged
    positives = totals.expected @ groups + weights @ gaps
    flagged = totals.flagged @ groups
    pairs = totals.documents * groups.sum(axis=0)
    none = np.zeros(groups.shape[1])
    precision, recall, f1 = _divide(true, flagged), _divide(true, positives), _divide(2 * true, flagged + positives)
    # Each with its derivatives by true positives and by positives.
    parts = {
        "prevalence": (positives / pairs, none, 1 / pairs),
        "precision": (precision, _divide(none + 1, flagged), none),
        "recall": (recall, _divide(none + 1, positives), -_divide(recall, positives)),
        "f1": (f1, _divide(none + 2, flagged + positives), -_divide(f1, flagged + positives)),
    }
    found = {}
    for name, (values, by_true, by_positives) in parts.items():
        errors = gaps_flagged * by_true + gaps * by_positives
        ends = linearized(values, errors, sample.inclusion, sample.confidence)
        found[name] = _Linear(np.clip(values, 0, 1), *ends, errors)
    return found


def _category(sample: _Sample, single: dict[str, _Linear], j: int) -> Quality:
    """Return the estimates of one category."""
    y, z = sample.truth[:, j], sample.flags[:, j]
    true, false, missed = (int(cell.sum()) for cell in (z & y, z & ~y, ~z & y))
    varies = {"prevalence": 0 < true + missed < len(y), "precision": true > 0 < false, "recall": true > 0 < missed}
    varies["f1"] = varies["recall"]
    # A share of which nothing was drawn is not known at all.
    known = {"precision": true + false > 0, "recall": true + missed > 0}
    bounds = _exact_bounds(sample, [j])
    found = {
        name: one.estimate(j, bounds[name], varies=varies[name], known=known.get(name, True))
        for name, one in single.items()
    }
    return Quality(true + missed, **found)


def _exact_bounds(sample: _Sample, categories: Sequence[int]) -> dict[str, tuple[float, float]]:
    """Return bounds on the statistics of some categories together that trust labels only.

    Each count takes its part of the error probability: one count a category, and two for recall and F1.
    """
    inclusion, documents = sample.inclusion, sample.totals.documents
    error = (1 - sample.confidence) / len(categories)
    every, precise, found, lost = np.zeros((4, 2))
    flagged = 0
    for j in categories:
        y, z, size = sample.truth[:, j], sample.flags[:, j], int(sample.totals.flagged[j])
        every += count_bounds(y, inclusion, documents, 1 - error)
        precise += count_bounds(y[z], inclusion[z], size, 1 - error)
        found += count_bounds(y[z], inclusion[z], size, 1 - error / 2)
        lost += count_bounds(y[~z], inclusion[~z], documents - size, 1 - error / 2)
        flagged += size
    lost = lost[::-1]  # many are lost where few are found
    return {
        "prevalence": _pair(every / (documents * len(categories))),
        "precision": _pair(precise / flagged) if flagged else (np.nan, np.nan),
        "recall": _pair(np.divide(found, found + lost, out=np.zeros(2), where=found > 0)),
        "f1": _pair(np.divide(2 * found, flagged + found + lost, out=np.zeros(2), where=found > 0)),
    }


def _pair(ends: FloatArray) -> tuple[float, float]:
    return float(ends[0]), float(ends[1])


def _mean(one: _Linear, categories: Sequence[Estimate], counted: BoolArray, inclusion: FloatArray) -> Estimate:
    """Return the mean over the counted categories of which the value is known, with its interval."""
    values, low, high = (np.array([getattr(each, end) for each in categories]) for end in ("value", "low", "high"))
    which = counted & ~np.isnan(values)
    if not which.any():
        return Estimate(np.nan, 0.0, 1.0)
    ends = mean_of(values[which], low[which], high[which], one.errors[:, which], inclusion)
    return Estimate(float(values[which].mean()), *ends)


def _divide(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Return ``part / whole``; nan where the whole is not above 0."""
    ratio: FloatArray = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return ratio


def _shares(truth: BoolArray, flags: BoolArray, inclusion: FloatArray, totals: Totals) -> tuple[FloatArray, Totals]:
    """Return the share of positives among documents of the same flag for each document, and the totals of that."""
    weights = 1 / inclusion
    shares = []
    for which in (flags, ~flags):
        sampled = weights @ which
        shares.append(np.divide(weights @ (truth & which), sampled, out=np.zeros(len(sampled)), where=sampled > 0))
    expected_flagged = totals.flagged * shares[0]
    expected = expected_flagged + (totals.documents - totals.flagged) * shares[1]
    probs = np.where(flags, shares[0], shares[1])
    return probs, replace(totals, expected=expected, expected_flagged=expected_flagged)
