"""What the pipeline costs when the engine is free: rows a second, and memory of the driver, by the size of the corpus.

Every document gets the same made-up score at once, so what is left is reading, ids and keys, Ray Data, Arrow, staging,
compaction, the last comparison and publication. Each size is a process of its own.

``python benchmarks/pipeline.py --rows 100000 1000000``
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from confscore.config import ModelConfig, ScoringConfig, parse
from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.guards import Guard
from confscore.pipeline import run_plan
from confscore.plan import make_plan
from confscore.rows import Document, Score

ROWS_PER_FILE = 250_000
TEXT = "It rained all evening, so we stayed in and read about boats. " * 4


class FreeScorer:
    """Scores any document at once."""

    def __init__(self, categories: int) -> None:
        self._probs = np.linspace(0.001, 0.01, categories)
        self.answered = self.waiting = 0

    async def score(self, document: Document) -> Score:
        """Return the made-up score."""
        return Score(document.doc_id, "scored", None, 1, False, (), 0.02, self._probs, 0.001, 0.0, 1, 100)

    async def warm_up(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


def open_free(guard: Guard, model: ModelConfig, scoring: ScoringConfig) -> FreeScorer:
    """Return a free scorer in the place of one with an engine."""
    del model, scoring
    return FreeScorer(len(guard.codes))


def write_corpus(folder: Path, rows: int) -> None:
    """Write documents of 240 characters."""
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
        ids = [f"doc-{i:010d}" for i in range(start, min(start + ROWS_PER_FILE, rows))]
        table = pa.table({"doc_id": ids, "text": pa.repeat(TEXT, len(ids))})
        pq.write_table(table, folder / f"part-{number:05d}.parquet", row_group_size=50_000)


def measure(rows: int, rows_per_block: int, actors: int) -> dict[str, float]:
    """Run one job and return what it took."""
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: what it takes is not the driver's.
        writer = get_context("spawn").Process(target=write_corpus, args=(Path(folder) / "corpus", rows))
        writer.start()
        writer.join()
        settings: dict[str, object] = {
            "input": {"path": f"{folder}/corpus", "id_column": "doc_id"},
            "guard": str(GUARD_YAML),
            "model": {"source": str(GUARD_FOLDER), "engine": "transformers"},
            "cluster": {"actors": actors, "gpus_per_actor": 0, "rows_per_block": rows_per_block},
            "output": {"path": f"{folder}/scores"},
        }
        plan = make_plan(parse(settings, "benchmark"))
        began = time.perf_counter()
        manifest = run_plan(plan, lambda counts, ready: None, open_scorer=open_free)  # type: ignore[arg-type]
        seconds = time.perf_counter() - began
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "scoring_seconds": round(manifest.scoring_seconds, 1),
        "rows_per_s": round(rows / manifest.scoring_seconds),
        "driver_peak_mb": round((manifest.peak_memory.driver or 0) / 1e6),
        "actor_peak_mb": round((manifest.peak_memory.actor or 0) / 1e6),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rows-per-block", type=int, default=4096)
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(measure(given.rows[0], given.rows_per_block, given.actors)))
        return
    found = []
    for rows in given.rows:
        options = ["--rows-per-block", str(given.rows_per_block), "--actors", str(given.actors)]
        command = [sys.executable, __file__, "--one", "--rows", str(rows), *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(found[-1], flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
