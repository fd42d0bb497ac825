"""Labels: which categories documents really have, and the scores of the same documents beside them.

A label file is read by the readers of the corpus, so that an id is spelled the same on both sides. What is not
clear in it is refused: a guess about one label would be a silent error in every number that follows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
from pyarrow import fs

from confscore.corpus.cells import Fault, document_id
from confscore.corpus.files import SUFFIXES, CorpusFile, resolve
from confscore.corpus.formats import Part, Raw, Wanted, csv_header, jsonl_keys, parquet_parts, read
from confscore.errors import InputError, TableError
from confscore.rows import BoolArray, FloatArray
from confscore.score_table import open_table, provenance_of

MARGINAL = "marginal"
_NOT_ESTIMATORS = ("lower", "upper")
_ROWS_AT_ONCE = 1 << 16
_PART_BYTES = 32 << 20
_ON, _OFF = ("1", "true", "True", "TRUE"), ("0", "false", "False", "FALSE")
# Parquet text arrives as bytes; 1, 1.0 and True are one key.
_FLAGS: dict[object, bool] = {
    **{key: value for words, value in ((_ON, True), (_OFF, False)) for word in words for key in (word, word.encode())},
    1: True,
    0: False,
}

_Kind = Literal["parquet", "jsonl", "csv"]
_KINDS: tuple[_Kind, ...] = ("parquet", "jsonl", "csv")


@dataclass(frozen=True, eq=False, slots=True)
class LabelTable:
    """The labels of n documents for N categories.

    Attributes
    ----------
    path : str
        The file they are from.
    codes : tuple of str, length N
        Category codes, in the order of the taxonomy.
    ids : tuple of str, length n
        Document ids, all different, in the order of the file.
    truth : bool array, shape (n, N)
        ``truth[i, j]``: document i has category j.
    """

    path: str
    codes: tuple[str, ...]
    ids: tuple[str, ...]
    truth: BoolArray


@dataclass(frozen=True, eq=False, slots=True)
class Labelled:
    """Scores and labels of the same n documents, in one order.

    Attributes
    ----------
    codes : tuple of str, length N
        Category codes, in the order of the taxonomy.
    truth : bool array, shape (n, N)
        ``truth[i, j]``: document i has category j.
    prefixes : dict of str to str
        Estimators, and the prefix of their columns; ``marginal`` is ``p``.
    table : pyarrow.Table, n rows
        ``doc_id`` and the estimators' columns.
    failed : int
        Rows of status ``error``, which are left out.
    unlabelled : int
        Scored documents without a label, which are left out.
    unscored : int
        Labels of documents that have no row in the score table, which are left out.
    """

    codes: tuple[str, ...]
    truth: BoolArray
    prefixes: dict[str, str]
    table: pa.Table
    failed: int
    unlabelled: int
    unscored: int

    def scores(self, estimator: str) -> FloatArray:
        """Return an estimator's scores, shape (n, N): ``scores[i, j] = Pr(category j in the answer of i)``."""
        prefix = self.prefixes[estimator]
        columns = [self.table[f"{prefix}_{code}"].to_numpy() for code in self.codes]
        return np.stack(columns, axis=1, dtype=np.float64)


def read_labels(
    path: str, codes: Sequence[str], id_column: str = "doc_id", label_column: str | None = None
) -> LabelTable:
    """Read a label file.

    Parameters
    ----------
    path : str
        A Parquet, CSV or JSONL file, the latter two also as ``.gz``; local, or an address such as ``s3://…``.
    codes : sequence of str, length N
        The taxonomy's category codes.
    id_column : str
        Document ids: text or whole numbers.
    label_column : str, optional
        A column of lists of codes. Text counts as a list with commas, and empty text as no category. Without
        it, there must be one column a code, and its cells are 0, 1, true or false.

    Returns
    -------
    LabelTable

    Raises
    ------
    InputError
        The file or a column is missing, or a row has no id, an id for the second time, a null label, an unknown
        code, or a value that is not 0 or 1. Rows are counted from 0.
    """
    filesystem, parts, kind, names = _look(path)
    wanted = _columns(path, names, codes, id_column, label_column)
    rows: dict[str, int] = {}
    pieces = [np.zeros((0, len(codes)), dtype=np.bool_)]
    for part in parts:
        for raw in read(filesystem, part, kind, wanted, _ROWS_AT_ONCE):
            ids = _ids(path, raw, id_column, rows)
            if label_column is None:
                pieces.append(_from_flags(path, raw, ids, codes))
            else:
                pieces.append(_from_lists(path, raw, ids, codes, label_column))
    if not rows:
        raise InputError(f"{path}: has no row, so there is no label")
    return LabelTable(path, tuple(codes), tuple(rows), np.concatenate(pieces))


