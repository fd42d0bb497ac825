"""What an earlier start of a run has staged, and what of it can be relied on.

Ray Data notes the keys of the rows of every write task: as ``X.pending.parquet`` before it writes the task's data, and
by renaming it to ``X.parquet`` afterwards. What can be told from that is read here: Ray's own recovery brings all keys
into one process, and keeps those of a task that is noted as both.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pyarrow import fs
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_filter import IdColumnCheckpointManager

from confscore.corpus import ROW_KEY
from confscore.row_keys import RowKeys, row_keys
from confscore.run_folder import RunFolder
from confscore.score_table import NOTED, is_damaged, writer_of

_PENDING = ".pending.parquet"
_NOTES_A_TASK = 1000
_NOTES_AT_ONCE = 16


class AlreadyRestored(IdColumnCheckpointManager):  # type: ignore[misc]
    """Tells Ray Data that there is nothing to filter: rows that are staged are not even read."""

    def load_checkpoint(
        self, data_file_dir: str | None = None, data_file_filesystem: fs.FileSystem | None = None
    ) -> tuple[None, int]:
        """Return nothing to filter."""
        del data_file_dir, data_file_filesystem
        return None, 0


def checkpointing(run: RunFolder) -> CheckpointConfig:
    """Return how Ray Data notes what is staged.

    The notes stay after success: they are removed when the run is published, and a restart before that relies on them.
    """
    return CheckpointConfig(
        ROW_KEY,
        run.checkpoints,
        delete_checkpoint_on_success=False,
        override_filesystem=run.filesystem,
        checkpoint_manager_cls=AlreadyRestored,
    )


def restore(run: RunFolder) -> RowKeys:
    """Clean up after an earlier start, and return the keys of the rows that are staged.

    After a power failure a note may not be whole, or there while its data is not: it counts as none.
    """
    selector = fs.FileSelector(run.checkpoints, allow_not_found=True)
    notes = {info.base_name for info in run.filesystem.get_file_info(selector) if info.is_file}
    pending = {name.removesuffix(_PENDING) for name in notes if name.endswith(_PENDING)}
    # A task may be finished and pending: it was written once, and was being written again when everything stopped. Its
    # data may be half of either. The note of its end goes first, so that a stop in between leaves no doubt.
    for name in sorted(pending):
        for note in (name + NOTED, name + _PENDING):
            if note in notes:
                run.filesystem.delete_file(f"{run.checkpoints}/{note}")
    finished = {name.removesuffix(NOTED) for name in notes if not name.endswith(_PENDING)} - pending
    selector = fs.FileSelector(run.staging, allow_not_found=True, recursive=True)
    data = [info.path for info in run.filesystem.get_file_info(selector) if info.is_file]
    there = finished & {writer_of(path) for path in data}
    keys, damaged = _read(run, sorted(there))
    whole = there - set(damaged)
    for name in sorted(finished - whole):
        run.filesystem.delete_file(f"{run.checkpoints}/{name}{NOTED}")
    for path in data:
        if writer_of(path) not in whole:
            run.filesystem.delete_file(path)
    return keys


def _read(run: RunFolder, finished: Sequence[str]) -> tuple[RowKeys, list[str]]:
    """Return the keys that tasks have noted, and the names of tasks whose notes are not whole."""
    task = ray.remote(num_cpus=1, retry_exceptions=[OSError])(_keys_of)
    starts = range(0, len(finished), _NOTES_A_TASK)
    found = ray.get([task.remote(run, finished[start : start + _NOTES_A_TASK]) for start in starts])
    return RowKeys.union(RowKeys(), *(keys for keys, _ in found)), [name for _, names in found for name in names]


def _keys_of(run: RunFolder, finished: Sequence[str]) -> tuple[RowKeys, list[str]]:
    def keys_of(name: str) -> RowKeys | None:
        try:
            with run.filesystem.open_input_file(f"{run.checkpoints}/{name}{NOTED}") as note:
                return row_keys(pq.read_table(note, columns=[ROW_KEY]))
        except (OSError, pa.ArrowInvalid) as error:
            if is_damaged(error):
                return None
            raise

    with ThreadPoolExecutor(_NOTES_AT_ONCE) as pool:
        found = list(pool.map(keys_of, finished))
    damaged = [name for name, keys in zip(finished, found, strict=True) if keys is None]
    return RowKeys.union(RowKeys(), *(keys for keys in found if keys is not None)), damaged
