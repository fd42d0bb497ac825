"""From scores to probabilities: how often a label is true where a score is so and so, category by category.

Four methods, each of which fits one :mod:`curve <confscore.curves>` for each category:

``hierarchical_platt``
    The default: one logistic regression on the log-odds x of all pairs,

        log-odds of p(y_ij = 1) = (a + a_j) + (b + b_j) · x_ij,

    with shared a and b, and with normal priors on what category j has of its own, ``a_j ~ N(0, s_a²)`` and
    ``b_j ~ N(0, s_b²)``. A category with few labels is close to the shared curve, one with many has its own (partial
    pooling: Gelman and Hill 2007, "Data Analysis Using Regression and Multilevel/Hierarchical Models", chapters 12 to
    14). The two scales are those with the largest evidence on a small grid, with Laplace's approximation (MacKay 1992,
    "Bayesian interpolation", Neural Computation 4): categories that are much alike give small scales.
``sigmoid``
    Platt's curve for each category by itself, with his smoothed targets (Platt 1999, "Probabilistic outputs for
    support vector machines").
``isotonic``
    The best curve that does not descend (Zadrozny and Elkan 2002, "Transforming classifier scores into accurate
    multiclass probability estimates"), kept off 0 and 1 as Laplace's rule of succession would.
``none``
    The score itself.

Notation: n documents, N categories, ``scores[i, j]`` and ``truth[i, j]`` of document i and category j, and
``weights[i]`` the documents that i stands for. Only their proportions count: they are scaled to sum to the effective
sample size ``(Σ w)² / Σ w²`` (Kish 1965, section 11.7), as an estimate from weights is no surer than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from scipy import sparse
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from confscore.curves import EPS, Curve, Identity, Isotonic, Logistic, log_odds, logistic
from confscore.rows import BoolArray, FloatArray, IntArray
from confscore.weights import effective_size

Method = Literal["hierarchical_platt", "sigmoid", "isotonic", "none"]

INTERCEPT_SCALES = (0.05, 0.15, 0.4, 1.0, 2.5)
SLOPE_SCALES = (0.02, 0.06, 0.15, 0.4)
_SHARED_SCALE = 30.0
"""The prior scale of the shared parameters: so wide that it says nothing."""
_CELL = 0.125
"""Width in log-odds of what is put together while scales are compared."""


@dataclass(frozen=True, slots=True)
class Scales:
    """How far categories lie apart: prior scales of their own intercepts and slopes, both in log-odds."""

    intercept: float
    slope: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A curve for each category, and the scales of a hierarchical fit."""

    curves: tuple[Curve, ...]
    scales: Scales | None = None


@dataclass(frozen=True, eq=False, slots=True)
class _Pairs:
    """Pairs of a document and a category, shape (m,) each; ``odds`` are log-odds."""

    odds: FloatArray
    category: IntArray
    label: BoolArray
    weight: FloatArray


def fit(
    scores: FloatArray,
    truth: BoolArray,
    weights: FloatArray | None = None,
    method: Method = "hierarchical_platt",
    scales: Scales | None = None,
) -> Fitted:
    """Fit a curve for each category.

    Parameters
    ----------
    scores : float array, shape (n, N)
        Scores in [0, 1].
    truth : bool array, shape (n, N)
        The labels.
    weights : float array, shape (n,), optional
        The documents that each one stands for; 1 by default.
    method : {'hierarchical_platt', 'sigmoid', 'isotonic', 'none'}
        How, see above.
    scales : Scales, optional
        Of a hierarchical fit; by default they are found.

    Raises
    ------
    ValueError
        The arrays do not fit each other, a score lies outside [0, 1], or a weight is not above 0.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    _check(scores, truth, weights)
    weights = weights * (effective_size(weights) / weights.sum())
    match method:
        case "none":
            return Fitted(tuple(Identity() for _ in range(scores.shape[1])))
        case "hierarchical_platt":
            return _fit_hierarchical(log_odds(scores), truth, weights, scales)
        case "sigmoid":
            odds = log_odds(scores)
            return Fitted(tuple(_fit_sigmoid(odds[:, j], truth[:, j], weights) for j in range(odds.shape[1])))
        case "isotonic":
            return Fitted(tuple(_fit_isotonic(scores[:, j], truth[:, j], weights) for j in range(scores.shape[1])))


def predict(curves: Sequence[Curve], scores: FloatArray) -> FloatArray:
    """Return calibrated probabilities, shape (n, N), inside (0, 1); where a score is nan, so is its probability."""
    return np.stack([curve.prob(scores[:, j]) for j, curve in enumerate(curves)], axis=1)


def fold_of(documents: int, folds: int, seed: int) -> IntArray:
    """Return which fold each document is in, shape (n,): folds of equal size, at random."""
    return np.random.default_rng(seed).permutation(np.arange(documents) % folds)


def predict_out_of_fold(
    scores: FloatArray,
    truth: BoolArray,
    weights: FloatArray | None = None,
    method: Method = "hierarchical_platt",
    scales: Scales | None = None,
    folds: int = 5,
    seed: int = 0,
) -> FloatArray:
    """Return probabilities for each document from curves that have not seen its labels, shape (n, N).

    Parameters are those of :func:`fit`. With fewer documents than folds each document is a fold.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    fold = fold_of(len(scores), min(folds, len(scores)), seed)
    probs = np.empty_like(scores)
    for number in range(int(fold.max()) + 1):
        held, rest = fold == number, fold != number
        fitted = fit(scores[rest], truth[rest], weights[rest], method, scales)
        probs[held] = predict(fitted.curves, scores[held])
    return probs


