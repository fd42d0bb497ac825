"""Explored positions of one prompt's answers, and the walk that takes the most probable token at each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from confscore.automaton import AnswerAutomaton, State
from confscore.errors import RowError
from confscore.guards.grammar import ANY
from confscore.rows import FloatArray

Prefix = tuple[int, ...]
Normalization = Literal["raw", "local", "global"]


@dataclass(frozen=True, slots=True)
class Step:
    """One explored position: the automaton's state there, and what the model said.

    ``log_probs[i] = log p(alphabet[state.allowed[i]] | prompt, prefix)``. A token's logit is its log-probability plus
    ``log_normalizer``, which is ``None`` where the engine does not tell.
    """

    state: State
    log_probs: FloatArray
    log_normalizer: float | None = None


@dataclass(frozen=True, slots=True)
class GreedyWalk:
    """The most probable allowed token at each step, as far as explored.

    ``choices[t]`` is the entry of ``steps[t].state.allowed`` that is chosen; ``missing`` is the prefix that is not
    explored yet, or ``None`` where the walk ends an answer.
    """

    steps: list[Step]
    choices: list[int]
    missing: Prefix | None


class Explored:
    """Keeps what rollouts say, position by position.

    Parameters
    ----------
    automaton : AnswerAutomaton
        The guard's answers.

    Attributes
    ----------
    requests : int
        Rollouts taken in so far.
    steps : dict of Prefix to Step
        Every explored position.
    """

    def __init__(self, automaton: AnswerAutomaton) -> None:
        self._automaton = automaton
        self.requests = 0
        self.steps: dict[Prefix, Step] = {}

    def add(
        self,
        prefix: Prefix,
        tokens: Sequence[int],
        log_probs: FloatArray,
        log_normalizers: FloatArray | None = None,
    ) -> None:
        """Take in the rollout of a prefix of answers; arrays as those of a :class:`~confscore.engines.base.Rollout`.

        Raises
        ------
        RowError
            A probability is not a number.
        """
        if np.isnan(log_probs).any():
            raise RowError("the model's probabilities are not numbers (NaN)")
        self.requests += 1
        state = self._automaton.state(self._automaton.root)
        for token in prefix:
            state = self._automaton.state(state.targets[state.edge_of[self._automaton.column_of[token]]])
        for t, token in enumerate(tokens):
            normalizer = None if log_normalizers is None else float(log_normalizers[t])
            self.steps[prefix] = Step(state, log_probs[t][state.allowed], normalizer)
            taken = state.edge_of.get(self._automaton.column_of.get(token, -1)) if t + 1 < len(tokens) else None
            if taken is None:
                return
            prefix, state = (*prefix, token), self._automaton.state(state.targets[taken])


def walk_greedily(
    automaton: AnswerAutomaton, steps: Mapping[Prefix, Step], forced: Prefix = (), *, flagged: bool = False
) -> GreedyWalk:
    """Follow the most probable allowed token from the start, as constrained greedy decoding does.

    Parameters
    ----------
    automaton : AnswerAutomaton
        The guard's answers.
    steps : mapping of Prefix to Step
        What is explored.
    forced : tuple of int
        Tokens the answer has to begin with.
    flagged : bool
        Follow only tokens with which the answer can still name a category.
    """
    walk = GreedyWalk([], [], None)
    prefix: Prefix = ()
    while (step := steps.get(prefix)) is not None:
        tokens = automaton.alphabet[step.state.allowed]
        open_to = np.ones(len(tokens), dtype=bool)
        if len(prefix) < len(forced):
            open_to = tokens == forced[len(prefix)]
        elif flagged:
            open_to = np.append(step.state.may[:, 0], np.array(step.state.finals, dtype=np.int64) & ANY > 0)
        choice = int(np.argmax(np.where(open_to, step.log_probs, -np.inf)))
        if not open_to[choice]:
            choice = int(np.argmax(open_to))  # all of them are impossible to the model
        walk.steps.append(step)
        walk.choices.append(choice)
        if choice >= len(step.state.columns):
            return walk
        prefix = (*prefix, int(tokens[choice]))
    return GreedyWalk(walk.steps, walk.choices, prefix)


def renormalized(log_probs: FloatArray) -> FloatArray:
    """Return log-probabilities that add up to 1; tokens that all have none share it alike.

    Mass must not vanish there: a prefix counts in local lower bounds because something has to follow it.
    """
    kept = float(np.logaddexp.reduce(log_probs))
    return log_probs - kept if kept > -np.inf else np.full_like(log_probs, -np.log(len(log_probs)))
