"""Confidences that rest on the greedy answer: conditional and joint. Pure maths on arrays.

The third confidence, the marginal, does not depend on one answer and is bounded in :mod:`confscore.bounds`. All three
are from "Token-Level Marginalization for Multi-Label LLM Classifiers" (arXiv 2511.22312).

A label need not be one token, and need not be over with its last token: after the tokens ``S``, ``1`` an answer can
still go on to ``S10``. So a category's tokens are those from where its label begins up to, and without, the step at
which the answer names it for certain, and at that step all tokens count that do so: ``,`` and the end for ``S1``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from confscore.automaton import AnswerAutomaton
from confscore.guards.grammar import ANY
from confscore.guards.reading import label_starts
from confscore.rows import FloatArray, IntArray
from confscore.steps import GreedyWalk, Normalization, Step, renormalized, walk_greedily

Prefix = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GreedyAnswer:
    """The most probable token at each step of an answer, and where it names its categories.

    Attributes
    ----------
    log_probs : float array, shape (T,)
        ``log_probs[t] = log p(token t | prompt, tokens before t)``.
    starts, named : int array, shape (N,)
        The step whose token begins the label of category ``j``, and the step after which the answer names it for
        certain; -1 where the answer does not name it.
    log_named : float array, shape (N,)
        The log-probability of all tokens together that name category ``j`` at step ``named[j]``; ``-inf`` where the
        answer does not name it.
    places : int array, shape (N,)
        The step at which category ``j`` is chosen: the first one of its label at which more than one token is
        allowed; -1 where the answer does not name it.
    rivals : mapping of int to float array
        ``rivals[j]`` are the logits of all tokens allowed at ``places[j]``. The chosen token has the largest.
    verdict : int or None
        The step after which the answer has to name some category; ``None`` where it does not.
    """

    log_probs: FloatArray
    starts: IntArray
    named: IntArray
    log_named: FloatArray
    places: IntArray
    rivals: Mapping[int, FloatArray]
    verdict: int | None = None


def conditional(answer: GreedyAnswer) -> FloatArray:
    """Return the probability of each category's tokens, given the greedy answer before them.

    ``conditional[j] = p(tokens of category j | prompt, greedy answer before them)``, and 0 where the greedy answer does
    not name ``j``: the conditional confidence of arXiv 2511.22312, for labels of any number of tokens.

    Returns
    -------
    float array, shape (N,)
        Probabilities.
    """
    return _from(answer, answer.starts)


def joint(answer: GreedyAnswer) -> FloatArray:
    """Return the probability of the greedy answer up to and with each category.

    ``joint[j] = p(all tokens of the greedy answer up to those of category j | prompt)``, and 0 where it does not name
    ``j``: the joint confidence of arXiv 2511.22312, with the probability of every token and not only of labels.

    Returns
    -------
    float array, shape (N,)
        Probabilities.
    """
    return _from(answer, np.zeros_like(answer.starts))


def read_greedy(
    automaton: AnswerAutomaton, steps: Mapping[Prefix, Step], normalization: Normalization, log_vocabulary: float
) -> GreedyAnswer | None:
    """Find the greedy answer among explored positions: the most probable allowed token at each step.

    Other parameters and the result are those of :func:`read_walk`; ``None`` where it is not explored to its end.
    """
    walk = walk_greedily(automaton, steps)
    return None if walk.missing is not None else read_walk(automaton, walk, normalization, log_vocabulary)


def read_walk(
    automaton: AnswerAutomaton, walk: GreedyWalk, normalization: Normalization, log_vocabulary: float
) -> GreedyAnswer:
    """Find where an answer names its categories, and how probable its tokens are.

    Parameters
    ----------
    automaton : AnswerAutomaton
        The guard's answers.
    walk : GreedyWalk
        A complete answer.
    normalization : {'raw', 'local', 'global'}
        ``raw`` takes the model's own probabilities. ``local`` and ``global`` take those of constrained decoding,
        renormalized over the allowed tokens at each step.
    log_vocabulary : float
        The logarithm of the vocabulary's size, for logits where an engine tells only log-probabilities: then the mean
        of ``exp(logit)`` over the vocabulary is taken to be 1, so that ``logit = log p + log_vocabulary``.
    """
    n_steps, n_categories = len(walk.steps), automaton.n_columns - 1
    log_probs = np.empty(n_steps)
    named = np.full(n_categories, -1)
    log_named = np.full(n_categories, -np.inf)
    ends_at, text = [], b""
    for t, (step, choice) in enumerate(zip(walk.steps, walk.choices, strict=True)):
        logs = step.log_probs if normalization == "raw" else renormalized(step.log_probs)
        masks = (*step.state.named, *step.state.finals)
        log_probs[t] = logs[choice]
        for j in range(n_categories):
            bit = 1 << (j + 1)
            if named[j] < 0 and masks[choice] & bit:
                named[j] = t
                log_named[j] = np.logaddexp.reduce([log for log, mask in zip(logs, masks, strict=True) if mask & bit])
        column = int(step.state.allowed[choice])
        text += automaton.words[column] if column < len(automaton.words) else b""
        ends_at.append(len(text))
    starts = np.full(n_categories, -1)
    for j, position in label_starts(automaton.grammar, text).items():
        # A mark at the very end belongs to the last token.
        starts[j] = min(int(np.searchsorted(ends_at, position, side="right")), named[j])
    places = np.full(n_categories, -1)
    for j in np.flatnonzero(named >= 0):
        label = range(starts[j], named[j] + 1)
        places[j] = next((t for t in label if len(walk.steps[t].log_probs) > 1), label[-1])
    rivals = {int(j): _logits(walk.steps[places[j]], log_vocabulary) for j in np.flatnonzero(named >= 0)}
    return GreedyAnswer(log_probs, starts, named, log_named, places, rivals, _verdict(walk))


def _from(answer: GreedyAnswer, first: IntArray) -> FloatArray:
    """Return the probability of each category's tokens from step ``first[j]`` on."""
    before = np.concatenate([[0.0], np.cumsum(answer.log_probs)])
    emitted = answer.named >= 0
    logs = np.full(len(emitted), -np.inf)
    logs[emitted] = before[answer.named[emitted]] - before[first[emitted]] + answer.log_named[emitted]
    result: FloatArray = np.minimum(np.exp(logs), 1.0)
    return result


def _verdict(walk: GreedyWalk) -> int | None:
    for t, (step, choice) in enumerate(zip(walk.steps, walk.choices, strict=True)):
        edges = len(step.state.columns)
        flagged = step.state.must[choice, 0] if choice < edges else step.state.finals[choice - edges] & ANY
        if flagged:
            return t
    return None


def _logits(step: Step, log_vocabulary: float) -> FloatArray:
    return step.log_probs + (log_vocabulary if step.log_normalizer is None else step.log_normalizer)
