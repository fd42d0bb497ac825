"""How the job scales over actors on simulated nodes, with an engine that takes a fixed time and no CPU.

Each actor's engine sleeps, so that 32 of them fit on two cores and what is measured is the pipeline: who hands out
blocks, who waits, who is idle. Three parts:

``python benchmarks/scale.py --actors 1 2 4 8 16 32``
    The rate of the middle half of the documents, by the time their scoring ended: engines that are still being loaded
    and the last blocks do not count. CPU seconds are of the same time, by what used them, so that a machine with too
    few cores for so many actors is told from a pipeline that waits.

``python benchmarks/scale.py --straggler``
    One actor of four takes ten times as long. How long does it work on after the others have nothing left? Its blocks
    in flight are, as by default, together about as many documents as its engine has in work at once: one batch.

``python benchmarks/scale.py --autoscale``
    ``actors: [1, 4]``: how many actors there are, second by second, and when they have all gone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster

from confscore.config import ModelConfig, ScoringConfig, parse
from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.guards import Guard
from confscore.pipeline import run_plan
from confscore.plan import make_plan
from confscore.rows import Document, Score

SECONDS, SEATS = 4.0, 128
"""How long a document takes, and how many an engine has in work at once; a block has as many rows as that."""
QUICK_SECONDS, QUICK_SEATS = 0.5, 16
"""The same where the rate does not matter."""
BLOCKS_IN_FLIGHT = 2
"""One block in an engine's seats, and one that takes them over."""
STRAGGLER_BLOCKS_IN_FLIGHT = 4
"""Each as many rows as a quarter of the seats."""
BLOCKS_EACH, STRAGGLER_BATCHES_EACH, AUTOSCALE_BLOCKS_EACH = 16, 25, 40
ACTORS_A_NODE = 8
SLOWER = 10
"""How many times as long the straggler takes."""
NOTES, PACE, ONE_IS_SLOW = "SCALE_NOTES", "SCALE_PACE", "SCALE_ONE_IS_SLOW"
"""Told to the actors through their nodes' environment."""


