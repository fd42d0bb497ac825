"""The corpus: files of any kind in, uniform rows out.

:func:`open_corpus` looks at names, footers and headers only, and refuses what could not be scored; a
:class:`RowReader` then reads one part at a time, wherever it is sent. Both use pyarrow filesystems, so a path
may be local or an ``s3://``, ``gs://`` or ``abfs://`` address with credentials from the environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pyarrow import fs

from confscore.config import InputConfig
from confscore.corpus import cells
from confscore.corpus.files import CorpusFile, find_files, refuse_changed_file, resolve
from confscore.corpus.formats import ROW_BITS, Part, Raw, Wanted, as_text, csv_header, jsonl_keys, parquet_parts, read
from confscore.corpus.stores import patiently
from confscore.errors import ConfscoreError, CorpusError, StoreError
from confscore.words import name_list, unexpected

__all__ = ["Corpus", "CorpusFile", "Part", "RowReader", "open_corpus", "resolve"]

PART_BYTES = 32 << 20
ROW_KEY = "row_key"
"""The column that tells rows of one corpus apart while they are worked on: file number and row number."""
_LOOKS_AT_ONCE = 16
_KEYS_FROM = 16
"""So many JSONL files are looked into; the keys of the first one that can be read are taken for all."""
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads parts of one corpus into tables of one schema. Small, and safe to send between processes.

    Attributes
    ----------
    config : InputConfig
        Where the corpus is and which columns it has.
    carried : pyarrow.Schema
        Columns passed through to the score table.
    """

    config: InputConfig
    carried: pa.Schema

    @property
    def schema(self) -> pa.Schema:
        """Return the schema of :meth:`tables`: ``row_key``, ``doc_id``, ``content``, ``fault``, then carried columns.

        ``row_key`` is ``file.number * 2**40 + row number``, so it is unique in a corpus and takes 8 bytes, whatever ids
        look like. ``content`` is text, or a list of messages where the corpus has a ``messages_column``. Exactly one of
        ``content`` and ``fault`` is null.
        """
        content = pa.string() if self.config.messages_column is None else _MESSAGES
        fixed = [pa.field(ROW_KEY, pa.int64(), nullable=False), pa.field("doc_id", pa.string(), nullable=False)]
        fixed.append(pa.field("content", content))
        return pa.schema([*fixed, pa.field("fault", pa.string()), *self.carried])

    def tables(self, part: Part, rows: int) -> Iterator[pa.Table]:
        """Yield a part's rows in order, at most ``rows`` at a time.

        Raises
        ------
        CorpusError
            The file cannot be read any more.
        JobError
            It is not the file that was found.
        """
        filesystem, _ = resolve(self.config.path)
        refuse_changed_file(filesystem, part.file)
        with _without_text(part):
            for raw in read(filesystem, part, self.config.format, self._wanted(part), rows):
                yield self._table(part.file, raw)

    def name_rows(self, corpus_files: Sequence[CorpusFile], keys: Sequence[int]) -> list[str]:
        """Return the places of rows in words, from their row keys."""
        return [f"{corpus_files[key >> ROW_BITS].path} row {key & ((1 << ROW_BITS) - 1)}" for key in keys]

    def count(self, part: Part) -> int:
        """Return how many rows a part has, by reading it where that is not known."""
        if part.rows is not None:
            return part.rows
        filesystem, _ = resolve(self.config.path)
        with _without_text(part):
            return sum(len(raw.numbers) for raw in read(filesystem, part, self.config.format, Wanted(()), 1 << 16))

    def id_hashes(self, part: Part) -> npt.NDArray[np.uint64]:
        """Return a 64-bit hash of each row's document id, in order. Reads no column but the ids'.

        SipHash with pandas' fixed key: equal ids have equal hashes in every process.
        """
        ids = [doc_id for chunk in self._ids(part) for doc_id, _ in chunk]
        return pd.util.hash_array(np.array(ids, dtype=object), categorize=False)

    def find_ids(self, part: Part, hashes: npt.NDArray[np.uint64]) -> list[tuple[str, str]]:
        """Return (document id, place) of the rows whose id has one of the given hashes."""
        ids = [pair for chunk in self._ids(part) for pair in chunk]
        found = np.flatnonzero(np.isin(self.id_hashes(part), hashes))
        return [(ids[i][0], f"{part.file.path} row {ids[i][1]}") for i in found]

    def _wanted(self, part: Part) -> Wanted:
        config = self.config
        keys = {key for key, _ in part.file.partition}
        source = [config.id_column, config.text_column, config.messages_column]
        columns = tuple(dict.fromkeys(name for name in source if name is not None))
        return Wanted(columns, tuple(n for n in self.carried.names if n not in keys and n not in columns))

    def _ids(self, part: Part) -> Iterator[list[tuple[str, int]]]:
        """Yield document ids with the numbers of their rows, in order."""
        filesystem, _ = resolve(self.config.path)
        only_ids = Wanted(tuple(name for name in [self.config.id_column] if name is not None))
        with _without_text(part):
            for raw in read(filesystem, part, self.config.format, only_ids, 1 << 16):
                ids = (doc_id for doc_id, _ in self._identified(part.file, raw))
                yield list(zip(ids, raw.numbers, strict=True))

    def _identified(self, file: CorpusFile, raw: Raw) -> Iterator[tuple[str, str | None]]:
        """Yield (document id, fault) of each row; an id that cannot be used is replaced by a derived one."""
        column = self.config.id_column
        for position, number in enumerate(raw.numbers):
            derived = file.name if self.config.format == "text" else f"{file.name}#{number}"
            fault = raw.faults.get(position)
            if column is None or fault is not None:
                yield derived, fault
                continue
            try:
                yield cells.document_id(raw.cells[column][position], column), None
            except cells.Fault as error:
                yield derived, str(error)

    def _content(self, raw: Raw, position: int) -> str | list[cells.Turn]:
        if self.config.messages_column is not None:
            return cells.messages(raw.cells[self.config.messages_column][position], self.config.messages_column)
        column = self.config.text_column or ""  # text files have one column, and it has no name
        return cells.text(raw.cells[column][position], column or "the file")

    def _table(self, file: CorpusFile, raw: Raw) -> pa.Table:
        ids: list[str] = []
        contents: list[str | list[cells.Turn] | None] = []
        faults: list[str | None] = []
        for position, (doc_id, broken) in enumerate(self._identified(file, raw)):
            content, fault = None, broken
            if fault is None:
                try:
                    content = self._content(raw, position)
                except cells.Fault as error:
                    fault = str(error)
            ids.append(doc_id)
            contents.append(content)
            faults.append(fault)
        keys = dict(file.partition)
        keys_of_rows = np.asarray(raw.numbers, dtype=np.int64) + (file.number << ROW_BITS)
        columns = [pa.array(keys_of_rows), pa.array(ids, pa.string())]
        columns.append(pa.array(contents, self.schema.field("content").type))
        columns.append(pa.array(faults, pa.string()))
        for column in self.carried:
            if column.name in keys:
                values = pa.array([keys[column.name]] * len(ids), pa.string())
            elif column.name in raw.carried:
                values = raw.carried[column.name]
            else:
                values = as_text(raw.cells[column.name])
            try:
                columns.append(values.cast(column.type))
            except pa.ArrowException:  # its message repeats the value
                raise CorpusError(
                    f"{file.path}: column {column.name} has a value that does not fit into {column.type}, the type of "
                    "all files together; give the column one type in the corpus, or do not carry it"
                ) from None
        return pa.Table.from_arrays(columns, schema=self.schema)


