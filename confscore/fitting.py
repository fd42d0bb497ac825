"""A fit from end to end: score table, labels and policy in, calibrated curves and thresholds out."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import track

from confscore import calibration
from confscore.choosing import Labels, Population, choose, survey
from confscore.curves import EPS
from confscore.errors import InputError, TableError
from confscore.fitted import (
    BeforeAfter,
    FittedCategory,
    FittedModel,
    Interval,
    LabelCounts,
    QualityRecord,
    ScoreTable,
    digest,
    read_file,
)
from confscore.identity import identity_of
from confscore.labelled import MARGINAL, label_scores
from confscore.metrics import CONFIDENCE
from confscore.policy import PolicyFile
from confscore.population import read_scored
from confscore.reliability import quality
from confscore.rows import BoolArray, FloatArray
from confscore.score_table import open_table, provenance_of
from confscore.thresholds import Chosen, share_interval
from confscore.weights import effective_size

_LIBRARIES = ("confscore", "numpy", "scipy", "scikit-learn", "pyarrow")


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A label file and the columns of it that count; see :func:`confscore.labels.read_labels`."""

    path: str
    id_column: str = "doc_id"
    label_column: str | None = None
    pi_column: str | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Fit:
    """A fit, and what its quality was measured on: probabilities, shape (n, N), labels, and weights, shape (n,)."""

    model: FittedModel
    before: FloatArray
    after: FloatArray
    truth: BoolArray
    weights: FloatArray | None


def fit(scores: str, labels: LabelFile, policy: PolicyFile, run: str | None = None, seed: int = 0) -> Fit:
    """Calibrate the scores of a table and choose thresholds.

    Parameters
    ----------
    scores : str
        The score table: ``output.path`` of the runs that wrote it.
    labels : LabelFile
        Labels of some of its documents.
    policy : PolicyFile
        How to calibrate, and by what rules to choose.
    run : str, optional
        The rows of this run only.
    seed : int
        Of the folds that calibration is measured on.

    Raises
    ------
    InputError
        The labels are refused, are of other scores, or share no document with the table.
    TableError
        The table is none, has several rows for a labelled document, or scores that are no probabilities.
    """
    table = open_table(scores)
    provenance = provenance_of(table)
    labelled = label_scores(
        scores, labels.path, labels.id_column, labels.label_column, [MARGINAL], run, labels.pi_column
    )
    codes, truth, weights = labelled.codes, labelled.truth, labelled.weights
    raw = labelled.scores(MARGINAL)
    wrong = np.argwhere((raw < 0) | (raw > 1))
    if wrong.size:
        doc_id = labelled.table["doc_id"][int(wrong[0, 0])].as_py()
        raise TableError(f"{scores}: p_{codes[wrong[0, 1]]} of document {doc_id!r} is no probability in [0, 1]")
    if len(truth) < 2:
        raise InputError(
            f"{labels.path}: labels one scored document; calibration is measured on labels that it has not seen, so a "
            "fit needs two at the very least"
        )
    fitted = calibration.fit(raw, truth, weights, policy.calibration)
    before = np.clip(raw, EPS, 1 - EPS)
    after = calibration.predict_out_of_fold(raw, truth, weights, policy.calibration, fitted.scales, seed=seed)
    batches = read_scored(scores, table, codes, run, ["run_id"])
    population = survey(_shown(batches), codes, fitted.curves, policy)
    categories = []
    for j, code in enumerate(codes):
        own = Labels(raw[:, j], truth[:, j], weights, fitted.curves[j])
        compared = _compare(before[:, j], after[:, j], truth[:, j], weights)
        categories.append(_category(policy, code, provenance.categories[code], j, own, population, compared))
    pairs = None if weights is None else np.repeat(weights, len(codes))
    size = float(len(truth)) if weights is None else effective_size(weights)
    model = FittedModel(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        identity=identity_of(provenance),
        scores=ScoreTable(path=scores, documents=population.counts.documents, runs=population.runs),
        labels=LabelCounts(
            path=labels.path,
            sha256=digest(read_file(labels.path)),
            documents=len(truth),
            effective_documents=size,
            weighted=weights is not None,
        ),
        policy_sha256=digest(policy.model_dump_json().encode()),
        calibration=policy.calibration,
        scales=None if fitted.scales is None else asdict(fitted.scales),
        quality=_compare(before.ravel(), after.ravel(), truth.ravel(), pairs),
        categories=tuple(categories),
    )
    return Fit(model, before, after, truth, weights)


def _category(
    policy: PolicyFile,
    code: str,
    name: str,
    column: int,
    labels: Labels,
    population: Population,
    compared: BeforeAfter,
) -> FittedCategory:
    """Choose the threshold of a category, and say what labels and documents make of it."""
    rule = policy.of(code)
    choice, guarantee = choose(rule, code, column, labels, population)
    positives = int(labels.truth.sum())
    found = FittedCategory(
        code=code,
        name=name,
        positives=positives,
        negatives=len(labels.truth) - positives,
        curve=labels.curve,
        policy=rule.model_dump(mode="json"),
        outcome="abstained",
        guarantee=guarantee,
        quality=compared,
    )
    if not isinstance(choice, Chosen):
        return found.model_copy(update={"reason": choice.reason, "more_positives": choice.more_positives})
    if choice.threshold is None:
        return found.model_copy(update={"outcome": "nothing", "reason": "no score is high enough for the policy"})
    weights = np.ones(len(labels.truth)) if labels.weights is None else labels.weights
    flagged = labels.scores >= choice.threshold
    edge = int(np.searchsorted(population.counts.edges, choice.threshold, side="right")) - 1
    return found.model_copy(
        update={
            "outcome": "threshold",
            "threshold": choice.threshold,
            "probability": float(labels.curve.prob(np.array([choice.threshold]))[0]),
            "flagged_at_most": int(population.counts.at_least(column)[edge]),
            "precision": _interval(labels.truth, flagged, weights),
            "recall": _interval(flagged, labels.truth, weights),
        }
    )


def _interval(truth: BoolArray, among: BoolArray, weights: FloatArray) -> Interval | None:
    """Return which share of some documents is true; ``None`` where there are none."""
    if not among.any():
        return None
    share, low, high = share_interval(truth[among], weights[among], CONFIDENCE)
    return Interval(value=share, low=low, high=high)


def _compare(before: FloatArray, after: FloatArray, truth: BoolArray, weights: FloatArray | None) -> BeforeAfter:
    pair = (QualityRecord(**asdict(quality(probs, truth, weights))) for probs in (before, after))
    return BeforeAfter(before=next(pair), after=next(pair))


def _shown(batches: Iterable[tuple[pa.RecordBatch, FloatArray]]) -> Iterator[tuple[pa.RecordBatch, FloatArray]]:
    """Show on a terminal that documents are being counted."""
    quiet = not sys.stderr.isatty()
    yield from track(batches, "counting", console=Console(stderr=True), transient=True, disable=quiet)
