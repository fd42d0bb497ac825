"""From a policy to a threshold: which rule is followed, on what, and what it guarantees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from confscore.calibration import predict
from confscore.curves import Curve, score_at
from confscore.policy import (
    ExpectedCost,
    FBeta,
    Fixed,
    MaxF1,
    Policy,
    PolicyFile,
    PrecisionAtLeast,
    RecallAtLeast,
    ReviewBudget,
)
from confscore.rows import BoolArray, FloatArray
from confscore.score_counts import ScoreCounts
from confscore.thresholds import (
    APPROXIMATE,
    EXACT_PRECISION,
    EXACT_RECALL,
    Choice,
    Chosen,
    best_f,
    precision_at_least,
    recall_at_least,
    sizes_to_test,
    weighted_cuts,
)


@dataclass(frozen=True, eq=False, slots=True)
class Labels:
    """What labelled documents say about one category; arrays of shape (n,)."""

    scores: FloatArray
    truth: BoolArray
    weights: FloatArray | None
    curve: Curve


@dataclass(frozen=True, eq=False, slots=True)
class Population:
    """What all documents of a score table say, labelled or not.

    Attributes
    ----------
    counts : ScoreCounts
        Of each category's scores.
    shared : ScoreCounts
        Of the largest calibrated probability among the categories that share a budget; of none otherwise.
    sharing : tuple of str
        These categories.
    runs : tuple of str
        The runs that scored the documents.
    """

    counts: ScoreCounts
    shared: ScoreCounts
    sharing: tuple[str, ...]
    runs: tuple[str, ...]


def survey(
    batches: Iterable[tuple[pa.RecordBatch, FloatArray]],
    codes: Sequence[str],
    curves: Sequence[Curve],
    policy: PolicyFile,
) -> Population:
    """Count the documents of a score table, in one pass and in memory that does not grow with them.

    Parameters
    ----------
    batches : iterable of (pyarrow.RecordBatch, float array)
        Rows with ``run_id``, and their scores, shape (n, N).
    codes : sequence of str, length N
    curves : sequence of curves, length N
    policy : PolicyFile
    """
    sharing = policy.sharing(codes)
    places = [codes.index(code) for code in sharing]
    counts, shared = ScoreCounts(len(codes)), ScoreCounts(1)
    runs: set[str] = set()
    for batch, scores in batches:
        counts.add(scores)
        runs.update(batch.column("run_id").unique().to_pylist())
        if places:
            shared.add(predict([curves[j] for j in places], scores[:, places]).max(axis=1, keepdims=True))
    return Population(counts, shared, sharing, tuple(sorted(runs)))


def choose(policy: Policy, code: str, column: int, labels: Labels, population: Population) -> tuple[Choice, str | None]:
    """Choose the threshold of a category.

    Parameters
    ----------
    policy : one of the policies
    code : str
        The category.
    column : int
        Its column in ``population.counts``.
    labels : Labels
    population : Population

    Returns
    -------
    choice : Chosen or Abstained
    guarantee : str or None
        What a target with a confidence rests on.
    """
    scores, truth, weights = labels.scores, labels.truth, labels.weights
    choice: Choice
    guarantee = None
    match policy:
        case MaxF1():
            choice = best_f(scores, truth, weights, 1, policy.min_positives)
        case FBeta():
            choice = best_f(scores, truth, weights, policy.beta, policy.min_positives)
        case PrecisionAtLeast():
            guarantee = EXACT_PRECISION if weights is None else APPROXIMATE
            sizes = sizes_to_test(policy.precision, policy.confidence, len(scores))
            if weights is None:
                each = population.counts.documents / len(scores)
                cuts = population.counts.cuts(column, [size * each for size in sizes])
            else:
                cuts = weighted_cuts(scores, weights, sizes)
            choice = precision_at_least(scores, truth, weights, cuts, policy.precision, policy.confidence)
        case RecallAtLeast():
            guarantee = EXACT_RECALL if weights is None else APPROXIMATE
            choice = recall_at_least(scores, truth, weights, policy.recall, policy.confidence)
        case ExpectedCost():
            limit = policy.false_positive / (policy.false_positive + policy.false_negative)
            choice = Chosen(score_at(labels.curve, limit))
        case ReviewBudget():
            choice = Chosen(_within_budget(policy, code, column, labels.curve, population))
        case Fixed(of="probability"):
            choice = Chosen(score_at(labels.curve, policy.threshold))
        case Fixed():
            choice = Chosen(float(np.float32(policy.threshold)))
    return choice, guarantee


def _within_budget(policy: ReviewBudget, code: str, column: int, curve: Curve, population: Population) -> float | None:
    """Return the smallest threshold that flags no more than the budget, on an average night of the table."""
    documents = policy.documents * (policy.nights or max(len(population.runs), 1))
    if code not in population.sharing:
        return population.counts.within(column, documents)
    prob = population.shared.within(0, documents)
    return None if prob is None else score_at(curve, prob)
