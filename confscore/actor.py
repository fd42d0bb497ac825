"""One engine in a process of its own: blocks of corpus rows in, blocks of score-table rows out.

Written for Ray, which runs it, and without importing it. An actor holds one engine and one event loop. Ray hands
it several blocks at a time, every block on a thread of its own, and all of their documents meet in the engine's
continuous batch; so reading, tokenizing and writing of one block never leaves the engine idle.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import pyarrow as pa

from confscore.config import Config
from confscore.corpus.cells import as_document
from confscore.errors import ConfscoreError, EngineError
from confscore.guards import Guard
from confscore.loading import open_scorer
from confscore.manifest import NOTHING, Counts, add_counts
from confscore.rows import Columns, Document, Score, score_schema, scores_to_arrays
from confscore.scorer import Scorer

T = TypeVar("T")
REPORT_EVERY_S = 1.0


class Progress:
    """Counts of scored rows, fed by actors and read by the driver. Rows scored twice count twice."""

    def __init__(self) -> None:
        self._counts = NOTHING
        self._first_ready: float | None = None

    def ready(self) -> None:
        """Note that an actor's engine has been loaded."""
        self._first_ready = self._first_ready or time.time()

    def add(self, counts: Counts) -> None:
        """Add a block's counts."""
        self._counts = add_counts([self._counts, counts])

    def read(self) -> tuple[Counts, float | None]:
        """Return the sums, and when the first engine was ready (seconds since 1970)."""
        return self._counts, self._first_ready


class ScoringActor:
    """One engine, scoring blocks of corpus rows. Called from several threads at once."""

    def __init__(self, guard: Guard, config: Config, columns: Columns, run_id: str, progress: Any) -> None:
        self._columns = columns
        self._schema = score_schema(columns)
        self._run_id = run_id
        self._progress = progress
        self._unreported: list[Score] = []
        self._reported_at = time.monotonic()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
        self._scorer: Scorer | None = None
        self._failure: ConfscoreError | None = None
        # Ray would start a failing constructor again and again; a failing call ends the job with its reason.
        try:
            self._scorer = self._run(_open(guard, config))
        except ConfscoreError as error:
            self._failure = error
        except Exception as error:  # engines raise whatever their libraries raise
            self._failure = EngineError(f"the engine could not be started: {type(error).__name__}: {error}")
        else:
            progress.ready.remote()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Score a block; one row out for each row in, in the same order."""
        if self._failure is not None:
            raise self._failure
        rows = zip(*(table[name].to_pylist() for name in ("doc_id", "content", "fault")), strict=True)
        scores = self._run(self._score_all([as_document(*row) for row in rows]))
        arrays = scores_to_arrays(scores, self._columns)
        arrays |= {column.name: table[column.name] for column in self._columns.carried}
        arrays["run_id"] = pa.array([self._run_id] * len(scores), pa.string())
        arrays["scored_at"] = pa.array([datetime.now(UTC)] * len(scores), pa.timestamp("us", tz="UTC"))
        return pa.table([arrays[name] for name in self._schema.names], schema=self._schema)

    async def _score_all(self, documents: Sequence[Document]) -> list[Score]:
        scores = await asyncio.gather(*(self._score(document) for document in documents))
        self._report()
        return list(scores)

    async def _score(self, document: Document) -> Score:
        assert self._scorer is not None
        score = await self._scorer.score(document)
        self._unreported.append(score)
        if time.monotonic() - self._reported_at > REPORT_EVERY_S:
            self._report()
        return score

    def _report(self) -> None:
        """Tell the driver what has been scored; blocks share one engine, so a block's end alone is too late."""
        scores, self._unreported = self._unreported, []
        self._reported_at = time.monotonic()
        self._progress.add.remote(_counts(scores))

    def __del__(self) -> None:
        """Stop the engine in order when Ray lets the actor go."""
        scorer, self._scorer = self._scorer, None
        if scorer is not None:
            self._run(scorer.close())
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _open(guard: Guard, config: Config) -> Scorer:
    scorer = open_scorer(guard, config.model, config.scoring)
    await scorer.warm_up()
    return scorer


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
