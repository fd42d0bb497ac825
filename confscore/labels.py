"""Label files: which categories documents really have, and how each document came to be labelled.

A label file is read by the readers of the corpus, so that an id is spelled the same on both sides. What is not
clear in it is refused: a guess about one label would be a silent error in every number that follows.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from confscore.corpus.cells import Fault, document_id
from confscore.corpus.files import SUFFIXES, CorpusFile, resolve
from confscore.corpus.formats import Part, Raw, Wanted, csv_header, jsonl_keys, parquet_parts, read
from confscore.errors import InputError, TableError
from confscore.identity import Identity, read_identity
from confscore.rows import BoolArray, FloatArray
from confscore.sample_file import INCLUSION, SAMPLE_KEY
from confscore.words import name_list, one_line

ABOUT = ".about.json"
"""What a sample's file is called beside, where it has no room for what it says about itself."""

_ROWS_AT_ONCE = 1 << 16
_PART_BYTES = 32 << 20
_NUMBER = re.compile(r"\d+")
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
    inclusion : float array, shape (n,), or None
        ``inclusion[i] = Pr(document i was drawn for labelling)``; ``None`` where all had the same chance below 1.
    drawn_from : Identity, optional
        The scores that a sample was drawn from, where the file says so.
    """

    path: str
    codes: tuple[str, ...]
    ids: tuple[str, ...]
    truth: BoolArray
    inclusion: FloatArray | None = None
    drawn_from: Identity | None = None


def read_labels(
    path: str,
    codes: Sequence[str],
    id_column: str = "doc_id",
    label_column: str | None = None,
    pi_column: str | None = None,
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
    pi_column : str, optional
        A column of inclusion probabilities in (0, 1]. By default ``inclusion_probability``, where there is such a
        column: what was drawn with unequal chances is no random sample without them.

    Returns
    -------
    LabelTable

    Raises
    ------
    InputError
        The file or a column is missing, or a row has no id, an id for the second time, a null label, an unknown
        code, a value that is not 0 or 1, or an inclusion probability that is none. Rows are counted from 0.
    """
    filesystem, parts, kind, names = _look(path)
    if pi_column is None and INCLUSION in names:
        pi_column = INCLUSION
    wanted = _columns(path, names, codes, id_column, label_column, pi_column)
    rows: dict[str, int] = {}
    pieces = [np.zeros((0, len(codes)), dtype=np.bool_)]
    inclusion: list[float] = []
    for part in parts:
        for raw in read(filesystem, part, kind, wanted, _ROWS_AT_ONCE):
            ids = _ids(path, raw, id_column, rows)
            if label_column is None:
                pieces.append(_from_flags(path, raw, ids, codes))
            else:
                pieces.append(_from_lists(path, raw, ids, codes, label_column))
            if pi_column is not None:
                inclusion += _inclusion(path, raw, ids, pi_column)
    if not rows:
        raise InputError(f"{path}: has no row, so there is no label")
    return LabelTable(
        path,
        tuple(codes),
        tuple(rows),
        np.concatenate(pieces),
        np.array(inclusion) if len(set(inclusion)) > 1 or 1.0 in inclusion else None,
        drawn_from(path, filesystem),
    )


def drawn_from(path: str, filesystem: fs.FileSystem) -> Identity | None:
    """Return the scores that a label file says it was drawn from, as ``confscore sample`` writes it; else ``None``.

    Raises
    ------
    TableError
        What the file says cannot be read.
    """
    inner = resolve(path)[1]
    try:
        if inner.lower().endswith(SUFFIXES["parquet"]):
            with filesystem.open_input_file(inner) as file:
                known = pq.read_schema(file).metadata or {}
            about = known.get(SAMPLE_KEY, b"{}")
        elif filesystem.get_file_info(f"{inner}{ABOUT}").is_file:
            with filesystem.open_input_stream(f"{inner}{ABOUT}") as stream:
                about = stream.read()
        else:
            return None
        scores = json.loads(about).get("scores")
    except (OSError, pa.ArrowException, ValueError, AttributeError) as error:
        raise TableError(f"{path}: what it says about its sample cannot be read: {one_line(str(error))}") from None
    return None if scores is None else read_identity(path, scores)


def _look(path: str) -> tuple[fs.FileSystem, list[Part], _Kind, list[str]]:
    """Return how to read a label file, and the names of its columns."""
    filesystem, root = resolve(path)
    kind = next((kind for kind in _KINDS if root.lower().endswith(SUFFIXES[kind])), None)
    if kind is None:
        suffixes = ", ".join(suffix for known in _KINDS for suffix in SUFFIXES[known])
        raise InputError(f"{path}: is not named like a label file ({suffixes})")
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


def _columns(
    path: str,
    names: list[str],
    codes: Sequence[str],
    id_column: str,
    label_column: str | None,
    pi_column: str | None,
) -> Wanted:
    labels = tuple(codes) if label_column is None else (label_column,)
    chances = () if pi_column is None else (pi_column,)
    for name in (id_column, *labels, *chances):
        if names.count(name) != 1:
            what = "has no column" if name not in names else "has more than one column"
            is_code = label_column is None and name in codes
            hint = " (--label-column names a column of lists instead)" if is_code else ""
            raise InputError(f"{path}: {what} {name}{hint}; its columns are {name_list(names)}")
    if len({id_column, *labels, *chances}) < 1 + len(labels) + len(chances):
        raise InputError(f"{path}: ids, labels and inclusion probabilities have to be in columns of their own")
    if label_column is None:
        _refuse_other_codes(path, names, codes)
    return Wanted((id_column, *labels, *chances))


def _refuse_other_codes(path: str, names: list[str], codes: Sequence[str]) -> None:
    """Refuse a file that has columns for more categories, such as S14 beside S1 to S11: it is of another taxonomy."""
    shapes = {_NUMBER.sub("#", code) for code in codes if _NUMBER.search(code)}
    others = [name for name in names if name not in codes and _NUMBER.search(name) and _NUMBER.sub("#", name) in shapes]
    if others:
        raise InputError(
            f"{path}: has the column {others[0]}, which looks like a category that the scores do not have, so its "
            f"labels are of another taxonomy; rename the column if it is no label (the codes are {', '.join(codes)})"
        )


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


def _inclusion(path: str, raw: Raw, ids: Sequence[str], column: str) -> list[float]:
    found = []
    for row, cell in enumerate(raw.cells[column]):
        try:
            value = float(cell) if isinstance(cell, int | float | str | bytes) else math.nan
        except ValueError:
            value = math.nan
        if not 0 < value <= 1:
            raise InputError(
                f"{path} row {raw.numbers[row]} (document {ids[row]!r}): {column} is {_shown(cell)}; an inclusion "
                "probability is above 0 and at most 1"
            )
        found.append(value)
    return found


def _shown(cell: object) -> str:
    text = cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
    return "null" if text is None else f"{text!r:.60}"
