"""A start that goes on with a prepared run and is killed: ``python dying_start.py OUTPUT RUN_ID WHEN``.

WHEN is ``before`` the table is told of the run, ``after`` it, or ``inside``: where an Iceberg catalog is about to take
the new snapshot, whose files are written.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass

from confscore.manifest import Manifest
from confscore.publication import finish
from confscore.run_folder import PREPARED, RunFolder
from confscore.table_formats import TableFormat, open_format


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Dying:
    """A table format whose process ends when it is told of a run."""

    inner: TableFormat
    when: str

    def commit(self, manifest: Manifest) -> None:
        if self.when == "before":
            die()
        if self.when == "inside":
            from sqlalchemy import Engine, event

            @event.listens_for(Engine, "before_cursor_execute")
            def stop(connection, cursor, statement, *rest) -> None:
                if statement.startswith("UPDATE iceberg_tables"):
                    die()

        self.inner.commit(manifest)
        die()


def main(output: str, run_id: str, when: str) -> None:
    run = RunFolder(output, run_id)
    manifest = run.read_manifest(PREPARED)
    assert manifest is not None
    table = open_format(output, manifest.published_to)
    assert table is not None
    finish(run, manifest, Dying(table, when))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
