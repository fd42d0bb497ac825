"""Parts of a corpus as tables of one schema: an id for every row, its content, or the fault that it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from confscore.config import InputConfig
from confscore.corpus import cells
from confscore.corpus.files import CorpusFile, refuse_changed_file, resolve
from confscore.corpus.formats import ROW_BITS, Part, Raw, Wanted, as_text, read
from confscore.errors import ConfscoreError, CorpusError
from confscore.words import unexpected

ROW_KEY = "row_key"
"""The column that tells rows of one corpus apart while they are worked on: file number and row number."""
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
