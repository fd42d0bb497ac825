"""How good scores are against labels: F1, ranking and calibration, pooled and per category.

The numbers of a sample and of its bootstrap resamples come from one code path: scores are sorted once, and a
resample is a weight on each document. scikit-learn defines the same numbers, and would sort again each time;
the tests hold every number here against it.

Notation: n documents, N categories, ``scores[i, j] = Pr(category j in the answer of document i)``, and
``truth[i, j]`` where document i has category j. A *pair* is one (i, j). *Micro* pools all pairs; *macro* is the
plain mean over the categories that have both a positive and a negative label. Where documents have weights, a document
of weight w counts as w documents would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.special import xlog1py, xlogy

from confscore.ranking import Ranking, ratio
from confscore.rows import BoolArray, FloatArray, IntArray

BINS = 15
"""Bins of the calibration error and of the reliability diagram."""

CONFIDENCE = 0.95
_CURVE_POINTS = 400


@dataclass(frozen=True, slots=True)
class Metrics:
    """How good one estimator's scores are; nan where a number is not defined.

    A prediction is ``score >= threshold``.

    Attributes
    ----------
    micro_f1, macro_f1 : float
        ``F1 = 2 TP / (2 TP + FP + FN)`` at the given threshold.
    best_micro_f1, best_macro_f1 : float
        At the one threshold for all categories that makes it largest in the whole sample.
    best_micro_threshold, best_macro_threshold : float
        These thresholds: the largest, where several are as good.
    hamming_loss : float
        Share of pairs that are predicted wrongly at the given threshold.
    subset_accuracy : float
        Share of documents whose every category is predicted rightly at the given threshold.
    micro_auc, macro_auc : float
        Area under the ROC curve: the chance that a positive pair has a larger score than a negative one, ties
        counting half.
    micro_ap, macro_ap : float
        Average precision, ``Σ_k (R_k - R_{k-1}) P_k`` over the distinct scores, without interpolation.
    log_loss : float
        Mean over pairs of ``-log p`` where the label is true and ``-log(1 - p)`` where it is not, in nats. It
        is not clipped: a score of exactly 0 on a true label makes it infinite. Like the next two it is nan where
        any score lies outside [0, 1].
    brier : float
        Mean over pairs of ``(p - y)²``.
    ece : float
        Expected calibration error over pairs in equal-mass bins, see :func:`equal_mass_bins`:
        ``Σ_b |Σ_{pairs in b} (p - y)| / pairs``.
    """

    micro_f1: float
    macro_f1: float
    best_micro_f1: float
    best_micro_threshold: float
    best_macro_f1: float
    best_macro_threshold: float
    hamming_loss: float
    subset_accuracy: float
    micro_auc: float
    macro_auc: float
    micro_ap: float
    macro_ap: float
    log_loss: float
    brier: float
    ece: float


METRICS = tuple(field.name for field in fields(Metrics))
THRESHOLDS = ("best_micro_threshold", "best_macro_threshold")


@dataclass(frozen=True, slots=True)
class CategoryMetrics:
    """The same numbers for one category; nan where a number is not defined.

    ``precision`` is ``TP / (TP + FP)`` and ``recall`` is ``TP / (TP + FN)``, both at the given threshold.
    ``best_threshold`` is this category's own.
    """

    code: str
    positives: int
    f1: float
    best_f1: float
    best_threshold: float
    precision: float
    recall: float
    auc: float
    ap: float
    log_loss: float
    brier: float
    ece: float


def evaluate(
    scores: FloatArray, truth: BoolArray, threshold: float = 0.5, weights: FloatArray | None = None
) -> Metrics:
    """Hold scores against labels.

    Parameters
    ----------
    scores : float array, shape (n, N)
        ``scores[i, j] = Pr(category j in the answer of document i)``. Scores that are no probabilities are
        ranked and cut all the same.
    truth : bool array, shape (n, N)
        The labels.
    threshold : float
        Where F1, Hamming loss and subset accuracy are taken.
    weights : float array, shape (n,), optional
        Documents that each one stands for, all above 0; 1 by default.

    Raises
    ------
    ValueError
        The arrays are empty, not of one shape, or hold a nan.
    """
    return Sample(scores, truth, threshold, weights).measure()


def bootstrap(
    scores: FloatArray, truth: BoolArray, threshold: float = 0.5, resamples: int = 200, seed: int = 0
) -> tuple[Metrics, Metrics]:
    """Return the ends of 95 % percentile bootstrap intervals over documents (Efron and Tibshirani 1993, ch. 13).

    Documents are drawn with replacement, each with all its pairs. The best thresholds and the bins of the
    calibration error are those of the whole sample, and stay as they are. In a resample a category may have lost
    all its positive or all its negative labels: the macro averages of that resample are over the others of
    the whole sample's categories, and a number that no category defines does not count among the resamples.
    Ends are order statistics, not interpolated, so an infinite log loss does no harm.

    Parameters
    ----------
    scores, truth, threshold
        As in :func:`evaluate`.
    resamples : int
        How many; with 0 every number is nan.
    seed : int
        Equal seeds draw equal documents, so two estimators of the same documents see the same resamples.

    Returns
    -------
    low, high : Metrics
    """
    return resample(Sample(scores, truth, threshold), resamples, seed)


def evaluate_categories(
    scores: FloatArray, truth: BoolArray, codes: Sequence[str], threshold: float = 0.5
) -> list[CategoryMetrics]:
    """Hold scores against labels, category by category; parameters as in :func:`evaluate`, and ``codes``, length N."""
    sample = Sample(scores, truth, threshold)
    return [sample.category(j, code) for j, code in enumerate(codes)]


def macro_categories(truth: BoolArray) -> BoolArray:
    """Return which categories count in macro averages, shape (N,): those with a positive and a negative label."""
    positives: IntArray = truth.sum(axis=0)
    return (positives > 0) & (positives < len(truth))


def equal_mass_bins(values: FloatArray, bins: int = BINS) -> IntArray:
    """Cut values at their quantiles, as scikit-learn's ``calibration_curve(strategy="quantile")`` does.

    Parameters
    ----------
    values : float array, shape (m,)
        Finite values.
    bins : int
        At most so many bins. Equal values are never parted, so where many are equal there are fewer.

    Returns
    -------
    int array, shape (m,)
        The bin of each value; numbers that occur are not always consecutive.
    """
    edges = np.quantile(values, np.linspace(0, 1, bins + 1))
    return np.searchsorted(edges[1:-1], values)


class Sample:
    """Scores and labels, sorted and binned once; parameters as in :func:`evaluate`."""

    def __init__(
        self, scores: FloatArray, truth: BoolArray, threshold: float, weights: FloatArray | None = None
    ) -> None:
        if scores.ndim != 2 or scores.shape != truth.shape or scores.size == 0:
            raise ValueError(f"scores and truth must be of one shape (n, N), not {scores.shape} and {truth.shape}")
        if np.isnan(scores).any():
            raise ValueError("scores must not hold a nan")
        n, categories = scores.shape
        self.truth, self._threshold = truth, threshold
        self._weights = np.ones(n) if weights is None else weights
        self._macro = np.flatnonzero(macro_categories(truth))
        order = np.argsort(-scores, axis=None)
        ranked, positive = scores.ravel()[order], truth.ravel()[order]
        documents, category = np.divmod(order, categories)
        places = [np.flatnonzero(category == j) for j in range(categories)]
        self._pooled = Ranking(ranked, positive, documents)
        self._single = [Ranking(ranked[place], positive[place], documents[place]) for place in places]
        self._exact = ((scores >= threshold) == truth).all(axis=1)
        self._best_micro = self._pooled.count(self._weights).best_threshold()
        self._best_macro = self._best_macro_threshold(places, positive, self._weights[documents])
        self._probs = scores if scores.min() >= 0 and scores.max() <= 1 else None
        if self._probs is not None:
            self._log_loss, self._brier = (each.mean(axis=1) for each in _losses(scores, truth))
            self._bins = equal_mass_bins(scores.ravel())
            # gaps[i, b] = Σ (p - y) over the pairs of document i in bin b, for a resample to weigh.
            cells = np.repeat(np.arange(n) * BINS, categories) + self._bins
            self._gaps = np.bincount(cells, (scores - truth).ravel(), n * BINS).reshape(n, BINS)

    def _best_macro_threshold(self, places: Sequence[IntArray], positive: BoolArray, weights: FloatArray) -> float:
        """Return the cut of all pairs with the largest macro F1.

        Going down the pooled ranking, each pair changes the F1 of its own category only, so the sum over
        categories is one running sum of these changes.
        """
        if not self._macro.size:
            return np.nan
        changes = np.zeros(len(positive))
        for j in self._macro:
            weight = weights[places[j]]
            found = np.cumsum(weight * positive[places[j]])
            f1 = 2 * found / (np.cumsum(weight) + found[-1])
            changes[places[j]] = np.diff(f1, prepend=0)
        return self._pooled.best_cut(np.cumsum(changes))

    def measure(self, weights: FloatArray | None = None) -> Metrics:
        """Return the metrics of the sample, or of the resample that has document i ``weights[i]`` times."""
        categories = self.truth.shape[1]
        weights = self._weights if weights is None else self._weights * weights
        total = float(weights.sum())
        pooled = self._pooled.count(weights)
        single = [self._single[j].count(weights) for j in self._macro]
        # In a resample some of them may have lost their positive labels (no recall) or negative ones (no ROC).
        single = [counts for counts in single if counts.true[-1] > 0 and counts.false[-1] > 0]
        true, false = pooled.at(self._threshold)
        known = self._probs is not None
        return Metrics(
            micro_f1=pooled.f1(self._threshold),
            macro_f1=_mean(counts.f1(self._threshold) for counts in single),
            best_micro_f1=pooled.f1(self._best_micro),
            best_micro_threshold=self._best_micro,
            best_macro_f1=_mean(counts.f1(self._best_macro) for counts in single),
            best_macro_threshold=self._best_macro,
            hamming_loss=(false + float(pooled.true[-1]) - true) / (total * categories),
            subset_accuracy=float(weights @ self._exact) / total,
            micro_auc=pooled.auc(),
            macro_auc=_mean(counts.auc() for counts in single),
            micro_ap=pooled.ap(),
            macro_ap=_mean(counts.ap() for counts in single),
            log_loss=_weighted_mean(self._log_loss, weights) if known else np.nan,
            brier=_weighted_mean(self._brier, weights) if known else np.nan,
            ece=float(np.abs(weights @ self._gaps).sum()) / (total * categories) if known else np.nan,
        )

    def category(self, j: int, code: str) -> CategoryMetrics:
        """Return the metrics of category j."""
        truth = self.truth[:, j]
        counts = self._single[j].count(self._weights)
        true, false = counts.at(self._threshold)
        best = counts.best_threshold()
        log_loss = brier = ece = np.nan
        if self._probs is not None:
            probs = self._probs[:, j]
            log_losses, squares = _losses(probs, truth)
            log_loss, brier = (_weighted_mean(each, self._weights) for each in (log_losses, squares))
            gaps = np.bincount(equal_mass_bins(probs), self._weights * (probs - truth))
            ece = float(np.abs(gaps).sum() / self._weights.sum())
        return CategoryMetrics(
            code=code,
            positives=int(truth.sum()),
            f1=counts.f1(self._threshold),
            best_f1=counts.f1(best),
            best_threshold=best,
            precision=ratio(true, true + false),
            recall=ratio(true, float(counts.true[-1])),
            auc=counts.auc(),
            ap=counts.ap(),
            log_loss=log_loss,
            brier=brier,
            ece=ece,
        )

    def curve(self) -> tuple[FloatArray, FloatArray]:
        """Return recall and precision at some of the cuts, evenly over the recall; empty without a positive label."""
        counts = self._pooled.count(self._weights)
        if counts.true[-1] == 0:
            return np.zeros(0), np.zeros(0)
        steps = np.linspace(0, counts.true[-1], _CURVE_POINTS)
        shown = np.unique(np.append(np.searchsorted(counts.true, steps), [0, len(counts.true) - 1]))
        true, false = counts.true[shown], counts.false[shown]
        return true / counts.true[-1], true / (true + false)

    def reliability(self) -> tuple[FloatArray, FloatArray]:
        """Return mean score and share of true labels of each bin that is not empty."""
        if self._probs is None:
            return np.zeros(0), np.zeros(0)
        weights = np.repeat(self._weights, self.truth.shape[1])
        pairs, score, true = (
            np.bincount(self._bins, weights * values, BINS)
            for values in (np.ones(len(weights)), self._probs.ravel(), self.truth.ravel())
        )
        return score[pairs > 0] / pairs[pairs > 0], true[pairs > 0] / pairs[pairs > 0]


def resample(sample: Sample, resamples: int, seed: int) -> tuple[Metrics, Metrics]:
    """Return both ends of the bootstrap intervals of a sample; see :func:`bootstrap`."""
    n = len(sample.truth)
    rng = np.random.default_rng(seed)
    draws = (np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64) for _ in range(resamples))
    drawn = [sample.measure(weights) for weights in draws]
    ends: dict[str, tuple[float, float]] = {}
    for name in METRICS:
        values = np.array([getattr(metrics, name) for metrics in drawn])
        values = values[~np.isnan(values)]
        tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        low, high = np.quantile(values, tails, method="inverted_cdf").tolist() if values.size else (np.nan, np.nan)
        ends[name] = (low, high)
    return Metrics(**{name: low for name, (low, _) in ends.items()}), Metrics(
        **{name: high for name, (_, high) in ends.items()}
    )


def _losses(probs: FloatArray, truth: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return log loss and squared error of every pair."""
    log_loss: FloatArray = -xlogy(truth, probs) - xlog1py(~truth, -probs)
    return log_loss, (probs - truth) ** 2


def _weighted_mean(values: FloatArray, weights: FloatArray) -> float:
    drawn = weights > 0  # an infinite loss that was not drawn would be inf · 0
    return float(weights[drawn] @ values[drawn] / weights.sum())


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return float(np.mean(known)) if known else np.nan
