"""New partitions become scores: one run of ``confscore score`` for each night, in a table for each kind of scores."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from confscore import supervise
from confscore.audit.lake import SCORES, Lake
from confscore.audit.nights import CorpusNight, digest
from confscore.config import Config, dump
from confscore.errors import JobError
from confscore.manifest import Provenance

_DONE = (0, 1)
"""Exit statuses of a committed run; whether too many rows failed is for the audit's own rules to say."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """What scores a night: handed to an audit, which itself loads no tokenizer and no engine.

    Attributes
    ----------
    find_provenance : callable
        Returns what decides the scores of a configuration; refuses a guard or a model as the job would.
    run : callable
        Runs ``confscore score`` on a configuration file, and returns its exit status, None where it ended without one.
    """

    find_provenance: Callable[[Config], Provenance]
    run: Callable[[str], int | None]


def run_score(config: str) -> int | None:
    """Run ``confscore score`` as a child process; what it prints goes to standard error, beside the audit's own log."""
    return supervise.run_as_child(["score", f"--config={config}"], stdout=sys.stderr.fileno())


def provenance_hash(provenance: Provenance) -> str:
    """Return what names the table that scores of this kind go to."""
    return digest(provenance.model_dump(mode="json"))


def table_of(lake: Lake, kind: str) -> str:
    """Return the score table of one kind of scores."""
    return lake.place(f"{SCORES}/{kind}")


def job_of_night(job: Config, table: str, night: CorpusNight) -> Config:
    """Return the job that scores one night into a table of the audit's."""
    partition_by = tuple(dict.fromkeys([*night.where, *job.output.partition_by]))
    output = job.output.model_copy(update={"path": table, "partition_by": partition_by, "replace_changed": True})
    source = job.input.model_copy(update={"where": {**job.input.where, **night.where}})
    return job.model_copy(update={"input": source, "output": output})


def score_night(job: Config, table: str, night: CorpusNight, run: Callable[[str], int | None]) -> None:
    """Score a night, or go on where an earlier start of the same was ended.

    Raises
    ------
    JobError
        The run was not committed; it has said why.
    """
    with tempfile.TemporaryDirectory(prefix="confscore-audit-") as folder:
        path = Path(folder) / f"{night.night}.yaml"
        path.write_text(dump(job_of_night(job, table, night)), encoding="utf-8")
        status = run(str(path))
    if status not in _DONE:
        raise JobError(
            f"night {night.night} could not be scored, for the reason above; nights before it are audited, and the "
            "same command goes on from here"
        )
