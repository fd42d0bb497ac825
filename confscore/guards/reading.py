"""Where an answer writes each category."""

from __future__ import annotations

from confscore.guards.grammar import Grammar, derive, finish


def label_starts(grammar: Grammar, text: bytes) -> dict[int, int]:
    """Return where the label of each category begins in a complete answer.

    Parameters
    ----------
    grammar : Grammar
        What may be said.
    text : bytes
        One answer.

    Returns
    -------
    dict of int to int
        ``starts[j]`` is the position in ``text`` of the first byte that belongs to category ``j``; of the first
        label, where one is listed twice. Categories that the answer does not name are left out.

    Raises
    ------
    ValueError
        The text is no answer of the grammar.
    """
    reached: dict[Grammar, dict[int, int]] = {grammar: {}}
    for position, byte in enumerate(text):
        following: dict[Grammar, dict[int, int]] = {}
        for node, starts in reached.items():
            for mask, rest in derive(node, byte):
                following.setdefault(rest, _noted(starts, mask, position))
        reached = following
    for node, starts in reached.items():
        for mask in finish(node):
            return _noted(starts, mask, len(text))
    raise ValueError(f"{text!r} is no answer of the grammar")


def _noted(starts: dict[int, int], mask: int, position: int) -> dict[int, int]:
    categories = mask >> 1
    if not categories:
        return starts
    fresh = {j: position for j in range(categories.bit_length()) if categories >> j & 1 and j not in starts}
    return starts | fresh
