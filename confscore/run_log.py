"""What a job says of itself while it runs: sentences for people, or one JSON object a line for log collectors.

Both say the same. Neither repeats anything that a document contains.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from confscore.console import console, say
from confscore.manifest import Counts, Manifest
from confscore.words import one_line

if TYPE_CHECKING:
    from confscore.plan import Plan

LOG_EVERY_S = 5.0

LogFormat = Literal["text", "json"]


class OnProgress(Protocol):
    """Told of the counts so far, and of whether an engine is ready."""

    def __call__(self, counts: Counts, ready: bool) -> None: ...  # noqa: D102


class RunLog(Protocol):
    """The events of a job, in the order in which they happen."""

    def planned(self, plan: Plan) -> None:
        """Say what is about to happen."""

    def done_before(self, manifest: Manifest) -> None:
        """Say that there is nothing to do."""

    def waiting(self, sentence: str) -> None:
        """Say what the cluster has no room for yet."""

    def following(self, total: int | None) -> AbstractContextManager[OnProgress]:
        """Yield what progress is told to; ``total`` is the number of documents where that is known."""

    def committed(self, manifest: Manifest, output: str) -> None:
        """Say how the run went, and where its table is."""


def open_log(kind: LogFormat) -> RunLog:
    """Return a log on standard output."""
    return JsonLog() if kind == "json" else TextLog()


class Pace:
    """How fast a job is, from its counts: rows that an earlier start scored, and the time of loading, are left out."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._before = 0

    def rate(self, counts: Counts, ready: bool, now: float) -> float | None:
        """Return documents per second so far; ``None`` as long as no engine is ready."""
        if not ready:
            return None
        if self._began is None:
            self._began, self._before = now, counts.read
        passed = now - self._began
        return (counts.read - self._before) / passed if passed > 0 else 0.0


class TextLog:
    """Sentences; progress is a bar on a terminal, and a line every few seconds in a log."""

    def planned(self, plan: Plan) -> None:
        """Say what is about to happen."""
        corpus = plan.corpus
        rows = "" if corpus.rows is None else f", {corpus.rows:,} documents"
        say(f"Run {plan.run.run_id}: {len(corpus.files):,} files{rows} from {plan.config.input.path}")
        if corpus.ignored:
            count = len(corpus.ignored)
            say(f"Not named like {plan.config.input.format}, so not read: {count} files ({corpus.ignored[0]}, …)")
        say(f"Guard {plan.guard.name} on {plan.config.model.source} ({plan.config.model.engine}); loading…")

    def done_before(self, manifest: Manifest) -> None:
        """Say that there is nothing to do."""
        say(
            f"Nothing to do: {manifest.run_id} was committed at {manifest.committed_at} with the same input, "
            "configuration, model and guard."
        )

    def waiting(self, sentence: str) -> None:
        """Say what the cluster has no room for yet."""
        say(sentence)

    def following(self, total: int | None) -> AbstractContextManager[OnProgress]:
        """Yield what progress is told to."""
        return _bar(total) if sys.stdout.isatty() else _lines(total)

    def committed(self, manifest: Manifest, output: str) -> None:
        """Say how the run went, and where its table is."""
        counts = manifest.counts
        fresh = counts.read - manifest.resumed
        rate = fresh / manifest.scoring_seconds if manifest.scoring_seconds > 0 else 0.0
        if manifest.resumed:
            say(f"An earlier start had scored {manifest.resumed:,} of {counts.read:,} documents.")
        say(
            f"Scored {fresh:,} documents in {manifest.scoring_seconds:.1f} s ({rate:,.0f}/s, after "
            f"{manifest.startup_seconds:.1f} s of start-up): {counts.scored:,} scored, {counts.bounded:,} bounded, "
            f"{counts.error:,} failed; {counts.requests / max(counts.read, 1):.2f} requests a document."
        )
        say(f"Committed {manifest.run_id} to {output}")


class JsonLog:
    """One JSON object a line, each with ``time`` (UTC, ISO 8601) and ``event``; rates are documents per second."""

    def planned(self, plan: Plan) -> None:
        """Say what is about to happen."""
        _event(
            "planned",
            run_id=plan.run.run_id,
            input_path=plan.config.input.path,
            output_path=plan.config.output.path,
            files=len(plan.corpus.files),
            documents=plan.corpus.rows,
            ignored_files=len(plan.corpus.ignored),
            guard=plan.guard.name,
            model=plan.config.model.source,
            engine=plan.config.model.engine,
        )

    def done_before(self, manifest: Manifest) -> None:
        """Say that there is nothing to do."""
        _event("done_before", run_id=manifest.run_id, committed_at=manifest.committed_at)

    def waiting(self, sentence: str) -> None:
        """Say what the cluster has no room for yet."""
        _event("waiting", reason=sentence)

    @contextmanager
    def following(self, total: int | None) -> Iterator[OnProgress]:
        """Yield what progress is told to."""
        pace, last = Pace(), float("-inf")

        def update(counts: Counts, ready: bool) -> None:
            nonlocal last
            now = time.monotonic()
            rate = pace.rate(counts, ready, now)
            if now - last >= LOG_EVERY_S:
                last = now
                _event("progress", documents=total, ready=ready, rate=rate, **counts.model_dump())

        yield update

    def committed(self, manifest: Manifest, output: str) -> None:
        """Say how the run went, and where its table is."""
        told = manifest.model_dump(mode="json", include={"run_id", "startup_seconds", "scoring_seconds", "resumed"})
        peak = manifest.peak_memory.model_dump()
        _event("committed", output_path=output, peak_memory=peak, **told, **manifest.counts.model_dump())


def say_failed(kind: LogFormat, sentence: str, status: int) -> None:
    """Say why a job ends: on standard error, and for log collectors on standard output too."""
    # In one piece: where streams are unbuffered, print writes the end of a line by itself, and another process of the
    # job may write in between.
    sys.stderr.write(f"confscore: {one_line(sentence)}\n")
    if kind == "json":
        _event("failed", error=sentence, exit_status=status)


@contextmanager
def _bar(total: int | None) -> Iterator[OnProgress]:
    pace = Pace()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console()) as bar:
        task = bar.add_task("loading the model", total=total)

        def update(counts: Counts, ready: bool) -> None:
            rate = pace.rate(counts, ready, time.monotonic())
            words = "loading the model" if rate is None else f"{rate:,.0f} documents/s"
            bar.update(task, completed=counts.read, description=words)

        yield update


@contextmanager
def _lines(total: int | None) -> Iterator[OnProgress]:
    pace, last = Pace(), time.monotonic()
    of = "" if total is None else f" of {total:,}"

    def update(counts: Counts, ready: bool) -> None:
        nonlocal last
        now = time.monotonic()
        rate = pace.rate(counts, ready, now)
        if rate is not None and now - last >= LOG_EVERY_S:
            last = now
            say(f"  {counts.read:,}{of} documents, {rate:,.0f}/s, {counts.bounded:,} bounded, {counts.error:,} failed")

    yield update


def _event(event: str, **fields: object) -> None:
    time_now = datetime.now(UTC).isoformat(timespec="milliseconds")
    say(json.dumps({"time": time_now, "event": event, "process": os.getpid(), **fields}))
