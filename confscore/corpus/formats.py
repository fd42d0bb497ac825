"""How each file format yields rows.

Every reader yields :class:`Raw` chunks: the cells of the wanted columns as Python values, with text still as
bytes where the format does not promise UTF-8. Ray's and Arrow's own readers stop a whole file at its first bad
row and do not number rows; derived ids need the numbers, and one bad row must cost one row.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from confscore.config import InputFormat
from confscore.corpus.files import CorpusFile
from confscore.corpus.stores import PAUSES_S, in_words, is_of_store, is_unread
from confscore.errors import ConfscoreError, CorpusError, StoreError

_READ_BYTES = 4 << 20
_LOOK_BYTES = 1 << 16
"""What one request to a store brings: of a file that is read, and of one whose first lines are looked at. Without it
Arrow asks for 64 KiB at a time to decompress: 221 requests for 14 MB, and 4 with it."""
_LONGEST_FIELD = 2**31 - 1
_BOM = b"\xef\xbb\xbf"
ROW_BITS = 40
"""A row's key is its file's number, shifted by so many bits, and its number in the file."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a file that one reader reads.

    Attributes
    ----------
    file : CorpusFile
        The file.
    first_row : int
        The number of its first row within the file, from 0.
    rows : int or None
        How many rows it has, where that is known before reading.
    row_groups : tuple of int
        Parquet row groups; empty for other formats, which are read whole.
    """

    file: CorpusFile
    first_row: int = 0
    rows: int | None = None
    row_groups: tuple[int, ...] = ()

    @property
    def first_key(self) -> int:
        """Return the key of its first row."""
        return (self.file.number << ROW_BITS) + self.first_row


@dataclass(frozen=True, slots=True)
class Wanted:
    """The columns a reader returns: those that are looked into, and those passed through; none is in both."""

    columns: tuple[str, ...]
    carried: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return all of them."""
        return self.columns + self.carried


@dataclass(slots=True)
class Raw:
    """Rows as they are in the file.

    Attributes
    ----------
    numbers : sequence of int, length n
        Row numbers within the file, from 0.
    cells : dict of str to list, each of length n
        Cells of the columns that are looked into. A format without columns has one, named ``''``.
    carried : dict of str to pyarrow.Array, each of length n
        Columns that are passed through unread; text where the format has no types.
    faults : dict of int to str
        By position in this chunk: why a row could not be parsed. Its cells are ``None``.
    """

    numbers: Sequence[int]
    cells: dict[str, list[object]]
    carried: dict[str, pa.Array] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)


def read(filesystem: fs.FileSystem, part: Part, kind: InputFormat, wanted: Wanted, rows: int) -> Iterator[Raw]:
    """Yield the rows of a part in order, at most ``rows`` at a time.

    Raises
    ------
    CorpusError
        The file cannot be read as its format, or lacks a column.
    StoreError
        The store it is in does not answer.
    """
    readers = {"parquet": _parquet, "jsonl": _jsonl, "csv": _csv, "text": _text}
    done = 0
    for pause in (*PAUSES_S, None):
        try:
            for raw in itertools.islice(readers[kind](filesystem, part, wanted, rows), done, None):
                done += 1
                yield raw
            return
        except (OSError, pa.ArrowException, EOFError) as error:
            if pause is None or not is_unread(error):
                raise _unreadable(part.file, f"cannot be read as {kind}", error) from None
        time.sleep(pause)


def _unreadable(file: CorpusFile, what: str, error: Exception) -> ConfscoreError:
    """Return the error that says so: a store that fails is no fault of the file, which must not be skipped for it."""
    if is_of_store(error):
        return StoreError(f"{file.path}: {in_words(error)}")
    return CorpusError(f"{file.path}: {what}: {' '.join(str(error).split())}")


def parquet_parts(filesystem: fs.FileSystem, file: CorpusFile, most_bytes: int) -> tuple[list[Part], pa.Schema]:
    """Cut a Parquet file at its row groups into parts of about ``most_bytes``.

    Raises
    ------
    CorpusError
        The file has no readable footer.
    StoreError
        The store it is in does not answer.
    """
    try:
        with pq.ParquetFile(filesystem.open_input_file(file.path)) as opened:
            meta, schema = opened.metadata, opened.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(file, "is not a readable Parquet file", error) from None
    parts: list[Part] = []
    first_row = done = size = 0
    groups: list[int] = []
    for index in range(meta.num_row_groups):
        group = meta.row_group(index)
        groups.append(index)
        done += group.num_rows
        size += group.total_byte_size
        if size >= most_bytes or index + 1 == meta.num_row_groups:
            parts.append(Part(file, first_row, done - first_row, tuple(groups)))
            first_row, size, groups = done, 0, []
    return parts, schema


def csv_header(filesystem: fs.FileSystem, file: CorpusFile) -> list[str]:
    """Return the column names of a CSV file."""
    try:
        with _lines(filesystem, file, _LOOK_BYTES) as lines:
            _, header, fault = next(_csv_records(lines), (0, [], "the file is empty"))
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(file, "cannot be read as csv", error) from None
    if fault is None and any(
        cell.encode("utf-8", "replace") != cell.encode("utf-8", "surrogateescape") for cell in header
    ):
        fault = "the names are not valid UTF-8"
    if fault is not None:
        raise CorpusError(f"{file.path}: has no CSV header: {fault}")
    return header


