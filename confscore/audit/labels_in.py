"""Labels that have arrived: what they say of the night that they were drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq
from pyarrow import fs

from confscore.audit.lake import below
from confscore.audit.record import Interval, LabelsIn, NightRecord, Notice
from confscore.audit.settings import LabelSettings
from confscore.audit.tally import flags_of, probabilities
from confscore.corpus.files import resolve
from confscore.errors import InputError
from confscore.estimation import STATISTICS, Estimate, Quality, estimate
from confscore.labels import LabelTable, read_labels
from confscore.population import Totals, read_scored
from confscore.rows import BoolArray, FloatArray
from confscore.sample import Sample
from confscore.sample_file import INCLUSION
from confscore.words import printable

SAMPLED_SCORES = "sample_scores.parquet"
"""Beside a night's sample: what its documents' scores were. Labellers do not get it, so that it cannot lead them."""
_SUFFIXES = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz")
_NAMES = {name: f"audited_{name}" for name in STATISTICS}


@dataclass(frozen=True, eq=False, slots=True)
class Audited:
    """Estimates of a night's quality from labels.

    Attributes
    ----------
    labels : LabelsIn
    metrics : dict of str to dict of str to float or None
        ``audited_…`` by scope; of all categories together the micro average.
    intervals : dict of str to dict of str to Interval
        At 90 %.
    """

    labels: LabelsIn
    metrics: dict[str, dict[str, float | None]]
    intervals: dict[str, dict[str, Interval]]


CONFIDENCE = 0.9


def find_label_files(settings: LabelSettings | None) -> list[tuple[str, int, int]]:
    """Return the label files that have arrived, with their sizes and times in nanoseconds; none is no error.

    Raises
    ------
    InputError
        The place cannot be listed.
    """
    if settings is None:
        return []
    filesystem, root = resolve(settings.path)
    try:
        info = filesystem.get_file_info(root)
        if info.type == fs.FileType.NotFound:
            return []
        selector = fs.FileSelector(root, recursive=True)
        infos = [info] if info.is_file else filesystem.get_file_info(selector)
    except OSError as error:
        raise InputError(f"labels.path {settings.path}: cannot be listed: {error}") from None
    found = [each for each in infos if each.is_file and each.path.lower().endswith(_SUFFIXES)]
    return sorted(
        (_place_of(settings.path, each.path, root), each.size or 0, each.mtime_ns or 0)
        for each in found
        if not any(part[:1] in ("_", ".") for part in each.path[len(root) :].split("/") if part)
    )


def _place_of(where: str, path: str, root: str) -> str:
    """Return the local path or address of a file that was found below ``root``."""
    if "://" not in where:
        return path
    inside = path[len(root) :].lstrip("/")
    return below(where, inside) if inside else where


def read_arrived(
    settings: LabelSettings, files: Sequence[tuple[str, int, int]], codes: Sequence[str]
) -> tuple[list[LabelTable], list[Notice]]:
    """Read label files; those that are refused become notices, because a report must not wait for them."""
    tables, notices = [], []
    for path, _, _ in files:
        try:
            tables.append(read_labels(path, codes, settings.id_column, settings.label_column))
        except InputError as error:
            notices.append(Notice(severity="warn", text=f"labels were left out: {error}"))
    return tables, notices + _disagreements(tables)


def _disagreements(tables: Sequence[LabelTable]) -> list[Notice]:
    """Say of how many documents files have different labels."""
    first: dict[str, BoolArray] = {}
    differ: dict[str, str] = {}
    for table in tables:
        for doc_id, row in zip(table.ids, table.truth, strict=True):
            if not np.array_equal(first.setdefault(doc_id, row), row):
                differ[doc_id] = table.path
    if not differ:
        return []
    doc_id, path = next(iter(differ.items()))
    text = (
        f"labels of {len(differ)} documents differ between files, and those of the last file by name count; {path} "
        f"has other ones of {printable(doc_id)}"
    )
    return [Notice(severity="warn", text=text)]


def scores_of_sample(path: str, table: pds.Dataset, sample: Sample) -> pa.Table:
    """Return the sampled documents with π, probabilities and flags: ``doc_id``, π, ``prob_<code>``, ``flag_<code>``."""
    rules = sample.rules
    codes = [rule.code for rule in rules]
    wanted = {doc_id: i for i, doc_id in enumerate(sample.doc_ids)}
    probs, flags = np.zeros((len(wanted), len(codes))), np.zeros((len(wanted), len(codes)), np.bool_)
    for batch, scores in read_scored(path, table, codes, None, ("doc_id",)):
        ids = batch.column("doc_id").to_pylist()
        here = [row for row, doc_id in enumerate(ids) if doc_id in wanted]
        if here:
            places = [wanted[ids[row]] for row in here]
            probs[places], flags[places] = probabilities(scores[here], rules), flags_of(scores[here], rules)
    columns = {"doc_id": pa.array(sample.doc_ids, pa.string()), INCLUSION: pa.array(sample.inclusion)}
    columns |= {f"prob_{code}": pa.array(probs[:, j]) for j, code in enumerate(codes)}
    columns |= {f"flag_{code}": pa.array(flags[:, j]) for j, code in enumerate(codes)}
    totals = sample.totals
    about = {
        "documents": str(totals.documents),
        "expected": " ".join(map(repr, totals.expected.tolist())),
        "flagged": " ".join(map(str, totals.flagged.tolist())),
        "expected_flagged": " ".join(map(repr, totals.expected_flagged.tolist())),
    }
    return pa.table(columns).replace_schema_metadata(about)


def audit_labels(
    output: str, records: Sequence[NightRecord], tables: Sequence[LabelTable], codes: Sequence[str], least: float
) -> tuple[Audited | None, list[Notice]]:
    """Return what labels say of the last night that has enough of them, and which later nights have too few.

    Where some sampled documents have no label, those that have stand for all: π is multiplied by the labelled share.

    Parameters
    ----------
    output : str
        The audit's folder.
    records : sequence of NightRecord
        Nights of one kind of scores, oldest first.
    tables : sequence of LabelTable
    codes : sequence of str, length N
    least : float
        The share of sampled documents that need a label.
    """
    truth = {doc_id: row for table in tables for doc_id, row in zip(table.ids, table.truth, strict=True)}
    few: list[Notice] = []
    if not truth:
        return None, few
    filesystem, root = resolve(output)
    for record in reversed(records):
        place = f"{root.rstrip('/')}/{record.folder}/{SAMPLED_SCORES}"
        if record.sample is None or not filesystem.get_file_info(place).is_file:
            continue
        drawn = pq.read_table(place, filesystem=filesystem)
        ids = drawn["doc_id"].to_pylist()
        have = np.array([doc_id in truth for doc_id in ids], dtype=np.bool_)
        if not have.any():
            continue
        if have.mean() < least:
            text = (
                f"{int(have.sum()):,} of the {len(ids):,} sampled documents of {record.night} have labels, and "
                f"estimates need {least:.0%} of them (labels.least_fraction)"
            )
            few.append(Notice(severity="info", text=text))
            continue
        files = sorted({table.path for table in tables if not set(table.ids).isdisjoint(ids)})
        labels = LabelsIn(night=record.night, sampled=len(ids), labelled=int(have.sum()), files=tuple(files))
        labelled = np.array([truth[doc_id] for doc_id in ids if doc_id in truth])
        return _audited(labels, drawn.filter(pa.array(have)), labelled, codes), few
    return None, few


def _audited(labels: LabelsIn, drawn: pa.Table, truth: BoolArray, codes: Sequence[str]) -> Audited:
    about = {key.decode(): value.decode() for key, value in drawn.schema.metadata.items()}
    totals = Totals(
        int(about["documents"]),
        _numbers(about["expected"]),
        _numbers(about["flagged"]).astype(np.int64),
        _numbers(about["expected_flagged"]),
    )
    probs = np.column_stack([drawn[f"prob_{code}"].to_numpy() for code in codes])
    flags = np.column_stack([drawn[f"flag_{code}"].to_numpy(zero_copy_only=False) for code in codes])
    inclusion = drawn[INCLUSION].to_numpy() * (labels.labelled / labels.sampled)
    found = estimate(truth, probs, flags, inclusion, totals, CONFIDENCE)
    scopes: dict[str, Quality] = {"overall": found.micro, **dict(zip(codes, found.categories, strict=True))}
    metrics = {scope: _values(quality) for scope, quality in scopes.items()}
    return Audited(labels, metrics, {scope: _intervals(quality) for scope, quality in scopes.items()})


def _values(quality: Quality) -> dict[str, float | None]:
    return {_NAMES[name]: _finite(one.value) for name, one in _estimates(quality).items()}


def _intervals(quality: Quality) -> dict[str, Interval]:
    return {
        _NAMES[name]: Interval(low=one.low, high=one.high)
        for name, one in _estimates(quality).items()
        if np.isfinite(one.low) and np.isfinite(one.high)
    }


def _estimates(quality: Quality) -> Mapping[str, Estimate]:
    return {name: getattr(quality, name) for name in STATISTICS}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _numbers(text: str) -> FloatArray:
    return np.array([float(word) for word in text.split()])