def label_scores(
    scores: str,
    labels: str,
    id_column: str = "doc_id",
    label_column: str | None = None,
    estimators: Sequence[str] = (),
    run: str | None = None,
) -> Labelled:
    """Read a score table and a label file, and put the rows of the same documents together.

    Parameters
    ----------
    scores : str
        The score table: ``output.path`` of the runs that wrote it.
    labels, id_column, label_column
        As in :func:`read_labels`.
    estimators : sequence of str
        Names of :func:`find_estimators`; by default all that the table has.
    run : str, optional
        Take the rows of this run only.

    Raises
    ------
    TableError
        There is no such score table, estimator or run; a document has several rows; a scored row has no score.
    InputError
        The label file is refused, or shares no document with the score table.
    """
    dataset = open_table(scores)
    codes = tuple(provenance_of(dataset).categories)
    known = find_estimators(dataset.schema, codes)
    missing = [name for name in estimators if name not in known]
    if missing or not known:
        what = f"estimator {missing[0]}" if missing else f"score of every category ({', '.join(codes)})"
        raise TableError(f"{scores}: has no {what}; its estimators are: {', '.join(known) or 'none'}")
    chosen = {name: known[name] for name in dict.fromkeys(estimators or known)}
    truth = read_labels(labels, codes, id_column, label_column)
    columns = [f"{prefix}_{code}" for prefix in chosen.values() for code in codes]
    table = _read_rows(scores, dataset, columns, run)
    good = table.filter(pc.not_equal(table["status"], "error"))
    _check_scores(scores, good, columns)
    label_ids = pa.array(truth.ids, pa.string())
    rows = pc.index_in(label_ids, value_set=good["doc_id"].combine_chunks())
    found = rows.is_valid().to_numpy(zero_copy_only=False)
    if not found.any():
        example = f"{good['doc_id'][0].as_py()!r} is scored" if len(good) else "no document is scored"
        raise InputError(
            f"{labels}: none of its ids in column {id_column} is of a scored document of {scores} "
            f"({truth.ids[0]!r} is labelled, {example})"
        )
    return Labelled(
        codes=codes,
        truth=truth.truth[found],
        prefixes=chosen,
        table=good.select(["doc_id", *columns]).take(rows.drop_null()),
        failed=len(table) - len(good),
        unlabelled=len(good) - int(found.sum()),
        unscored=len(label_ids) - int(pc.sum(pc.is_in(label_ids, table["doc_id"].combine_chunks())).as_py()),
    )


def find_estimators(schema: pa.Schema, codes: Sequence[str]) -> dict[str, str]:
    """Return the estimators of a score table by their names, with the prefix of their columns.

    An estimator is a prefix X for which X_<code> is a column of floats for every code. The bounds ``lower`` and
    ``upper`` are none. ``p`` is called ``marginal``; other names are the prefixes.
    """
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    end = f"_{codes[0]}"
    prefixes = [name.removesuffix(end) for name in floats if name.endswith(end)]
    whole = [x for x in prefixes if x not in _NOT_ESTIMATORS and {f"{x}_{code}" for code in codes} <= set(floats)]
    return {MARGINAL if x == "p" else x: x for x in whole if x != MARGINAL or "p" not in whole}


def _look(path: str) -> tuple[fs.FileSystem, list[Part], _Kind, list[str]]:
    """Return how to read a label file, and the names of its columns."""
    kind = next((kind for kind in _KINDS if path.lower().endswith(SUFFIXES[kind])), None)
    if kind is None:
        suffixes = ", ".join(suffix for known in _KINDS for suffix in SUFFIXES[known])
        raise InputError(f"{path}: is not named like a label file ({suffixes})")
    filesystem, root = resolve(path)
    try:
        info = filesystem.get_file_info(root)
    except OSError as error:
        raise InputError(f"{path}: cannot be looked at: {' '.join(str(error).split())}") from None
    if not info.is_file:
        raise InputError(f"{path}: {'is no file' if info.type != fs.FileType.NotFound else 'no such label file'}")
    file = CorpusFile(root, os.path.basename(root), info.size or 0, 0, ())
    if kind == "parquet":
        parts, schema = parquet_parts(filesystem, file, _PART_BYTES)
        return filesystem, parts, kind, schema.names
    names = csv_header(filesystem, file) if kind == "csv" else sorted(jsonl_keys(filesystem, file))
    if not names:
        raise InputError(f"{path}: its first lines hold no JSON object; JSONL is one object a line")
    return filesystem, [Part(file)], kind, names


