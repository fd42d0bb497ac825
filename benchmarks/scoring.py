"""What a certified marginal costs, beside one plain generation and beside the obvious search.

On one set of documents, with the small guard of the package, and in one process:

- ``greedy``: plain vLLM generation of the answer, no log-probabilities;
- ``marginal``: confscore at two tolerances;
- ``search``: the published search, one node at a time, see ``published_search.py``, once with the stops of the
  published experiments and once with those of the published function; since it is slow, on some documents spread over
  all of them, a part of these in each round;
- ``ray``: the same marginals through the whole pipeline, files in and files out, and how many requests its engine had
  in work over time; beside ``long``, as many documents in one process, in turns. The middle of the job is the time from
  a tenth to nine tenths of its requests, without the first blocks to be read and the last to be written. Once with one
  actor, whose engine has all cores as the one in process has, and once with an actor for each core.

Prompts have about 165 tokens; with ``--long-prompts`` they have 450 to 760, as those of a Llama Guard, of which a
policy of 400 is shared, and the guard is in a shape that takes such prompts and answers the same (``unheard.py``).

``prefill`` and ``decode`` are the tokens that go through the model for a document, those from the prefix cache left
out; they are what no order of expansion can avoid, so greedy's over a marginal's is the floor of its price.

Rounds take turns, and the prefix cache is emptied before each, so that ratios hold on a noisy machine. Run it with
``python benchmarks/scoring.py``; ``--json FILE`` keeps the numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from in_process import WORLDS, Bench, as_documents, settings
from published_search import AS_BY_DEFAULT, AS_IN_THE_PAPER
from unheard import lengthen
from wide_guard import ON_CPUS, WideGuard

from confscore.config import ModelConfig, ScoringConfig
from confscore.demo import GUARD_FOLDER
from confscore.demo.world import WorldDocument, generate
from confscore.guards import Guard
from confscore.loading import open_scorer
from confscore.memory import collect_rarely
from confscore.pipeline import run_plan
from confscore.plan import make_plan
from confscore.rows import Document, FloatArray, Score
from confscore.scorer import Scorer
from confscore.versions import versions

TOLERANCES = (0.1, 0.05, 0.01)
OF_FLAGGED = (0.1, 0.05)
"""Tolerances relative to the probability of being flagged at all."""
LOOK_EVERY_S = 0.02
LOOKS, MIDDLE = "requests", "requests_per_s_in_the_middle"
FILES = 4
RAY_TOLERANCE, RAY_ROUNDS, LONGER = 0.01, 3, 3
SEARCHES = {"search, as in the paper": AS_IN_THE_PAPER, "search, by default": AS_BY_DEFAULT}
LONG, THROUGH_RAY = f"marginal {RAY_TOLERANCE}, long", f"ray, marginal {RAY_TOLERANCE}"
CORES = os.cpu_count() or 1
AN_ACTOR_A_CORE = f"ray, {CORES} actors"


def keep_looking(scorer: Scorer, file: Path, enough: threading.Event) -> threading.Thread:
    """Write down again and again, until it is enough, how many requests a scorer has answered and in work."""

    def look() -> None:
        with file.open("w", encoding="utf-8", buffering=1) as looks:
            while not enough.wait(LOOK_EVERY_S):
                looks.write(f"{time.monotonic()} {scorer.answered} {scorer.waiting}\n")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    return thread


def looks_in(folder: str) -> FloatArray:
    """Return what scorers have written down, added up: rows of a time, requests answered and requests in work."""
    each = [np.loadtxt(file).T for file in sorted(Path(folder).glob(f"{LOOKS}*"))]
    times = np.sort(np.concatenate([seconds for seconds, _, _ in each]))
    answered = sum(np.interp(times, seconds, so_far) for seconds, so_far, _ in each)
    in_work = sum(np.interp(times, seconds, waiting, left=0, right=0) for seconds, _, waiting in each)
    return np.column_stack([times, answered, in_work])


def rate_in_the_middle(looks: FloatArray) -> float:
    """Return the requests answered a second between a tenth and nine tenths of them all."""
    seconds, answered, _ = looks.T
    start, end = np.searchsorted(answered, answered.max() * np.array([0.1, 0.9]))
    return float((answered[end] - answered[start]) / (seconds[end] - seconds[start]))


def watched(folder: str) -> Callable[[Guard, ModelConfig, ScoringConfig], Scorer]:
    """Return how an actor opens its scorer, whose requests are written down."""

    def opened(guard: Guard, model: ModelConfig, scoring: ScoringConfig) -> Scorer:
        scorer = open_scorer(guard, model, scoring)
        keep_looking(scorer, Path(folder, f"{LOOKS}-{os.getpid()}"), threading.Event())  # to the end of its process
        return scorer

    return opened


def made(count: int, world: str, long_prompts: bool) -> list[WorldDocument]:
    """Return a world's documents; of the flagged one, those whose labels name something."""
    documents = generate(count, seed=0, mix=WORLDS[world])
    if world == "flagged":
        documents = [document for document in documents if document.labels.any()]
    return lengthen(documents) if long_prompts else documents


