"""The baselines of arXiv 2511.22312: the greedy decision, and how uncertain the model is where it names a category.

An uncertainty is a number about one token position. The paper uses it to choose between one and two labels; to rank
documents by category, a score is made of it here that is 0 where the greedy answer does not name the category and
falls with the uncertainty where it does. Scores are in [0, 1], and are no probabilities.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import digamma, entr, softmax

from confscore.confidence import GreedyAnswer
from confscore.rows import BoolArray, FloatArray, IntArray

TOP_K = 2
"""How many tokens are taken as evidence, as in the published experiments of arXiv 2502.00290."""


def probability_uncertainty(logits: FloatArray) -> float:
    """Return ``u = 1 / (1 + max(q))`` with ``q = softmax(logits)``: 1/2 where the model is sure, more where it is not.

    As published with arXiv 2511.22312 and 2502.00290, where the largest probability takes the part of the evidence.

    Parameters
    ----------
    logits : float array, shape (K,)
        Of the tokens that were possible; a constant added to all of them changes nothing.
    """
    return float(1 / (1 + softmax(logits).max()))


def entropy_uncertainty(logits: FloatArray) -> float:
    """Return the entropy ``u = -sum_i q_i log q_i`` of ``q = softmax(logits)`` in nats.

    It is 0 where the model is sure, and at most ``log(K)``. A baseline of arXiv 2511.22312 and 2502.00290.

    Parameters
    ----------
    logits : float array, shape (K,)
        Of the tokens that were possible; a constant added to all of them changes nothing.
    """
    return float(entr(softmax(logits)).sum())


def logtoku(logits: FloatArray, k: int = TOP_K) -> tuple[float, float]:
    """Return the aleatoric and the epistemic uncertainty of a token from the evidence in its logits.

    Ma et al., "Estimating LLM Uncertainty with Evidence" (arXiv 2502.00290): the k largest logits, negative ones as 0,
    are the evidence ``alpha`` of a Dirichlet distribution, ``alpha_0`` is their sum, and::

        AU = -sum_i alpha_i / alpha_0 * (digamma(alpha_i + 1) - digamma(alpha_0 + 1))     (eq. 4)
        EU = k / sum_i (alpha_i + 1)                                                      (eq. 5)

    A constant added to all logits changes both, so log-probabilities cannot take their place as they are.

    Parameters
    ----------
    logits : float array, shape (K,)
        Raw logits of the tokens that were possible.
    k : int
        How many of them are evidence; missing ones are no evidence.

    Returns
    -------
    tuple of float
        AU in nats, and EU in (0, 1]. Without any evidence AU is 0, its limit.
    """
    evidence = np.zeros(k)
    largest = np.sort(logits)[::-1][:k]
    evidence[: len(largest)] = np.maximum(largest, 0.0)
    total = float(evidence.sum())
    epistemic = k / (total + k)
    if total <= 0:
        return 0.0, float(epistemic)
    aleatoric = -float((evidence / total) @ (digamma(evidence + 1) - digamma(total + 1)))
    return aleatoric, float(epistemic)


def reliability(logits: FloatArray, k: int = TOP_K) -> float:
    """Return ``R = -AU * EU``, at most 0: the reliability of a token in arXiv 2502.00290 (section 3)."""
    aleatoric, epistemic = logtoku(logits, k)
    return -aleatoric * epistemic


def greedy_score(answer: GreedyAnswer) -> FloatArray:
    """Return 1 for the categories that the greedy answer names, else 0; shape (N,).

    The greedy decision, a baseline of arXiv 2511.22312.
    """
    return (answer.named >= 0).astype(np.float64)


def probability_score(answer: GreedyAnswer) -> FloatArray:
    """Return ``1 - u`` with the probability uncertainty at each named category's place; shape (N,), at most 1/2."""
    return _scored(answer, lambda logits: 1 - probability_uncertainty(logits))


def entropy_score(answer: GreedyAnswer) -> FloatArray:
    """Return ``1 - u / log(K)`` with the entropy uncertainty at each named category's place; shape (N,)."""
    return _scored(answer, lambda logits: 1 - entropy_uncertainty(logits) / max(np.log(len(logits)), np.log(2)))


def logtoku_score(answer: GreedyAnswer) -> FloatArray:
    """Return ``1 / (1 - R)`` with the reliability R at each named category's place; shape (N,)."""
    return _scored(answer, lambda logits: 1 / (1 - reliability(logits)))


def choose_one_or_two(first: IntArray, second: IntArray, uncertainty: FloatArray, truth: BoolArray) -> BoolArray:
    """Predict each document's most probable label, and the second one too where the uncertainty allows it.

    The decision that arXiv 2511.22312 compares with, from arXiv 2502.00290: the largest uncertainty at which two
    labels are taken is the one that gains most on the labels given here, where a right second label counts +1 and a
    wrong one -1, both only where the first is right. It is fitted on the documents it decides, as published.

    Parameters
    ----------
    first, second : int array, shape (n,)
        Categories; -1 in ``second`` where there is none.
    uncertainty : float array, shape (n,)
        Of each document.
    truth : bool array, shape (n, N)
        ``truth[i, j]`` where document i has category j.

    Returns
    -------
    bool array, shape (n, N)
        Predictions.
    """
    rows = np.arange(len(truth))
    has_second = second >= 0
    right = truth[rows, first]
    second_right = np.where(has_second, truth[rows, second], False)
    gain = np.where(right & has_second, np.where(second_right, 1, -1), 0)
    order = np.argsort(uncertainty, kind="stable")
    limit = uncertainty[order][int(np.argmax(np.cumsum(gain[order])))]
    predicted = np.zeros_like(truth)
    predicted[rows, first] = True
    both = has_second & (uncertainty <= limit)
    predicted[rows[both], second[both]] = True
    return predicted


def _scored(answer: GreedyAnswer, score: Callable[[FloatArray], float]) -> FloatArray:
    scores = np.zeros(len(answer.named))
    for j, logits in answer.rivals.items():
        scores[j] = score(logits)
    return np.clip(scores, 0.0, 1.0)
