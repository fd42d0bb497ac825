"""Ray Data's own processor for language models beside confscore, on the same corpus, guard and kind of engine.

``ray.data.llm`` gets prompts that are tokens already and gives rows with one dict for each token, from which a score
would still have to be made; confscore gives the score table. Both are timed from the first request to the last row,
so that nobody's start-up counts. ``python benchmarks/ray_data_llm.py``
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from in_process import ENGINE_ARGS, settings
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.demo.world import generate, write_corpus
from confscore.guards import resolve
from confscore.pipeline import run_plan
from confscore.plan import make_plan
from confscore.prompt import Prompter
from confscore.rows import Document, Message
from confscore.versions import versions
from confscore.vocabulary import build_automaton, end_token_ids, load_tokenizer

BLOCK = 32
"""Tokens in a block of the cache, as confscore sets it on CPUs."""
ROWS_AT_ONCE, BATCHES_AT_ONCE = 128, 8


def prompts_of(documents: int) -> tuple[list[list[int]], list[int], int]:
    """Return the prompts as tokens, the end tokens and the longest answer."""
    guard = resolve(str(GUARD_YAML))
    tokenizer = load_tokenizer(str(GUARD_FOLDER), None, trust_remote_code=False)
    automaton = build_automaton(guard, tokenizer)
    prompter = Prompter(guard, tokenizer, 1024 - automaton.max_tokens)
    texts = [Document(made.doc_id, (Message("user", made.text),)) for made in generate(documents, seed=0)]
    ends = list(end_token_ids(guard, tokenizer))
    return [prompter.prompts(document).token_ids[0] for document in texts], ends, automaton.max_tokens


def by_ray(prompts: list[list[int]], ends: list[int], longest: int, logprobs: int | None) -> float:
    """Return documents a second of ``ray.data.llm``."""
    sampling: dict[str, Any] = {"temperature": 0.0, "max_tokens": longest, "stop_token_ids": ends, "ignore_eos": True}
    sampling |= {"detokenize": False} | ({} if logprobs is None else {"logprobs": logprobs})
    config = vLLMEngineProcessorConfig(
        model_source=str(GUARD_FOLDER),
        engine_kwargs={**ENGINE_ARGS, "block_size": BLOCK, "skip_tokenizer_init": True},
        placement_group_config={"bundles": [{"CPU": 1}]},
        concurrency=1,
        batch_size=ROWS_AT_ONCE,
        max_concurrent_batches=BATCHES_AT_ONCE,
        log_engine_metrics=False,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    processor = build_processor(
        config,
        preprocess=lambda row: {"tokenized_prompt": row["tokens"], "sampling_params": sampling},
        postprocess=lambda row: {"end": time.time(), "took": row["time_taken_llm"], "logprobs": row["logprobs"]},
    )
    rows = processor(ray.data.from_items([{"tokens": prompt} for prompt in prompts])).materialize()
    ends_at, took = (rows.to_pandas()[name] for name in ("end", "took"))
    return len(prompts) / (ends_at.max() - (ends_at - took).min())


def by_confscore(documents: int, tolerance: float) -> float:
    """Return documents a second of a whole job, from the first engine that is ready to the last row."""
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder) / "corpus", documents, seed=0, labels=Path(folder) / "labels.parquet")
        plan = make_plan(settings(tolerance, f"{folder}/corpus", f"{folder}/scores"))
        manifest = run_plan(plan, lambda counts, ready: None)
    return manifest.counts.read / manifest.scoring_seconds


def main() -> None:
    """Take turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    prompts, ends, longest = prompts_of(given.documents)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    found: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        for logprobs in (None, 20):
            ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
            found.setdefault(f"ray.data.llm, logprobs={logprobs}", []).append(by_ray(prompts, ends, longest, logprobs))
            ray.shutdown()
        for tolerance in (0.05, 0.01):
            rate = by_confscore(given.documents, tolerance)
            found.setdefault(f"confscore, tolerance {tolerance}", []).append(rate)
    print(f"{os.cpu_count()} cores; {versions()}; {given.documents} documents")
    for name, rates in found.items():
        print(f"{name:30} {statistics.median(rates):8.1f} docs/s")


if __name__ == "__main__":
    main()
