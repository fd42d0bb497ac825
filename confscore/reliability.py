"""How good probabilities are as probabilities: losses, what they consist of, and reliability diagrams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import xlog1py, xlogy
from sklearn.isotonic import IsotonicRegression

from confscore.errors import InputError
from confscore.metrics import CONFIDENCE, equal_mass_bins
from confscore.rows import BoolArray, FloatArray
from confscore.thresholds import share_interval
from confscore.words import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACROSS = 4
ALL_BINS, CATEGORY_BINS = 10, 5
"""Bins of the diagrams: of all pairs, and of a single category, which has few labels."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Weighted means over pairs of a document and a category.

    Attributes
    ----------
    log_loss : float
        ``-log p`` or ``-log(1 - p)``, in nats.
    brier : float
        ``(p - y)²``, which is ``miscalibration - discrimination + uncertainty``.
    miscalibration : float
        What the best monotone recalibration, isotonic regression, would gain; 0 is best.
    discrimination : float
        What that gains over the base rate; larger is better.
    uncertainty : float
        The Brier score of the base rate.
    ece : float
        Expected calibration error, ``Σ_bins |Σ w (p - y)| / Σ w``, in equal-mass bins.
    """

    log_loss: float
    brier: float
    miscalibration: float
    discrimination: float
    uncertainty: float
    ece: float


@dataclass(frozen=True, eq=False, slots=True)
class Bins:
    """A reliability diagram: mean probability, share of true labels, and the ends of its interval, for each bin."""

    prob: FloatArray
    share: FloatArray
    low: FloatArray
    high: FloatArray


def quality(probs: FloatArray, truth: BoolArray, weights: FloatArray | None = None) -> Quality:
    """Hold probabilities inside (0, 1) against labels.

    The decomposition of the Brier score is the one of Dimitriadis, Gneiting and Jordan 2021 ("Stable reliability
    diagrams for probabilistic classifiers", PNAS 118), which needs no bins.

    Parameters
    ----------
    probs : float array, shape (m,)
    truth : bool array, shape (m,)
    weights : float array, shape (m,), optional
    """
    weights = np.ones(len(probs)) if weights is None else weights

    def mean(values: FloatArray) -> float:
        return float(weights @ values / weights.sum())

    best: FloatArray = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit_transform(
        probs, truth, sample_weight=weights
    )
    brier, recalibrated = mean((probs - truth) ** 2), mean((best - truth) ** 2)
    labels = truth.astype(np.float64)
    uncertainty = mean((mean(labels) - labels) ** 2)
    gaps = np.bincount(equal_mass_bins(probs), weights * (probs - truth))
    return Quality(
        log_loss=mean(-xlogy(truth, probs) - xlog1py(~truth, -probs)),
        brier=brier,
        miscalibration=brier - recalibrated,
        discrimination=uncertainty - recalibrated,
        uncertainty=uncertainty,
        ece=float(np.abs(gaps).sum() / weights.sum()),
    )


def bins(probs: FloatArray, truth: BoolArray, weights: FloatArray | None = None, most: int = ALL_BINS) -> Bins:
    """Return a reliability diagram with an interval for each of at most so many bins; see :func:`quality`.

    Bins hold equal parts of ``Σ w p (1 - p)``, the number of labels that can go either way: bins of equal mass would be
    spent on the many documents that have nothing. Equal probabilities are never parted.
    """
    weights = np.ones(len(probs)) if weights is None else weights
    order = np.argsort(probs, kind="stable")
    open_labels = np.cumsum((weights * probs * (1 - probs))[order])
    steps = np.linspace(0, open_labels[-1], most + 1)[1:-1]
    edges = probs[order][np.minimum(np.searchsorted(open_labels, steps), len(probs) - 1)]
    number = np.searchsorted(edges, probs)
    found = []
    for each in np.unique(number):
        here = number == each
        weight = weights[here]
        found.append((float(weight @ probs[here] / weight.sum()), *share_interval(truth[here], weight, CONFIDENCE)))
    return Bins(*np.array(found).T)


def draw(
    path: Path,
    codes: Sequence[str],
    before: FloatArray,
    after: FloatArray,
    truth: BoolArray,
    weights: FloatArray | None = None,
) -> None:
    """Draw a reliability diagram for each category, before and after calibration.

    Parameters
    ----------
    path : Path
        A name that ends in ``.svg``, ``.png`` or ``.pdf``.
    codes : sequence of str, length N
    before, after : float array, shape (n, N)
        Probabilities inside (0, 1).
    truth : bool array, shape (n, N)
    weights : float array, shape (n,), optional

    Raises
    ------
    InputError
        The figure cannot be written.
    """
    import matplotlib  # noqa: PLC0415 - takes a second, and only figures need it
    from matplotlib.figure import Figure  # noqa: PLC0415

    across = min(len(codes) + 1, _ACROSS)
    down = -(-(len(codes) + 1) // across)
    # Text stays text in an SVG, and equal numbers give equal files. Names are no formulas, whatever they contain.
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "confscore", "font.size": 8, "text.parse_math": False}
    ):
        figure = Figure(figsize=(max(2.8 * across, 4), 2.8 * down + 0.6), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(codes) + 1 :]:
            axes.set_visible(False)
        pairs = None if weights is None else np.repeat(weights, len(codes))
        _panel(grid.flat[0], "all", before.ravel(), after.ravel(), truth.ravel(), pairs, ALL_BINS)
        for j, code in enumerate(codes):
            columns = (before[:, j], after[:, j], truth[:, j])
            _panel(grid.flat[j + 1], printable(code), *columns, weights, CATEGORY_BINS)
        grid.flat[0].legend(loc="upper left", frameon=False)
        figure.supxlabel("mean probability of bin")
        figure.supylabel(f"share of true labels, with {CONFIDENCE:.0%} bands")
        try:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
        except (OSError, ValueError) as error:
            raise InputError(f"--figure {path}: cannot be written: {error}") from None


def _panel(
    axes: Axes,
    name: str,
    before: FloatArray,
    after: FloatArray,
    truth: BoolArray,
    weights: FloatArray | None,
    most: int,
) -> None:
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--")
    for label, probs, color in (("before", before, "0.4"), ("after", after, "C0")):
        found = bins(probs, truth, weights, most)
        axes.fill_between(found.prob, found.low, found.high, color=color, alpha=0.2, linewidth=0)
        axes.plot(found.prob, found.share, ".-", color=color, markersize=5, linewidth=0.8, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=f"{name}, {int(truth.sum()):,} positive labels")