def through_ray(documents: Sequence[WorldDocument], tolerance: float, source: str, actors: int) -> dict[str, float]:
    """Run the whole job on files, start-up left out."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "corpus").mkdir()
        for number, rows in enumerate(np.array_split(np.arange(len(documents)), FILES)):
            columns = {name: [getattr(documents[row], name) for row in rows] for name in ("doc_id", "text")}
            pq.write_table(pa.table(columns), f"{folder}/corpus/part-{number}.parquet")
        plan = make_plan(settings(tolerance, f"{folder}/corpus", f"{folder}/scores", source=source, actors=actors))
        manifest = run_plan(plan, lambda counts, ready: None, watched(folder))
        looks = looks_in(folder)
    _, answered, waiting = looks.T
    # From the first answer to the last one.
    at_work = waiting[(answered > 0) & (answered < answered.max())]
    tenths = {f"requests_in_work_{i}": float(part.mean()) for i, part in enumerate(np.array_split(at_work, 10))}
    return {
        "documents_per_s": manifest.counts.read / manifest.scoring_seconds,
        MIDDLE: rate_in_the_middle(looks),
        "share_of_time_without_requests": float((at_work == 0).mean()),
        "least_requests_in_the_middle": int(at_work[len(at_work) // 10 : -len(at_work) // 10].min()),
        **tenths,
    }


def through_ray_elsewhere(arguments: argparse.Namespace, count: int, source: str, actors: int) -> dict[str, float]:
    """Run the job from a process of its own, as jobs are."""
    command = [sys.executable, __file__, "--through-ray", source, "--actors", str(actors)]
    command += ["--documents", str(count), "--world", arguments.world, *["--long-prompts"] * arguments.long_prompts]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def pooled(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return what a search cost over several parts of the documents, which differ much."""
    count = sum(part["documents"] for part in parts)
    calls = sum(part["documents"] * part["calls_per_document"] for part in parts)
    seconds = sum(part["documents"] / part["documents_per_s"] for part in parts)
    return {"documents": count, "documents_per_s": count / seconds, "calls_per_document": calls / count}


async def at_length(bench: Bench, documents: Sequence[Document]) -> dict[str, float]:
    """Score documents in one process, with the looks that a job's actor has."""
    scorer, enough = bench.scorer(RAY_TOLERANCE), threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        looking = keep_looking(scorer, Path(folder, LOOKS), enough)
        found = await bench.timed(lambda: scorer.score_all(documents))
        enough.set()
        looking.join()
        return found | {MIDDLE: rate_in_the_middle(looks_in(folder))}


