"""Where to flag, for one category: thresholds from labelled documents, with guarantees where they are asked for.

A document is flagged where ``score >= threshold``. n labelled documents have the scores s, the labels y and, in a
sample with unequal inclusion probabilities π, the weights ``w = 1 / π``; ``weights=None`` says that every document was
as likely to be drawn, and only then are tests exact. δ is ``1 - confidence``. Guarantees are about the population that
labelled documents were drawn from, documents without any category included, and about one category: of N categories at
95 %, 0.05 N may miss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, binom

from confscore.intervals import clopper_pearson
from confscore.ranking import Ranking
from confscore.rows import BoolArray, FloatArray
from confscore.weights import effective_size

EXACT_PRECISION = "exact binomial tests in fixed sequence"
EXACT_RECALL = "exact order statistic"
APPROXIMATE = "approximate: Korn-Graubard intervals on the Hajek estimate"

_GROWTH = 1.2
_LIKELY = 0.8
_MOST_LABELS = 1_000_000


@dataclass(frozen=True, slots=True)
class Chosen:
    """A threshold; ``None`` where no document is to be flagged."""

    threshold: float | None


@dataclass(frozen=True, slots=True)
class Abstained:
    """No threshold, and why.

    ``more_positives`` is how many more positive labels would suffice, from a larger sample of the same kind; ``None``
    where labels are not what is missing.
    """

    reason: str
    more_positives: int | None = None


Choice = Chosen | Abstained


def best_f(
    scores: FloatArray, truth: BoolArray, weights: FloatArray | None, beta: float = 1, min_positives: int = 10
) -> Choice:
    """Choose the score with the largest F_β of the labelled documents; the largest, where several are as good.

    ``F_β = (1 + β²) TP / (β² (TP + FN) + TP + FP)`` (van Rijsbergen 1979, chapter 7): recall counts β times as much as
    precision.

    Parameters
    ----------
    scores : float array, shape (n,)
    truth : bool array, shape (n,)
    weights : float array, shape (n,), or None
    beta : float
        Above 0.
    min_positives : int
        With fewer positive labels there is no choice: the largest F of a handful is an accident.
    """
    positives = int(truth.sum())
    if positives < max(min_positives, 1):
        return Abstained(f"{positives} positive labels", max(min_positives, 1) - positives)
    order = np.argsort(-scores, kind="stable")
    counts = Ranking(scores[order], truth[order], order).count(np.ones(len(scores)) if weights is None else weights)
    gains = (1 + beta**2) * counts.true / (beta**2 * counts.true[-1] + counts.true + counts.false)
    return Chosen(-float(counts.falling[np.argmax(gains)]))


def precision_at_least(
    scores: FloatArray,
    truth: BoolArray,
    weights: FloatArray | None,
    cuts: Sequence[float],
    target: float,
    confidence: float,
) -> Choice:
    """Choose the lowest threshold whose precision is at least the target, with confidence.

    The cuts are tested one after the other, largest first, and the first one that fails ends it: a fixed-sequence test,
    which keeps the chance of any wrong threshold at δ without a correction for their number (Maurer, Hothorn and
    Lehmacher 1995; for thresholds Angelopoulos, Bates, Candès, Jordan and Lei 2021, "Learn then Test"). A cut passes
    where m flagged labelled documents have so many positives x that ``Pr(Binomial(m, target) >= x) <= δ``; that is,
    where the lower bound of Clopper and Pearson 1934 reaches the target. Given m, labels of flagged documents are
    independent draws with the precision of the cut, as cuts do not depend on labelled documents.

    With weights the bound is that of Korn and Graubard 1998 ("Confidence intervals for proportions with small expected
    number of positive counts estimated from survey data"), and only approximately valid; see :func:`share_interval`.

    Parameters
    ----------
    scores, truth, weights
        As in :func:`best_f`.
    cuts : sequence of float
        Descending. They must not depend on labels, nor, for the exact test, on labelled documents: see
        :func:`sizes_to_test`.
    target : float
        In (0, 1).
    confidence : float
        In (0.5, 1).
    """
    weight = np.ones(len(scores)) if weights is None else weights
    passed: float | None = None
    for cut in cuts:
        flagged = scores >= cut
        if not flagged.any() or lower_bound(truth[flagged], weight[flagged], confidence) < target:
            break
        passed = cut
    return _short_of_precision(scores, truth, weight, target, confidence) if passed is None else Chosen(passed)


def recall_at_least(
    scores: FloatArray, truth: BoolArray, weights: FloatArray | None, target: float, confidence: float
) -> Choice:
    """Choose the highest threshold whose recall is at least the target, with confidence.

    The threshold is the k-th smallest score of m positive documents. The share of positives below it is at most
    ``1 - target`` with the probability ``Pr(Binomial(m, 1 - target) >= k)``, whatever the distribution of the scores
    (Wilks 1941, "Determination of sample sizes for setting tolerance limits"), so k is the largest for which that is at
    least the confidence. Ties make it safer.

    With weights k is the largest for which each of the k smallest keeps the weighted share of positives at or above it,
    by the bound of :func:`share_interval`, at the target or more. One more positive of the largest weight is counted as
    missed: few documents with low scores are drawn, each of which stands for many, and a sample that happens to lack
    them does not vary enough to tell.

    Parameters
    ----------
    scores, truth, weights, target, confidence
        As in :func:`precision_at_least`.
    """
    order = np.argsort(scores[truth], kind="stable")
    found = scores[truth][order]
    needed: int | None = smallest_sample(target, confidence)
    size = len(found)
    if not size:
        return Abstained("no positive label", needed)
    if weights is None:
        k = int(binom.ppf(1 - confidence, size, 1 - target))
    else:
        weight = weights[truth][order]
        k = 0
        while k < size and _bound_with_one_missed(found >= found[k], weight, confidence) >= target:
            k += 1
        needed = _positives_for_recall(weight, target, confidence)
    if not k:
        more = None if needed is None else max(needed - size, 1)
        return Abstained(f"too few labels to show a recall of {target:g} at {confidence:.0%}", more)
    return Chosen(float(found[k - 1]))


def _bound_with_one_missed(above: BoolArray, weights: FloatArray, confidence: float) -> float:
    return lower_bound(np.append(above, False), np.append(weights, weights.max()), confidence)


def _positives_for_recall(weights: FloatArray, target: float, confidence: float) -> int | None:
    """Return how many positives with such weights would show that the smallest of their scores has the recall."""
    size = len(weights)
    while size < _MOST_LABELS // 10:
        more = np.resize(weights, size)
        if _bound_with_one_missed(np.ones(size, dtype=np.bool_), more, confidence) >= target:
            return size
        size = math.ceil(size * 1.1)
    return None


def share_interval(truth: BoolArray, weights: FloatArray, confidence: float) -> tuple[float, float, float]:
    """Return a share and the ends of its two-sided interval.

    With equal weights it is that of Clopper and Pearson 1934. Otherwise p is the Hájek estimate ``Σ w y / Σ w`` with
    the linearized variance ``V = m / (m - 1) · Σ w² (y - p)² / (Σ w)²``, and the interval is that of Clopper and
    Pearson for the effective size ``p (1 - p) / V`` (Korn and Graubard 1998), which is cut to the effective size of the
    weights alone, ``(Σ w)² / Σ w²``: where few labels differ, V is not known well enough to say more.

    Parameters
    ----------
    truth : bool array, shape (m,)
        At least one.
    weights : float array, shape (m,)
    confidence : float
    """
    share = float(weights @ truth / weights.sum())
    trials = effective_size(weights)
    if 0 < share < 1 and weights.min() < weights.max():
        variance = float((weights**2) @ (truth - share) ** 2) * len(truth) / (len(truth) - 1) / weights.sum() ** 2
        trials = min(trials, share * (1 - share) / variance)
    positives = trials if truth.all() else share * trials
    return share, *clopper_pearson(positives, trials, confidence)


def lower_bound(truth: BoolArray, weights: FloatArray, confidence: float) -> float:
    """Return the one-sided lower bound of :func:`share_interval`."""
    return share_interval(truth, weights, 2 * confidence - 1)[1]


def smallest_sample(target: float, confidence: float) -> int:
    """Return how many labels, all of them right, show a share of at least the target: ``target^m <= δ``."""
    return max(1, math.ceil(math.log(1 - confidence) / math.log(target)))


def sizes_to_test(target: float, confidence: float, documents: int) -> list[float]:
    """Return how many labelled documents each cut of a sequence is to have above it, on average.

    The first one nearly always has the :func:`smallest_sample` that can pass, as it is two standard deviations larger;
    each other one has a fifth more than the one before. Cuts at which these shares of *all* documents are do not depend
    on which of them were labelled.
    """
    sizes = []
    size = _first_size(target, confidence)
    while size < documents:
        sizes.append(size)
        size *= _GROWTH
    return sizes


def weighted_cuts(scores: FloatArray, weights: FloatArray, sizes: Sequence[float]) -> list[float]:
    """Return the scores down to which labelled documents first have these effective sizes, descending."""
    order = np.argsort(-scores, kind="stable")
    weight = weights[order]
    sizes_here = np.cumsum(weight) ** 2 / np.cumsum(weight**2)
    ranks = np.searchsorted(np.maximum.accumulate(sizes_here), sizes)
    cuts = scores[order][ranks[ranks < len(scores)]].tolist()
    return list(dict.fromkeys(cuts))


def _first_size(target: float, confidence: float) -> float:
    least = smallest_sample(target, confidence)
    return least + 2 * math.sqrt(least)


def _short_of_precision(
    scores: FloatArray, truth: BoolArray, weights: FloatArray, target: float, confidence: float
) -> Abstained:
    """Say how many labels are missing, if precision is as it looks.

    Whatever the labelled documents with the r largest scores show with a precision of p, a sample that is k times as
    large shows with k · r documents. The smallest k counts; p is ``(x + 1/2) / (r + 1)``, so that a handful of labels
    does not promise too much.
    """
    shown = f"a precision of {target:g} at {confidence:.0%}"
    first, positives = _first_size(target, confidence), int(truth.sum())
    if not positives:
        return Abstained("no positive label", math.ceil(target * first))
    order = np.argsort(-scores, kind="stable")
    weight = weights[order]
    total = np.cumsum(weight)
    size = total**2 / np.cumsum(weight**2)
    share = (np.cumsum(weight * truth[order]) / total * size + 0.5) / (size + 1)
    sizes = np.unique(np.geomspace(smallest_sample(target, confidence), _MOST_LABELS, 500).astype(np.int64))
    wanted = binom.ppf(confidence, sizes, target) + 1
    passing = np.minimum.accumulate(beta.ppf(_LIKELY, wanted, sizes - wanted + 1))  # the least share that likely does
    places = np.searchsorted(-passing, -share)
    fits = places < len(sizes)
    if not fits.any():
        return Abstained(f"no part of the labels is precise enough to show {shown}")
    growth = float((np.maximum(sizes[places[fits]], first) / size[fits]).min())
    return Abstained(f"too few labels to show {shown}", max(1, math.ceil(positives * (growth - 1))))
