"""Toy language models: a guard, a small vocabulary, and next-token probabilities that are a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import oracle

from confscore.answer_tree import AnswerTree
from confscore.automaton import AnswerAutomaton
from confscore.engines.base import AnswerTokens, Engine
from confscore.engines.table import TableEngine
from confscore.guards.answers import VerdictAnswer
from confscore.guards.spec import Category, Guard
from confscore.rows import FloatArray
from confscore.steps import Prefix


def toy_guard(*codes: str, **answer: object) -> Guard:
    """Return a guard with short answers: ``s``, or ``u`` and codes."""
    given = {"safe": "s", "unsafe": "u", "before": "", **answer}
    return Guard(
        name="toy",
        categories=tuple(Category(code=code, name=code) for code in codes),
        answer=VerdictAnswer.model_validate(given),
        end_tokens=("<end>",),
    )


@dataclass(frozen=True)
class Toy:
    """A guard over a vocabulary: token ids count from 0, words first, then the end tokens."""

    guard: Guard
    words: tuple[str, ...]
    n_ends: int = 1
    automaton: AnswerAutomaton = field(init=False)

    def __post_init__(self) -> None:
        automaton = AnswerAutomaton(self.guard.grammar(), self.guard.codes, self.vocabulary, self.ends)
        object.__setattr__(self, "automaton", automaton)

    @property
    def vocabulary(self) -> dict[int, bytes]:
        return dict(enumerate(word.encode() for word in self.words))

    @property
    def ends(self) -> tuple[int, ...]:
        return tuple(range(len(self.words), self.size))

    @property
    def size(self) -> int:
        return len(self.words) + self.n_ends

    @cached_property
    def answers(self) -> dict[oracle.Tokens, oracle.Categories]:
        return oracle.answers(self.guard, self.vocabulary, self.ends)

    def exact(self, next_probs: oracle.NextProbs) -> oracle.Exact:
        return oracle.exact(self.answers, len(self.guard.codes), next_probs)

    def engine(self, next_probs: oracle.NextProbs, max_tokens: int | None = None) -> TableEngine:
        alphabet = self.automaton.alphabet
        tokens = AnswerTokens(alphabet, self.ends, max_tokens or self.automaton.max_tokens)

        def next_log_probs(prompt: tuple[int, ...], so_far: tuple[int, ...]) -> FloatArray:
            with np.errstate(divide="ignore"):
                return np.log(next_probs(so_far))[alphabet]

        return TableEngine(tokens, next_log_probs)


def random_table(toy: Toy, seed: int, *, peaked: float = 0.3, zeros: float = 0.0) -> oracle.NextProbs:
    """Return random next-token probabilities; a share of ``zeros`` of them is 0."""
    made: dict[oracle.Tokens, FloatArray] = {}

    def next_probs(so_far: oracle.Tokens) -> FloatArray:
        if so_far not in made:
            numbers = np.random.default_rng([seed, *so_far])
            probs = numbers.dirichlet(np.full(toy.size, peaked))
            kept = probs * (numbers.random(toy.size) >= zeros)
            made[so_far] = kept / kept.sum() if kept.sum() > 0 else np.full(toy.size, 1 / toy.size)
        return made[so_far]

    return next_probs


def written_table(toy: Toy, rows: dict[str, dict[str, float]]) -> oracle.NextProbs:
    """Return next-token probabilities by the text so far; ``.`` is the first end token."""
    ids = {word: token for token, word in reversed(list(enumerate(toy.words)))} | {".": toy.ends[0]}

    def next_probs(so_far: oracle.Tokens) -> FloatArray:
        probs = np.zeros(toy.size)
        for word, prob in rows.get("".join(toy.words[token] for token in so_far), {}).items():
            probs[ids[word]] = prob
        return probs

    return next_probs


async def explore(
    tree: AnswerTree, engine: Engine, check: Callable[[], None] = lambda: None, prompt: Sequence[int] = ()
) -> list[Prefix]:
    """Explore until the tree wants no more, calling ``check`` at every moment; return the prefixes asked."""
    asked: list[Prefix] = []
    check()
    while wanted := tree.wanted():
        assert tree.wanted() == [], "nothing more is wanted while rollouts are out"
        for prefix in wanted:
            rollout = await engine.rollout(prompt, prefix)
            tree.add(prefix, rollout.tokens, rollout.log_probs)
            check()
        asked += wanted
    return asked
