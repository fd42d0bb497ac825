"""How far a night's scores are from those of a baseline, and how far nights have been from it of late.

Distributions are compared on fixed bins of log-odds: guard scores crowd near 0, where bins of probabilities would put
nearly everything into one. Bins never move, so the counts of a night are kept once and compared with any baseline.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from confscore.rows import FloatArray, IntArray

EDGES: FloatArray = np.linspace(-10.0, 10.0, 41)
"""Inner edges of the bins, in log-odds (natural logarithm); the two outer bins are open."""
BINS = len(EDGES) + 1
_WIDTH = float(EDGES[1] - EDGES[0])
_CENTRES: FloatArray = np.concatenate([[EDGES[0] - _WIDTH / 2], (EDGES[1:] + EDGES[:-1]) / 2, [EDGES[-1] + _WIDTH / 2]])
LEAST_NIGHTS = 7
"""A band needs so many earlier nights."""
PRIOR_NIGHTS = 10
"""So many nights is the knowledge of a metric's own noise worth."""
_MAD_TO_SD = 1.4826  # of a normal distribution


def count_bins(probs: FloatArray) -> IntArray:
    """Return how many probabilities fall into each bin of log-odds.

    Parameters
    ----------
    probs : array, shape (n,)
        Probabilities; 0 and 1 fall into the outer bins. No NaN.

    Returns
    -------
    int array, shape (BINS,)
    """
    probs = np.asarray(probs, dtype=np.float64)
    with np.errstate(divide="ignore"):
        log_odds = np.log(probs) - np.log1p(-probs)
    return np.bincount(np.searchsorted(EDGES, log_odds, side="right"), minlength=BINS)


def population_stability_index(counts: IntArray, baseline: IntArray) -> float:
    """Return the population stability index of two histograms, in nats.

    ``PSI = sum_i (q_i - b_i) log(q_i / b_i)``, the symmetric Kullback-Leibler divergence (Jeffreys 1946; as an index of
    score distributions: Siddiqi 2006, Credit Risk Scorecards). Shares are ``(count + 1/2) / (n + BINS/2)``: an empty
    bin would make it infinite, and half a count is Jeffreys' prior.

    Parameters
    ----------
    counts, baseline : int array, shape (BINS,)
        Neither without any count.
    """
    q, b = (_shares(each) for each in (counts, baseline))
    return float(np.sum((q - b) * (np.log(q) - np.log(b))))


def normalized_wasserstein(counts: IntArray, baseline: IntArray) -> float:
    """Return how far scores have moved, in standard deviations of the baseline's log-odds.

    The 1-Wasserstein distance of the histograms, taken at the bins' centres, over the baseline's standard deviation.
    The variance within a bin is added to it, so that a baseline in one bin does not divide by 0.

    Parameters
    ----------
    counts, baseline : int array, shape (BINS,)
        Neither without any count.
    """
    distance = stats.wasserstein_distance(_CENTRES, _CENTRES, counts, baseline)
    mean = np.average(_CENTRES, weights=baseline)
    variance = np.average((_CENTRES - mean) ** 2, weights=baseline) + _WIDTH**2 / 12
    return float(distance / np.sqrt(variance))


def upper_band(
    history: Sequence[float], alpha: float, own_spread: float | None = None, further: float = 0.0
) -> float | None:
    """Return what the next value of a positive metric exceeds with a chance of about ``alpha``, nothing having changed.

    A prediction bound of the normal distribution for one further value (Hahn and Meeker 1991), on logarithms:
    ``exp(m + t(n - 1, 1 - alpha) s sqrt(1 + 1/n))``. ``m`` and ``s`` are the median and the scaled median absolute
    deviation, so that a night on which something happened does not widen the band for a month.

    Parameters
    ----------
    history : sequence of float, length n
        The metric on earlier nights; all positive.
    alpha : float
        Between 0 and 1.
    own_spread : float, optional
        What the metric's logarithm varies by on its own, where that is known. It counts as so many further nights as
        ``PRIOR_NIGHTS`` says, because a few nights say little of a spread (a moderated variance, Smyth 2004, "Linear
        models and empirical Bayes methods"): ``s² = (k own² + n s²) / (k + n)``, with ``k + n - 1`` degrees of freedom.
    further : float
        The variance that the next value's logarithm has beyond that of the earlier ones.

    Returns
    -------
    float or None
        ``None`` for fewer than ``LEAST_NIGHTS`` nights.
    """
    if len(history) < LEAST_NIGHTS:
        return None
    logs = np.log(np.asarray(history, dtype=np.float64))
    count = len(logs)
    middle = float(np.median(logs))
    spread = _MAD_TO_SD * float(np.median(np.abs(logs - middle)))
    freedom = count - 1
    if own_spread is not None:
        spread = float(np.sqrt((PRIOR_NIGHTS * own_spread**2 + count * spread**2) / (PRIOR_NIGHTS + count)))
        freedom += PRIOR_NIGHTS
    deviation = np.sqrt(spread**2 * (1 + 1 / count) + further)
    return float(np.exp(middle + stats.t.ppf(1 - alpha, freedom) * deviation))


def _shares(counts: IntArray) -> FloatArray:
    shares: FloatArray = (counts + 0.5) / (counts.sum() + len(counts) / 2)
    return shares
