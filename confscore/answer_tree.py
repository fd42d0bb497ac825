"""The answer tree of one document: which prefixes to ask the engine for next, and when to stop.

The tree does no input or output. :meth:`AnswerTree.wanted` names the prefixes whose rollouts would help most,
:meth:`AnswerTree.add` takes a rollout in, and :meth:`AnswerTree.bounds` says what is certain so far.

A rollout decodes greedily from a forced prefix to the end of an answer. Every step of it yields the
probabilities of all tokens the automaton allows there; those not taken become the frontier.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from confscore.automaton import AnswerAutomaton, State
from confscore.bounds import Bounds, Masses, gap_by_leaf, global_bounds, local_bounds, raw_bounds
from confscore.errors import EngineError, RowError
from confscore.rows import BoolArray, FloatArray
from confscore.steps import Normalization, Prefix, Step, renormalized, walk_greedily

_BOUNDS = {"raw": raw_bounds, "local": local_bounds, "global": global_bounds}


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """When a document has been explored far enough.

    Attributes
    ----------
    normalization : {'raw', 'local', 'global'}
        Which marginals the tolerance is about.
    tolerance : float
        The widest bound allowed, as a probability; or relative to the lower bound of "at least one category"
        where ``relative``.
    relative : bool
        See ``tolerance``.
    budget : int
        The most rollouts a prompt may cost, at least 1.
    greedy : bool
        The greedy answer is explored to its end, whatever the tolerance. It mostly is by the first rollout, which
        follows all answer tokens and may therefore leave the grammar.
    marginals : bool
        False: nothing is spent on narrowing bounds, only on the greedy answer.
    """

    normalization: Normalization = "global"
    tolerance: float = 0.01
    relative: bool = False
    budget: int = 64
    greedy: bool = False
    marginals: bool = True

    def limit(self, bounds: Bounds) -> float:
        """Return the widest bound that is narrow enough."""
        return self.tolerance * float(bounds.lower[0]) if self.relative else self.tolerance


@dataclass(slots=True)
class Frontier:
    """Unexplored prefixes, as parallel arrays with room to grow; the first ``size`` entries count.

    ``log_raw[l]`` and ``log_local[l]`` are log-probabilities of prefix ``l``, without and with renormalization
    over allowed tokens; both are ``-inf`` once it has been explored. All edges of an explored position stand side by
    side, and what follows from the position is found when it is asked for: most edges never are.
    """

    log_raw: FloatArray
    log_local: FloatArray
    may: BoolArray
    must: BoolArray
    firsts: list[int] = field(default_factory=list)
    positions: list[tuple[Prefix, State | None, int]] = field(default_factory=list)
    size: int = 0

    @classmethod
    def empty(cls, n_columns: int, room: int = 64) -> Frontier:
        """Return a frontier without prefixes."""
        flags = np.zeros((room, n_columns), dtype=bool)
        return cls(np.empty(room), np.empty(room), flags, flags.copy())

    def reserve(self, more: int) -> slice:
        """Make room for ``more`` prefixes and return where they go."""
        need = self.size + more
        if need > len(self.log_raw):
            room = max(need, 2 * len(self.log_raw))
            self.log_raw = np.resize(self.log_raw, room)
            self.log_local = np.resize(self.log_local, room)
            self.may = np.resize(self.may, (room, self.may.shape[1]))
            self.must = np.resize(self.must, (room, self.must.shape[1]))
        place = slice(self.size, need)
        self.size = need
        return place

    def put(self, prefix: Prefix, state: State | None, named: int, more: int) -> slice:
        """Make room for the edges of a position where categories ``named`` are named; the root has no state."""
        self.firsts.append(self.size)
        self.positions.append((prefix, state, named))
        return self.reserve(more)

    def edge(self, index: int) -> tuple[Prefix, State | None, int, int]:
        """Return the position that prefix ``index`` follows, its state and categories, and which of its edges it is."""
        place = bisect_right(self.firsts, index) - 1
        return *self.positions[place], index - self.firsts[place]


class AnswerTree:
    """Best-first exploration of one prompt's answers.

    Parameters
    ----------
    automaton : AnswerAutomaton
        The guard's answers.
    rule : StoppingRule
        When to stop.

    Attributes
    ----------
    requests : int
        Rollouts taken in so far.
    steps : dict of Prefix to Step
        Every explored position.
    """

    def __init__(self, automaton: AnswerAutomaton, rule: StoppingRule) -> None:
        self._automaton = automaton
        self._rule = rule
        self.requests = 0
        self.steps: dict[Prefix, Step] = {}
        self._complete: dict[int, list[float]] = {}
        self._waiting: dict[Prefix, int] = {}
        self._known: dict[Normalization, Masses] = {}
        self._bounded: dict[Normalization, Bounds] = {}
        self._frontier = Frontier.empty(automaton.n_columns)
        self._first_edges: dict[Prefix, int] = {}
        self._plant()

    def wanted(self) -> list[Prefix]:
        """Return the prefixes to roll out now; empty when the tree is done or waits for earlier ones.

        The frontier prefixes that are responsible for most of the widest bound come first, and as many at once
        as are needed in any case: each can at best take its own share of the gap away.
        """
        left = self._rule.budget - self.requests
        if self._waiting or left <= 0:
            return []
        prefixes: list[Prefix] = []
        if not self.steps:
            prefixes = [()]
        elif self._rule.greedy and (missing := walk_greedily(self._automaton, self.steps).missing) is not None:
            prefixes = [missing]
        elif self._rule.marginals:
            prefixes = self._widest(left)
        self._waiting = {prefix: self._leaf_of(prefix) for prefix in prefixes}
        return prefixes

    def _widest(self, left: int) -> list[Prefix]:
        """Return at most ``left`` prefixes that have to be known before the widest bound is narrow enough."""
        normalization = self._rule.normalization
        masses, bounds = self.masses(normalization), self.bounds(normalization)
        column = int(np.argmax(bounds.width))
        width, limit = float(bounds.width[column]), self._rule.limit(bounds)
        if width <= limit:
            return []
        gaps = gap_by_leaf(masses, column, normalization)
        order = np.argsort(-gaps, kind="stable")
        taken_away = np.cumsum(gaps[order])
        if taken_away[-1] <= 0:
            return []
        # In exact arithmetic the shares add up to the width; scaling covers the linearized case too.
        enough = taken_away[-1] * (1 - limit / width)
        count = min(int(np.searchsorted(taken_away, enough)) + 1, left, int((gaps > 0).sum()))
        return [self._prefix_of(leaf) for leaf in order[:count].tolist()]

    def add(
        self,
        prefix: Prefix,
        tokens: Sequence[int],
        log_probs: FloatArray,
        log_normalizers: FloatArray | None = None,
    ) -> None:
        """Take in the rollout of a prefix that :meth:`wanted` named.

        Parameters
        ----------
        prefix : tuple of int
            The forced tokens.
        tokens : sequence of int, length T
            What the engine chose, step by step; T is at least 1.
        log_probs : float array, shape (T, A)
            ``log_probs[t, a] = log p(alphabet[a] | prompt, prefix, tokens[:t])``, over the whole vocabulary.
        log_normalizers : float array, shape (T,), optional
            What to add to the log-probabilities of step ``t`` to have logits.

        Raises
        ------
        EngineError
            The rollout has no step, or its shape does not fit.
        RowError
            A probability is not a number.
        """
        if not 0 < len(tokens) == len(log_probs) or log_probs.shape[1] != len(self._automaton.alphabet):
            raise EngineError(f"the engine returned {len(tokens)} tokens with log_probs of {log_probs.shape}")
        if np.isnan(log_probs).any():
            raise RowError("the model's probabilities are not numbers (NaN)")
        leaf = self._waiting.pop(prefix)
        self._known.clear()
        self._bounded.clear()
        frontier = self._frontier
        log_raw, log_local = float(frontier.log_raw[leaf]), float(frontier.log_local[leaf])
        frontier.log_raw[leaf] = frontier.log_local[leaf] = -np.inf
        _, before, named, edge = frontier.edge(leaf)
        state = self._automaton.state(self._automaton.root if before is None else before.targets[edge])
        named |= 0 if before is None else before.named[edge]
        self.requests += 1
        for t, token in enumerate(tokens):
            normalizer = None if log_normalizers is None else float(log_normalizers[t])
            step = Step(state, log_probs[t][state.allowed], normalizer)
            self.steps[prefix] = step
            edges = len(state.columns)
            raw, local = log_raw + step.log_probs, log_local + renormalized(step.log_probs)
            for final, one_raw, one_local in zip(state.finals, raw[edges:], local[edges:], strict=True):
                self._finish(named | final, one_raw, one_local)
            # The engine may leave the grammar, or stop at its length limit: then every edge stays unexplored.
            taken = state.edge_of.get(self._automaton.column_of.get(token, -1)) if t + 1 < len(tokens) else None
            self._grow(prefix, named, state, raw[:edges], local[:edges], taken)
            if taken is None:
                return
            prefix = (*prefix, token)
            log_raw, log_local = float(raw[taken]), float(local[taken])
            named |= state.named[taken]
            state = self._automaton.state(state.targets[taken])

    def masses(self, normalization: Normalization) -> Masses:
        """Return what is known so far; ``global`` is computed from raw masses."""
        if normalization not in self._known:
            self._known[normalization] = self._count(normalization)
        return self._known[normalization]

    def _count(self, normalization: Normalization) -> Masses:
        frontier = self._frontier
        logs = frontier.log_local if normalization == "local" else frontier.log_raw
        which = 1 if normalization == "local" else 0
        complete_with = np.zeros(self._automaton.n_columns)
        for mask, found in self._complete.items():
            complete_with += found[which] * self._automaton.unpack(mask)
        return Masses(
            complete=sum(found[which] for found in self._complete.values()),
            complete_with=complete_with,
            frontier=np.exp(logs[: frontier.size]),
            may=frontier.may[: frontier.size],
            must=frontier.must[: frontier.size],
        )

    def bounds(self, normalization: Normalization) -> Bounds:
        """Return certified bounds on every marginal, under any normalization."""
        if normalization not in self._bounded:
            self._bounded[normalization] = _BOUNDS[normalization](self.masses(normalization))
        return self._bounded[normalization]

    def within_tolerance(self) -> bool:
        """Say whether the bounds are as narrow as the rule asks."""
        bounds = self.bounds(self._rule.normalization)
        nothing_left = not self.masses(self._rule.normalization).frontier.any()
        return nothing_left or float(bounds.width.max()) <= self._rule.limit(bounds)

    def hopeless(self) -> bool:
        """Say whether neither a found answer nor an unexplored prefix has any probability."""
        masses = self.masses("raw")
        return masses.complete <= 0 and not masses.frontier.any()

    def off_grammar(self) -> float:
        """Return the probability known to be lost to texts that are no answers."""
        masses = self.masses("raw")
        return max(0.0, 1.0 - masses.complete - float(masses.frontier.sum()))

    def answers(self, normalization: Normalization) -> list[tuple[int, float]]:
        """Return (category mask, probability) of the category sets found, most probable first.

        A set's probability is that of all its answers found, in every order and tokenization: a lower bound in
        ``raw`` and ``local``, and in ``global`` its share of the mass of complete answers.
        """
        which = 1 if normalization == "local" else 0
        whole = sum(found[0] for found in self._complete.values()) if normalization == "global" else 1.0
        found = [(mask, masses[which] / whole) for mask, masses in self._complete.items() if whole > 0]
        return sorted(found, key=lambda item: -item[1])

    def _plant(self) -> None:
        frontier = self._frontier
        place = frontier.put((), None, 0, 1)
        frontier.log_raw[place] = frontier.log_local[place] = 0.0
        frontier.may[place] = self._automaton.may
        frontier.must[place] = self._automaton.must

    def _prefix_of(self, leaf: int) -> Prefix:
        """Return the forced tokens of a frontier prefix."""
        head, state, _, edge = self._frontier.edge(leaf)
        return head if state is None else (*head, int(self._automaton.alphabet[state.columns[edge]]))

    def _leaf_of(self, prefix: Prefix) -> int:
        """Return the index of a frontier prefix."""
        if not prefix:
            return 0
        head, edge = prefix[:-1], self.steps[prefix[:-1]].state.edge_of[self._automaton.column_of[prefix[-1]]]
        return self._first_edges[head] + edge

    def _finish(self, mask: int, log_raw: float, log_local: float) -> None:
        found = self._complete.setdefault(mask, [0.0, 0.0])
        found[0] += math.exp(log_raw)
        found[1] += math.exp(log_local)

    def _grow(
        self,
        prefix: Prefix,
        named: int,
        state: State,
        log_raw: FloatArray,
        log_local: FloatArray,
        taken: int | None,
    ) -> None:
        """Add the edges of a position to the frontier, of which one may be explored already."""
        frontier = self._frontier
        place = frontier.put(prefix, state, named, len(log_raw))
        self._first_edges[prefix] = place.start
        frontier.log_raw[place] = log_raw
        frontier.log_local[place] = log_local
        frontier.may[place] = state.may
        frontier.must[place] = state.must
        if named:
            already = self._automaton.unpack(named)
            frontier.may[place] |= already
            frontier.must[place] |= already
        if taken is not None:
            frontier.log_raw[place.start + taken] = frontier.log_local[place.start + taken] = -np.inf
