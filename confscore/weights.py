"""Weights: how many documents a labelled one stands for."""

from __future__ import annotations

import numpy as np

from confscore.rows import FloatArray


def effective_size(weights: FloatArray) -> float:
    """Return ``(Σ w)² / Σ w²``: how many documents of equal weight tell as much (Kish 1965, section 11.7)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def documents_of(weights: FloatArray) -> tuple[float, float, float]:
    """Return how many documents a Poisson sample stands for, ``Σ w``, and the ends of a wide interval of that.

    It is of 5 standard errors of the logarithm to both sides, with the variance ``Σ w (w - 1)`` of independent draws.
    """
    whole = float(weights.sum())
    factor = float(np.exp(5 * np.sqrt((weights * (weights - 1)).sum()) / whole))
    return whole, whole / factor, whole * factor
