"""Slow and obvious: every answer of a guard, in every tokenization, and the marginals that follow.

Nothing here knows of automata. Answers are listed as strings from the guard's own fields, cut into tokens in
every way, and weighed with a next-token function over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from confscore.guards import Guard
from confscore.rows import FloatArray

Tokens = tuple[int, ...]
Categories = frozenset[int]
NextProbs = Callable[[Tokens], FloatArray]
"""``next_probs(answer_so_far)[t] = p(t | prompt, answer_so_far)``, over the whole vocabulary."""


class Ambiguous(Exception):
    """One text means two different sets of categories."""


def answer_texts(guard: Guard) -> dict[bytes, Categories]:
    """Return every answer with the categories it names."""
    answer = guard.answer
    labels = [category.code if answer.label == "code" else category.name for category in guard.categories]
    listings = permutations if answer.order == "any" else combinations
    texts: dict[bytes, Categories] = {(answer.lead + answer.safe).encode(): frozenset()}
    for size in range(1, min(len(labels), answer.most or len(labels)) + 1):
        for chosen in listings(range(len(labels)), size):
            listed = answer.separator.join(labels[j] for j in chosen)
            text = f"{answer.lead}{answer.unsafe}{answer.before}{listed}".encode()
            if texts.setdefault(text, frozenset(chosen)) != frozenset(chosen):
                raise Ambiguous(text)
    return texts


def tokenizations(text: bytes, vocabulary: Mapping[int, bytes]) -> Iterator[Tokens]:
    """Yield every sequence of tokens whose bytes are the text."""
    if not text:
        yield ()
    for token, data in vocabulary.items():
        if data and text.startswith(data):
            for rest in tokenizations(text[len(data) :], vocabulary):
                yield (token, *rest)


def answers(guard: Guard, vocabulary: Mapping[int, bytes], ends: Sequence[int]) -> dict[Tokens, Categories]:
    """Return every answer as tokens, its end token included, with the categories it names."""
    words = {token: data for token, data in vocabulary.items() if token not in ends}
    return {
        (*tokens, end): named
        for text, named in answer_texts(guard).items()
        for tokens in tokenizations(text, words)
        for end in ends
    }


def continuations(found: Mapping[Tokens, Categories]) -> dict[Tokens, list[int]]:
    """Return, for every prefix of an answer, the tokens that may come next."""
    following: dict[Tokens, set[int]] = {}
    for tokens in found:
        for length, token in enumerate(tokens):
            following.setdefault(tokens[:length], set()).add(token)
    return {prefix: sorted(tokens) for prefix, tokens in following.items()}


@dataclass(frozen=True)
class Exact:
    """What is true of one document.

    ``marginals[normalization][c]``: c = 0 is "at least one category", c = j + 1 is category j.
    ``sets[normalization]`` is the probability of each set of categories. ``valid`` is the raw probability of
    all answers together.
    """

    marginals: dict[str, FloatArray]
    sets: dict[str, dict[Categories, float]]
    valid: float


def exact(found: Mapping[Tokens, Categories], n_categories: int, next_probs: NextProbs) -> Exact:
    """Weigh every answer, token by token.

    In ``local``, where none of the tokens that may come next has any probability, they share it alike.
    """
    raw_steps: dict[Tokens, FloatArray] = {}
    local_steps: dict[Tokens, FloatArray] = {}
    for prefix, following in continuations(found).items():
        probs = np.asarray(next_probs(prefix), dtype=np.float64)
        kept = np.zeros_like(probs)
        kept[following] = probs[following] if probs[following].any() else 1.0
        raw_steps[prefix], local_steps[prefix] = probs, kept / kept.sum()
    raw = {tokens: _product(tokens, raw_steps) for tokens in found}
    local = {tokens: _product(tokens, local_steps) for tokens in found}
    valid = sum(raw.values())
    scaled = {tokens: prob / valid if valid > 0 else 0.0 for tokens, prob in raw.items()}
    weighed = {"raw": raw, "local": local, "global": scaled}
    return Exact(
        marginals={name: _marginals(found, probs, n_categories) for name, probs in weighed.items()},
        sets={name: _sets(found, probs) for name, probs in weighed.items()},
        valid=valid,
    )


def _product(tokens: Tokens, steps: Mapping[Tokens, FloatArray]) -> float:
    prob = 1.0
    for length, token in enumerate(tokens):
        prob *= float(steps[tokens[:length]][token])
    return prob


def _marginals(found: Mapping[Tokens, Categories], probs: Mapping[Tokens, float], n_categories: int) -> FloatArray:
    marginals = np.zeros(n_categories + 1)
    for tokens, named in found.items():
        for column in [0, *(j + 1 for j in named)] if named else []:
            marginals[column] += probs[tokens]
    return marginals


def _sets(found: Mapping[Tokens, Categories], probs: Mapping[Tokens, float]) -> dict[Categories, float]:
    sets: dict[Categories, float] = {}
    for tokens, named in found.items():
        sets[named] = sets.get(named, 0.0) + probs[tokens]
    return sets
