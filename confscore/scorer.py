"""Documents in, scores out: prompts, answer trees and an engine, put together.

Documents are independent of each other. Each one's rollouts go out as soon as its last ones are back, and the
engine batches whatever is in flight, so no document waits for a batch to finish. Documents with the same text are
scored once, as far as they are near each other: boilerplate, spam and reposts cost nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np

from confscore.answer_tree import AnswerTree, StoppingRule
from confscore.automaton import AnswerAutomaton
from confscore.baselines import entropy_score, greedy_score, logtoku_score, probability_score
from confscore.bounds import Bounds
from confscore.confidence import GreedyAnswer, conditional, joint, read_greedy
from confscore.config import ScoringConfig
from confscore.engines.base import Engine, Rollout
from confscore.errors import ConfscoreError, RowError
from confscore.paper import PaperSearch, paper_conditional, paper_joint
from confscore.prompt import Prompter, Prompts
from confscore.rows import Document, FloatArray, Score, Status, TopAnswer
from confscore.steps import Normalization, Prefix, Step
from confscore.words import one_line, unexpected

T = TypeVar("T")
RECENT = 1 << 16
"""So many documents are remembered by what they say."""
ESTIMATORS: dict[str, Callable[[GreedyAnswer], FloatArray]] = {
    "conditional": conditional,
    "joint": joint,
    "greedy": greedy_score,
    "probability_uncertainty": probability_score,
    "entropy_uncertainty": entropy_score,
    "logtoku": logtoku_score,
}
"""What is read off the greedy answer."""

PAPER_ESTIMATORS: dict[str, Callable[[GreedyAnswer], FloatArray]] = {
    "conditional": paper_conditional,
    "joint": paper_joint,
}
"""The same by the published definitions."""


class Exploration(Protocol):
    """What is known of one prompt's answers, and what to ask next: an answer tree, or the published search."""

    requests: int
    steps: dict[Prefix, Step]

    def wanted(self) -> list[Prefix]: ...  # noqa: D102

    def add(  # noqa: D102
        self, prefix: Prefix, tokens: Sequence[int], log_probs: FloatArray, log_normalizers: FloatArray | None = None
    ) -> None: ...

    def bounds(self, normalization: Normalization) -> Bounds: ...  # noqa: D102

    def answers(self, normalization: Normalization) -> list[tuple[int, float]]: ...  # noqa: D102

    def within_tolerance(self) -> bool: ...  # noqa: D102

    def hopeless(self) -> bool: ...  # noqa: D102

    def off_grammar(self) -> float: ...  # noqa: D102


