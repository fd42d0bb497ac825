"""How good scores are in the demo world, where the truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from confscore.demo.world import WorldDocument
from confscore.rows import BoolArray, FloatArray, Score


@dataclass(frozen=True, slots=True)
class Quality:
    """Scores held against the known probabilities, over all (document, category) cells.

    Attributes
    ----------
    error : float
        Mean ``|p - P(category | text)|``.
    ambiguous_error : float
        The same where the truth lies between 0.1 and 0.9.
    calibration_error : float
        Cells are put into ten bins by their score; in each bin the mean score is held against the mean truth.
        This is the mean of the absolute differences in bins above 0.1, weighted by their cells;
        nan where no score is above 0.1.
    auc, auc_ceiling : float
        Area under the ROC curve against the drawn labels, of the scores and of the truth itself. No score has a
        higher expected area than the truth; on one draw it may be a little ahead by luck.
    off_grammar : float
        The most probability that any document's answer left the grammar with.
    flagged : float
        Share of documents with at least one label.
    """

    error: float
    ambiguous_error: float
    calibration_error: float
    auc: float
    auc_ceiling: float
    off_grammar: float
    flagged: float


def measure(documents: Sequence[WorldDocument], scores: Sequence[Score]) -> Quality:
    """Hold scores against the documents they are of, in the same order; every row must be scored."""
    probs = np.array([score.probs for score in scores], dtype=np.float64)
    truth = np.array([document.probs for document in documents])
    labels = np.array([document.labels for document in documents])
    away = np.abs(probs - truth)
    return Quality(
        error=float(away.mean()),
        ambiguous_error=float(away[(truth > 0.1) & (truth < 0.9)].mean()),
        calibration_error=_calibration_error(probs, truth),
        auc=_auc(labels, probs),
        auc_ceiling=_auc(labels, truth),
        off_grammar=max(float(score.off_grammar or 0.0) for score in scores),
        flagged=float(labels.any(axis=1).mean()),
    )


def _calibration_error(probs: FloatArray, truth: FloatArray) -> float:
    bins = np.minimum((probs * 10).astype(int), 9)
    differences = [
        (inside.sum(), abs((probs - truth)[inside].mean())) for b in range(1, 10) if (inside := bins == b).any()
    ]
    if not differences:
        return float("nan")
    return float(np.average([each for _, each in differences], weights=[cells for cells, _ in differences]))


def _auc(labels: BoolArray, probs: FloatArray) -> float:
    return float(roc_auc_score(labels.ravel(), probs.ravel()))
