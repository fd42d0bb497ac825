"""Every estimator of a score table against labels: numbers, tables for people, CSV and figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track
from rich.table import Table

from confscore.errors import InputError
from confscore.figures import draw
from confscore.labelled import Labelled
from confscore.metrics import CONFIDENCE, METRICS, THRESHOLDS, CategoryMetrics, Metrics, Sample, resample
from confscore.rows import FloatArray
from confscore.weights import effective_size
from confscore.words import csv_cell, printable


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything about one estimator.

    Attributes
    ----------
    estimator : str
        Its name.
    documents : int
        n.
    threshold : float
        The given threshold.
    metrics : Metrics
        Of the whole sample.
    low, high : Metrics
        Ends of the bootstrap intervals; all nan without a bootstrap.
    categories : tuple of CategoryMetrics, length N
    recall, precision : float array, shape (points,)
        The pooled precision-recall curve, thinned for drawing.
    bin_score, bin_share : float array, shape (bins,)
        Mean score and share of true labels of the equal-mass bins of all pairs; empty where the calibration
        error is not defined.
    """

    estimator: str
    documents: int
    threshold: float
    metrics: Metrics
    low: Metrics
    high: Metrics
    categories: tuple[CategoryMetrics, ...]
    recall: FloatArray
    precision: FloatArray
    bin_score: FloatArray
    bin_share: FloatArray


def evaluate_estimator(
    labelled: Labelled, estimator: str, threshold: float = 0.5, resamples: int = 200, seed: int = 0
) -> Evaluation:
    """Evaluate one estimator of a labelled score table; parameters as in :func:`bootstrap`."""
    sample = Sample(labelled.scores(estimator), labelled.truth, threshold, labelled.weights)
    low, high = resample(sample, resamples, seed)
    recall, precision = sample.curve()
    return Evaluation(
        estimator,
        len(labelled.truth),
        threshold,
        sample.measure(),
        low,
        high,
        tuple(sample.category(j, code) for j, code in enumerate(labelled.codes)),
        recall,
        precision,
        *sample.reliability(),
    )


def evaluate_all(labelled: Labelled, threshold: float = 0.5, resamples: int = 200, seed: int = 0) -> list[Evaluation]:
    """Evaluate every estimator of a labelled score table, with a progress bar on a terminal.

    Raises
    ------
    InputError
        The threshold is not a finite number.
    """
    if not np.isfinite(threshold):
        raise InputError(f"--threshold {threshold}: has to be a finite number")
    names = track(
        labelled.prefixes,
        "evaluating",
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    return [evaluate_estimator(labelled, name, threshold, resamples, seed) for name in names]


def describe(labelled: Labelled) -> list[str]:
    """Return what a reader has to know of the sample: its size, what was left out, what macro averages lack."""
    lines = [
        f"{len(labelled.truth):,} documents with scores and labels, {int(labelled.truth.sum()):,} labels of "
        f"{len(labelled.codes)} categories.",
        f"Left out: {labelled.failed:,} rows of status error, {labelled.unlabelled:,} scored documents without a "
        f"label, {labelled.unscored:,} labels of documents without a row.",
    ]
    if labelled.weights is not None:
        lines.append(
            "Weighted by one over the inclusion probability: as good as "
            f"{effective_size(labelled.weights):,.0f} documents of equal weight."
        )
    codes = np.array(labelled.codes)
    reasons = (("positive", ~labelled.truth.any(axis=0)), ("negative", labelled.truth.all(axis=0)))
    lacking = [f"{', '.join(codes[which])} (no {kind} label)" for kind, which in reasons if which.any()]
    return [*lines, f"Not in macro averages: {'; '.join(lacking)}"] if lacking else lines


def summary_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return a table for people: a line a metric, a column an estimator."""
    first = evaluations[0]
    intervals = "" if np.isnan(first.low.subset_accuracy) else f"; {CONFIDENCE:.0%} intervals"
    table = Table(title=f"threshold {first.threshold:g}{intervals}", title_justify="left")
    table.add_column("metric", no_wrap=True)
    for each in evaluations:
        table.add_column(printable(each.estimator), justify="right", overflow="fold")
    for name in METRICS:
        table.add_row(name, *(_cell(each, name) for each in evaluations))
    return table


def category_table(evaluation: Evaluation) -> Table:
    """Return a table for people: a line a category of one estimator."""
    title = f"{printable(evaluation.estimator)} by category; threshold {evaluation.threshold:g}"
    table = Table(title=title, title_justify="left")
    for field in fields(CategoryMetrics):
        table.add_column(field.name, justify="left" if field.name == "code" else "right")
    for row in evaluation.categories:
        figures = (_figure(getattr(row, field.name)) for field in fields(row)[2:])
        table.add_row(printable(row.code), f"{row.positives:,}", *figures)
    return table


def _cell(evaluation: Evaluation, name: str) -> str:
    low, high = getattr(evaluation.low, name), getattr(evaluation.high, name)
    interval = "" if name in THRESHOLDS or np.isnan(low) else f" {_figure(low)}–{_figure(high)}"
    return f"{_figure(getattr(evaluation.metrics, name))}{interval}"


def _figure(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def write(evaluations: Sequence[Evaluation], folder: Path) -> list[Path]:
    """Write ``evaluation.csv``, ``per_category.csv``, ``evaluation.svg`` and ``evaluation.png``.

    Files of these four names are replaced; nothing else in the folder is touched. Numbers are written with all
    their digits, so that a best threshold is the one that was found; what is not defined is empty.

    Raises
    ------
    InputError
        The folder cannot be written to.
    """
    rows = []
    for each in evaluations:
        row: dict[str, str | float] = {"estimator": csv_cell(each.estimator), "documents": each.documents}
        row["threshold"] = each.threshold
        for name in METRICS:
            row[name] = getattr(each.metrics, name)
            if name not in THRESHOLDS:
                row |= {f"{name}_low": getattr(each.low, name), f"{name}_high": getattr(each.high, name)}
        rows.append(row)
    categories = [
        {"estimator": csv_cell(each.estimator), **asdict(row), "code": csv_cell(row.code)}
        for each in evaluations
        for row in each.categories
    ]
    paths = [folder / name for name in ("evaluation.csv", "per_category.csv", "evaluation.svg", "evaluation.png")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(paths[0], index=False)
        pd.DataFrame(categories).to_csv(paths[1], index=False)
        draw(evaluations, paths[2:])
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written to: {error}") from None
    return paths