class Calibrator:
    """The same as :func:`fit` and :func:`predict`, in scikit-learn's manner.

    Parameters
    ----------
    method : {'hierarchical_platt', 'sigmoid', 'isotonic', 'none'}
        How, see :func:`fit`.

    Attributes
    ----------
    fitted_ : Fitted
        After :meth:`fit`.
    """

    def __init__(self, method: Method = "hierarchical_platt") -> None:
        self.method = method

    def fit(self, scores: FloatArray, truth: BoolArray, sample_weight: FloatArray | None = None) -> Self:
        """Fit a curve for each category; parameters as in :func:`fit`."""
        self.fitted_ = fit(scores, truth, sample_weight, self.method)
        return self

    def predict_proba(self, scores: FloatArray) -> FloatArray:
        """Return the probability of every category, shape (n, N)."""
        return predict(self.fitted_.curves, scores)


def _check(scores: FloatArray, truth: BoolArray, weights: FloatArray) -> None:
    if scores.ndim != 2 or scores.shape != truth.shape or weights.shape != scores.shape[:1] or not scores.size:
        raise ValueError(
            f"scores and truth must be of one shape (n, N), weights of shape (n,), not {scores.shape}, {truth.shape} "
            f"and {weights.shape}"
        )
    if not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError("scores must lie in [0, 1]")
    if not (np.isfinite(weights).all() and weights.min() > 0):
        raise ValueError("weights must be finite and above 0")


def _fit_isotonic(scores: FloatArray, truth: BoolArray, weights: FloatArray) -> Isotonic:
    margin = max(1 / (weights.sum() + 2), EPS)
    model = IsotonicRegression(out_of_bounds="clip").fit(scores, truth, sample_weight=weights)
    probs = np.clip(model.y_thresholds_, margin, 1 - margin)
    return Isotonic(scores=tuple(model.X_thresholds_.tolist()), probs=tuple(probs.tolist()))


def _fit_sigmoid(odds: FloatArray, truth: BoolArray, weights: FloatArray) -> Logistic:
    """Fit Platt's curve: logistic regression with targets (N₊ + 1) / (N₊ + 2) and 1 / (N₋ + 2) for 1 and 0."""
    positives = float(weights @ truth)
    target = np.where(truth, (positives + 1) / (positives + 2), 1 / (weights.sum() - positives + 2))
    center, spread = odds.mean(), odds.std()
    if spread > 0:
        # A target between 0 and 1 is a row of both labels that shares out its weight.
        rows = np.column_stack([np.ones(2 * len(odds)), np.tile((odds - center) / spread, 2)])
        labels = np.repeat([True, False], len(odds))
        shared = np.concatenate([weights * target, weights * (1 - target)])
        level, slope = _regress(rows, labels, shared, penalized=False).tolist()
        if slope > 0:
            return logistic(level - slope * center / spread, slope / spread)
    return logistic(float(logit(weights @ target / weights.sum())), 0.0)  # the score says nothing


