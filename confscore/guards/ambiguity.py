"""Can one text mean two different sets of categories? Asked before any model is loaded."""

from __future__ import annotations

from confscore.guards.grammar import Grammar, Listing, derive, finish


def alike(listing: Listing) -> tuple[int, int] | None:
    """Return two different sets of labels that a listing writes alike, or ``None``.

    Two lists are read side by side, label by label, as in the test of Sardinas and Patterson (1953) for codes
    that are uniquely decodable; what is remembered is the text by which one of them is ahead. Labels of which
    none begins another, separator included, are told apart at the first step.

    Returns
    -------
    tuple of int
        Two sets; bit ``j`` is set where label ``j`` is in it.
    """
    words = [
        (index, text + separator)
        for index, text in enumerate(listing.labels.texts)
        for separator in listing.labels.separators
    ]

    def may_follow(chosen: int, index: int) -> bool:
        if listing.labels.repeats:
            return True  # more than the limit allows: a pair that only longer lists could write alike is refused too
        if chosen >> index & 1 or chosen.bit_count() == listing.most:
            return False
        return not listing.labels.canonical or chosen >> index == 0

    queue = [
        (longer[len(shorter) :], 1 << j, 1 << i)
        for i, shorter in words
        for j, longer in words
        if (i, shorter) != (j, longer) and longer.startswith(shorter)
    ]
    seen = set(queue)
    for ahead, longer, shorter in queue:
        if not ahead:
            if longer != shorter:
                return longer, shorter
            continue
        for index, word in words:
            if not may_follow(shorter, index):
                continue
            grown = shorter | 1 << index
            if ahead.startswith(word):
                found = (ahead[len(word) :], longer, grown)
            elif word.startswith(ahead):
                found = (word[len(ahead) :], grown, longer)
            else:
                continue
            if found not in seen:
                seen.add(found)
                queue.append(found)
    return None


def meanings(grammar: Grammar, text: bytes) -> set[int]:
    """Return the category masks that a grammar gives to a text: none where it is no answer."""
    reached = {(grammar, 0)}
    for byte in text:
        reached = {(rest, named | mask) for node, named in reached for mask, rest in derive(node, byte)}
    return {named | mask for node, named in reached for mask in finish(node)}
