"""A deterministic engine whose probabilities are a function one can write down.

It stands in for a model where the answer has to be known in closed form, and where scheduling is the subject
and the model is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from confscore.engines.base import AnswerTokens, Rollout
from confscore.rows import FloatArray

NextLogProbs = Callable[[tuple[int, ...], tuple[int, ...]], FloatArray]


class TableEngine:
    """Greedy decoding over a given next-token distribution.

    Parameters
    ----------
    answers : AnswerTokens
        The alphabet and the end tokens.
    next_log_probs : callable
        ``next_log_probs(prompt, answer_so_far)[a] = log p(alphabet[a] | prompt, answer_so_far)``. Its
        exponentials may add up to less than 1; the rest is mass outside the alphabet.
    seconds : float
        How long a rollout sleeps.
    """

    def __init__(self, answers: AnswerTokens, next_log_probs: NextLogProbs, seconds: float = 0.0) -> None:
        self._answers = answers
        self._next = next_log_probs
        self._seconds = seconds
        self.max_length = 1 << 20
        self.documents_at_once = 1 << 20

    async def rollout(self, prompt: Sequence[int], prefix: Sequence[int]) -> Rollout:
        """Decode greedily; ties go to the earlier column."""
        if self._seconds:
            await asyncio.sleep(self._seconds)
        given, so_far = tuple(prompt), tuple(prefix)
        tokens: list[int] = []
        rows: list[FloatArray] = []
        while len(prefix) + len(tokens) < self._answers.max_tokens or not tokens:
            row = self._next(given, so_far)
            token = int(self._answers.alphabet[int(np.argmax(row))])
            rows.append(row)
            tokens.append(token)
            if token in self._answers.ends:
                break
            so_far = (*so_far, token)
        return Rollout(tokens, np.array(rows))

    async def speak(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """Return the first tokens of the greedy answer: a table knows no other tokens."""
        return (await self.rollout(prompt, ())).tokens[:max_tokens]

    async def warm_up(self) -> None:
        """Do nothing: a table is warm."""

    async def close(self) -> None:
        """Do nothing: a table holds nothing."""
