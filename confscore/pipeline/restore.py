"""What an earlier start of a run has staged, and what of it can be relied on.

Ray Data notes the keys of the rows of every write task: as ``X.pending.parquet`` before it writes the task's data, and
by renaming it to ``X.parquet`` afterwards. On a restart its own recovery removes the data of pending tasks and loads
the keys of the others. What it does not do is done here.
"""

from __future__ import annotations

import logging

import numpy as np
import ray
from pyarrow import fs
from ray.data import DataContext
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_filter import IdColumnCheckpointManager

from confscore.corpus import ROW_KEY
from confscore.rows import IntArray
from confscore.run_folder import RunFolder
from confscore.score_table import STAGED

_PENDING = ".pending.parquet"
_NOTED = ".parquet"


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


def restore(run: RunFolder) -> IntArray:
    """Clean up after an earlier start, and return the keys of the rows that are staged, ascending."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    _forget_doubtful(run)
    config = checkpointing(run)
    manager = IdColumnCheckpointManager(checkpoint_config=config, data_context=DataContext.get_current())
    if run.filesystem.get_file_info(run.checkpoints).type == fs.FileType.NotFound:
        _remove_orphans(run)
        return np.empty(0, np.int64)
    keys, _ = manager.load_checkpoint(run.staging, run.filesystem)
    _remove_orphans(run)
    return np.empty(0, np.int64) if keys is None else np.asarray(ray.get(keys), dtype=np.int64)


def _forget_doubtful(run: RunFolder) -> None:
    """Remove the note of a task that is both finished and pending.

    It was written once, and was being written again when everything stopped: its data may be half of either. Ray's
    recovery would remove the data and keep the keys, and the rows would be lost.
    """
    names = _names(run, run.checkpoints)
    for name in names:
        finished = name.removesuffix(_PENDING) + _NOTED
        if name.endswith(_PENDING) and finished in names:
            run.filesystem.delete_file(f"{run.checkpoints}/{finished}")


def _remove_orphans(run: RunFolder) -> None:
    """Remove staged data that no finished task has written."""
    finished = {name.removesuffix(_NOTED) for name in _names(run, run.checkpoints) if not name.endswith(_PENDING)}
    selector = fs.FileSelector(run.staging, allow_not_found=True, recursive=True)
    for info in run.filesystem.get_file_info(selector):
        # parquet-<write>-<task>-<n>.staged, or the same with another ending while it is being written
        if info.is_file and info.base_name.removesuffix(STAGED).rpartition("-")[0] not in finished:
            run.filesystem.delete_file(info.path)


def _names(run: RunFolder, folder: str) -> set[str]:
    selector = fs.FileSelector(folder, allow_not_found=True)
    return {info.base_name for info in run.filesystem.get_file_info(selector) if info.is_file}