class SleepingScorer:
    """Scores any document after a fixed time, and notes when."""

    def __init__(self, categories: int) -> None:
        self._score = Score("", "scored", None, 1, False, (), 0.02, np.full(categories, 0.01), 0.001, 0.0, 1, 100)
        self.answered = self.waiting = 0
        folder = Path(os.environ[NOTES])
        seconds, seats = os.environ[PACE].split()
        self._seconds, kind = float(seconds), "even"
        if ONE_IS_SLOW in os.environ:
            try:
                (folder / "taken").touch(exist_ok=False)  # the first actor to come
                self._seconds, kind = SLOWER * self._seconds, "slow"
            except FileExistsError:
                pass
        self._notes = (folder / f"{kind}-{os.getpid()}").open("a", buffering=1)
        self._turn = asyncio.Semaphore(int(seats))

    async def score(self, document: Document) -> Score:
        """Sleep, and return a made-up score."""
        async with self._turn:
            await asyncio.sleep(self._seconds)
        self._notes.write(f"{time.time()}\n")
        return replace(self._score, doc_id=document.doc_id)

    async def warm_up(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


def open_sleeping(guard: Guard, model: ModelConfig, scoring: ScoringConfig) -> SleepingScorer:
    """Return a sleeping scorer in the place of one with an engine."""
    del model, scoring
    return SleepingScorer(len(guard.codes))


class Looks:
    """What is seen of the cluster's processes, once a second.

    Attributes
    ----------
    cpu : list of (float, dict)
        A time, and the CPU seconds that each kind of process has used until then.
    actors : list of (float, int)
        A time, and how many scoring actors there were.
    """

    def __init__(self) -> None:
        self.cpu: list[tuple[float, dict[str, float]]] = []
        self.actors: list[tuple[float, int]] = []
        self._by_process: dict[tuple[str, int], float] = {}

    def look(self) -> None:
        """Look once."""
        here = psutil.Process()
        kinds: Counter[str] = Counter()
        for process in [here, *here.children(recursive=True)]:
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    kind = "driver" if process == here else _kind(process)
            except psutil.Error:  # it has ended
                continue
            kinds[kind] += 1
            self._by_process[kind, process.pid] = times.user + times.system
        used: dict[str, float] = defaultdict(float)
        for (kind, _), seconds in self._by_process.items():
            used[kind] += seconds
        now = time.time()
        self.cpu.append((now, dict(used)))
        self.actors.append((now, kinds["actors"]))

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Look once a second from a thread beside the work."""
        done = threading.Event()

        def keep_looking() -> None:
            while not done.wait(1.0):
                self.look()

        thread = threading.Thread(target=keep_looking, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _kind(process: psutil.Process) -> str:
    command = process.cmdline()
    title = command[0] if command else process.name()
    if title.startswith("ray::MapWorker") or "ScoringActor" in title:
        return "actors"
    return "tasks" if title.startswith("ray::") else "daemons"


def run(
    folder: Path,
    batches: int,
    parts: int,
    nodes: int,
    actors: object,
    looks: Looks,
    seconds: float,
    seats: int,
    shape: tuple[int, int],
) -> dict[str, np.ndarray]:
    """Run one job on a cluster of its own, and return when each actor's documents were done, by its name.

    There are ``batches`` times ``seats`` documents; ``shape`` is rows a block and blocks in flight.
    """
    corpus, notes = folder / "corpus", folder / "notes"
    corpus.mkdir()
    notes.mkdir()
    os.environ |= {NOTES: str(notes), PACE: f"{seconds} {seats}"}
    rows = batches * seats
    rows_per_block, blocks_in_flight = shape
    for part in range(parts):
        ids = [f"{part:03d}-{i:06d}" for i in range(rows // parts)]
        pq.write_table(pa.table({"doc_id": ids, "text": pa.repeat("quiet", len(ids))}), corpus / f"{part}.parquet")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for _ in range(nodes):
        cluster.add_node(num_cpus=ACTORS_A_NODE, num_gpus=ACTORS_A_NODE)
    os.environ["RAY_ADDRESS"] = cluster.address
    settings: dict[str, Any] = {
        "input": {"path": str(corpus), "id_column": "doc_id"},
        "guard": str(GUARD_YAML),
        "model": {"source": str(GUARD_FOLDER), "engine": "transformers"},
        "cluster": {
            "gpus_per_actor": 1,  # as far as Ray knows: so actors are on the nodes, and reading and writing beside them
            "cpus_per_actor": 0,
            "actors": actors,
            "rows_per_block": rows_per_block,
            "blocks_in_flight": blocks_in_flight,
        },
        "output": {"path": f"{folder}/scores"},
    }
    plan = make_plan(parse(settings, "benchmark"))
    with looks.going_on():
        run_plan(plan, lambda counts, ready: None, open_scorer=open_sleeping)  # type: ignore[arg-type]
        looks.look()  # actors that went with the last block would not be seen to be gone
    if ray.is_initialized():
        ray.shutdown()
    cluster.shutdown()
    return {path.name: np.loadtxt(path, ndmin=1) for path in sorted(notes.glob("*-*"))}


def measure_rate(folder: Path, actors: int) -> dict[str, object]:
    """Score with so many actors, on as many nodes as they need."""
    nodes = -(-actors // ACTORS_A_NODE)
    looks = Looks()
    shape = (SEATS, BLOCKS_IN_FLIGHT)
    done = run(folder, actors * BLOCKS_EACH, max(1, actors // 2), nodes, actors, looks, SECONDS, SEATS, shape)
    times = np.sort(np.concatenate(list(done.values())))
    first_row, last_row = len(times) // 4, 3 * len(times) // 4
    early, late = float(times[first_row]), float(times[last_row])
    best = actors * SEATS / SECONDS
    rate = (last_row - first_row) / (late - early)
    inside = [(when, used) for when, used in looks.cpu if early <= when <= late]
    (first, before), (last, after) = inside[0], inside[-1]
    cores = {kind: (after[kind] - before.get(kind, 0.0)) / (last - first) for kind in sorted(after)}
    return {
        "actors": actors,
        "nodes": nodes,
        "documents_per_s": round(rate, 1),
        "of_best": round(rate / best, 3),
        "cores_used": {kind: round(value, 2) for kind, value in cores.items()},
        "cpu_ms_per_document": {kind: round(1000 * value / rate, 2) for kind, value in cores.items()},
    }


def measure_straggler(folder: Path) -> dict[str, object]:
    """Score with four actors, one of them slow."""
    os.environ[ONE_IS_SLOW] = "1"
    shape = (QUICK_SEATS // STRAGGLER_BLOCKS_IN_FLIGHT, STRAGGLER_BLOCKS_IN_FLIGHT)
    done = run(folder, 4 * STRAGGLER_BATCHES_EACH, 2, 1, 4, Looks(), QUICK_SECONDS, QUICK_SEATS, shape)
    slow = np.concatenate([times for name, times in done.items() if name.startswith("slow")])
    others = max(float(times[-1]) for name, times in done.items() if name.startswith("even"))
    a_batch = SLOWER * QUICK_SECONDS
    return {
        "straggler_documents": len(slow),
        "straggler_batches_left": int((slow > others).sum()) / QUICK_SEATS,
        "straggler_batch_s": a_batch,
        "held_s": round(float(slow[-1]) - others, 1),
        "held_batches": round((float(slow[-1]) - others) / a_batch, 2),
    }


def measure_autoscaling(folder: Path) -> dict[str, object]:
    """Score with one to four actors."""
    looks = Looks()
    shape = (QUICK_SEATS, BLOCKS_IN_FLIGHT)
    done = run(folder, 4 * AUTOSCALE_BLOCKS_EACH, 2, 1, [1, 4], looks, QUICK_SECONDS, QUICK_SEATS, shape)
    begin = min(float(times[0]) for times in done.values()) - QUICK_SECONDS
    end = max(float(times[-1]) for times in done.values())
    first_with_all = min((when for when, count in looks.actors if count == 4), default=float("nan"))
    gone = min((when for when, count in looks.actors if when > end and not count), default=float("nan"))
    return {
        "actors": [count for when, count in looks.actors if when > begin - 1],
        "s_until_all": round(first_with_all - begin, 1),
        "s_until_gone": round(gone - end, 1),
        "documents_each": {name: len(times) for name, times in done.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each number of actors in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+")
    parser.add_argument("--straggler", action="store_true")
    parser.add_argument("--autoscale", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        part, _, number = given.one.partition(" ")
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            if part == "rate":
                found = measure_rate(here, int(number))
            elif part == "straggler":
                found = measure_straggler(here)
            else:
                found = measure_autoscaling(here)
        print(json.dumps({part: found}))
        return
    asked = given.actors or given.straggler or given.autoscale
    jobs = [f"rate {actors}" for actors in given.actors or ([] if asked else [1, 2, 4, 8, 16, 32])]
    if given.straggler or not asked:
        jobs.append("straggler")
    if given.autoscale or not asked:
        jobs.append("autoscale")
    everything = []
    for job in jobs:
        command = [sys.executable, __file__, "--one", job]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        everything.append(json.loads(done.stdout.splitlines()[-1]))
        print(everything[-1], flush=True)
    if given.json:
        given.json.write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    main()
