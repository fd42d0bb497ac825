"""How the job scales over actors on simulated nodes, with an engine that takes a fixed time and no CPU.

Each actor's engine sleeps, so that 32 of them fit on two cores and what is measured is the pipeline: who hands out
blocks, who waits, who is idle. The rate is that of the middle half of the documents, by their ``scored_at``: engines
that are still being loaded and the last blocks do not count.

``python benchmarks/scale.py --actors 1 2 4 8 16 32``
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from confscore.config import ModelConfig, ScoringConfig, parse
from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.guards import Guard
from confscore.pipeline import run_plan
from confscore.plan import make_plan
from confscore.rows import Document, Score

SECONDS = 1.0
"""How long a document takes; a block's documents are in flight together."""
ROWS_PER_BLOCK, BLOCKS_IN_FLIGHT = 16, 2
BLOCKS_EACH = 40
"""Blocks for each actor, one after the other in its two lanes."""
ACTORS_A_NODE = 8


class SleepingScorer:
    """Scores any document after a fixed time."""

    def __init__(self, categories: int) -> None:
        self._score = Score("", "scored", None, 1, False, (), 0.02, np.full(categories, 0.01), 0.001, 0.0, 1, 100)
        self.answered = self.waiting = 0

    async def score(self, document: Document) -> Score:
        """Sleep, and return a made-up score."""
        await asyncio.sleep(SECONDS)
        return replace(self._score, doc_id=document.doc_id)

    async def warm_up(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


def open_sleeping(guard: Guard, model: ModelConfig, scoring: ScoringConfig) -> SleepingScorer:
    """Return a sleeping scorer in the place of one with an engine."""
    del model, scoring
    return SleepingScorer(len(guard.codes))


def measure(actors: int) -> dict[str, float]:
    """Run one job on as many nodes as the actors need."""
    rows = actors * BLOCKS_EACH * ROWS_PER_BLOCK
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for part in range(max(1, actors // 2)):
            ids = [f"{part:03d}-{i:06d}" for i in range(rows // max(1, actors // 2))]
            pq.write_table(pa.table({"doc_id": ids, "text": pa.repeat("quiet", len(ids))}), corpus / f"{part}.parquet")
        nodes = -(-actors // ACTORS_A_NODE)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        for _ in range(nodes):
            cluster.add_node(num_cpus=ACTORS_A_NODE, resources={"engine": ACTORS_A_NODE})
        os.environ["RAY_ADDRESS"] = cluster.address
        settings: dict[str, object] = {
            "input": {"path": str(corpus), "id_column": "doc_id"},
            "guard": str(GUARD_YAML),
            "model": {"source": str(GUARD_FOLDER), "engine": "transformers"},
            "cluster": {
                "actors": actors,
                "gpus_per_actor": 0,
                "cpus_per_actor": 1,
                "rows_per_block": ROWS_PER_BLOCK,
                "blocks_in_flight": BLOCKS_IN_FLIGHT,
            },
            "output": {"path": f"{folder}/scores"},
        }
        plan = make_plan(parse(settings, "benchmark"))
        run_plan(plan, lambda counts, ready: None, open_scorer=open_sleeping)  # type: ignore[arg-type]
        (times,) = zip(
            *duckdb.sql(f"SELECT epoch(scored_at) FROM '{folder}/scores/**/*.parquet'").fetchall(), strict=True
        )
        early, late = np.quantile(times, [0.25, 0.75])
        cluster.shutdown()
    best = actors * ROWS_PER_BLOCK * BLOCKS_IN_FLIGHT / SECONDS
    rate = rows / 2 / float(late - early)
    return {"actors": actors, "nodes": nodes, "documents_per_s": round(rate, 1), "of_best": round(rate / best, 3)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each number of actors in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(measure(given.actors[0])))
        return
    found = []
    for actors in given.actors:
        command = [sys.executable, __file__, "--one", "--actors", str(actors)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(found[-1], flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
