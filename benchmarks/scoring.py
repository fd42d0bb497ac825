"""What a certified marginal costs, beside one plain generation and beside the obvious search.

On one set of documents, with the small guard of the package, and in one process:

- ``greedy``: plain vLLM generation of the answer, no log-probabilities;
- ``marginal``: confscore at two tolerances;
- ``search``: one token at a time, depth first, the whole prompt through the model at every node, as published
  code does it (transformers, on a few documents, since it is slow);
- ``ray``: the same marginals through the whole pipeline, files in and files out.

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
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind

from confscore.config import Config, parse
from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.demo.world import Mix, WorldDocument, generate, write_corpus
from confscore.engines.base import AnswerTokens, Rollout
from confscore.engines.vllm import VllmEngine
from confscore.guards import resolve
from confscore.pipeline import run_plan
from confscore.plan import make_plan
from confscore.prompt import Prompter
from confscore.rows import Document, Message, Score
from confscore.scorer import Scorer
from confscore.versions import versions
from confscore.vocabulary import build_automaton, end_token_ids, load_tokenizer

ENGINE_ARGS = {"dtype": "float32", "max_model_len": 1024, "enforce_eager": True, "kv_cache_memory_bytes": 1 << 30}
TOLERANCES = (0.1, 0.05, 0.01)
OF_FLAGGED = (0.1, 0.05)
"""Tolerances relative to the probability of being flagged at all."""
WORLDS = {"demo": Mix(), "production": Mix(strong=0.025, ambiguous=0.015)}
"""22 % flagged, and 5 %."""
SEARCH_CUT = 0.01  # the search leaves a branch once its probability is below this


def settings(tolerance: float, corpus: str = "unused", scores: str = "unused", of: str = "absolute") -> Config:
    """Return a job's configuration."""
    tree: dict[str, Any] = {
        "input": {"path": corpus, "id_column": "doc_id"},
        "guard": str(GUARD_YAML),
        "model": {"source": str(GUARD_FOLDER), "engine_args": ENGINE_ARGS},
        "scoring": {"tolerance": tolerance, "tolerance_of": of},
        "cluster": {"actors": 1, "gpus_per_actor": 0},
        "output": {"path": scores},
    }
    return parse(tree, "benchmark")


