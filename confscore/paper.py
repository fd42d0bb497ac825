"""The published procedure of arXiv 2511.22312, for comparison with published figures. It loses mass, and says how much.

A depth-first search over answer tokens with the model's own probabilities. At each prefix it follows the nucleus (the
most probable tokens up to and with the one that lifts their sum over ``top_p``), and stops: below ``eps``; after an end
token of at least ``end_prob``; after ``children_beside_end`` children where one of those followed is an end token, the
last of which counts and is not followed; and at ``max_new_tokens``. A category's confidence is the sum of the
probabilities of the prefixes at which it is named.

Two things differ from the published code. Labels are told apart by the answer automaton and count once an answer,
where the code compares endings of decoded text, so that ``S1`` could collect what belongs to ``S10`` and sums could
exceed 1. And only tokens of answers are followed: what the model would say besides is seen as lost mass, not as text.

What the stops cut off is not lost silently: it is reported as what it could at most add to each category.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from confscore.automaton import AnswerAutomaton, State
from confscore.bounds import Bounds
from confscore.confidence import GreedyAnswer
from confscore.config import PaperConfig
from confscore.guards.grammar import ANY
from confscore.rows import BoolArray, FloatArray
from confscore.steps import Explored, Normalization, Prefix, walk_greedily
from confscore.token_walk import ByteState


@dataclass(slots=True)
class _Tally:
    """What one pass over the known positions found."""

    named: FloatArray
    cut: FloatArray
    complete: dict[int, float]
    on_grammar: float
    missing: list[Prefix]


class PaperSearch(Explored):
    """The published search over one prompt's answers, in the place of an :class:`~confscore.answer_tree.AnswerTree`.

    Rollouts that follow the greedy continuation are kept, so that a prefix on it costs no request of its own.

    Parameters
    ----------
    automaton : AnswerAutomaton
        The guard's answers.
    settings : PaperConfig
        The stops.
    budget : int
        The most rollouts a prompt may cost.
    """

    def __init__(self, automaton: AnswerAutomaton, settings: PaperConfig, budget: int) -> None:
        super().__init__(automaton)
        self._settings = settings
        self._budget = budget
        self._waiting: set[Prefix] = set()
        self._tally: _Tally | None = None

    def wanted(self) -> list[Prefix]:
        """Return the prefixes to roll out now; empty when the search is done, its budget spent, or it waits."""
        if self._waiting:
            return []
        missing = list(self._search().missing)
        greedy = walk_greedily(self._automaton, self.steps).missing
        if greedy is not None and greedy not in missing:
            missing.append(greedy)
        self._waiting = set(missing[: max(0, self._budget - self.requests)])
        return [prefix for prefix in missing if prefix in self._waiting]

    def add(
        self,
        prefix: Prefix,
        tokens: Sequence[int],
        log_probs: FloatArray,
        log_normalizers: FloatArray | None = None,
    ) -> None:
        """Take in the rollout of a prefix that :meth:`wanted` named."""
        super().add(prefix, tokens, log_probs, log_normalizers)
        self._waiting.discard(prefix)
        self._tally = None

    def bounds(self, normalization: Normalization) -> Bounds:
        """Return the published confidences as value and lower end, and with all that was cut off as upper end."""
        del normalization  # the procedure has its own, which is raw
        tally = self._search()
        value = np.minimum(tally.named, 1.0)
        return Bounds(value, value, np.minimum(value + tally.cut, 1.0))

    def answers(self, normalization: Normalization) -> list[tuple[int, float]]:
        """Return (category mask, probability) of the category sets found, most probable first."""
        del normalization
        return sorted(self._search().complete.items(), key=lambda item: -item[1])

    def within_tolerance(self) -> bool:
        """Say whether the search came to its own end before the budget did."""
        return not self._search().missing

    def hopeless(self) -> bool:
        """Say whether no answer has any probability."""
        return self._search().on_grammar <= 0

    def off_grammar(self) -> float:
        """Return the probability known to be lost to texts that are no answers."""
        return max(0.0, 1.0 - self._search().on_grammar)

    def _search(self) -> _Tally:
        if self._tally is None:
            columns = self._automaton.n_columns
            self._tally = _Tally(np.zeros(columns), np.zeros(columns), {}, 0.0, [])
            self._visit(self._tally, (), self._automaton.root, 1.0, 0, 0)
        return self._tally

    def _visit(self, tally: _Tally, prefix: Prefix, key: ByteState, prob: float, named: int, depth: int) -> None:
        settings, state = self._settings, self._automaton.state(key)
        if prob <= 0:
            return
        step = self.steps.get(prefix)
        if step is None and prob >= settings.eps:
            tally.missing.append(prefix)
        if step is None or prob < settings.eps:
            # The whole prefix is cut off: it may go to whatever some answer through it can name.
            may = state.may.any(axis=0) | _flags(self._automaton, state.finals)
            tally.cut += prob * (may & ~self._automaton.unpack(named))
            tally.on_grammar += prob
            return
        probs = prob * np.exp(step.log_probs)
        order = [int(choice) for choice in np.argsort(-probs, kind="stable")]
        sums = np.cumsum(probs[order]) / prob
        kept = order[: int(np.searchsorted(sums, settings.top_p, side="right")) + 1]
        edges = len(state.columns)
        an_end_is_kept = any(choice >= edges for choice in kept)
        followed = 0
        for followed, choice in enumerate(kept, start=1):
            mask = _mask(state, choice)
            fresh = self._automaton.unpack(mask & ~named)
            tally.named += probs[choice] * fresh
            is_end = choice >= edges
            if is_end:
                tally.complete[named | mask] = tally.complete.get(named | mask, 0.0) + float(probs[choice])
                tally.on_grammar += float(probs[choice])
                if probs[choice] >= settings.end_prob * prob:
                    break
            last = an_end_is_kept and followed == settings.children_beside_end
            if not is_end:
                if last or depth == settings.max_new_tokens:
                    self._cut(tally, state, [choice], probs, named | mask)
                else:
                    token = int(self._automaton.alphabet[state.columns[choice]])
                    target = state.targets[choice]
                    self._visit(tally, (*prefix, token), target, float(probs[choice]), named | mask, depth + 1)
            if last:
                break
        self._cut(tally, state, order[followed:], probs, named)

    def _cut(self, tally: _Tally, state: State, choices: Sequence[int], probs: FloatArray, named: int) -> None:
        """Note the branches that are not followed, and what they could have added."""
        edges = len(state.columns)
        for choice in choices:
            final = choice >= edges
            may = _flags(self._automaton, [state.finals[choice - edges]]) if final else state.may[choice]
            tally.cut += probs[choice] * (may & ~self._automaton.unpack(named))
            tally.on_grammar += float(probs[choice])


def paper_conditional(answer: GreedyAnswer) -> FloatArray:
    """Return the probability of the one token by which the greedy answer chooses each category; 0 where it does not.

    Shape (N,). The published code takes the token that completes the label; here it is the first token of the label at
    which there was a choice, which is the same where a label is read in one step.
    """
    emitted = answer.named >= 0
    return np.where(emitted, np.exp(answer.log_probs[np.maximum(answer.places, 0)]), 0.0)


def paper_joint(answer: GreedyAnswer) -> FloatArray:
    """Return the place-fixed joint confidence: the product of the tokens that choose the verdict and each label so far.

    Shape (N,). Unlike :func:`confscore.confidence.joint` it leaves out all tokens between labels.
    """
    scores = np.zeros(len(answer.named))
    log_prob = 0.0 if answer.verdict is None else float(answer.log_probs[answer.verdict])
    for j in sorted(np.flatnonzero(answer.named >= 0), key=lambda j: int(answer.places[j])):
        log_prob += float(answer.log_probs[answer.places[j]])
        scores[j] = np.exp(log_prob)
    return scores


def _mask(state: State, choice: int) -> int:
    """Return what a token names; "at least one category" as soon as the verdict is said, as published."""
    edges = len(state.columns)
    if choice >= edges:
        return state.finals[choice - edges]
    return state.named[choice] | (ANY if state.must[choice, 0] else 0)


def _flags(automaton: AnswerAutomaton, masks: Sequence[int]) -> BoolArray:
    together = 0
    for mask in masks:
        together |= mask
    return automaton.unpack(together)
