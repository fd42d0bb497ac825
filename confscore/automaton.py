"""The answer automaton: a guard's grammar over a tokenizer's vocabulary.

It accepts exactly the answers of the grammar, in every tokenization the vocabulary allows, each followed by
one end token where the guard has any. States are made when they are first looked at and then kept, because in
free order there are 2^N of them and a corpus visits a few hundred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from confscore.errors import GuardError
from confscore.guards.grammar import Grammar, brief, category_mask, longest
from confscore.rows import BoolArray, IntArray
from confscore.token_walk import (
    ByteAutomaton,
    ByteState,
    TokenWalk,
    Trie,
    accepted,
    certain_from,
    plant_trie,
    possible_from,
    tokens_of_answers,
)

_MASKS_KEPT = 1 << 16


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
    finals : tuple of int, length e
        ``finals[i]`` is the mask of categories that an answer names which ends with token
        ``allowed[k + i]``: an end token, or where the guard has none the last token of the answer itself.
    allowed : int array, shape (k + e,)
        Columns that may come next: those of the edges, then those that end the answer.
    edge_of : dict of int to int
        ``edge_of[columns[i]] = i``.
    """

    columns: IntArray
    targets: tuple[ByteState, ...]
    named: tuple[int, ...]
    may: BoolArray
    must: BoolArray
    finals: tuple[int, ...]
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
        Token ids that end an answer. Without any, an answer is over as soon as it is complete: what the model would
        say next does not matter.

    Attributes
    ----------
    grammar : Grammar
        As given.
    alphabet : int array, shape (A,)
        Ids of the tokens that occur in answers, then of the end tokens.
    words : tuple of bytes
        ``words[a]`` are the bytes of ``alphabet[a]``, end tokens left out.
    stops : tuple of int
        Ids after which an engine need not go on: nothing that follows them belongs to an answer.
    n_columns : int
        C = N + 1: "at least one category", then the categories.
    column_of : dict of int to int
        ``column_of[alphabet[a]] = a``.
    root : ByteState
        Where every answer starts.
    may, must : bool array, shape (C,)
        What some answer names, and what every one does.
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
        ends = list(dict.fromkeys(end_tokens))
        words = {token: data for token, data in vocabulary.items() if data and token not in ends}
        tokens = tokens_of_answers(grammar, words)
        self.grammar = grammar
        self.alphabet: IntArray = np.array([*tokens, *ends], dtype=np.int64)
        self.words = tuple(words[token] for token in tokens)
        self.column_of = {token: column for column, token in enumerate(self.alphabet.tolist())}
        self.n_columns = len(codes) + 1
        self.max_tokens = longest(grammar) + bool(ends)
        self._end_columns: IntArray = np.arange(len(tokens), len(self.alphabet), dtype=np.int64)
        trie = plant_trie(dict(enumerate(self.words)))
        _refuse_unspellable(grammar, codes, trie)
        self._flags: dict[int, BoolArray] = {}
        self._tokens = TokenWalk(ByteAutomaton(grammar), trie)
        self._states: dict[ByteState, State] = {}
        self.root = self._tokens.start
        self.may, self.must = self.unpack(possible_from(self.root)), self.unpack(certain_from(self.root))
        self.stops = tuple(ends) if ends else self._last_tokens()

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
        """Return ``flags[c]`` of a category mask, shape (C,); read only, because it is kept."""
        flags = self._flags.get(mask)
        if flags is None:
            flags = np.array([mask >> c & 1 for c in range(self.n_columns)], dtype=bool)
            flags.setflags(write=False)
            if len(self._flags) < _MASKS_KEPT:
                self._flags[mask] = flags
        return flags

    def _make(self, key: ByteState) -> State:
        # A token path that no further tokens can complete is not part of any answer.
        hops = [hop for hop in self._tokens.hops(key) if self._tokens.reaches(hop.target, 0)]
        if len(self._end_columns):
            final = accepted(key)
            finals = () if final is None else (final,) * len(self._end_columns)
            closing = self._end_columns[: len(finals)]
        else:
            last = [hop for hop in hops if accepted(hop.target) is not None]
            hops = [hop for hop in hops if accepted(hop.target) is None]
            finals = tuple(hop.named | (accepted(hop.target) or 0) for hop in last)
            closing = np.array([hop.column for hop in last], dtype=np.int64)
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
            finals=finals,
            allowed=np.concatenate([columns, closing]),
            edge_of={int(column): edge for edge, column in enumerate(columns)},
        )

    def _last_tokens(self) -> tuple[int, ...]:
        """Return the tokens that end an answer wherever they may stand, for answers without an end token."""
        inner: set[int] = set()
        closing: set[int] = set()
        # Made from all hops: a state that is complete has no edges, and must not have any.
        keys = [self.root]
        for key in keys:
            for hop in self._tokens.hops(key):
                if accepted(hop.target) is None:
                    inner.add(hop.column)
                    keys += [] if hop.target in keys else [hop.target]
                    continue
                closing.add(hop.column)
                if any(self._tokens.reaches(more.target, 0) for more in self._tokens.hops(hop.target)):
                    raise GuardError(
                        "one answer can be the beginning of another, so the guard needs end tokens to tell where an "
                        "answer is over; give it end_tokens"
                    )
        return tuple(int(self.alphabet[column]) for column in sorted(closing - inner))


def _refuse_unspellable(grammar: Grammar, codes: Sequence[str], trie: Trie) -> None:
    # One label at a time: in full listings the search would wander through 2^N states.
    alone = TokenWalk(ByteAutomaton(brief(grammar)), trie)
    lost = [code for j, code in enumerate(codes) if not alone.reaches(alone.start, category_mask(j))]
    if lost:
        raise GuardError(
            f"the tokenizer cannot spell an answer that names only {lost[0]}"
            + (f" (nor {', '.join(lost[1:])})" if lost[1:] else "")
            + ": its text needs tokens that the vocabulary lacks"
        )