class Scorer:
    """Scores documents with one guard on one engine.

    Parameters
    ----------
    codes : sequence of str
        The taxonomy's codes.
    automaton : AnswerAutomaton
        The guard's answers; to one question, where each category is a question of its own.
    prompter : Prompter
        Turns documents into prompts.
    engine : Engine
        Runs the model.
    scoring : ScoringConfig
        What is computed, and how far.
    log_vocabulary : float
        Logarithm of the number of tokens the model knows.

    Attributes
    ----------
    answered, waiting : int
        Requests that the engine has answered, and that it has not answered yet.
    """

    def __init__(
        self,
        codes: Sequence[str],
        automaton: AnswerAutomaton,
        prompter: Prompter,
        engine: Engine,
        scoring: ScoringConfig,
        log_vocabulary: float = 0.0,
    ) -> None:
        self._codes = tuple(codes)
        self._automaton = automaton
        self._prompter = prompter
        self._engine = engine
        self._scoring = scoring
        self._log_vocabulary = log_vocabulary
        self._turn = asyncio.Semaphore(engine.documents_at_once)
        self.answered = 0
        self.waiting = 0
        self._extras = scoring.extra_estimators
        self._recent: OrderedDict[bytes, asyncio.Future[Score]] = OrderedDict()
        self._rule = StoppingRule(
            normalization=scoring.normalization,
            tolerance=scoring.tolerance,
            relative=scoring.tolerance_of == "flagged",
            budget=scoring.max_requests_per_document,
            greedy=bool(self._extras),
            marginals="marginal" in scoring.estimators,
        )

    async def score_all(self, documents: Sequence[Document]) -> list[Score]:
        """Score documents side by side; ``result[i]`` belongs to ``documents[i]``."""
        return list(await asyncio.gather(*(self.score(document) for document in documents)))

    async def score(self, document: Document) -> Score:
        """Score one document; one that cannot be scored becomes an ``error`` row with the reason.

        One with the text of a recent document gets its score, for no requests of its own.
        """
        if document.fault is not None:
            return Score(document.doc_id, "error", error=document.fault)
        key = _digest(document)
        known = self._recent.get(key)
        if known is not None:
            self._recent.move_to_end(key)
            score = await asyncio.shield(known)
            if score.status != "error":  # one that failed may succeed when it is tried again
                return replace(score, doc_id=document.doc_id, requests=0, prompt_tokens=0)
        own = self._recent[key] = asyncio.ensure_future(self._score(document))
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return await own

    async def _score(self, document: Document) -> Score:
        try:
            async with self._turn:
                asked = [self._prompter.prompts(document, question) for question in self._prompter.questions]
                # The budget is the document's: its prompts share it, and each has at least its greedy answer.
                share = max(1, self._rule.budget // sum(len(prompts.token_ids) for prompts in asked))
                rule = replace(self._rule, budget=share)
                # Questions about one document share the beginning of their prompts. The first one goes ahead, so that
                # the engine has it in its cache for the others.
                trees = [await self._explore_all(asked[0], rule)]
                trees += await _together([self._explore_all(prompts, rule) for prompts in asked[1:]])
            return self._summarize(document.doc_id, trees, asked)
        except RowError as error:
            return Score(document.doc_id, "error", error=one_line(str(error)))
        except ConfscoreError:
            raise
        except Exception as error:  # whatever a tokenizer or a template makes of one text must not end the night
            said = unexpected(error, in_full=self._scoring.error_messages)
            return Score(document.doc_id, "error", error=said)

    async def close(self) -> None:
        """Stop the engine in order."""
        await self._engine.close()

    async def warm_up(self) -> None:
        """Make the engine ready before documents wait for it."""
        await self._engine.warm_up()

    async def _explore_all(self, prompts: Prompts, rule: StoppingRule) -> list[Exploration]:
        return await _together([self._explore(ids, rule) for ids in prompts.token_ids])

    async def _explore(self, prompt: list[int], rule: StoppingRule) -> Exploration:
        tree: Exploration = AnswerTree(self._automaton, rule)
        if self._scoring.procedure == "paper":
            tree = PaperSearch(self._automaton, self._scoring.paper, rule.budget)
        while wanted := tree.wanted():
            rollouts = await _together([self._ask(prompt, prefix) for prefix in wanted])
            for prefix, rollout in zip(wanted, rollouts, strict=True):
                tree.add(prefix, rollout.tokens, rollout.log_probs, rollout.log_normalizers)
        return tree

    async def _ask(self, prompt: list[int], prefix: Prefix) -> Rollout:
        self.waiting += 1
        try:
            return await self._engine.rollout(prompt, prefix)
        finally:
            self.waiting -= 1
            self.answered += 1

    def _summarize(self, doc_id: str, trees: Sequence[Sequence[Exploration]], asked: Sequence[Prompts]) -> Score:
        """Put questions and windows together; ``trees[q][w]`` belongs to window ``w`` of question ``q``."""
        every = [tree for windows in trees for tree in windows]
        if any(tree.hopeless() for tree in every):
            raise RowError("the model gives no probability to any answer of the guard's grammar")
        found = [self._bounds(windows) for windows in trees]
        asks_each = self._prompter.questions != (None,)
        bounds = _side_by_side(found) if asks_each else found[0]
        answers = [] if asks_each else self._answers(trees[0])
        answer = self._likely(bounds.value) if asks_each else self._named(answers[0][0]) if answers else None
        met = all(tree.within_tolerance() for tree in every)
        status: Status = "scored" if met else "bounded"
        return Score(
            doc_id=doc_id,
            status=status,
            chunks=max(len(windows) for windows in trees),
            truncated=any(prompts.truncated for prompts in asked),
            answer=answer,
            p_any=float(bounds.value[0]),
            probs=bounds.value[1:],
            residual=float(bounds.width.max()),
            off_grammar=max(tree.off_grammar() for tree in every),
            requests=sum(tree.requests for tree in every),
            prompt_tokens=sum(len(ids) for prompts in asked for ids in prompts.token_ids),
            lower=bounds.lower[1:] if self._scoring.bounds else None,
            upper=bounds.upper[1:] if self._scoring.bounds else None,
            estimates=self._estimates(trees),
            top_answers=self._top(answers) if self._scoring.top_answers else None,
        )

    def _bounds(self, windows: Sequence[Exploration]) -> Bounds:
        """Return the largest value and bounds of each category over the windows of a document."""
        each = [tree.bounds(self._scoring.normalization) for tree in windows]
        return Bounds(
            lower=np.max([one.lower for one in each], axis=0),
            value=np.max([one.value for one in each], axis=0),
            upper=np.max([one.upper for one in each], axis=0),
        )

    def _answers(self, windows: Sequence[Exploration]) -> list[tuple[int, float]]:
        """Return the answers found to the window that most likely names a category."""
        normalization = self._scoring.normalization
        flagged = [tree.bounds(normalization).value[0] for tree in windows]
        return windows[int(np.argmax(flagged))].answers(normalization)

    def _estimates(self, trees: Sequence[Sequence[Exploration]]) -> dict[str, FloatArray]:
        """Return the further estimators, the largest over windows; none where a greedy answer is not complete."""
        if not self._extras:
            return {}
        estimators = ESTIMATORS if self._scoring.procedure == "exact" else ESTIMATORS | PAPER_ESTIMATORS
        normalization, size = self._scoring.normalization, self._log_vocabulary
        greedy = [[read_greedy(self._automaton, tree.steps, normalization, size) for tree in ws] for ws in trees]
        complete = [[answer for answer in windows if answer is not None] for windows in greedy]
        if any(len(some) < len(windows) for some, windows in zip(complete, greedy, strict=True)):
            return {}
        return {
            name: np.concatenate(
                [np.max([estimators[name](answer) for answer in windows], axis=0) for windows in complete]
            )
            for name in self._extras
        }

    def _top(self, answers: Sequence[tuple[int, float]]) -> tuple[TopAnswer, ...]:
        kept = answers[: self._scoring.top_answers]
        return tuple(TopAnswer(self._named(mask), prob) for mask, prob in kept)

    def _named(self, mask: int) -> tuple[str, ...]:
        return tuple(code for j, code in enumerate(self._codes) if mask >> (j + 1) & 1)

    def _likely(self, probs: FloatArray) -> tuple[str, ...]:
        """Return the categories whose question is answered with yes more likely than not."""
        return tuple(code for code, prob in zip(self._codes, probs[1:], strict=True) if prob > 0.5)


async def _together(works: Sequence[Awaitable[T]]) -> list[T]:
    """Wait for works side by side; one alone, as most are, needs no task of its own."""
    return [await works[0]] if len(works) == 1 else list(await asyncio.gather(*works))


def _digest(document: Document) -> bytes:
    """Return what documents of the same messages have in common."""
    spelled = repr([(message.role, message.content) for message in document.messages])
    return hashlib.blake2b(spelled.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _side_by_side(each: Sequence[Bounds]) -> Bounds:
    """Put questions about one category each together.

    The model is never asked whether any category applies; the largest probability stands for it.
    """
    lower, value, upper = (np.array([getattr(one, name)[1] for one in each]) for name in ("lower", "value", "upper"))
    return Bounds(
        lower=np.concatenate([[lower.max()], lower]),
        value=np.concatenate([[value.max()], value]),
        upper=np.concatenate([[upper.max()], upper]),
    )
