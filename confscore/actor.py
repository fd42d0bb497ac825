"""One engine in a process of its own: blocks of corpus rows in, blocks of score-table rows out.

Written for Ray, which runs it, and without importing it. An actor holds one engine and one event loop. Ray hands
it several blocks at a time, every block on a thread of its own, and all of their documents meet in the engine's
continuous batch; so reading, tokenizing and writing of one block never leaves the engine idle.

An engine that has stopped answering cannot be mended from inside. The actor then says why and ends its process: Ray
starts another one in its place and hands it the same blocks.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import pyarrow as pa

from confscore.config import Config, ModelConfig, ScoringConfig
from confscore.corpus import ROW_KEY
from confscore.corpus.cells import as_document
from confscore.errors import ConfscoreError, EngineError, JobError
from confscore.guards import Guard
from confscore.manifest import NOTHING, Counts, add_counts
from confscore.marks import Marks, Turns, score_marked
from confscore.memory import collect_rarely, peak_memory
from confscore.partitions import without_bad_values
from confscore.rows import Columns, Document, Score, score_schema, scores_to_arrays
from confscore.run_folder import RunFolder
from confscore.scorer import Scorer
from confscore.words import one_line, unexpected

T = TypeVar("T")
OpenScorer = Callable[[Guard, ModelConfig, ScoringConfig], Scorer]
REPORT_EVERY_S = 1.0
_WATCH_EVERY_S = 1.0
_TELL_S = 10.0
_LOG_TAIL = 1 << 18
_MOST_OF_A_CAUSE = 500
_AN_ERROR = re.compile(r"\b((?:\w+\.)*\w*(?:Error|Exception): \S.*)")
_SENDS_ELSEWHERE = re.compile(r"[Ss]ee .*(?:root cause|stack trace|above)")
_ENGINE_LOST = 70
"""Exit status of a process whose engine has stopped answering; EX_SOFTWARE of sysexits.h."""


class Meters(Protocol):
    """Where an actor's figures go, for those who watch the cluster."""

    def scored(self, scores: Sequence[Score]) -> None:
        """Count documents that have been scored."""

    def queued(self, documents: int, requests: int) -> None:
        """Note how many documents are in flight, and how many requests wait for the engine."""


OpenMeters = Callable[[str], Meters]
"""Returns the meters of a run, by its id."""


@dataclass(frozen=True, slots=True)
class Reports:
    """What actors have told so far. Rows that were scored twice count twice.

    Attributes
    ----------
    counts : Counts
        Sums over all actors.
    first_ready : float or None
        When the first engine was ready, in seconds since 1970.
    loads, starts : int
        How often an actor began to load an engine, and how often one was ready then.
    losses : tuple of str
        Why engines were given up, as far as their actors could still say.
    failure : str or None
        A row that failed, and why: its id and its error.
    peak_memory : int or None
        The largest memory of an actor with its engine, in bytes.
    engine_seconds : float
        For how long actors have held loaded engines, added up, until each one's last report.
    """

    counts: Counts = NOTHING
    first_ready: float | None = None
    loads: int = 0
    starts: int = 0
    losses: tuple[str, ...] = ()
    failure: str | None = None
    peak_memory: int | None = None
    engine_seconds: float = 0.0


class Progress:
    """Where actors tell the driver what they do."""

    def __init__(self) -> None:
        self._told = Reports()

    def loading(self) -> None:
        """Note that an actor is about to load its engine."""
        self._told = replace(self._told, loads=self._told.loads + 1)

    def ready(self) -> None:
        """Note that an actor's engine has been loaded."""
        first = self._told.first_ready or time.time()
        self._told = replace(self._told, starts=self._told.starts + 1, first_ready=first)

    def lost(self, reason: str) -> None:
        """Note that an actor gives up its engine."""
        self._told = replace(self._told, losses=(*self._told.losses, reason))

    def add(
        self,
        counts: Counts,
        failure: str | None = None,
        peak_memory: int | None = None,
        engine_seconds: float = 0.0,
    ) -> None:
        """Add what an actor did in ``engine_seconds``; its memory was at most ``peak_memory`` bytes so far.

        ``failure`` is one of the rows that failed, if any did.
        """
        known = [peak for peak in (peak_memory, self._told.peak_memory) if peak is not None]
        counts = add_counts([self._told.counts, counts])
        seconds = self._told.engine_seconds + engine_seconds
        self._told = replace(
            self._told,
            counts=counts,
            failure=failure or self._told.failure,
            peak_memory=max(known, default=None),
            engine_seconds=seconds,
        )

    def read(self) -> Reports:
        """Return what has been told."""
        return self._told


