"""Pairs sorted by score: what ROC and precision-recall curves are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from confscore.rows import BoolArray, FloatArray, IntArray


class Ranking:
    """Binary pairs sorted by score, largest first: what ROC and precision-recall curves are made of.

    A *cut* is a distinct score taken as the threshold.

    Parameters
    ----------
    scores : float array, shape (m,)
        Descending.
    positive : bool array, shape (m,)
    documents : int array, shape (m,)
        Which document each pair belongs to.
    """

    def __init__(self, scores: FloatArray, positive: BoolArray, documents: IntArray) -> None:
        self._documents = documents
        self._positive = positive
        self._ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
        self._falling = -scores[self._ends]

    def count(self, weights: FloatArray) -> Counts:
        """Count pairs by the weight of their documents, shape (n,)."""
        weight = weights[self._documents]
        all_pairs = np.cumsum(weight)[self._ends]
        true = np.cumsum(weight * self._positive)[self._ends]
        return Counts(self._falling, true, all_pairs - true)

    def best_cut(self, gains: FloatArray) -> float:
        """Return the cut where ``gains``, one a pair, is largest; the largest cut, where several are."""
        return -float(self._falling[np.argmax(gains[self._ends])])


@dataclass(frozen=True, eq=False, slots=True)
class Counts:
    """True and false positives at every cut, shape (cuts,) each; the last cut predicts every pair.

    ``falling`` is minus the cuts, which ascends and so can be searched.
    """

    falling: FloatArray
    true: FloatArray
    false: FloatArray

    def at(self, threshold: float) -> tuple[float, float]:
        """Return true and false positives where ``score >= threshold`` is a prediction."""
        k = int(np.searchsorted(self.falling, -threshold, side="right")) - 1
        return (0.0, 0.0) if k < 0 else (float(self.true[k]), float(self.false[k]))

    def f1(self, threshold: float) -> float:
        """Return F1 at a threshold."""
        if np.isnan(threshold):  # there is no best one
            return np.nan
        true, false = self.at(threshold)
        return ratio(2 * true, true + false + float(self.true[-1]))

    def best_threshold(self) -> float:
        """Return the cut with the largest F1; nan without any positive."""
        if self.true[-1] == 0:
            return np.nan
        return -float(self.falling[np.argmax(2 * self.true / (self.true + self.false + self.true[-1]))])

    def auc(self) -> float:
        """Return the area under the ROC curve."""
        below = self.true - np.diff(self.true, prepend=0) / 2  # the trapezoid rule: ties count half
        return ratio(float(np.diff(self.false, prepend=0) @ below), float(self.true[-1] * self.false[-1]))

    def ap(self) -> float:
        """Return the average precision."""
        # A resample may lack every pair above a cut; nothing is found there, so its precision does not count.
        predicted = self.true + self.false
        precision = np.divide(self.true, predicted, out=np.zeros_like(predicted), where=predicted > 0)
        return ratio(float(np.diff(self.true, prepend=0) @ precision), float(self.true[-1]))


def ratio(part: float, whole: float) -> float:
    """Return ``part / whole``; nan where the whole is 0."""
    return part / whole if whole else np.nan