async def in_turns(
    bench: Bench, rounds: int, searched: int, many: Sequence[Document], job: Callable[[int], dict[str, float]]
) -> dict[str, list[dict[str, float]]]:
    """Take turns between generation, marginals and searches, and then, on many documents, with the pipeline's job."""
    await bench.engine.warm_up()
    collect_rarely()  # as an actor does
    works: dict[str, Callable[[], Awaitable[list[Score]]]] = {"greedy": bench.greedy}
    works |= {f"marginal {tolerance}": bench.marginal(tolerance) for tolerance in TOLERANCES}
    works |= {f"marginal {tolerance} of flagged": bench.marginal(tolerance, "flagged") for tolerance in OF_FLAGGED}
    await bench.timed(bench.greedy)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in works}
    few = bench.documents[:: max(1, len(bench.documents) // searched)]
    for number in range(rounds):
        for name, work in works.items():
            results[name].append(await bench.timed(work))
        for name, stops in SEARCHES.items():
            results.setdefault(name, []).append(bench.search(few[number::rounds], stops)[1])
    results |= {name: [pooled(results[name])] for name in SEARCHES}
    results |= {LONG: [], THROUGH_RAY: [], AN_ACTOR_A_CORE: []}
    for _ in range(RAY_ROUNDS):
        results[LONG].append(await at_length(bench, many))
        results[THROUGH_RAY].append(job(1))
        results[AN_ACTOR_A_CORE].append(job(CORES))
    await bench.engine.close()
    return results


def compare(documents: Sequence[WorldDocument], source: str, arguments: argparse.Namespace) -> None:
    """Measure with one guard, print a table, and write what was asked for."""
    flagged = sum(bool(document.labels.any()) for document in documents) / len(documents)
    bench = Bench(documents, source)
    lengths = [len(bench.prompter.prompts(document).token_ids[0]) for document in bench.documents]
    print(f"{platform.processor() or platform.machine()}, {CORES} cores; {versions()}")
    print(
        f"{len(lengths)} documents, {flagged:.1%} flagged, prompts of {statistics.median(lengths):.0f} tokens (median)"
    )
    # More documents, because a job's end, where nothing is left but to write the last rows, counts here.
    count = LONGER * arguments.documents
    many = as_documents(made(count, arguments.world, arguments.long_prompts))
    job = partial(through_ray_elsewhere, arguments, count, source)
    results = asyncio.run(in_turns(bench, arguments.rounds, arguments.search_documents, many, job))

    def median(name: str, figure: str) -> float:
        return statistics.median(result[figure] for result in results[name])

    greedy = median("greedy", "documents_per_s")
    columns = ("rollouts", "prefill", "decode", "calls_per_document")
    print(f"{'':26} {'docs/s':>8} {'of greedy':>10} {'rollouts':>9} {'prefill':>9} {'decode':>9} {'calls':>9}")
    for name, rounds in results.items():
        rate = median(name, "documents_per_s")
        rest = [f"{median(name, column):9.2f}" if column in rounds[0] else f"{'':9}" for column in columns]
        print(f"{name:26} {rate:8.1f} {rate / greedy:10.3f} {' '.join(rest)}")
    for name in (THROUGH_RAY, AN_ACTOR_A_CORE):
        over = median(name, "documents_per_s") / median(LONG, "documents_per_s")
        middle = median(name, MIDDLE) / median(LONG, MIDDLE)
        print(f"{name}, over in process: {over:.3f}; in the middle of the job: {middle:.3f}")
    tenths = [round(median(THROUGH_RAY, f"requests_in_work_{i}")) for i in range(10)]
    least = median(THROUGH_RAY, "least_requests_in_the_middle")
    idle = median(THROUGH_RAY, "share_of_time_without_requests")
    print(f"through Ray, requests in work by tenths of the job: {tenths}, least in the middle: {least:.0f}")
    print(f"through Ray, share of time without a request: {idle:.4f}")
    for name in SEARCHES:
        rate = median(name, "documents_per_s")
        over = {mine: median(mine, "documents_per_s") / rate for mine in ("greedy", "marginal 0.05", "marginal 0.01")}
        print(f"over {name}: " + ", ".join(f"{mine} {ratio:.1f}" for mine, ratio in over.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"versions": versions(), "results": results}, indent=2))


def main() -> None:
    """Run all of it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--search-documents", type=int, default=120)
    parser.add_argument("--world", choices=list(WORLDS), default="demo")
    parser.add_argument("--long-prompts", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--through-ray", metavar="MODEL", help=argparse.SUPPRESS)
    parser.add_argument("--actors", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    documents = made(arguments.documents, arguments.world, arguments.long_prompts)
    if arguments.through_ray:
        print(json.dumps(through_ray(documents, RAY_TOLERANCE, arguments.through_ray, arguments.actors)))
    elif arguments.long_prompts:
        with tempfile.TemporaryDirectory() as folder:
            WideGuard(ON_CPUS, "cpu", torch.float32).write(Path(folder))
            compare(documents, folder, arguments)
    else:
        compare(documents, str(GUARD_FOLDER), arguments)


if __name__ == "__main__":
    main()
