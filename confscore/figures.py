"""Figures of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from confscore.words import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from confscore.evaluate import Evaluation

_FIGURES_A_BAND = 4
_LINEAR_BELOW = 1e-4


def draw(evaluations: Sequence[Evaluation], paths: Sequence[Path]) -> None:
    """Draw a precision-recall curve and a reliability diagram an estimator."""
    import matplotlib  # noqa: PLC0415 - takes a second, and only figures need it
    from matplotlib.figure import Figure  # noqa: PLC0415

    across = min(len(evaluations), _FIGURES_A_BAND)
    bands = -(-len(evaluations) // across)
    # Text stays text in the SVG, and equal numbers give equal files. Names are no formulas, whatever they contain.
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "confscore", "font.size": 9, "text.parse_math": False}
    ):
        figure = Figure(figsize=(max(3.2 * across, 4), 6.2 * bands), layout="constrained")
        grid = figure.subplots(2 * bands, across, squeeze=False)
        for axes in grid.flat:
            axes.set_visible(False)
        for number, each in enumerate(evaluations):
            band, column = divmod(number, across)
            _draw_precision_recall(grid[2 * band, column], each, evaluations)
            _draw_reliability(grid[2 * band + 1, column], each)
        for path in paths:
            undated = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=150, metadata=undated)


def _draw_precision_recall(axes: Axes, evaluation: Evaluation, others: Sequence[Evaluation]) -> None:
    axes.set_visible(True)
    styles = [(other, "0.85", 0.8) for other in others]
    for each, color, width in [*styles, (evaluation, "C0", 1.6)]:
        # Steps, because average precision does not interpolate: it is the area below them.
        recall, precision = np.append(0, each.recall), np.append(each.precision[:1], each.precision)
        axes.plot(recall[: len(precision)], precision, color=color, linewidth=width, drawstyle="steps-pre")
    axes.set_title(f"{printable(evaluation.estimator)}\nmicro AP {evaluation.metrics.micro_ap:.3f}")
    axes.set(xlabel="recall (share of true pairs)", ylabel="precision (share of predicted pairs)")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def _draw_reliability(axes: Axes, evaluation: Evaluation) -> None:
    axes.set_visible(True)
    axes.set(xlabel="mean score of bin (probability)", ylabel="true labels in bin (share of pairs)")
    if not evaluation.bin_score.size:
        axes.text(0.5, 0.5, "not defined:\nscores outside [0, 1]", ha="center", va="center", transform=axes.transAxes)
        axes.set(title="reliability", xticks=[], yticks=[])
        return
    # Most pairs have a score near 0: on linear axes all bins but one would lie on one point. Symmetric logarithmic
    # axes still have room for a bin without any true label.
    axes.set_xscale("symlog", linthresh=_LINEAR_BELOW, linscale=0.5)
    axes.set_yscale("symlog", linthresh=_LINEAR_BELOW, linscale=0.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")  # those of such an axis are formulas, which are shown as they are spelled
    diagonal = np.append(0, np.geomspace(_LINEAR_BELOW, 1))
    axes.plot(diagonal, diagonal, color="0.6", linewidth=0.8, linestyle="--")
    axes.plot(evaluation.bin_score, evaluation.bin_share, color="C0", marker="o", markersize=4, linewidth=0)
    axes.set_title(f"reliability, ECE {evaluation.metrics.ece:.4f}")
    axes.set(xlim=(-_LINEAR_BELOW / 4, 1.5), ylim=(-_LINEAR_BELOW / 4, 1.5))
