"""A job whose engine is a table: the whole pipeline without a model. Run as a process that may be killed.

``python table_job.py CONFIG`` does what ``confscore score`` does. Some texts do harm: ``KILL`` ends the process that
scores it, ``HANG`` never gets an answer, ``DIE`` finds the engine broken, ``FAULT`` raises what nobody expects.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import zlib
from dataclasses import replace
from functools import lru_cache

import numpy as np
import psutil
import typer

from confscore.automaton import AnswerAutomaton
from confscore.cli_common import plain_errors
from confscore.config import ModelConfig, ScoringConfig, load
from confscore.engines.base import AnswerTokens
from confscore.engines.table import TableEngine
from confscore.errors import EngineError
from confscore.guards import Guard
from confscore.loading import Loaded
from confscore.manifest import Counts
from confscore.plan import make_plan
from confscore.rows import Document, FloatArray, Message, Score
from confscore.scorer import Scorer
from confscore.vocabulary import build_automaton, load_tokenizer


class HarmfulScorer(Scorer):
    """Does what a text asks for, instead of scoring it."""

    async def score(self, document: Document) -> Score:
        text = document.messages[-1].content if document.messages else ""
        if "KILL" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "HANG" in text:
            self.waiting += 1
            await asyncio.sleep(1e6)
        if "DIE" in text:
            raise EngineError("the table is broken")
        if "FAULT" in text:
            document = replace(document, messages=(Message("user", None),))  # type: ignore[arg-type]
        return await super().score(document)


def open_table_scorer(guard: Guard, model: ModelConfig, scoring: ScoringConfig) -> Scorer:
    """Return a scorer whose probabilities are a function of prompt and answer; a document takes a few milliseconds."""
    tokenizer = load_tokenizer(model.source, None, trust_remote_code=False)
    automaton = build_automaton(guard, tokenizer)
    answers = AnswerTokens(automaton.alphabet, automaton.stops, automaton.max_tokens)
    engine = TableEngine(answers, table(automaton), seconds=float(os.environ.get("TABLE_SECONDS", "0.05")))
    loaded = Loaded(guard, tokenizer, automaton, engine)
    return HarmfulScorer(guard.codes, automaton, loaded.prompter(scoring), engine, scoring)


def die_while_loading(guard: Guard, model: ModelConfig, scoring: ScoringConfig) -> Scorer:
    """Do what the kernel does to a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed")


def tell_its_threads(guard: Guard, model: ModelConfig, scoring: ScoringConfig) -> Scorer:
    """Say how many threads an engine would have, which ends the job."""
    raise EngineError(f"it would have {os.environ['OMP_NUM_THREADS']} threads")


def table(automaton: AnswerAutomaton):
    size = len(automaton.alphabet)

    @lru_cache(maxsize=100_000)
    def row(seed: int) -> FloatArray:
        rng = np.random.default_rng(seed)
        return np.log(rng.dirichlet(np.full(size, 0.05)) + 1e-9)

    def next_log_probs(prompt: tuple[int, ...], so_far: tuple[int, ...]) -> FloatArray:
        return row(zlib.crc32(np.array([*prompt, -1, *so_far], dtype=np.int64).tobytes()))

    return next_log_probs


def say(counts: Counts, ready: bool) -> None:
    print(f"progress {counts.read} {int(ready)}", flush=True)


def main() -> None:
    from confscore.pipeline import run_plan

    with plain_errors(debug=False):
        plan = make_plan(load(sys.argv[1]))
        manifest = plan.done or run_plan(plan, say, open_table_scorer)
        print(f"committed {manifest.counts.read} {psutil.Process().memory_info().rss}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as end:
        sys.exit(end.exit_code)
