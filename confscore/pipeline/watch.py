"""Telling of a job's progress while it works, and ending it early where going on makes no sense."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from confscore.actor import Reports
from confscore.config import Config
from confscore.errors import JobError
from confscore.manifest import NOTHING, Counts, add_counts
from confscore.pipeline.cluster import StorePeak
from confscore.run_log import OnProgress
from confscore.supervise import interrupt_work, is_stopped, raise_if_stopped

_POLL_S = 0.5
_LOCK_EVERY_S = 5.0
"""In a store each look at the lock is a few requests."""
_JOIN_S = 10.0
_SAMPLE = 1000
"""So many rows are enough to judge the share of failed ones by."""
_MOST_FRUITLESS_LOADS = 3
_MOST_FRUITLESS_STARTS = 30
"""Ray starts an actor again as often as it ends. More than a row needs to be found out, see :mod:`confscore.marks`."""


@dataclass(slots=True)
class Limits:
    """When a job is not worth going on with.

    Parameters
    ----------
    config : Config
        Says how many rows may fail and how long an engine may take to start.
    rows : int
        How many rows this start scores.
    actors : int
        How many engines there may be at once.
    still_ours : callable
        Raises where the table's lock is lost.
    patience_s : float
        So long after an interrupt, work that goes on is interrupted again. To end in order takes it a few seconds.
    """

    config: Config
    rows: int
    actors: int
    still_ours: Callable[[], None]
    patience_s: float = 30.0
    _deadline: float = 0.0
    _read: int = -1
    _starts: int = 0
    _lock_due: float = 0.0

    def __post_init__(self) -> None:
        """Start the clock."""
        self._deadline = time.monotonic() + self.config.cluster.start_timeout_s

    def check(self, told: Reports) -> None:
        """Raise where the job should end.

        Raises
        ------
        JobError
            No engine is ready in time, engines end one after the other while they are loaded or with nothing scored in
            between, too many rows fail, or the lock is lost.
        """
        counts = told.counts
        if told.first_ready is None and time.monotonic() > self._deadline:
            timeout = self.config.cluster.start_timeout_s
            raise JobError(
                f"no engine was ready within cluster.start_timeout_s ({timeout:g} s): nodes that have what "
                "cluster.gpus_per_actor, cluster.cpus_per_actor and cluster.memory_per_actor ask for are busy with "
                "other work, or the model takes longer to download and load; then set start_timeout_s higher"
            )
        most = self.actors
        if not told.starts and told.loads > most + _MOST_FRUITLESS_LOADS:
            raise JobError(
                f"{told.loads - most} actors ended while they loaded their engine, and none was ready: killed from "
                "outside, or for want of memory; does the model fit what an actor has?"
            )
        if counts.read != self._read:
            self._read, self._starts = counts.read, told.starts
        if told.starts - self._starts > most + _MOST_FRUITLESS_STARTS:
            last = f"the last one because {told.losses[-1]}" if told.losses else "killed, or for want of memory"
            raise JobError(
                f"{told.starts - self._starts} engines ended one after the other with nothing scored: {last}"
            )
        allowed = self.config.scoring.max_failed_fraction
        seen = counts.read if counts.read >= min(_SAMPLE, self.rows) else self.rows
        if counts.error > allowed * seen:
            raise JobError(
                f"{counts.error:,} of {counts.read:,} documents failed, more than scoring.max_failed_fraction "
                f"({allowed:g}); one of them is {told.failure}; nothing was published, and what was scored is kept for "
                "the next start"
            )
        if time.monotonic() >= self._lock_due:
            self.still_ours()
            self._lock_due = time.monotonic() + _LOCK_EVERY_S


def watch(
    work: Callable[[], None],
    progress: Any,
    on_progress: OnProgress,
    limits: Limits,
    before: Counts,
    store: StorePeak,
) -> None:
    """Do ``work``, and tell of its progress from a thread beside it.

    The work stays on the calling thread, so that an interrupt reaches Ray Data, which then stops its tasks in order.

    Parameters
    ----------
    work : callable
        What is watched.
    progress : actor handle
        Of a :class:`~confscore.actor.Progress`.
    on_progress : callable
        Told of the counts about twice a second.
    limits : Limits
        When to end early.
    before : Counts
        What earlier starts have scored.
    store : StorePeak
        Looks as often.

    Raises
    ------
    JobError
        A limit was passed.
    """
    done = threading.Event()
    problems: list[Exception] = []

    def look() -> None:
        told: Reports = ray.get(progress.read.remote())
        store.look()
        on_progress(add_counts([before, told.counts]), ready=told.first_ready is not None)
        limits.check(told)

    def keep_looking() -> None:
        try:
            while not done.wait(_POLL_S) and not is_stopped():
                look()
        except Exception as error:
            if done.is_set():  # it is looked at once more
                return
            problems.append(error)
            interrupt_work()
        # An interrupt that reaches the work in a finalizer is ignored there, and the work goes on.
        while not done.wait(limits.patience_s):
            interrupt_work()

    watcher = threading.Thread(target=keep_looking, name="progress", daemon=True)
    watcher.start()
    try:
        work()
    except KeyboardInterrupt:
        if problems:
            raise problems[0] from None
        raise
    finally:
        done.set()
        watcher.join(timeout=_JOIN_S)
    if problems:  # a library may have taken the interrupt, and gone on
        raise problems[0]
    raise_if_stopped()
    if limits.rows or before != NOTHING:
        look()
