"""The answer automaton: a guard's grammar over a tokenizer's vocabulary.

It accepts exactly the answers of the grammar, in every tokenization the vocabulary allows, each followed by
one end token. States are made when they are first looked at and then kept, because in free order there are
2^N of them and a corpus visits a few hundred.

Two determinizations are stacked. Over bytes, a state is a set of (grammar, pending categories) pairs; what
all pairs agree on is emitted on the edge as early as possible, as in the determinization of finite-state
transducers (Mohri 1997, Computational Linguistics 23). That is why ``S1`` is not yet named after the tokens
``S``, ``1`` where ``S10`` may still follow, and is named after ``,``. Over tokens, an edge is a walk through
the byte automaton along the bytes of one token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from confscore.errors import GuardError
from confscore.guards.grammar import (
    Grammar,
    brief,
    category_mask,
    certain,
    derive,
    finish,
    longest,
    possible,
    unmarked,
)
from confscore.rows import BoolArray, IntArray

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
class _TrieNode:
    children: dict[int, _TrieNode] = field(default_factory=dict)
    columns: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False, slots=True)
class State:
    """A state of the answer automaton, between two tokens.

    Attributes
    ----------
    columns : int array, shape (k,)
        ``alphabet[columns[i]]`` is the token of edge ``i``. Tokens of the same bytes are several edges.
    targets : tuple of ByteState, length k
        ``targets[i]`` is where edge ``i`` leads; :meth:`AnswerAutomaton.state` makes a state of it.
    named : tuple of int, length k
        ``named[i]`` is the mask of categories that edge ``i`` names.
    may, must : bool array, shape (k, C)
        ``may[i, c]`` is true where some answer through edge ``i`` names ``c`` from here on, ``must[i, c]``
        where every one does. ``c = 0`` is "at least one category" and ``c = j + 1`` is category ``j``.
    final : int or None
        The mask of categories that ending here names; ``None`` where the answer cannot end here.
    allowed : int array
        Columns that may come next: those of the edges, then those of the end tokens where ``final``.
    edge_of : dict of int to int
        ``edge_of[columns[i]] = i``.
    """

    columns: IntArray
    targets: tuple[ByteState, ...]
    named: tuple[int, ...]
    may: BoolArray
    must: BoolArray
    final: int | None
    allowed: IntArray
    edge_of: dict[int, int]


class AnswerAutomaton:
    """The token-level automaton of a guard's answers.

    Parameters
    ----------
    grammar : Grammar
        The guard's answers.
    codes : sequence of str
        The taxonomy's codes, in order; ``len(codes)`` is N.
    vocabulary : mapping of int to bytes
        Token id to the bytes it stands for, control tokens left out.
    end_tokens : sequence of int
        Token ids that end an answer.

    Attributes
    ----------
    alphabet : int array, shape (A,)
        Ids of the tokens that occur in answers, then of the end tokens.
    n_columns : int
        C = N + 1: "at least one category", then the categories.
    root : ByteState
        Where every answer starts.
    max_tokens : int
        No answer has more tokens than this, its end token included.

    Raises
    ------
    GuardError
        The grammar is ambiguous, or the vocabulary cannot spell a category in any answer.
    """

    def __init__(
        self,
        grammar: Grammar,
        codes: Sequence[str],
        vocabulary: Mapping[int, bytes],
        end_tokens: Sequence[int],
    ) -> None:
        if not end_tokens:
            raise GuardError("the guard has no end token, so no answer would ever be complete")
        ends = list(dict.fromkeys(end_tokens))
        words = {token: data for token, data in vocabulary.items() if data and token not in ends}
        tokens = _tokens_of_answers(grammar, words)
        self.alphabet: IntArray = np.array([*tokens, *ends], dtype=np.int64)
        self.n_columns = len(codes) + 1
        self.max_tokens = longest(grammar) + 1
        self._end_columns: IntArray = np.arange(len(tokens), len(self.alphabet), dtype=np.int64)
        trie = _trie({column: words[token] for column, token in enumerate(tokens)})
        _refuse_unspellable(grammar, codes, trie)
        self._tokens = TokenWalk(ByteAutomaton(grammar), trie)
        self._states: dict[ByteState, State] = {}
        self.root = self._tokens.start

    def state(self, key: ByteState) -> State:
        """Return the state of a byte state, made on first use."""
        if key not in self._states:
            self._states[key] = self._make(key)
        return self._states[key]

    def explore(self) -> list[State]:
        """Return every state reachable from the start. In free order there are of the order of 2^N."""
        keys = [self.root]
        seen = set(keys)
        for key in keys:
            fresh = set(self.state(key).targets) - seen
            seen |= fresh
            keys += fresh
        return [self.state(key) for key in keys]

    def unpack(self, mask: int) -> BoolArray:
        """Return ``flags[c]`` of a category mask, shape (C,)."""
        return np.array([mask >> c & 1 for c in range(self.n_columns)], dtype=bool)

    def _make(self, key: ByteState) -> State:
        # A token path that no further tokens can complete is not part of any answer.
        hops = [hop for hop in self._tokens.hops(key) if self._tokens.reaches(hop.target, 0)]
        final = accepted(key)
        columns = np.array([hop.column for hop in hops], dtype=np.int64)
        shape = (len(hops), self.n_columns)
        may = [self.unpack(hop.named | possible_from(hop.target)) for hop in hops]
        must = [self.unpack(hop.named | certain_from(hop.target)) for hop in hops]
        return State(
            columns=columns,
            targets=tuple(hop.target for hop in hops),
            named=tuple(hop.named for hop in hops),
            may=np.array(may, dtype=bool).reshape(shape),
            must=np.array(must, dtype=bool).reshape(shape),
            final=final,
            allowed=columns if final is None else np.concatenate([columns, self._end_columns]),
            edge_of={int(column): edge for edge, column in enumerate(columns)},
        )


def _refuse_unspellable(grammar: Grammar, codes: Sequence[str], trie: _TrieNode) -> None:
    # One label at a time: in full listings the search would wander through 2^N states.
    alone = TokenWalk(ByteAutomaton(brief(grammar)), trie)
    lost = [code for j, code in enumerate(codes) if not alone.reaches(alone.start, category_mask(j))]
    if lost:
        raise GuardError(
            f"the tokenizer cannot spell an answer that names only {lost[0]}"
            + (f" (nor {', '.join(lost[1:])})" if lost[1:] else "")
            + ": its text needs tokens that the vocabulary lacks"
        )


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
    trie : _TrieNode
        The tokens, by their bytes.
    """

    def __init__(self, automaton: ByteAutomaton, trie: _TrieNode) -> None:
        self.start = automaton.start
        self._automaton = automaton
        self._trie = trie
        self._hops: dict[ByteState, list[Hop]] = {}
        self._reachable: dict[tuple[ByteState, int], bool] = {}

    def hops(self, state: ByteState) -> list[Hop]:
        """Return a hop for every token whose bytes can be read from ``state``."""
        if state not in self._hops:
            self._hops[state] = list(_walk(self._automaton, self._trie, state))
        return self._hops[state]

    def reaches(self, state: ByteState, wanted: int) -> bool:
        """Say whether some tokens complete an answer from here that names all categories of ``wanted``."""
        key = (state, wanted)
        if key not in self._reachable:
            self._reachable[key] = self._search(state, wanted)
        return self._reachable[key]

    def _search(self, state: ByteState, wanted: int) -> bool:
        final = accepted(state)
        if final is not None and wanted & ~final == 0:
            return True
        for hop in self.hops(state):
            left = wanted & ~hop.named
            if left & ~possible_from(hop.target) == 0 and self.reaches(hop.target, left):
                return True
        return False


def _walk(automaton: ByteAutomaton, trie: _TrieNode, start: ByteState) -> Iterator[Hop]:
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


def _tokens_of_answers(grammar: Grammar, words: Mapping[int, bytes]) -> list[int]:
    """Return the tokens that occur in answers, ascending; a few more where labels restrict one another."""
    loose = ByteAutomaton(unmarked(grammar))
    trie = _trie(words)
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


def _trie(words: Mapping[int, bytes]) -> _TrieNode:
    root = _TrieNode()
    for column, data in words.items():
        node = root
        for byte in data:
            node = node.children.setdefault(byte, _TrieNode())
        node.columns.append(column)
    return root
