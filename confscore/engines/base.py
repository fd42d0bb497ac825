"""The engine protocol: everything confscore asks of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from confscore.rows import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Rollout:
    """What an engine says to one prompt and forced prefix.

    Attributes
    ----------
    tokens : list of int, length T
        The tokens the engine chose greedily among the alphabet, T at least 1; the last one is an end token
        unless the length limit was reached.
    log_probs : float array, shape (T, A)
        ``log_probs[t, a] = log p(alphabet[a] | prompt, prefix, tokens[:t])``: raw, that is normalized over
        the whole vocabulary and not over the alphabet.
    log_normalizers : float array, shape (T,), or None
        What to add to the log-probabilities of step ``t`` to have the model's logits; ``None`` where the engine does
        not tell.
    """

    tokens: list[int]
    log_probs: FloatArray
    log_normalizers: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """The tokens an engine needs to know of, fixed for its life.

    Attributes
    ----------
    alphabet : int array, shape (A,)
        Ids whose log-probabilities are wanted at each step; no other token is ever chosen.
    ends : tuple of int
        Ids, all in the alphabet, after which decoding stops.
    max_tokens : int
        No answer is longer, its end token included.
    """

    alphabet: IntArray
    ends: tuple[int, ...]
    max_tokens: int


class Engine(Protocol):
    """A model that decodes greedily within an alphabet and tells the alphabet's raw log-probabilities.

    Calls may overlap: an engine serves many rollouts at once.

    Attributes
    ----------
    max_length : int
        The most tokens a prompt and its answer may have together.
    documents_at_once : int
        How many documents are worth having in work side by side. An engine that answers one request at a time would
        otherwise advance thousands and finish none for long.
    """

    max_length: int
    documents_at_once: int

    async def warm_up(self) -> None:
        """Do once what would otherwise make the first documents wait."""
        ...

    async def rollout(self, prompt: Sequence[int], prefix: Sequence[int]) -> Rollout:
        """Decode greedily from ``prompt + prefix`` to an end token or the length limit.

        Raises
        ------
        EngineError
            The engine cannot answer any more.
        """
        ...

    async def speak(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """Decode greedily among all tokens, to an end token or ``max_tokens``: what the model says by itself."""
        ...

    async def close(self) -> None:
        """Free what the engine holds. Calling it twice does no harm."""
        ...