class ScoringActor:
    """One engine, scoring blocks of corpus rows. Called from several threads at once."""

    def __init__(
        self,
        guard: Guard,
        config: Config,
        columns: Columns,
        run: RunFolder,
        start: str,
        progress: Any,
        open_scorer: OpenScorer,
        open_meters: OpenMeters,
        threads: int,
    ) -> None:
        if not config.cluster.gpus_per_actor:
            os.environ["OMP_NUM_THREADS"] = str(threads)  # in place of Ray's, which are the CPUs that were asked for
        self._columns = columns
        self._schema = staged_schema(columns)
        self._run_id = run.run_id
        self._marks = Marks(run.output, run.marks, start)
        self._turns = Turns()
        self._progress = progress
        self._meters = open_meters(run.run_id)
        self._in_flight = 0
        self._unreported: list[Score] = []
        self._reported_at = time.monotonic()
        self._timeout_s = config.cluster.request_timeout_s
        self._error_messages = config.scoring.error_messages
        self._partition_by = config.output.partition_by
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
        self._scorer: Scorer | None = None
        self._failure: ConfscoreError | None = None
        # Waited for: a process that is ended while it loads would take an unsent message with it.
        progress.loading.remote().future().result(timeout=_TELL_S)
        # Ray would start a failing constructor again and again; a failing call ends the job with its reason.
        try:
            self._scorer = self._run(_open(guard, config, open_scorer))
        except EngineError as error:
            self._failure = EngineError(f"{error}{_told_elsewhere(str(error))}")
        except ConfscoreError as error:
            self._failure = error
        except Exception as error:  # engines raise whatever their libraries raise
            self._failure = EngineError(f"the engine could not be started: {type(error).__name__}: {error}")
        else:
            self._reported_at = time.monotonic()
            progress.ready.remote()
            watched = (weakref.ref(self), self._scorer, self._timeout_s)
            threading.Thread(target=_watch, args=watched, name="watch", daemon=True).start()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Score a block; one row out for each row in, in the same order."""
        if self._failure is not None:
            raise self._failure
        try:
            return self._score_block(table)
        except (ConfscoreError, OSError):
            raise
        except Exception as error:  # its message may hold text of the block, and would be in Ray's logs
            raise JobError(unexpected(error, in_full=self._error_messages)) from None

    def _score_block(self, table: pa.Table) -> pa.Table:
        table = without_bad_values(table, self._partition_by)
        if not table.num_rows:
            return self._schema.empty_table()
        keys, ids, contents, faults = (table[name].to_pylist() for name in (ROW_KEY, "doc_id", "content", "fault"))
        documents = [as_document(*row) for row in zip(ids, contents, faults, strict=True)]
        reported = 0

        def score(start: int, end: int) -> list[Score]:
            nonlocal reported
            reported += end - start
            return self._run(self._score_all(documents[start:end]))

        try:
            scores = score_marked(self._marks, self._turns, keys, ids, score)
        except EngineError as error:
            self._give_up(str(error))
        if reported < len(scores):
            given_up = NOTHING.model_copy(update={"read": len(scores) - reported, "error": len(scores) - reported})
            self._progress.add.remote(given_up, _failure(scores))
        self._meters.scored(scores)
        arrays = scores_to_arrays(scores, self._columns)
        arrays |= {column.name: table[column.name] for column in self._columns.carried}
        arrays["run_id"] = pa.repeat(self._run_id, len(scores))
        arrays["scored_at"] = pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC")), len(scores))
        arrays[ROW_KEY] = table[ROW_KEY]
        return pa.table([arrays[name] for name in self._schema.names], schema=self._schema)

    async def _score_all(self, documents: Sequence[Document]) -> list[Score]:
        scores = await asyncio.gather(*(self._score(document) for document in documents))
        self._report()
        return list(scores)

    async def _score(self, document: Document) -> Score:
        assert self._scorer is not None
        self._in_flight += 1
        score = await self._scorer.score(document)
        if score.status == "error" and document.fault is None:
            score = await self._scorer.score(document)
        self._in_flight -= 1
        self._unreported.append(score)
        if time.monotonic() - self._reported_at > REPORT_EVERY_S:
            self._report()
        return score

    def _report(self) -> None:
        """Tell the driver what has been scored; blocks share one engine, so a block's end alone is too late."""
        scores, self._unreported = self._unreported, []
        held_since, self._reported_at = self._reported_at, time.monotonic()
        held = self._reported_at - held_since
        self._progress.add.remote(_counts(scores), _failure(scores), peak_memory(descendants=True), held)
        self._meters.queued(self._in_flight, self._scorer.waiting if self._scorer is not None else 0)

    def _give_up(self, reason: str) -> NoReturn:
        """Tell the driver, and end this process, so that Ray starts another one."""
        print(f"confscore: engine given up: {one_line(reason)}", flush=True)
        try:
            # Waited for: the process ends with the next line.
            self._progress.lost.remote(reason).future().result(timeout=_TELL_S)
        finally:  # a driver that cannot be told must not keep a dead engine alive
            os._exit(_ENGINE_LOST)

    def __del__(self) -> None:
        """Stop the engine in order when Ray lets the actor go."""
        scorer, self._scorer = self._scorer, None
        if scorer is not None:
            self._run(scorer.close())
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _told_elsewhere(sentence: str) -> str:
    """Return what an engine's own processes said before they ended, and where the whole of it is.

    Ray sends what a worker prints into files, and an engine's processes inherit them; their last error is often the
    cause of the one that reaches this process.
    """
    causes: list[str] = []
    place = ""
    for descriptor in (1, 2):
        try:
            log = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            with log.open("rb") as stream:
                stream.seek(max(0, log.stat().st_size - _LOG_TAIL))
                causes += _AN_ERROR.findall(stream.read().decode("utf-8", "replace"))
        except OSError:  # no such system, or not a file
            continue
        place = f"; see {log.with_suffix('.*')} on {socket.gethostname()}"
    causes = [cause for cause in causes if cause not in sentence and not _SENDS_ELSEWHERE.search(cause)]
    cause = f"; the last error of its processes was: {causes[-1][:_MOST_OF_A_CAUSE]}" if causes else ""
    return f"{cause}{place}"


