"""What a perfect guard would say next: the exact next-token distribution under the demo world.

An answer is spelled in pieces, each of them one token: the lead, the verdict, the line break, every character of
a code, the separators, and the end. With the categories in canonical order and independent given the text, the
next category after i is j with the probability

    f(j | i) = p_j · Π_{i < k < j} (1 - p_k),        f(end | i) = Π_{k > i} (1 - p_k),

and a character of a code gets the sum over all codes that it may still become. After ``S1`` that is the mass of
S1 itself, which the separator and the end share, beside the mass of S10 to S14 on the next digit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from confscore.rows import BoolArray, FloatArray

LEAD, SAFE, UNSAFE, BREAK, SEPARATOR, END = "\n\n", "safe", "unsafe", "\n", ",", "<|eot_id|>"


def answer_pieces(codes: Sequence[str], labels: BoolArray) -> list[str]:
    """Return the answer that names the categories of ``labels``, shape (N,), piece by piece."""
    named = [code for code, on in zip(codes, labels, strict=True) if on]
    if not named:
        return [LEAD, SAFE, END]
    listed = [piece for code in named for piece in (SEPARATOR, *code)]
    return [LEAD, UNSAFE, BREAK, *listed[1:], END]


def next_piece_probs(codes: Sequence[str], probs: FloatArray, labels: BoolArray) -> list[dict[str, float]]:
    """Return the distribution of every piece of an answer, given the pieces before it.

    Parameters
    ----------
    codes : sequence of str
        N codes in canonical order.
    probs : float array, shape (N,)
        P(category | text), above 0.
    labels : bool array, shape (N,)
        The answer's categories.

    Returns
    -------
    list of dict of str to float
        ``result[t][piece]`` is the probability of ``piece`` after ``answer_pieces(codes, labels)[:t]``; one
        entry for each piece of the answer.
    """
    none = float(np.prod(1 - probs))
    found: list[dict[str, float]] = [{LEAD: 1.0}, {SAFE: none, UNSAFE: 1 - none}]
    if not labels.any():
        return [*found, {END: 1.0}]
    found.append({BREAK: 1.0})
    after = -1
    for chosen in np.flatnonzero(labels).tolist():
        nexts = _next_category(probs, after)
        for typed in range(len(codes[chosen])):
            found.append(_next_character(codes, probs, nexts, codes[chosen][:typed]))
        # What follows a whole code: the next separator, the end, or the rest of a longer code.
        found.append(_next_character(codes, probs, nexts, codes[chosen]))
        after = chosen
    return found


def draw_path(probs: FloatArray, rng: np.random.Generator, unsafe_share: float) -> BoolArray:
    """Draw an answer to learn from; every one gives exact targets, so rare ones may be drawn more often.

    Parameters
    ----------
    probs : float array, shape (N,)
        P(category | text), above 0.
    rng : numpy.random.Generator
        Source of chance.
    unsafe_share : float
        How often an answer that names nothing is replaced by one that names something.

    Returns
    -------
    bool array, shape (N,)
    """
    labels: BoolArray = rng.random(len(probs)) < probs
    if not labels.any() and rng.random() < unsafe_share:
        first = _next_category(probs, -1)
        labels[rng.choice(len(probs), p=first / first.sum())] = True
    return labels


def _next_category(probs: FloatArray, after: int) -> FloatArray:
    """Return ``f(j | after)``, shape (N,); 0 up to ``after``, and the rest of the mass is the end's."""
    later = np.where(np.arange(len(probs)) > after, probs, 0.0)
    silent = np.concatenate(([1.0], np.cumprod(1 - later)[:-1]))
    drawn: FloatArray = later * silent
    return drawn


def _next_character(codes: Sequence[str], probs: FloatArray, nexts: FloatArray, typed: str) -> dict[str, float]:
    """Return what follows after ``typed`` of a code that was drawn from ``nexts``."""
    mass: dict[str, float] = {}
    for j, code in enumerate(codes):
        if code == typed:
            ends = float(np.prod(1 - probs[j + 1 :]))
            mass[END] = mass.get(END, 0.0) + nexts[j] * ends
            mass[SEPARATOR] = mass.get(SEPARATOR, 0.0) + nexts[j] * (1 - ends)
        elif code.startswith(typed):
            piece = code[len(typed)]
            mass[piece] = mass.get(piece, 0.0) + float(nexts[j])
    total = sum(mass.values())
    return {piece: value / total for piece, value in mass.items() if value > 0}
