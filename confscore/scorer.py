"""Documents in, scores out: prompts, answer trees and an engine, put together.

Documents are independent of each other. Each one's rollouts go out as soon as its last ones are back, and the
engine batches whatever is in flight, so no document waits for a batch to finish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from confscore.answer_tree import AnswerTree, StoppingRule
from confscore.automaton import AnswerAutomaton
from confscore.bounds import Bounds
from confscore.config import ModelConfig, ScoringConfig
from confscore.engines.base import AnswerTokens, Engine
from confscore.errors import GuardError, RowError
from confscore.guards import Guard
from confscore.prompt import Prompter
from confscore.rows import Document, Score, Status, TopAnswer
from confscore.vocabulary import build_automaton, end_token_ids, load_tokenizer


class Scorer:
    """Scores documents with one guard on one engine.

    Parameters
    ----------
    codes : sequence of str
        The taxonomy's codes.
    automaton : AnswerAutomaton
        The guard's answers.
    prompter : Prompter
        Turns documents into prompts.
    engine : Engine
        Runs the model.
    scoring : ScoringConfig
        What is computed, and how far.
    """

    def __init__(
        self,
        codes: Sequence[str],
        automaton: AnswerAutomaton,
        prompter: Prompter,
        engine: Engine,
        scoring: ScoringConfig,
    ) -> None:
        self._codes = tuple(codes)
        self._automaton = automaton
        self._prompter = prompter
        self._engine = engine
        self._scoring = scoring
        self._rule = StoppingRule(
            normalization=scoring.normalization,
            tolerance=scoring.tolerance,
            relative=scoring.tolerance_of == "flagged",
            budget=scoring.max_requests_per_document,
        )

    async def score_all(self, documents: Sequence[Document]) -> list[Score]:
        """Score documents side by side; ``result[i]`` belongs to ``documents[i]``."""
        return list(await asyncio.gather(*(self.score(document) for document in documents)))

    async def score(self, document: Document) -> Score:
        """Score one document; one that cannot be scored becomes an ``error`` row with the reason."""
        if document.fault is not None:
            return Score(document.doc_id, "error", error=document.fault)
        try:
            prompts = self._prompter.prompts(document)
            # The budget is the document's: its windows share it, and each has at least its greedy answer.
            share = max(1, self._rule.budget // len(prompts.token_ids))
            rule = replace(self._rule, budget=share)
            trees = await asyncio.gather(*(self._explore(ids, rule) for ids in prompts.token_ids))
            return self._summarize(document.doc_id, trees, prompts.token_ids, truncated=prompts.truncated)
        except RowError as error:
            return Score(document.doc_id, "error", error=str(error))

    async def close(self) -> None:
        """Stop the engine in order."""
        await self._engine.close()

    async def warm_up(self) -> None:
        """Make the engine ready before documents wait for it."""
        await self._engine.warm_up()

    async def _explore(self, prompt: list[int], rule: StoppingRule) -> AnswerTree:
        tree = AnswerTree(self._automaton, rule)
        while wanted := tree.wanted():
            rollouts = await asyncio.gather(*(self._engine.rollout(prompt, prefix) for prefix in wanted))
            for prefix, rollout in zip(wanted, rollouts, strict=True):
                tree.add(prefix, rollout.tokens, rollout.log_probs)
        return tree

    def _summarize(
        self, doc_id: str, trees: Sequence[AnswerTree], prompts: Sequence[list[int]], *, truncated: bool
    ) -> Score:
        """Put the windows of a document together: the largest value and bounds of each category."""
        normalization = self._scoring.normalization
        each = [tree.bounds(normalization) for tree in trees]
        if any(tree.hopeless() for tree in trees):
            raise RowError("the model gives no probability to any answer of the guard's grammar")
        bounds = Bounds(
            lower=np.max([one.lower for one in each], axis=0),
            value=np.max([one.value for one in each], axis=0),
            upper=np.max([one.upper for one in each], axis=0),
        )
        worst = trees[int(np.argmax([one.value[0] for one in each]))]
        answers = worst.answers(normalization)
        met = all(tree.within_tolerance() for tree in trees)
        status: Status = "scored" if met else "bounded"
        return Score(
            doc_id=doc_id,
            status=status,
            chunks=len(trees),
            truncated=truncated,
            answer=self._named(answers[0][0]) if answers else None,
            p_any=float(bounds.value[0]),
            probs=bounds.value[1:],
            residual=float(bounds.width.max()),
            off_grammar=max(tree.off_grammar() for tree in trees),
            requests=sum(tree.requests for tree in trees),
            prompt_tokens=sum(len(prompt) for prompt in prompts),
            lower=bounds.lower[1:] if self._scoring.bounds else None,
            upper=bounds.upper[1:] if self._scoring.bounds else None,
            top_answers=self._top(answers) if self._scoring.top_answers else None,
        )

    def _top(self, answers: Sequence[tuple[int, float]]) -> tuple[TopAnswer, ...]:
        kept = answers[: self._scoring.top_answers]
        return tuple(TopAnswer(self._named(mask), prob) for mask, prob in kept)

    def _named(self, mask: int) -> tuple[str, ...]:
        return tuple(code for j, code in enumerate(self._codes) if mask >> (j + 1) & 1)


def open_scorer(guard: Guard, model: ModelConfig, scoring: ScoringConfig) -> Scorer:
    """Load tokenizer and engine, and return a scorer over them.

    The guard is held against the tokenizer before any weights are loaded.

    Raises
    ------
    GuardError
        The guard and the tokenizer do not fit.
    EngineError
        The engine cannot load the model.
    """
    tokenizer = load_tokenizer(model.source, model.revision, trust_remote_code=model.trust_remote_code)
    automaton = build_automaton(guard, tokenizer)
    answers = AnswerTokens(automaton.alphabet, end_token_ids(guard, tokenizer), automaton.max_tokens)
    engine = _open_engine(model, answers)
    room = engine.max_length - automaton.max_tokens
    if room <= 0:
        raise GuardError(
            f"guard {guard.name}: its longest answer takes up to {automaton.max_tokens} tokens and the model has "
            f"room for {engine.max_length}; raise model.engine_args.max_model_len"
        )
    prompter = Prompter(guard, tokenizer, room, scoring.long_documents, scoring.chunk_overlap_tokens)
    return Scorer(guard.codes, automaton, prompter, engine, scoring)


def _open_engine(model: ModelConfig, answers: AnswerTokens) -> Engine:
    # Each engine imports a large library; only the one that is asked for is loaded.
    chosen: Callable[..., Engine]
    if model.engine == "vllm":
        from confscore.engines.vllm import VllmEngine as chosen  # noqa: PLC0415
    else:
        from confscore.engines.transformers import TransformersEngine as chosen  # noqa: PLC0415
    return chosen(
        model.source,
        answers,
        revision=model.revision,
        engine_args=model.engine_args,
        trust_remote_code=model.trust_remote_code,
    )
