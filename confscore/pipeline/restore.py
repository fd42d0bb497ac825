"""What an earlier start of a run has staged, and what of it can be relied on.

Ray Data notes the keys of the rows of every write task: as ``X.pending.parquet`` before it writes the task's data, and
by renaming it to ``X.parquet`` afterwards. What can be told from that is read here: Ray's own recovery brings all keys
into one process, and keeps those of a task that is noted as both.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.dataset as pds
import ray
from pyarrow import fs
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_filter import IdColumnCheckpointManager

from confscore.corpus import ROW_KEY
from confscore.row_keys import RowKeys, row_keys
from confscore.run_folder import RunFolder
from confscore.score_table import STAGED

_PENDING = ".pending.parquet"
_NOTED = ".parquet"
_NOTES_A_TASK = 1000


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
    """Clean up after an earlier start, and return the keys of the rows that are staged."""
    selector = fs.FileSelector(run.checkpoints, allow_not_found=True)
    notes = {info.base_name for info in run.filesystem.get_file_info(selector) if info.is_file}
    pending = {name.removesuffix(_PENDING) for name in notes if name.endswith(_PENDING)}
    # A task may be finished and pending: it was written once, and was being written again when everything stopped. Its
    # data may be half of either. The note of its end goes first, so that a stop in between leaves no doubt.
    for name in sorted(pending):
        for note in (name + _NOTED, name + _PENDING):
            if note in notes:
                run.filesystem.delete_file(f"{run.checkpoints}/{note}")
    finished = {name.removesuffix(_NOTED) for name in notes if not name.endswith(_PENDING)} - pending
    _remove_orphans(run, finished)
    return _read(run, sorted(finished))


def _remove_orphans(run: RunFolder, finished: set[str]) -> None:
    """Remove staged data that no finished task has written."""
    selector = fs.FileSelector(run.staging, allow_not_found=True, recursive=True)
    for info in run.filesystem.get_file_info(selector):
        # parquet-<write>-<task>-<n>.staged, or the same with another ending while it is being written
        if info.is_file and info.base_name.removesuffix(STAGED).rpartition("-")[0] not in finished:
            run.filesystem.delete_file(info.path)


def _read(run: RunFolder, finished: Sequence[str]) -> RowKeys:
    paths = [f"{run.checkpoints}/{name}{_NOTED}" for name in finished]
    task = ray.remote(num_cpus=1, retry_exceptions=[OSError])(_keys_in)
    starts = range(0, len(paths), _NOTES_A_TASK)
    return RowKeys.union(RowKeys(), *ray.get([task.remote(run, paths[i : i + _NOTES_A_TASK]) for i in starts]))


def _keys_in(run: RunFolder, paths: Sequence[str]) -> RowKeys:
    notes = pds.dataset(list(paths), format="parquet", filesystem=run.filesystem)
    return row_keys(notes.to_table(columns=[ROW_KEY]))