@contextmanager
def _without_text(part: Part) -> Iterator[None]:
    """Keep the message of an unexpected error out of logs: it may repeat what a document contains."""
    try:
        yield
    except (ConfscoreError, OSError):
        raise
    except Exception as error:
        raise CorpusError(f"{part.file.path}: cannot be read: {unexpected(error)}") from None


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus that has been looked at and can be read.

    Attributes
    ----------
    reader : RowReader
        Reads its parts.
    files : tuple of CorpusFile
        All files, in the order of their names.
    parts : tuple of Part
        All of them, cut into pieces of work; together they hold every row once.
    ignored : tuple of str
        Names of files that were found and do not look like the configured format.
    bad : tuple of (str, str)
        Path and reason of files that cannot be read and are skipped, as ``on_bad_file: skip`` asks for.
    """

    reader: RowReader
    files: tuple[CorpusFile, ...]
    parts: tuple[Part, ...]
    ignored: tuple[str, ...]
    bad: tuple[tuple[str, str], ...] = ()

    @property
    def rows(self) -> int | None:
        """Return how many rows there are, where the files' footers tell."""
        known = [part.rows for part in self.parts if part.rows is not None]
        return sum(known) if len(known) == len(self.parts) else None


def open_corpus(config: InputConfig, carry: Sequence[str] = ()) -> Corpus:
    """Look at a corpus without reading it.

    Parameters
    ----------
    config : InputConfig
        Where it is and which columns it has.
    carry : sequence of str
        Columns to pass through besides ``config.carry_columns``: partition keys or columns of the files.

    Raises
    ------
    CorpusError
        There is no such corpus, a file is unreadable, or a column is missing or of a wrong type.
    """
    files, ignored = find_files(config.path, config.format, follow_links=config.follow_links, where=config.where)
    filesystem, _ = resolve(config.path)
    carried = tuple(dict.fromkeys([*config.carry_columns, *carry]))
    try:
        with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
            looks = list(pool.map(lambda file: patiently(lambda: _look(config, filesystem, file)), files))
    except StoreError as error:
        raise CorpusError(f"input.path {config.path}: {error}") from None
    bad = [(file, look) for file, look in zip(files, looks, strict=True) if isinstance(look, CorpusError)]
    if bad and (config.on_bad_file == "fail" or len(bad) == len(files)):
        raise bad[0][1]
    good = [(file, look) for file, look in zip(files, looks, strict=True) if not isinstance(look, CorpusError)]
    parts = [part for _, look in good for part in look.parts]
    schemas = {file.path: look.schema for file, look in good if look.schema is not None}
    for path, schema in schemas.items():
        _check_types(config, path, schema)
    if config.format == "jsonl":
        _check_keys(config, good)
    fields = [_carried_field(name, files, schemas, config) for name in carried]
    reader = RowReader(config, pa.schema(fields))
    skipped = tuple((file.path, str(error)) for file, error in bad)
    return Corpus(reader, tuple(files), tuple(parts), tuple(ignored), skipped)


