"""Precision, recall and F1 without labels, from the probabilities alone.

If probabilities are calibrated, the true labels of a night are independent draws from them, and counts of true and
false positives and negatives have known means (Lewis 1995, "Evaluating and optimizing autonomous text classification
systems", SIGIR, section 3, where expected effectiveness is computed so). With flags z of M documents:

    TP = Σ z p,    FN = Σ (1 - z) p,    Var TP = Σ z p (1 - p),    Var FN = Σ (1 - z) p (1 - p).

Intervals are those of the draw, by the delta method, at 95 %. They say nothing of a calibration that is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
_Z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))


@dataclass(frozen=True, slots=True)
class Share:
    """A share and the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ExpectedCounts:
    """Sums over M documents, of one category or of all together.

    Attributes
    ----------
    documents : int
        M; for averages M times the number of categories.
    flagged : int
        ``Σ z``.
    true, missed : float
        ``TP`` and ``FN``.
    var_true, var_missed : float
        Their variances.
    """

    documents: int
    flagged: int
    true: float
    missed: float
    var_true: float
    var_missed: float


def expected_quality(counts: ExpectedCounts) -> dict[str, Share | None]:
    """Return prevalence, precision, recall and F1; ``None`` where one is not defined.

    Parameters
    ----------
    counts : ExpectedCounts
    """
    true, missed, flagged = counts.true, counts.missed, counts.flagged
    positives = true + missed
    found: dict[str, Share | None] = dict.fromkeys(("prevalence", "precision", "recall", "f1"))
    if counts.documents:
        variance = (counts.var_true + counts.var_missed) / counts.documents**2
        found["prevalence"] = _share(positives / counts.documents, variance)
    if flagged:
        found["precision"] = _share(true / flagged, counts.var_true / flagged**2)
    if positives > 0:
        # d recall = (FN dTP - TP dFN) / (TP + FN)²
        variance = (missed**2 * counts.var_true + true**2 * counts.var_missed) / positives**4
        found["recall"] = _share(true / positives, variance)
        # d F1 = 2 ((flagged + FN) dTP - TP dFN) / (flagged + TP + FN)²
        whole = flagged + positives
        variance = 4 * ((flagged + missed) ** 2 * counts.var_true + true**2 * counts.var_missed) / whole**4
        found["f1"] = _share(2 * true / whole, variance)
    return found


def wilson(count: int, of: int) -> Share | None:
    """Return a share of documents with Wilson's interval (1927), as if the night's documents were draws.

    ``None`` where there are no documents.
    """
    if not of:
        return None
    ends = stats.binomtest(count, of).proportion_ci(CONFIDENCE, method="wilson")
    return Share(count / of, float(ends.low), float(ends.high))


def _share(value: float, variance: float) -> Share:
    half = _Z * float(np.sqrt(variance))
    value = min(max(value, 0.0), 1.0)  # sums of rounded terms may lie a hair outside
    return Share(value, max(value - half, 0.0), min(value + half, 1.0))