class Bench:
    """The guard, the engine, and documents as prompts."""

    def __init__(self, documents: Sequence[WorldDocument]) -> None:
        self.guard = resolve(str(GUARD_YAML))
        self.tokenizer = load_tokenizer(str(GUARD_FOLDER), None, trust_remote_code=False)
        self.automaton = build_automaton(self.guard, self.tokenizer)
        ends = end_token_ids(self.guard, self.tokenizer)
        self.answers = AnswerTokens(self.automaton.alphabet, ends, self.automaton.max_tokens)
        self.engine = VllmEngine(str(GUARD_FOLDER), self.answers, engine_args=ENGINE_ARGS)
        room = self.engine.max_length - self.automaton.max_tokens
        self.prompter = Prompter(self.guard, self.tokenizer, room)
        self.documents = [Document(d.doc_id, (Message("user", d.text),)) for d in documents]
        self.steps = 0

    async def greedy(self) -> list[Score]:
        """Generate every answer, as a user of vLLM would."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=self.automaton.max_tokens,
            stop_token_ids=list(self.answers.ends),
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

        async def one(document: Document) -> Score:
            (ids,) = self.prompter.prompts(document).token_ids
            prompt = TokensPrompt(prompt_token_ids=ids)
            async for output in self.engine._llm.generate(prompt, params, f"greedy-{document.doc_id}"):
                self.steps += len(output.outputs[0].token_ids)
            return Score(document.doc_id, "scored", requests=1)

        return list(await asyncio.gather(*map(one, self.documents)))

    def marginal(self, tolerance: float, of: str = "absolute") -> Callable[[], Awaitable[list[Score]]]:
        """Return the scoring of all documents at a tolerance."""

        class Counting:
            max_length = self.engine.max_length
            documents_at_once = self.engine.documents_at_once

            async def rollout(_, prompt: Sequence[int], prefix: Sequence[int]) -> Rollout:
                rollout = await self.engine.rollout(prompt, prefix)
                self.steps += len(rollout.tokens)
                return rollout

        scoring = settings(tolerance, of=of).scoring

        def work() -> Awaitable[list[Score]]:
            # A new one each time: a scorer remembers what it has scored.
            scorer = Scorer(self.guard.codes, self.automaton, self.prompter, Counting(), scoring)  # type: ignore[arg-type]
            return scorer.score_all(self.documents)

        return work

    async def timed(self, work: Callable[[], Awaitable[list[Score]]]) -> dict[str, float]:
        """Run once with an empty prefix cache."""
        await self.engine._llm.reset_prefix_cache()
        self.steps = 0
        start = time.perf_counter()
        scores = await work()
        seconds = time.perf_counter() - start
        assert not any(score.status == "error" for score in scores)
        count = len(scores)
        return {
            "documents_per_s": count / seconds,
            "rollouts_per_document": sum(score.requests for score in scores) / count,
            "steps_per_document": self.steps / count,
        }


def search(bench: Bench, count: int) -> dict[str, float]:
    """Score documents by depth-first search, one node one forward pass over the whole sequence."""
    model = AutoModelForCausalLM.from_pretrained(GUARD_FOLDER, dtype=torch.float32).eval()
    ends = set(bench.answers.ends)
    calls = 0

    def visit(ids: list[int], key: Any, log_prob: float) -> None:
        nonlocal calls
        calls += 1
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        log_probs = torch.log_softmax(logits, dim=-1).numpy()
        state = bench.automaton.state(key)
        for column, target in zip(state.columns, state.targets, strict=True):
            token = int(bench.automaton.alphabet[column])
            below = log_prob + float(log_probs[token])
            if token not in ends and below > np.log(SEARCH_CUT):
                visit([*ids, token], target, below)

    start = time.perf_counter()
    with torch.inference_mode():
        for document in bench.documents[:count]:
            (ids,) = bench.prompter.prompts(document).token_ids
            visit(ids, bench.automaton.root, 0.0)
    return {"documents_per_s": count / (time.perf_counter() - start), "calls_per_document": calls / count}


def through_ray(documents: int, tolerance: float, mix: Mix) -> dict[str, float]:
    """Run the whole job on files, start-up left out."""
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder) / "corpus", documents, seed=0, labels=Path(folder) / "labels.parquet", mix=mix)
        plan = make_plan(settings(tolerance, f"{folder}/corpus", f"{folder}/scores"))
        manifest = run_plan(plan, lambda counts, ready: None)
    return {"documents_per_s": manifest.counts.read / manifest.scoring_seconds}


async def in_process(bench: Bench, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Take turns between plain generation and marginals."""
    await bench.engine.warm_up()
    works: dict[str, Callable[[], Awaitable[list[Score]]]] = {"greedy": bench.greedy}
    works |= {f"marginal {tolerance}": bench.marginal(tolerance) for tolerance in TOLERANCES}
    works |= {f"marginal {tolerance} of flagged": bench.marginal(tolerance, "flagged") for tolerance in OF_FLAGGED}
    await bench.timed(bench.greedy)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            results[name].append(await bench.timed(work))
    await bench.engine.close()
    return results


def main() -> None:
    """Run all of it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--search-documents", type=int, default=40)
    parser.add_argument("--world", choices=list(WORLDS), default="demo")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    documents = generate(arguments.documents, seed=0, mix=WORLDS[arguments.world])
    flagged = sum(bool(document.labels.any()) for document in documents) / len(documents)
    bench = Bench(documents)
    lengths = [len(bench.prompter.prompts(document).token_ids[0]) for document in bench.documents]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {versions()}")
    print(
        f"{len(lengths)} documents, {flagged:.1%} flagged, prompts of {statistics.median(lengths):.0f} tokens (median)"
    )
    results = asyncio.run(in_process(bench, arguments.rounds))
    results["search"] = [search(bench, arguments.search_documents)]
    results["ray, marginal 0.01"] = [through_ray(arguments.documents, 0.01, WORLDS[arguments.world]) for _ in range(2)]

    def median(name: str, figure: str) -> float:
        return statistics.median(result[figure] for result in results[name])

    greedy = median("greedy", "documents_per_s")
    print(f"{'':26} {'docs/s':>8} {'of greedy':>10} {'rollouts':>9} {'steps':>7}")
    for name, rounds in results.items():
        rate = median(name, "documents_per_s")
        rest = [f"{median(name, f):9.2f}" for f in ("rollouts_per_document", "steps_per_document") if f in rounds[0]]
        if name == "search":
            rest = [f"{median(name, 'calls_per_document'):9.2f} model calls"]
        print(f"{name:26} {rate:8.1f} {rate / greedy:10.3f} {' '.join(rest)}")
    ratio = median("ray, marginal 0.01", "documents_per_s") / median("marginal 0.01", "documents_per_s")
    print(f"through Ray / in process: {ratio:.3f}")
    gain = median("marginal 0.01", "documents_per_s") / median("search", "documents_per_s")
    print(f"marginal 0.01 / search: {gain:.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"versions": versions(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