def _columns(path: str, names: list[str], codes: Sequence[str], id_column: str, label_column: str | None) -> Wanted:
    labels = tuple(codes) if label_column is None else (label_column,)
    for name in (id_column, *labels):
        if names.count(name) != 1:
            what = "has no column" if name not in names else "has more than one column"
            hint = "" if name == id_column or label_column else " (--label-column names a column of lists instead)"
            raise InputError(f"{path}: {what} {name}{hint}; its columns are {', '.join(names)}")
    if id_column in labels:
        raise InputError(f"{path}: column {id_column} cannot hold the ids and the labels")
    return Wanted((id_column, *labels))


def _ids(path: str, raw: Raw, column: str, rows: dict[str, int]) -> list[str]:
    """Return the ids of a chunk, and enter them with their row numbers into ``rows``."""
    ids: list[str] = []
    for position, (number, cell) in enumerate(zip(raw.numbers, raw.cells[column], strict=True)):
        if position in raw.faults:
            raise InputError(f"{path} row {number}: {raw.faults[position]}")
        try:
            doc_id = document_id(cell, column)
        except Fault as error:
            raise InputError(f"{path} row {number}: {error}, so the label belongs to no document") from None
        if doc_id in rows:
            raise InputError(f"{path} row {number}: {doc_id!r} is labelled in row {rows[doc_id]} already")
        rows[doc_id] = number
        ids.append(doc_id)
    return ids


def _from_flags(path: str, raw: Raw, ids: Sequence[str], codes: Sequence[str]) -> BoolArray:
    truth = np.zeros((len(ids), len(codes)), dtype=np.bool_)
    for j, code in enumerate(codes):
        flags = [None if isinstance(cell, list | dict) else _FLAGS.get(cell) for cell in raw.cells[code]]
        if None in flags:
            row = flags.index(None)
            cell = raw.cells[code][row]
            place = f"{path} row {raw.numbers[row]} (document {ids[row]!r})"
            if cell in (None, "", b""):
                raise InputError(f"{place}: the label of {code} is null; it has to be 0 or 1")
            raise InputError(f"{place}: the label of {code} is {_shown(cell)}; it has to be 0 or 1")
        truth[:, j] = flags
    return truth


def _from_lists(path: str, raw: Raw, ids: Sequence[str], codes: Sequence[str], column: str) -> BoolArray:
    place = {code: j for j, code in enumerate(codes)}
    truth = np.zeros((len(ids), len(codes)), dtype=np.bool_)
    for i, cell in enumerate(raw.cells[column]):
        value = cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
        if isinstance(value, str):
            value = [word.strip() for word in value.split(",")] if value.strip() else []
        where = f"{path} row {raw.numbers[i]} (document {ids[i]!r})"
        if value is None:
            raise InputError(f"{where}: {column} is null; a document without a category has an empty list")
        if not isinstance(value, list):
            raise InputError(f"{where}: {column} is {_shown(value)}, not a list of category codes")
        for code in value:
            if not isinstance(code, str) or code not in place:
                raise InputError(
                    f"{where}: {column} has the unknown code {_shown(code)}; the codes are {', '.join(codes)}"
                )
            truth[i, place[code]] = True
    return truth


def _shown(cell: object) -> str:
    text = cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
    return "null" if text is None else f"{text!r:.60}"


def _read_rows(path: str, dataset: pds.Dataset, columns: list[str], run: str | None) -> pa.Table:
    """Return one row a document, or say whose rows are too many."""
    chosen = None if run is None else pds.field("run_id") == run
    try:
        table = dataset.to_table(columns=["doc_id", "status", "run_id", *columns], filter=chosen)
        if run is not None and not len(table):
            runs = sorted(dataset.to_table(columns=["run_id"])["run_id"].unique().to_pylist())
            raise TableError(f"{path}: has no run {run}; its runs are {', '.join(runs)}")
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    ids = table["doc_id"].combine_chunks()
    if ids.null_count:
        raise TableError(f"{path}: a row of it has no doc_id")
    counts = ids.value_counts()
    if len(counts) == len(ids):
        return table
    (twice,) = (item["values"] for item in counts.filter(pc.greater(counts.field("counts"), 1))[:1].to_pylist())
    runs = sorted(set(table.filter(pc.equal(table["doc_id"], twice))["run_id"].to_pylist()))
    if len(runs) == 1:
        raise TableError(f"{path}: document {twice!r} has several rows of {runs[0]}, so its score is not known")
    raise TableError(
        f"{path}: document {twice!r} was scored by {len(runs)} runs ({', '.join(runs)}); choose one with --run"
    )


def _check_scores(path: str, table: pa.Table, columns: list[str]) -> None:
    for name in columns:
        missing = pc.is_null(table[name], nan_is_null=True)
        if pc.any(missing).as_py():
            doc_id = table.filter(missing)["doc_id"][0].as_py()
            raise TableError(
                f"{path}: document {doc_id!r} is scored, and its {name} is null or NaN; choose other estimators with "
                "--estimator"
            )
