"""Answer grammars: what a guard model may say, as a regular expression over bytes that also names categories.

A grammar is a small tree of frozen nodes. It is never expanded into the 2^N answers it stands for: the
automaton walks it one byte at a time through *partial derivatives* (Antimirov 1996, Theoretical Computer
Science 155), so only the answers that are looked at ever exist.

Categories travel as bit masks. Bit 0 means "at least one category", bit ``j + 1`` means category ``j``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

ANY = 1
"""The mask bit that stands for "at least one category"."""


def category_mask(index: int) -> int:
    """Return the mask of an answer that names category ``index`` (0-based)."""
    return 1 << (index + 1) | ANY


@dataclass(frozen=True, slots=True)
class Text:
    """Exactly these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """No bytes; the answer names the categories of ``mask``."""

    mask: int


@dataclass(frozen=True, slots=True)
class Then:
    """One expression after another."""

    first: Grammar
    rest: Grammar


@dataclass(frozen=True, slots=True)
class Either:
    """One of several expressions. Order carries no preference: every option is followed at once."""

    options: tuple[Grammar, ...]


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels a listing chooses from, compared by identity so that grammar nodes stay cheap to hash.

    Attributes
    ----------
    texts : tuple of bytes
        ``texts[j]`` is how an answer writes category ``j``.
    separator : bytes or tuple of bytes
        What stands between two labels: one text, or any one of several.
    canonical : bool
        True: labels appear in the order of ``texts``. False: in any order.
    repeats : bool
        A label may be listed again; it still names its category once. Only in any order.
    """

    texts: tuple[bytes, ...]
    separator: bytes | tuple[bytes, ...]
    canonical: bool
    repeats: bool = False

    @property
    def separators(self) -> tuple[bytes, ...]:
        """Return every text that may stand between two labels."""
        return self.separator if isinstance(self.separator, tuple) else (self.separator,)


@dataclass(frozen=True, slots=True)
class Listing:
    """One or more labels with separators between them.

    Attributes
    ----------
    labels : Labels
        What may be listed.
    allowed : int
        Bit ``j`` is set where label ``j`` may still come.
    most : int
        The most labels that may still come, repeated ones counted, at least 1.
    unmarked : bool
        True: labels may repeat, in any order and number, and name no category. See :func:`unmarked`.
    """

    labels: Labels
    allowed: int
    most: int
    unmarked: bool = False


Grammar: TypeAlias = Text | Mark | Then | Either | Listing

EMPTY = Text(b"")


def sequence(*parts: Grammar | bytes) -> Grammar:
    """Return the parts one after another; bytes stand for themselves."""
    result: Grammar = EMPTY
    for part in reversed(parts):
        node = Text(part) if isinstance(part, bytes) else part
        result = _then(node, result)
    return result


def choice(*options: Grammar | bytes) -> Grammar:
    """Return any one of the options; bytes stand for themselves."""
    nodes = tuple(Text(option) if isinstance(option, bytes) else option for option in options)
    return nodes[0] if len(nodes) == 1 else Either(nodes)


def listing(labels: Labels, most: int | None = None) -> Listing:
    """Return a non-empty list of at most ``most`` labels (as many as there are, where ``most`` is ``None``)."""
    count = len(labels.texts)
    limit = count if most is None else most
    return Listing(labels, (1 << count) - 1, limit if labels.repeats else min(limit, count))


def derive(grammar: Grammar, byte: int) -> Iterator[tuple[int, Grammar]]:
    """Yield what may follow after ``byte``.

    Yields
    ------
    mask : int
        The categories named on the way.
    rest : Grammar
        What must follow. The same ``(mask, rest)`` may be yielded more than once.
    """
    match grammar:
        case Text(data):
            if data and data[0] == byte:
                yield 0, Text(data[1:])
        case Mark():
            return
        case Then(first, rest):
            for mask, remainder in derive(first, byte):
                yield mask, _then(remainder, rest)
            for named in finish(first):
                for mask, remainder in derive(rest, byte):
                    yield named | mask, remainder
        case Either(options):
            for option in options:
                yield from derive(option, byte)
        case Listing(labels):
            for index in _bits(grammar.allowed):
                text = labels.texts[index]
                if text[0] == byte:
                    mask = 0 if grammar.unmarked else category_mask(index)
                    yield mask, _then(Text(text[1:]), _tail(grammar, index))


def finish(grammar: Grammar) -> Iterator[int]:
    """Yield the category mask of every way in which the grammar accepts the empty string."""
    match grammar:
        case Text(data):
            if not data:
                yield 0
        case Mark(mask):
            yield mask
        case Then(first, rest):
            for named in finish(first):
                for mask in finish(rest):
                    yield named | mask
        case Either(options):
            for option in options:
                yield from finish(option)
        case Listing():
            return


def possible(grammar: Grammar) -> int:
    """Return the mask of categories that at least one sentence of the grammar names."""
    match grammar:
        case Text():
            return 0
        case Mark(mask):
            return mask
        case Then(first, rest):
            return possible(first) | possible(rest)
        case Either(options):
            mask = 0
            for option in options:
                mask |= possible(option)
            return mask
        case Listing():
            return grammar.allowed << 1 | ANY


def certain(grammar: Grammar) -> int:
    """Return the mask of categories that every sentence of the grammar names."""
    match grammar:
        case Text():
            return 0
        case Mark(mask):
            return mask
        case Then(first, rest):
            return certain(first) | certain(rest)
        case Either(options):
            mask = certain(options[0])
            for option in options[1:]:
                mask &= certain(option)
            return mask
        case Listing():
            only_one = grammar.allowed.bit_count() == 1
            return (grammar.allowed << 1 | ANY) if only_one else ANY


def longest(grammar: Grammar) -> int:
    """Return the number of bytes of the longest sentence."""
    match grammar:
        case Text(data):
            return len(data)
        case Mark():
            return 0
        case Then(first, rest):
            return longest(first) + longest(rest)
        case Either(options):
            return max(longest(option) for option in options)
        case Listing(labels, allowed, most):
            sizes = sorted((len(labels.texts[index]) for index in _bits(allowed)), reverse=True)
            listed = most * sizes[0] if labels.repeats else sum(sizes[:most])
            return listed + (most - 1) * max(map(len, labels.separators))


def letters(grammar: Grammar) -> frozenset[int]:
    """Return the bytes that occur in sentences."""
    match grammar:
        case Text(data):
            return frozenset(data)
        case Mark():
            return frozenset()
        case Then(first, rest):
            return letters(first) | letters(rest)
        case Either(options):
            return frozenset().union(*map(letters, options))
        case Listing(labels, allowed, most):
            joints = labels.separators if most > 1 else ()
            return frozenset(b"".join((*joints, *(labels.texts[index] for index in _bits(allowed)))))


def brief(grammar: Grammar) -> Grammar:
    """Return the grammar with every listing cut to one label."""
    match grammar:
        case Then(first, rest):
            return Then(brief(first), brief(rest))
        case Either(options):
            return Either(tuple(brief(option) for option in options))
        case Listing(labels, allowed):
            return Listing(labels, allowed, 1)
        case _:
            return grammar


def unmarked(grammar: Grammar) -> Grammar:
    """Return a grammar with few states that accepts at least the same strings and names no category.

    Listings may repeat their labels, so nothing of which ones were used has to be remembered. It serves to
    find the tokens that answers can be made of.
    """
    match grammar:
        case Text():
            return grammar
        case Mark():
            return EMPTY
        case Then(first, rest):
            return _then(unmarked(first), unmarked(rest))
        case Either(options):
            return Either(tuple(unmarked(option) for option in options))
        case Listing(labels, allowed, most):
            return Listing(labels, allowed, most, unmarked=True)


def _tail(grammar: Listing, index: int) -> Grammar:
    """Return what may follow label ``index``: nothing, or a separator and further labels."""
    labels = grammar.labels
    if grammar.unmarked:
        return Either((EMPTY, _then(choice(*labels.separators), grammar)))
    rest = grammar.allowed if labels.repeats else grammar.allowed & ~(1 << index)
    if labels.canonical:
        rest &= -1 << (index + 1)
    if not rest or grammar.most == 1:
        return EMPTY
    # A limit that cannot bind is lowered to what is left, so that equal languages are equal nodes.
    most = grammar.most - 1 if labels.repeats else min(grammar.most - 1, rest.bit_count())
    return Either((EMPTY, _then(choice(*labels.separators), Listing(labels, rest, most))))


def _then(first: Grammar, rest: Grammar) -> Grammar:
    """Join two expressions, dropping empty ones so that equal languages get equal nodes more often."""
    if first == EMPTY:
        return rest
    return first if rest == EMPTY else Then(first, rest)


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