def staged_schema(columns: Columns) -> pa.Schema:
    """Return the schema of staged rows: a score table's, and the key that tells rows apart."""
    return score_schema(columns).append(pa.field(ROW_KEY, pa.int64(), nullable=False))


def _watch(watched: weakref.ref[ScoringActor], scorer: Scorer, timeout_s: float) -> None:
    """Give the engine up if requests wait and none has been answered for too long.

    The actor is not held meanwhile: one that a thread holds is never let go, and its engine not stopped in order.
    """
    answered, since = -1, time.monotonic()
    while (actor := watched()) is not None:
        if scorer.answered != answered or not scorer.waiting:
            answered, since = scorer.answered, time.monotonic()
        elif time.monotonic() - since > timeout_s:
            actor._give_up(f"the engine answered no request for {timeout_s:g} s (cluster.request_timeout_s)")
        del actor
        time.sleep(min(_WATCH_EVERY_S, timeout_s / 4))


async def _open(guard: Guard, config: Config, open_scorer: OpenScorer) -> Scorer:
    scorer = open_scorer(guard, config.model, config.scoring)
    await scorer.warm_up()
    collect_rarely()
    return scorer


def _failure(scores: Sequence[Score]) -> str | None:
    """Return the id of a row that failed and why, if there is any."""
    return next((one_line(f"{score.doc_id}: {score.error}") for score in scores if score.status == "error"), None)


def _counts(scores: Sequence[Score]) -> Counts:
    status = [score.status for score in scores]
    return Counts(
        read=len(scores),
        scored=status.count("scored"),
        bounded=status.count("bounded"),
        error=status.count("error"),
        requests=sum(score.requests for score in scores),
        prompt_tokens=sum(score.prompt_tokens for score in scores),
    )