@dataclass(frozen=True, slots=True)
class _Look:
    """What a file says before it is read: its parts, its columns if it has a header, its first keys if it is JSONL."""

    parts: list[Part]
    schema: pa.Schema | None = None
    keys: frozenset[str] = frozenset()


def _look(config: InputConfig, filesystem: fs.FileSystem, file: CorpusFile) -> _Look | CorpusError:
    try:
        if config.format == "parquet":
            return _Look(*parquet_parts(filesystem, file, PART_BYTES))
        if config.format == "csv":
            header = csv_header(filesystem, file)
            return _Look([Part(file)], pa.schema([pa.field(name, pa.string()) for name in header]))
        keys = jsonl_keys(filesystem, file) if config.format == "jsonl" and file.number < _KEYS_FROM else set()
        return _Look([Part(file)], keys=frozenset(keys))
    except CorpusError as error:
        return error


def _check_keys(config: InputConfig, looks: Sequence[tuple[CorpusFile, _Look]]) -> None:
    """Refuse a column that no object at the start of the corpus has; later rows without it are faults of theirs."""
    first, look = next(((file, look) for file, look in looks if file.size), (None, None))
    if first is None or look is None or first.number >= _KEYS_FROM:
        return
    if not look.keys:
        raise CorpusError(f"{first.path}: its first lines hold no JSON object; format jsonl is one object a line")
    for key in ("id_column", "text_column", "messages_column"):
        name = getattr(config, key)
        if name is not None and name not in look.keys:
            raise CorpusError(
                f"{first.path}: no object has the key {name} (input.{key}); the first ones have "
                f"{name_list(sorted(look.keys))}"
            )


def _check_types(config: InputConfig, path: str, schema: pa.Schema) -> None:
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary)
    lists = (pa.types.is_list, pa.types.is_large_list)
    wanted = [
        ("id_column", config.id_column, (*texts, pa.types.is_integer), "text or whole numbers"),
        ("text_column", config.text_column, texts, "text"),
        ("messages_column", config.messages_column, (*texts, *lists), "a list of messages, or JSON text"),
    ]
    for key, name, tests, words in wanted:
        if name is None:
            continue
        places = schema.get_all_field_indices(name)
        if len(places) != 1:
            what = "has no column" if not places else "has more than one column"
            raise CorpusError(f"{path}: {what} {name} (input.{key}); its columns are {name_list(schema.names)}")
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not pa.types.is_null(kind) and not any(test(kind) for test in tests):
            raise CorpusError(f"{path}: column {name} (input.{key}) is {kind}, and has to be {words}")


def _carried_field(
    name: str, files: Sequence[CorpusFile], schemas: dict[str, pa.Schema], config: InputConfig
) -> pa.Field:
    if name == config.messages_column:
        raise CorpusError(f"input.carry_columns: {name} is the messages_column, which the score table cannot carry")
    in_path = [name in dict(file.partition) for file in files]
    if all(in_path):
        return pa.field(name, pa.string())
    if any(in_path):
        raise CorpusError(f"{files[in_path.index(False)].path}: its path has no {name}=… part, and others have")
    if config.format == "jsonl":
        return pa.field(name, pa.string())
    types = {}
    for path, schema in schemas.items():
        if schema.get_field_index(name) < 0:
            raise CorpusError(f"{path}: has no column {name}, which the score table is to carry")
        types[path] = schema.field(name).remove_metadata()
    if not types:
        raise CorpusError(f"{files[0].path}: its path has no {name}=… part, which the score table is to carry")
    try:
        joint = pa.unify_schemas([pa.schema([kind]) for kind in types.values()], promote_options="permissive")
    except pa.ArrowException as error:
        raise CorpusError(f"column {name} has different types in different files: {error}") from None
    return joint.field(0).with_nullable(True)
