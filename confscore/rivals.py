"""The two most probable first labels of a document: what uncertainty baselines choose from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from confscore.confidence import read_walk
from confscore.loading import Loaded
from confscore.rows import FloatArray
from confscore.steps import Explored, GreedyWalk, Prefix, walk_greedily


@dataclass(frozen=True, slots=True)
class Rivals:
    """The two most probable first labels of a document if it is flagged.

    Attributes
    ----------
    first, second : int
        Categories; ``second`` is -1 where there is no other.
    logits : float array
        Of all tokens that were allowed where the first label is chosen.
    flagged : bool
        The greedy answer names a category.
    requests : int
        Rollouts it took.
    own_logits : bool
        The engine told logits; else they are log-probabilities plus the logarithm of the vocabulary's size.
    """

    first: int
    second: int
    logits: FloatArray
    flagged: bool
    requests: int
    own_logits: bool


async def find_rivals(loaded: Loaded, prompt: Sequence[int]) -> Rivals:
    """Find the two most probable labels at the place of the first one, in an answer that names any."""
    explored = Explored(loaded.automaton)
    greedy = read_walk(loaded.automaton, await _walk(loaded, prompt, explored, (), flagged=False), "raw", 0.0)
    walk = await _walk(loaded, prompt, explored, (), flagged=True)
    size = math.log(len(loaded.tokenizer))
    first, place, logits = _first_label(loaded, walk, size)
    step = walk.steps[place]
    tokens = [int(loaded.automaton.alphabet[column]) for column in step.state.allowed]
    chosen = [int(s.state.allowed[c]) for s, c in zip(walk.steps, walk.choices, strict=True)]
    before = tuple(int(loaded.automaton.alphabet[column]) for column in chosen[:place])
    second = -1
    for option in np.argsort(-step.log_probs, kind="stable"):
        if option != walk.choices[place] and option < len(step.state.columns):
            other = await _walk(loaded, prompt, explored, (*before, tokens[option]), flagged=True)
            second = _first_label(loaded, other, size)[0]
            if second != first:
                break
            second = -1  # another tokenization of the same label
    flagged = bool((greedy.named >= 0).any())
    return Rivals(first, second, logits, flagged, explored.requests, step.log_normalizer is not None)


async def _walk(
    loaded: Loaded, prompt: Sequence[int], explored: Explored, forced: Prefix, *, flagged: bool
) -> GreedyWalk:
    """Return a complete answer that begins with forced tokens, asking the engine for what is not explored yet."""
    while True:
        walk = walk_greedily(loaded.automaton, explored.steps, forced, flagged=flagged)
        if walk.missing is None:
            return walk
        rollout = await loaded.engine.rollout(prompt, walk.missing)
        explored.add(walk.missing, rollout.tokens, rollout.log_probs, rollout.log_normalizers)


def _first_label(loaded: Loaded, walk: GreedyWalk, log_vocabulary: float) -> tuple[int, int, FloatArray]:
    """Return the category that an answer names first, the step at which it is chosen, and the logits there."""
    answer = read_walk(loaded.automaton, walk, "raw", log_vocabulary)
    named = np.flatnonzero(answer.named >= 0)
    first = int(min(named, key=lambda j: answer.starts[j]))
    return first, int(answer.places[first]), answer.rivals[first]
