"""Calibrated per-category probabilities from generative guard models, at corpus scale."""

__version__ = "0.1.0"
