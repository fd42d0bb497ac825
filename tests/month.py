"""Thirty nights of a corpus and its scores, with events planted on known nights: a world whose alarms are known."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from test_score_table import PROVENANCE

from confscore.corpus import ROW_KEY
from confscore.manifest import InputFile, Manifest, Provenance, add_counts, run_identity
from confscore.publication import compact, plan_compactions, publish
from confscore.rows import Columns, score_schema
from confscore.run_folder import RunFolder
from confscore.score_table import STAGED

CODES = ("S1", "S2", "S3", "S4", "S5")
NAMES = ("Violence", "Fraud", "Harassment", "Weapons", "Self-harm")
RATES = np.array([0.02, 0.04, 0.03, 0.05, 0.01])
"""How many documents have each category, on a quiet night."""
FIRST = date(2026, 10, 1)
NIGHTS = 30
DOUBLED, MISSING, DRIFTS, BROKEN, NEW_MODEL = 12, 15, 18, 22, 25
"""Nights, counted from 1: S4 doubles; there is no partition; S2 begins to drift; texts are empty; another model."""
DRIFT_A_NIGHT = 0.15
"""How far the log-odds of S2 move each night from DRIFTS on, until the model changes."""
EMPTY = 0.3
MODEL = PROVENANCE.model_copy(
    update={
        "model": "guard-small",
        "model_hash": "a" * 64,
        "guard": "llama-guard-3",
        "categories": dict(zip(CODES, NAMES, strict=True)),
    }
)
_COLUMNS = Columns(CODES, carried=(pa.field("date", pa.string()),))
_WORDS = ("the", "parcel", "came", "late", "again", "so", "I", "called", "them", "and", "waited", "for", "an", "answer")


@dataclass(frozen=True, eq=False)
class Night:
    """Documents of one night: ids, texts, log-odds of the model, truth; ``provenance`` is of its scores."""

    day: date
    ids: list[str]
    texts: list[str]
    probs: np.ndarray
    truth: np.ndarray
    provenance: Provenance


def day(number: int) -> date:
    return FIRST + timedelta(days=number - 1)


def make_night(number: int, documents: int, seed: int, *, quiet: bool = False) -> Night:
    """Draw a night; probabilities are calibrated: labels are drawn from them, before any drift."""
    rng = np.random.default_rng([seed, number])
    rates = RATES.copy()
    if number == DOUBLED and not quiet:
        rates[3] *= 2
    high = rng.random((documents, len(CODES))) < rates
    log_odds = np.where(high, rng.normal(2.0, 1.5, high.shape), rng.normal(-6.0, 1.5, high.shape))
    truth = rng.random(high.shape) < 1 / (1 + np.exp(-log_odds))
    new_model = not quiet and number >= NEW_MODEL
    if new_model:
        log_odds = 0.8 * log_odds - 0.5
    elif not quiet and number >= DRIFTS:
        log_odds[:, 1] += DRIFT_A_NIGHT * (number - DRIFTS + 1)
    texts = [" ".join(rng.choice(_WORDS, 12)) for _ in range(documents)]
    if number == BROKEN and not quiet:
        texts = ["" if empty else text for text, empty in zip(texts, rng.random(documents) < EMPTY, strict=True)]
    ids = [f"{day(number):%Y%m%d}-{i:05d}" for i in range(documents)]
    provenance = MODEL.model_copy(update={"model_hash": "b" * 64}) if new_model else MODEL
    probs = (1 / (1 + np.exp(-log_odds))).astype(np.float32)
    return Night(day(number), ids, texts, probs, truth, provenance)


def write_corpus(folder: Path, night: Night) -> Path:
    """Write a night's partition of the corpus."""
    path = folder / f"date={night.day}" / "part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"doc_id": night.ids, "text": night.texts}), path)
    return path


def write_scores(table: Path, night: Night, corpus: Path, config: dict[str, object] | None = None) -> RunFolder:
    """Score a night from its own numbers and publish it, as a job would."""
    info = corpus.stat()
    files = (InputFile(name=corpus.name, path=str(corpus), size=info.st_size, modified_ns=info.st_mtime_ns),)
    run = RunFolder(str(table), run_identity(night.provenance, files, []))
    failed = np.array([not text for text in night.texts])
    count = len(night.ids)
    largest = night.probs.max(axis=1)

    def known(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=failed)

    columns = {
        "doc_id": pa.array(night.ids),
        "status": pa.array(np.where(failed, "error", "scored")),
        "error": pa.array(["text is empty" if bad else None for bad in failed], pa.string()),
        "chunks": pa.array(np.where(failed, 0, 1), pa.int32()),
        "truncated": pa.array(np.zeros(count, bool)),
        "answer": pa.array([None if bad else [] for bad in failed], pa.list_(pa.string())),
        "p_any": known(largest, pa.float32()),
        "p_max": known(largest, pa.float32()),
        **{f"p_{code}": known(night.probs[:, j], pa.float32()) for j, code in enumerate(CODES)},
        "residual": known(np.full(count, 0.004), pa.float32()),
        "off_grammar": known(np.full(count, 0.001), pa.float32()),
        "requests": pa.array(np.where(failed, 0, 1), pa.int32()),
        "prompt_tokens": pa.array(np.where(failed, 0, 120), pa.int32()),
        "run_id": pa.array([run.run_id] * count),
        "scored_at": pa.array([datetime(2026, 10, 31, 2, tzinfo=UTC)] * count, pa.timestamp("us", tz="UTC")),
        ROW_KEY: pa.array(np.arange(count), pa.int64()),
    }
    staged = Path(run.staging) / f"date={night.day}" / f"block{STAGED}"
    staged.parent.mkdir(parents=True)
    pq.write_table(pa.table(columns), staged)
    schema = pa.schema([field for field in score_schema(_COLUMNS) if field.name != "date"])
    files_out = [compact(run, job, schema, night.provenance, 5000) for job in plan_compactions(run, 100_000)]
    if config is not None:
        run.write("config.yaml", json.dumps(config))
    publish(run, _manifest(run, night, files, files_out), lambda: None)
    return run


def _manifest(run: RunFolder, night: Night, files: tuple[InputFile, ...], out: list) -> Manifest:
    return Manifest.model_validate(
        {
            "run_id": run.run_id,
            "started_at": f"{night.day}T01:00:00.000+00:00",
            "committed_at": f"{night.day}T02:00:00.000+00:00",
            "startup_seconds": 60.0,
            "scoring_seconds": 100.0,
            "engine_seconds": 180.0,
            "resumed": 0,
            "peak_memory": {"driver": 1 << 30, "actor": None},
            "counts": add_counts(each.counts for each in out),
            "provenance": night.provenance,
            "versions": {},
            "input_path": str(Path(files[0].path).parents[1]),
            "input_files": files,
            "skipped_files": (),
            "output_files": tuple(each.file for each in out),
            "columns": tuple(score_schema(_COLUMNS).names),
            "partition_by": ("date",),
        }
    )


def shuffled(night: Night, seed: int) -> Night:
    """Return a night with other scores and a document less, as of a partition that has changed."""
    order = np.random.default_rng(seed).permutation(len(night.ids) - 1)
    return replace(
        night, ids=night.ids[:-1], texts=night.texts[:-1], probs=night.probs[order], truth=night.truth[order]
    )
