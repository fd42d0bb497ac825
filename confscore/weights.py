"""Weights: how many documents a labelled one stands for."""

from __future__ import annotations

from confscore.rows import FloatArray


def effective_size(weights: FloatArray) -> float:
    """Return ``(Σ w)² / Σ w²``: how many documents of equal weight tell as much (Kish 1965, section 11.7)."""
    return float(weights.sum() ** 2 / (weights**2).sum())