def _fit_hierarchical(odds: FloatArray, truth: BoolArray, weights: FloatArray, scales: Scales | None) -> Fitted:
    n, categories = odds.shape
    if truth.all() or not truth.any():
        # No regression without both labels; Platt's targets are what can be said of each category.
        curves = (_fit_sigmoid(odds[:, j], truth[:, j], weights) for j in range(categories))
        return Fitted(tuple(curves), scales)
    pairs = _Pairs(odds.ravel(), np.tile(np.arange(categories), n), truth.ravel(), np.repeat(weights, categories))
    if scales is None:
        grid = [Scales(own, slope) for own in INTERCEPT_SCALES for slope in SLOPE_SCALES]
        coarse = _put_together(pairs)
        scales = max(grid, key=lambda each: _evidence(coarse, categories, each))
    flat = np.zeros(categories, dtype=np.bool_)
    while True:
        x = np.where(flat[pairs.category], 0, pairs.odds)
        coefficients = _regress(_design(x, pairs.category, categories, scales), pairs.label, pairs.weight)
        shared, own = coefficients[:2] * _SHARED_SCALE, coefficients[2:].reshape(2, categories)
        slopes = np.where(flat, 0, shared[1] + own[1] * scales.slope)
        if (slopes >= 0).all():
            break
        flat |= slopes < 0  # where a curve would descend, the score says nothing
    intercepts = shared[0] + own[0] * scales.intercept
    return Fitted(tuple(logistic(a, b) for a, b in zip(intercepts.tolist(), slopes.tolist(), strict=True)), scales)


def _put_together(pairs: _Pairs) -> _Pairs:
    """Return fewer pairs that say nearly the same: neighbours of one category and label, in one weighted mean.

    The scales are compared on these, as a comparison takes a fit for each of them.
    """
    cell = np.floor(pairs.odds / _CELL).astype(np.int64)
    key = (cell - cell.min()) * (2 * pairs.category.max() + 2) + 2 * pairs.category + pairs.label
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    weight: FloatArray = np.bincount(group, pairs.weight).astype(np.float64)
    odds: FloatArray = np.bincount(group, pairs.weight * pairs.odds) / weight
    return _Pairs(odds, pairs.category[first], pairs.label[first], weight)


def _design(odds: FloatArray, category: IntArray, categories: int, scales: Scales) -> sparse.csr_matrix:
    """Return the rows of pairs: shared intercept and slope, then each category's own intercept, then slope.

    Columns are scaled so that every coefficient has the prior N(0, 1), which is scikit-learn's penalty at ``C=1``.
    """
    ones = np.ones(len(odds))
    parts = [_SHARED_SCALE * ones, _SHARED_SCALE * odds, scales.intercept * ones, scales.slope * odds]
    columns = [np.zeros_like(category), np.ones_like(category), 2 + category, 2 + categories + category]
    values, places = np.stack(parts, axis=1).ravel(), np.stack(columns, axis=1).ravel()
    ends = np.arange(0, values.size + 1, len(parts))
    return sparse.csr_matrix((values, places, ends), shape=(len(odds), 2 + 2 * categories))


def _regress(
    rows: FloatArray | sparse.csr_matrix, labels: BoolArray, weights: FloatArray, penalized: bool = True
) -> FloatArray:
    strength = 1.0 if penalized else np.inf
    model = LogisticRegression(C=strength, solver="newton-cholesky", fit_intercept=False, tol=1e-6)
    coefficients: FloatArray = model.fit(rows, labels, sample_weight=weights).coef_[0]
    return coefficients


def _evidence(pairs: _Pairs, categories: int, scales: Scales) -> float:
    """Return the log evidence, but for a constant: ``log likelihood - |w|² / 2 - log det(X' D X + 1) / 2``."""
    rows = _design(pairs.odds, pairs.category, categories, scales)
    coefficients = _regress(rows, pairs.label, pairs.weight)
    predictor = rows @ coefficients
    prob = expit(predictor)
    log_likelihood = pairs.weight @ (pairs.label * predictor - np.logaddexp(0, predictor))
    curvature = (rows.T @ rows.multiply((pairs.weight * prob * (1 - prob))[:, None])).toarray()
    log_det = np.linalg.slogdet(curvature + np.eye(rows.shape[1]))[1]
    return float(log_likelihood - coefficients @ coefficients / 2 - log_det / 2)
