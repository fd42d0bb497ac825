"""A job on two nodes whose actors wait for each other.

Each scores nothing until all have come, and one nothing until all others have gone. The cluster is this process's own:
Ray takes one a process. ``python paced_job.py CONFIG FOLDER`` notes in ``FOLDER`` which actors came and went, and what
each has scored.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from nodes import Nodes

from confscore.config import ModelConfig, ScoringConfig, load
from confscore.guards import Guard
from confscore.plan import make_plan
from confscore.rows import Document, Score

ACTORS = 3
PATIENCE_S = 120.0
"""What has not happened by then will not happen; the job then ends, and the notes tell."""


class PacedScorer:
    """Waits, and makes up a score."""

    def __init__(self, categories: int, folder: Path) -> None:
        self._score = Score("", "scored", None, 1, False, (), 0.02, np.full(categories, 0.01), 0.001, 0.0, 1, 100)
        self._folder = folder
        self._me = f"{time.time()}-{os.getpid()}"
        self._gone = False
        self.answered = self.waiting = 0
        self._note("came", "")
        try:
            (folder / "straggler").touch(exist_ok=False)
            self._straggles = True
        except FileExistsError:
            self._straggles = False

    async def score(self, document: Document) -> Score:
        await self._wait_for(lambda: self._count("came") >= ACTORS)
        if self._straggles:
            await self._wait_for(lambda: self._count("went") >= ACTORS - 1)
        self._note("straggler-scored" if self._straggles else "scored", f"{document.doc_id}\n")
        return replace(self._score, doc_id=document.doc_id)

    async def warm_up(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        self._note("went", "")

    def _note(self, what: str, text: str) -> None:
        with (self._folder / f"{what}-{self._me}").open("a") as notes:
            notes.write(text)

    def _count(self, what: str) -> int:
        return len(list(self._folder.glob(f"{what}-*")))

    async def _wait_for(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not self._gone and not condition():
            if time.monotonic() > until:
                self._gone = True  # the others need not wait as long again
            await asyncio.sleep(0.2)


def open_paced(folder: str, guard: Guard, model: ModelConfig, scoring: ScoringConfig) -> PacedScorer:
    del model, scoring
    return PacedScorer(len(guard.codes), Path(folder))


def main() -> None:
    from confscore.pipeline import run_plan

    with Nodes(2) as nodes:
        plan = make_plan(load(sys.argv[1], [f"cluster.address={nodes.address()}"]))
        run_plan(plan, lambda counts, ready: None, partial(open_paced, sys.argv[2]))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
