"""The guard, the engine and the documents of a world in one process: what several benchmarks measure with."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from published_search import PublishedSearch, Stops, timed
from vllm import SamplingParams
from vllm.inputs import TokensInput, tokens_input
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind

from confscore.config import Config, parse
from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.demo.world import Mix, WorldDocument
from confscore.engines.base import AnswerTokens
from confscore.engines.vllm import SPEAKS, VllmEngine
from confscore.guards import resolve
from confscore.prompt import Prompter
from confscore.rows import Document, Message, Score
from confscore.scorer import Scorer
from confscore.vocabulary import build_automaton, end_token_ids, load_tokenizer

# vLLM compiles what it runs on CPUs where there is a C++ compiler.
ENGINE_ARGS = {
    "dtype": "float32",
    "max_model_len": 1024,
    "enforce_eager": shutil.which("g++") is None,
    "kv_cache_memory_bytes": 1 << 30,
}
WORLDS = {"demo": Mix(), "production": Mix(strong=0.025, ambiguous=0.015), "flagged": Mix(strong=1.0, ambiguous=0.0)}
"""22 % flagged, 5 %, and all that have strong cues and are flagged."""


def settings(
    tolerance: float,
    corpus: str = "unused",
    scores: str = "unused",
    of: str = "absolute",
    source: str = str(GUARD_FOLDER),
    actors: int = 1,
) -> Config:
    """Return a job's configuration."""
    tree: dict[str, Any] = {
        "input": {"path": corpus, "id_column": "doc_id"},
        "guard": str(GUARD_YAML),
        "model": {"source": source, "engine_args": ENGINE_ARGS},
        "scoring": {"tolerance": tolerance, "tolerance_of": of},
        "cluster": {"actors": actors, "gpus_per_actor": 0},
        "output": {"path": scores},
    }
    return parse(tree, "benchmark")


def as_documents(documents: Sequence[WorldDocument]) -> list[Document]:
    """Return what is scored of the world's documents."""
    return [Document(document.doc_id, (Message("user", document.text),)) for document in documents]


class Bench:
    """The guard, the engine, and documents as prompts; by default the guard of the package on CPUs."""

    def __init__(
        self,
        documents: Sequence[WorldDocument],
        source: str = str(GUARD_FOLDER),
        guard: str = str(GUARD_YAML),
        engine_args: Mapping[str, object] = MappingProxyType(ENGINE_ARGS),
    ) -> None:
        self.source = source
        self.guard = resolve(guard)
        self.tokenizer = load_tokenizer(source, None, trust_remote_code=False)
        self.automaton = build_automaton(self.guard, self.tokenizer)
        ends = end_token_ids(self.guard, self.tokenizer)
        self.answers = AnswerTokens(self.automaton.alphabet, ends, self.automaton.max_tokens)
        self.engine = VllmEngine(source, self.answers, engine_args=engine_args)
        room = self.engine.max_length - self.automaton.max_tokens
        self.prompter = Prompter(self.guard, self.tokenizer, room)
        self.documents = as_documents(documents)
        self.spent: Counter[str] = Counter()
        self.searches: dict[Stops, PublishedSearch] = {}
        self.engine._llm.generate = self.counted(self.engine._llm.generate)

    def counted(self, generate: Callable[..., AsyncIterator[RequestOutput]]) -> Callable[..., Any]:
        """Return ``generate``, which also notes the tokens that went through the model."""

        async def counting(prompt: TokensInput, *rest: Any, **more: Any) -> AsyncIterator[RequestOutput]:
            async for output in generate(prompt, *rest, **more):
                yield output
            self.spent["rollouts"] += 1
            self.spent["prefill"] += len(prompt["prompt_token_ids"]) - (output.num_cached_tokens or 0)
            # The first token comes out of the prefill.
            self.spent["decode"] += len(output.outputs[0].token_ids) - 1

        return counting

    def params(
        self, *, temperature: float = 0.0, most: int | None = None, logprobs: int | None = None, n: int = 1
    ) -> SamplingParams:
        """Return sampling parameters of an ordinary generation of the answer, or of its first ``most`` tokens."""
        return SamplingParams(
            temperature=temperature,
            max_tokens=most or self.automaton.max_tokens,
            logprobs=logprobs,
            n=n,
            stop_token_ids=list(self.answers.ends),
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={SPEAKS: True},
        )

    async def ask(self, document: Document, params: SamplingParams, name: str) -> Sequence[CompletionOutput]:
        """Return the completions of a document's prompt."""
        (ids,) = self.prompter.prompts(document).token_ids
        final = None
        async for output in self.engine._llm.generate(tokens_input(ids), params, f"{name}-{document.doc_id}"):
            final = output
        assert final is not None
        return final.outputs

    async def greedy(self) -> list[Score]:
        """Generate every answer, as a user of vLLM would."""
        params = self.params()
        await asyncio.gather(*(self.ask(document, params, "greedy") for document in self.documents))
        return [Score(document.doc_id, "scored", requests=1) for document in self.documents]

    def scorer(self, tolerance: float, of: str = "absolute") -> Scorer:
        """Return a scorer at a tolerance; for one use, since it remembers what it has scored."""
        return Scorer(self.guard.codes, self.automaton, self.prompter, self.engine, settings(tolerance, of=of).scoring)

    def marginal(
        self, tolerance: float, of: str = "absolute", documents: Sequence[Document] | None = None
    ) -> Callable[[], Awaitable[list[Score]]]:
        """Return the scoring of documents, by default all, at a tolerance."""
        return lambda: self.scorer(tolerance, of).score_all(self.documents if documents is None else documents)

    async def timed(self, work: Callable[[], Awaitable[list[Score]]]) -> dict[str, float]:
        """Run once with an empty prefix cache."""
        await self.engine._llm.reset_prefix_cache()
        self.spent.clear()
        start = time.perf_counter()
        scores = await work()
        seconds = time.perf_counter() - start
        assert not any(score.status == "error" for score in scores)
        count = len(scores)
        return {"documents_per_s": count / seconds} | {name: spent / count for name, spent in self.spent.items()}

    def search(self, documents: Sequence[Document], stops: Stops) -> tuple[list[dict[str, float]], dict[str, float]]:
        """Return what the published search finds in documents, and what it costs."""
        prompts = [self.prompter.prompts(document).token_ids[0] for document in documents]
        if stops not in self.searches:
            labels = ["unsafe", *self.guard.codes]
            self.searches[stops] = PublishedSearch(self.source, self.tokenizer, labels, self.answers.ends, stops)
            timed(self.searches[stops], prompts[:2])
        return timed(self.searches[stops], prompts)
