"""A corpus as Ray reads it, and the names of the files it stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import ray
from ray.data import DataContext
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, FilenameProvider, ReadTask

from confscore.corpus import Part, RowReader
from confscore.row_keys import RowKeys, without
from confscore.score_table import STAGED


class CorpusSource(Datasource):  # type: ignore[misc]
    """A corpus as Ray reads it: one task a part.

    Parameters
    ----------
    reader : RowReader
        Reads it.
    parts : sequence of Part
        What is read.
    rows_per_block : int
        Rows of a block at most.
    staged : ray.ObjectRef of RowKeys
        The rows that are staged already and left out. Ray Data's own filter would copy 8 bytes a row into actors that
        take a CPU each.
    """

    def __init__(
        self, reader: RowReader, parts: Sequence[Part], rows_per_block: int, staged: ray.ObjectRef[RowKeys]
    ) -> None:
        super().__init__()
        self._reader = reader
        self._parts = parts
        self._rows_per_block = rows_per_block
        self._staged = staged

    def estimate_inmemory_data_size(self) -> int | None:
        """Return nothing: sizes in memory are not known before reading."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """Return one task a part, however many were asked for."""
        del parallelism, data_context
        return [self._task(part, per_task_row_limit) for part in self._parts]

    def _task(self, part: Part, limit: int | None) -> ReadTask:
        reader, rows, staged_ref = self._reader, self._rows_per_block, self._staged

        def tables() -> Iterable[pa.Table]:
            staged = ray.get(staged_ref)
            for table in reader.tables(part, rows):
                fresh = without(table, staged)
                if fresh.num_rows:
                    yield fresh
            yield reader.schema.empty_table()

        about = BlockMetadata(num_rows=None, size_bytes=None, input_files=[part.file.path], exec_stats=None)
        return ReadTask(tables, about, schema=reader.schema, per_task_row_limit=limit)


class StagedNames(FilenameProvider):  # type: ignore[misc]
    """Names of staged files. They do not end in ``.parquet``, so that no reader takes them for the table."""

    def get_filename_for_task(self, write_uuid: str, task_index: int) -> str:
        """Return a name that is unique to the write and the task; Ray insists on the word parquet in it.

        Recovery removes files whose names begin with that of an unfinished task, so no number may begin another one.
        """
        return f"parquet-{write_uuid}-{task_index:012d}{STAGED}"
