"""A labelled sample with inclusion probabilities: what it says of the whole score table it was drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from confscore.errors import InputError
from confscore.estimation import STATISTICS, Estimate, Estimates, Quality, estimate
from confscore.labelled import Labelled
from confscore.metrics import CONFIDENCE
from confscore.population import Tally, Totals, read_scored
from confscore.score_table import open_table
from confscore.words import csv_cell, printable

AVERAGES = ("micro", "macro")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is estimated of one estimator.

    Attributes
    ----------
    estimator : str
    codes : tuple of str, length N
    labelled : int
        n, the documents of the sample.
    documents : int
        M, those of the score table.
    threshold : float
        A score of at least this flags.
    estimates : Estimates
    """

    estimator: str
    codes: tuple[str, ...]
    labelled: int
    documents: int
    threshold: float
    estimates: Estimates

    def rows(self) -> list[tuple[str, Quality]]:
        """Return categories and averages by their names."""
        found = self.estimates
        return list(zip((*self.codes, *AVERAGES), (*found.categories, found.micro, found.macro), strict=True))


def evaluate_weighted(scores: str, labelled: Labelled, threshold: float, run: str | None = None) -> list[Evaluation]:
    """Estimate prevalence, precision, recall and F1 in a score table from a sample of it, for each estimator.

    Parameters
    ----------
    scores : str
        The score table that the sample was drawn from.
    labelled : Labelled
        Its labels, and weights of one over inclusion probabilities; without weights all documents count alike.
    threshold : float
        A score of at least this flags.
    run : str, optional
        The sample was drawn from the rows of this run.

    Raises
    ------
    InputError
        The threshold is not a finite number, or the sample does not stand for the table.
    TableError
        The table cannot be read, or a scored row has no score.
    """
    if not np.isfinite(threshold):
        raise InputError(f"--threshold {threshold}: has to be a finite number")
    found = []
    for name, prefix in labelled.prefixes.items():
        totals, probabilities = _totals(scores, labelled.codes, prefix, threshold, run)
        n = len(labelled.truth)
        inclusion = np.full(n, n / totals.documents) if labelled.weights is None else 1 / labelled.weights
        values = labelled.scores(name)
        estimates = estimate(labelled.truth, values if probabilities else None, values >= threshold, inclusion, totals)
        _refuse_strangers(scores, estimates.documents, totals.documents)
        found.append(Evaluation(name, labelled.codes, n, totals.documents, threshold, estimates))
    return found


def describe_weights(evaluation: Evaluation) -> str:
    """Return what a sample stands for."""
    return (
        f"By their inclusion probabilities they stand for {evaluation.estimates.documents.value:,.0f} documents; the "
        f"score table has {evaluation.documents:,}."
    )


def average_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return a table for people: averages over categories, a column an estimator."""
    table = Table(title=f"whole score table; {_title(evaluations[0])}", title_justify="left")
    table.add_column("estimate", no_wrap=True)
    for each in evaluations:
        table.add_column(printable(each.estimator), justify="right", overflow="fold")
    for average in AVERAGES:
        for name in STATISTICS:
            if (average, name) != ("macro", "prevalence"):  # the same as micro
                cells = (_cell(getattr(dict(each.rows())[average], name)) for each in evaluations)
                table.add_row(f"{average}_{name}", *cells)
    return table


def quality_table(evaluation: Evaluation) -> Table:
    """Return a table for people: a line a category of one estimator."""
    title = f"{printable(evaluation.estimator)} by category; {_title(evaluation)}"
    table = Table(title=title, title_justify="left")
    for name in ("code", "positives", *STATISTICS):
        table.add_column(name, justify="left" if name == "code" else "right")
    for code, quality in evaluation.rows()[: -len(AVERAGES)]:
        table.add_row(
            printable(code), f"{quality.positives:,}", *(_cell(getattr(quality, name)) for name in STATISTICS)
        )
    return table


def write_weighted(evaluations: Sequence[Evaluation], folder: Path) -> Path:
    """Write ``population.csv``: a row for each category and average of each estimator; what is not defined is empty.

    Raises
    ------
    InputError
        The folder cannot be written to.
    """
    rows = []
    for each in evaluations:
        for code, quality in each.rows():
            row: dict[str, str | float] = {
                "estimator": csv_cell(each.estimator),
                "code": csv_cell(code),
                "documents": each.documents,
                "labelled": each.labelled,
                "positives": quality.positives,
                "threshold": each.threshold,
            }
            for name in STATISTICS:
                one: Estimate = getattr(quality, name)
                row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
            rows.append(row)
    path = folder / "population.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(path, index=False)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written to: {error}") from None
    return path


def _totals(scores: str, codes: Sequence[str], prefix: str, threshold: float, run: str | None) -> tuple[Totals, bool]:
    """Return the totals of a table, and whether its scores can be probabilities."""
    tally, probabilities = Tally(len(codes)), True
    for _, values in read_scored(scores, open_table(scores), codes, run, prefix=prefix):
        probabilities = probabilities and values.min() >= 0 and values.max() <= 1
        tally.add(np.clip(values, 0, 1), values >= threshold)
    return tally.totals(), probabilities


def _refuse_strangers(scores: str, stands_for: Estimate, documents: int) -> None:
    rounding = documents * 1e-9
    if stands_for.low > documents + rounding or stands_for.high < documents - rounding:
        raise InputError(
            f"the labelled documents stand for {stands_for.value:,.0f} documents by their inclusion probabilities, and "
            f"{scores} has {documents:,}; label all documents of the sample, and choose the run it was drawn from "
            "with --run"
        )


def _title(evaluation: Evaluation) -> str:
    return f"threshold {evaluation.threshold:g}; {CONFIDENCE:.0%} intervals"


def _cell(one: Estimate) -> str:
    value = "?" if np.isnan(one.value) else f"{one.value:.4f}"
    return "" if np.isnan(one.low) else f"{value} {one.low:.4f}–{one.high:.4f}"
