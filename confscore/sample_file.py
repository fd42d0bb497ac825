"""Sample files: what labellers get, and what says later how it was drawn."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from confscore.corpus.files import resolve
from confscore.errors import InputError
from confscore.sample import Request, Sample
from confscore.words import csv_cell

SAMPLE_KEY = b"confscore.sample"
INCLUSION = "inclusion_probability"
KINDS = (".parquet", ".csv", ".jsonl")


def describe_draw(request: Request, sample: Sample, model: str | None = None) -> dict[str, object]:
    """Return everything that says how a sample was drawn, as plain JSON values.

    ``expected`` and ``flagged`` are sums over the population; a category that flags nothing has no threshold. ``model``
    is the SHA-256 of the fit's file, where there was one.
    """
    codes, totals = tuple(sample.provenance.categories), sample.totals
    return {
        "version": 1,
        "design": request.design,
        "budget": request.budget,
        "floor_share": request.floor_share if request.design != "uniform" else 1.0,
        "seed": request.seed,
        "multiplier": sample.multiplier if math.isfinite(sample.multiplier) else None,
        "thresholds": {rule.code: rule.threshold for rule in sample.rules},
        "model": model,
        "drawn": len(sample.doc_ids),
        "runs": sorted(set(sample.run_ids)),
        "population": {
            "documents": totals.documents,
            "failed": sample.failed,
            "expected": dict(zip(codes, totals.expected.tolist(), strict=True)),
            "flagged": dict(zip(codes, totals.flagged.tolist(), strict=True)),
            "expected_flagged": dict(zip(codes, totals.expected_flagged.tolist(), strict=True)),
        },
        "scores": sample.provenance.model_dump(mode="json"),
    }


def check_target(path: str) -> None:
    """Make sure that a sample can be written to a path.

    Raises
    ------
    InputError
        The name has another ending, or the file exists: it may hold labels by now.
    """
    if not path.lower().endswith(KINDS):
        raise InputError(f"--out {path}: has to end in {', '.join(KINDS)}")
    filesystem, _ = resolve(path)
    for each in _files(path):
        if filesystem.get_file_info(resolve(each)[1]).type != fs.FileType.NotFound:
            raise InputError(f"--out {path}: {each} exists, and labels in it would be lost; choose another name")


def write_sample(path: str, sample: Sample, texts: Sequence[str] | None, about: dict[str, object]) -> list[str]:
    """Write a sample: ``doc_id``, ``inclusion_probability``, ``run_id`` and, where asked for, ``text``.

    Parquet files carry ``about`` as JSON under the key ``confscore.sample``; beside the others it is in a file of its
    own, ``<path>.about.json``. In CSV a text that a spreadsheet would take for a formula gets an apostrophe in front.

    Parameters
    ----------
    path : str
        Ends in ``.parquet``, ``.csv`` or ``.jsonl``; local or an address.
    sample : Sample
        n documents.
    texts : sequence of str, length n, optional
    about : dict
        From :func:`describe_draw`.

    Returns
    -------
    list of str
        The files that were written.

    Raises
    ------
    InputError
        The place cannot be written to, or an id cannot be in a CSV file.
    """
    columns: dict[str, list[str] | list[float]] = {
        "doc_id": list(sample.doc_ids),
        INCLUSION: sample.inclusion.tolist(),
        "run_id": list(sample.run_ids),
    }
    if texts is not None:
        columns["text"] = list(texts)
    spelled = json.dumps(about, ensure_ascii=False, allow_nan=False)
    contents = _spell(path, columns, spelled)
    for place, content in zip(_files(path), contents, strict=True):
        filesystem, inner = resolve(place)
        try:
            with filesystem.open_output_stream(inner) as stream:
                stream.write(content)
        except OSError as error:
            raise InputError(f"--out {place}: cannot be written to: {' '.join(str(error).split())}") from None
    return _files(path)


def _files(path: str) -> list[str]:
    return [path] if _is_parquet(path) else [path, f"{path}.about.json"]


def _is_parquet(path: str) -> bool:
    return resolve(path)[1].lower().endswith(".parquet")  # an address may have options behind its name


def _spell(path: str, columns: dict[str, list[str] | list[float]], about: str) -> list[bytes]:
    """Return the contents of the files of a sample."""
    rows = list(zip(*columns.values(), strict=True))
    if _is_parquet(path):
        types = {name: pa.float64() if name == INCLUSION else pa.string() for name in columns}
        schema = pa.schema(
            [pa.field(name, kind, nullable=False) for name, kind in types.items()], {SAMPLE_KEY: about.encode()}
        )
        sink = io.BytesIO()
        pq.write_table(pa.table(list(columns.values()), schema=schema), sink, compression="zstd")
        return [sink.getvalue()]
    text = io.StringIO()
    if path.lower().endswith(".jsonl"):
        for row in rows:
            text.write(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n")
        return [text.getvalue().encode(), about.encode()]
    changed = next((doc_id for doc_id in columns["doc_id"] if csv_cell(str(doc_id)) != doc_id), None)
    if changed is not None:
        raise InputError(
            f"--out {path}: a spreadsheet would take the id {changed!r} for a formula, and with an apostrophe it would "
            "be another one; write .parquet or .jsonl"
        )
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([csv_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return [text.getvalue().encode("utf-8-sig"), about.encode()]
