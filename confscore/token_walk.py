"""A grammar read byte by byte, and token by token: the two layers under the answer automaton.

Over bytes, a state is a set of (grammar, pending categories) pairs; what all pairs agree on is emitted on the
edge as early as possible, as in the determinization of finite-state transducers (Mohri 1997, Computational
Linguistics 23). That is why ``S1`` is not yet named after the tokens ``S``, ``1`` where ``S10`` may still follow,
and is named after ``,``. Over tokens, an edge is a walk through the byte automaton along the bytes of one token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from confscore.errors import GuardError
from confscore.guards.grammar import Grammar, certain, derive, finish, letters, possible, unmarked

ByteState = frozenset[tuple[Grammar, int]]


class ByteAutomaton:
    """A grammar, determinized over bytes on demand.

    Parameters
    ----------
    grammar : Grammar
        What may be said.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.start: ByteState = frozenset({(grammar, 0)})
        self._edges: dict[tuple[ByteState, int], tuple[int, ByteState] | None] = {}

    def step(self, state: ByteState, byte: int) -> tuple[int, ByteState] | None:
        """Return (mask of categories named by now, next state), or ``None`` where no answer goes on so."""
        key = (state, byte)
        if key not in self._edges:
            self._edges[key] = self._step(state, byte)
        return self._edges[key]

    def _step(self, state: ByteState, byte: int) -> tuple[int, ByteState] | None:
        found = {(rest, pending | mask) for grammar, pending in state for mask, rest in derive(grammar, byte)}
        if not found:
            return None
        if len({grammar for grammar, _ in found}) < len(found):
            raise GuardError(
                "the answer grammar is ambiguous: the same text can mean two different sets of categories; "
                "change a code or the separator"
            )
        named = -1
        for _, pending in found:
            named &= pending
        return named, frozenset((grammar, pending & ~named) for grammar, pending in found)


def accepted(state: ByteState) -> int | None:
    """Return the mask of pending categories if the answer may end here, else ``None``."""
    masks = {pending | mask for grammar, pending in state for mask in finish(grammar)}
    if len(masks) > 1:
        raise GuardError(
            "the answer grammar is ambiguous: one answer means two different sets of categories; "
            "change a code or the separator"
        )
    return masks.pop() if masks else None


@dataclass(slots=True)
class Trie:
    """Tokens by their bytes: ``columns`` are those that end here."""

    children: dict[int, Trie] = field(default_factory=dict)
    columns: list[int] = field(default_factory=list)


_END: tuple[ByteState, int] = (frozenset(), 0)


@dataclass(frozen=True, slots=True)
class Hop:
    """One token's worth of bytes: the token's column, the categories it names, and where it leads."""

    column: int
    named: int
    target: ByteState


def possible_from(state: ByteState) -> int:
    """Return the mask of categories that some completion of a byte state names."""
    mask = 0
    for grammar, pending in state:
        mask |= pending | possible(grammar)
    return mask


def certain_from(state: ByteState) -> int:
    """Return the mask of categories that every completion of a byte state names."""
    mask = -1
    for grammar, pending in state:
        mask &= pending | certain(grammar)
    return mask


class TokenWalk:
    """A byte automaton read one token at a time; what it finds is kept.

    Parameters
    ----------
    automaton : ByteAutomaton
        What may be said.
    trie : Trie
        The tokens, by their bytes.
    """

    def __init__(self, automaton: ByteAutomaton, trie: Trie) -> None:
        self.start = automaton.start
        self._automaton = automaton
        self._trie = trie
        self._hops: dict[ByteState, list[Hop]] = {}
        self._reachable: dict[tuple[ByteState, int], bool] = {_END: True}
        single = {byte for byte, child in trie.children.items() if child.columns}
        self._spells_all = all(letters(grammar) <= single for grammar, _ in automaton.start)

    def hops(self, state: ByteState) -> list[Hop]:
        """Return a hop for every token whose bytes can be read from ``state``."""
        if state not in self._hops:
            self._hops[state] = list(_walk(self._automaton, self._trie, state))
        return self._hops[state]

    def reaches(self, state: ByteState, wanted: int) -> bool:
        """Say whether some tokens complete an answer from here that names all categories of ``wanted``."""
        start = (state, wanted)
        # A stack of its own: the way to the end of an answer can be longer than Python's.
        path = [] if start in self._reachable else [(start, self._onward(state, wanted))]
        while path:
            key, onward = path[-1]
            following = next(onward, None)
            if following is None:
                self._reachable[key] = False
                path.pop()
            elif following not in self._reachable:
                path.append((following, self._onward(*following)))
            elif self._reachable[following]:
                self._reachable |= {passed: True for passed, _ in path}
                break
        return self._reachable[start]

    def _onward(self, state: ByteState, wanted: int) -> Iterator[tuple[ByteState, int]]:
        """Yield what has to be reached instead, one token further; ``_END`` where an answer may end."""
        final = accepted(state)
        # Where every byte is a token, as in most tokenizers, whatever the grammar begins can be completed.
        if (final is not None and wanted & ~final == 0) or (self._spells_all and not wanted):
            yield _END
        for hop in self.hops(state):
            left = wanted & ~hop.named
            if left & ~possible_from(hop.target) == 0:
                yield hop.target, left


def _walk(automaton: ByteAutomaton, trie: Trie, start: ByteState) -> Iterator[Hop]:
    """Yield a hop for every token whose bytes the automaton can read from ``start``."""
    stack = [(trie, start, 0)]
    while stack:
        node, state, named = stack.pop()
        for column in node.columns:
            yield Hop(column, named, state)
        for byte, child in node.children.items():
            step = automaton.step(state, byte)
            if step is not None:
                stack.append((child, step[1], named | step[0]))


def tokens_of_answers(grammar: Grammar, words: Mapping[int, bytes]) -> list[int]:
    """Return the tokens that occur in answers, ascending; a few more where labels restrict one another."""
    loose = ByteAutomaton(unmarked(grammar))
    trie = plant_trie(words)
    queue = [loose.start]
    seen = set(queue)
    found: set[int] = set()
    for state in queue:
        for hop in _walk(loose, trie, state):
            found.add(hop.column)
            if hop.target not in seen:
                seen.add(hop.target)
                queue.append(hop.target)
    return sorted(found)


def plant_trie(words: Mapping[int, bytes]) -> Trie:
    """Return the trie of tokens by their bytes; keys are what its ``columns`` hold."""
    root = Trie()
    for column, data in words.items():
        node = root
        for byte in data:
            node = node.children.setdefault(byte, Trie())
        node.columns.append(column)
    return root
