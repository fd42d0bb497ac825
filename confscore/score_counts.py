"""How many documents of a score table have at least a score: what unlabelled documents say about thresholds."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.special import expit

from confscore.curves import EPS, log_odds
from confscore.rows import FloatArray, IntArray

_STEPS_A_UNIT = 512
"""Edges of bins for each unit of log-odds: neighbours differ by 0.2 % in p, or in 1 - p near 1."""


def _edges() -> FloatArray:
    farthest = float(log_odds(np.array([1.0]))[0])
    steps = int(2 * farthest * _STEPS_A_UNIT)
    # Edges are float32, as the scores are: then a count is exact, whoever compares.
    inner = expit(np.linspace(-farthest, farthest, steps)).astype(np.float32)
    return np.unique(np.concatenate([[0.0], inner[inner > EPS].astype(np.float64), [1.0]]))


class ScoreCounts:
    """Counts documents by score, in bins that are narrow wherever scores are.

    Parameters
    ----------
    columns : int
        How many scores each document has.

    Attributes
    ----------
    edges : float array, shape (K,)
        From 0 to 1, ascending.
    documents : int
        Documents so far.
    """

    def __init__(self, columns: int) -> None:
        self.edges = _edges()
        self.documents = 0
        self._counts: IntArray = np.zeros((columns, len(self.edges)), dtype=np.int64)

    def add(self, scores: FloatArray) -> None:
        """Take in documents: their scores in [0, 1], shape (n, columns)."""
        self.documents += len(scores)
        for j in range(scores.shape[1]):
            bins = np.searchsorted(self.edges, scores[:, j], side="right") - 1
            self._counts[j] += np.bincount(bins, minlength=len(self.edges))

    def at_least(self, column: int) -> IntArray:
        """Return how many documents have a score of at least each edge, shape (K,), descending."""
        return np.cumsum(self._counts[column, ::-1])[::-1]

    def cuts(self, column: int, counts: Iterable[float]) -> list[float]:
        """Return the largest edges at which at least these counts of documents are, descending, and 0 at last."""
        falling = -self.at_least(column)
        places = [int(np.searchsorted(falling, -count, side="right")) - 1 for count in counts]
        return list(dict.fromkeys([*(float(self.edges[max(place, 0)]) for place in places), 0.0]))

    def within(self, column: int, count: float) -> float | None:
        """Return the smallest edge at which at most so many documents are; ``None`` where more have a score of 1."""
        fits = np.flatnonzero(self.at_least(column) <= count)
        return float(self.edges[fits[0]]) if fits.size else None