def jsonl_keys(filesystem: fs.FileSystem, file: CorpusFile, lines: int = 100) -> set[str]:
    """Return the keys of the first objects of a JSONL file; empty where none of the lines is an object."""
    try:
        with _lines(filesystem, file, _LOOK_BYTES) as opened:
            records = [_json_object(line.removeprefix(_BOM))[0] for line in itertools.islice(opened, lines)]
    except (OSError, EOFError) as error:
        raise _unreadable(file, "cannot be read as jsonl", error) from None
    return {key for record in records for key in record}


def _parquet(filesystem: fs.FileSystem, part: Part, wanted: Wanted, rows: int) -> Iterator[Raw]:
    first = part.first_row
    with pq.ParquetFile(filesystem.open_input_file(part.file.path)) as opened:
        missing = set(wanted.names) - set(opened.schema_arrow.names)
        if missing:
            raise CorpusError(f"{part.file.path}: has no column {sorted(missing)[0]}")
        for batch in opened.iter_batches(rows, row_groups=list(part.row_groups), columns=list(wanted.names)):
            yield Raw(
                numbers=range(first, first + batch.num_rows),
                cells={name: _cells(batch.column(name)) for name in wanted.columns},
                carried={name: batch.column(name) for name in wanted.carried},
            )
            first += batch.num_rows


def _cells(column: pa.Array) -> list[object]:
    """Return Python values, with text as bytes: Parquet does not promise that its strings are UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.binary())
    elif pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    cells: list[object] = column.to_pylist()
    return cells


def _jsonl(filesystem: fs.FileSystem, part: Part, wanted: Wanted, rows: int) -> Iterator[Raw]:
    with _lines(filesystem, part.file) as lines:
        filled = ((number, line) for number, line in enumerate(lines) if line.strip())
        while chunk := list(itertools.islice(filled, rows)):
            records: list[dict[str, object]] = []
            faults: dict[int, str] = {}
            for position, (number, line) in enumerate(chunk):
                record, fault = _json_object(line.removeprefix(_BOM) if number == 0 else line)
                records.append(record)
                if fault is not None:
                    faults[position] = fault
            yield Raw(
                numbers=[number for number, _ in chunk],
                cells={name: [record.get(name) for record in records] for name in wanted.columns},
                carried={name: as_text([record.get(name) for record in records]) for name in wanted.carried},
                faults=faults,
            )


def _json_object(line: bytes) -> tuple[dict[str, object], str | None]:
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        return {}, f"the line is not valid UTF-8 (byte {error.start})"
    except ValueError as error:
        return {}, f"the line is not valid JSON: {error}"
    except RecursionError:
        return {}, "the line is nested too deeply to be read as JSON"
    return (record, None) if isinstance(record, dict) else ({}, "the line is JSON, but not an object")


def _csv(filesystem: fs.FileSystem, part: Part, wanted: Wanted, rows: int) -> Iterator[Raw]:
    with _lines(filesystem, part.file) as lines:
        records = _csv_records(lines)
        header = next(records, (0, [], None))[1]
        missing = [name for name in wanted.names if name not in header]
        if missing:
            raise CorpusError(f"{part.file.path}: has no column {missing[0]}")
        place = {name: header.index(name) for name in wanted.names}
        while chunk := list(itertools.islice(records, rows)):
            faults = {
                i: fault for i, (_, fields, broken) in enumerate(chunk) if (fault := _ragged(fields, broken, header))
            }
            rows_of = [None if i in faults else fields for i, (_, fields, _) in enumerate(chunk)]

            def column(name: str, filled: Sequence[list[str] | None] = rows_of) -> list[object]:
                return [None if fields is None else _original(fields[place[name]]) for fields in filled]

            yield Raw(
                numbers=[number - 1 for number, _, _ in chunk],
                cells={name: column(name) for name in wanted.columns},
                carried={name: as_text(column(name)) for name in wanted.carried},
                faults=faults,
            )


def _ragged(fields: list[str], broken: str | None, header: list[str]) -> str | None:
    if broken is None and len(fields) != len(header):
        return f"the row has {len(fields)} fields where the header has {len(header)}"
    return broken


def _csv_records(lines: io.BufferedReader) -> Iterator[tuple[int, list[str], str | None]]:
    """Yield (number, fields, fault) of every record that is not blank; the header is number 0."""
    csv.field_size_limit(_LONGEST_FIELD)
    # Bytes that are not UTF-8 survive as surrogates until the cell they belong to is looked at.
    text = io.TextIOWrapper(lines, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    for number in itertools.count():
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, [], f"the row is not valid CSV: {error}"
            continue
        if record:
            yield number, record, None


def _original(cell: str) -> str | bytes:
    return cell if cell.isascii() else cell.encode("utf-8", "surrogateescape")


def _text(filesystem: fs.FileSystem, part: Part, wanted: Wanted, rows: int) -> Iterator[Raw]:
    del wanted, rows  # one file is one row of one nameless column
    with filesystem.open_input_stream(part.file.path, compression="detect") as stream:
        yield Raw([0], {"": [stream.read().removeprefix(_BOM)]})


def _lines(filesystem: fs.FileSystem, file: CorpusFile, at_once: int = _READ_BYTES) -> io.BufferedReader:
    stream = filesystem.open_input_stream(file.path, compression="detect", buffer_size=at_once)
    return io.BufferedReader(stream, min(at_once, 1 << 20))


def as_text(cells: Sequence[object]) -> pa.Array:
    """Return values of untyped formats as text: strings as they are, others as JSON."""
    return pa.array([_plain(cell) for cell in cells], pa.string())


def _plain(cell: object) -> str | None:
    if cell is None:
        return None
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace")
    text = cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()
