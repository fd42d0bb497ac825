"""Intervals for shares that were estimated from a sample with unequal probabilities. Pure maths on arrays."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit
from scipy.stats import beta
from scipy.stats import t as student

from confscore.rows import BoolArray, FloatArray


def linearized(
    values: FloatArray, errors: FloatArray, inclusion: FloatArray, confidence: float
) -> tuple[FloatArray, FloatArray]:
    """Return the ends of logit intervals from linearized errors, shape (K,) each.

    The variance of an estimate under independent draws is estimated by ``V = Σ_i (1 - π_i) / π_i² · e_i²`` (Särndal,
    Swensson and Wretman 1992, sections 3.5 and 5.5), so a document that was drawn for certain adds nothing. Ends are
    ``logit(value) ± t √V / (value (1 - value))``, which keeps them in [0, 1] and fits estimates near 0 and 1, whose
    errors are skewed. A few documents with large weights may make up most of V, and V is then not well known itself: t
    is Student's with ``(Σ a_i)² / Σ a_i²`` degrees of freedom and at least 1, a_i being the terms of V (Satterthwaite
    1946, with one degree of freedom for each term).

    Parameters
    ----------
    values : float array, shape (K,)
        Estimated shares.
    errors : float array, shape (n, K)
        ``e_i``: the derivative of each estimate by the weight of document i, so that ``Σ_i e_i / π_i`` is its error but
        for terms of second order.
    inclusion : float array, shape (n,)
        π.
    confidence : float

    Returns
    -------
    low, high : float array, shape (K,)
        Both nan where the value is not inside (0, 1) or does not vary.
    """
    terms = ((1 - inclusion) / inclusion**2)[:, None] * errors**2
    variance = terms.sum(axis=0)
    fits = (values > 0) & (values < 1) & (variance > 0)
    low, high = np.full((2, len(values)), np.nan)
    inside, variance = values[fits], variance[fits]
    freedom = np.maximum(1, variance**2 / (terms[:, fits] ** 2).sum(axis=0))
    half = student.ppf((1 + confidence) / 2, freedom) * np.sqrt(variance) / (inside * (1 - inside))
    low[fits], high[fits] = expit(logit(inside) - half), expit(logit(inside) + half)
    return low, high


def mean_of(
    values: FloatArray, low: FloatArray, high: FloatArray, errors: FloatArray, inclusion: FloatArray
) -> tuple[float, float]:
    """Return the ends of an interval for the mean of K estimates, from their own intervals.

    ``mean ± √(Σ_jk d_j ρ_jk d_k) / K``, where d_j reaches from estimate j to its lower end, or to its upper one: the
    method of variance estimates recovery (Zou and Donner 2008), which keeps the skewness of each. ρ are the
    correlations of the linearized errors.

    Parameters
    ----------
    values, low, high : float array, shape (K,)
        K estimates and their intervals, at least one.
    errors : float array, shape (n, K)
        As in :func:`linearized`.
    inclusion : float array, shape (n,)
    """
    products = errors.T @ (errors * ((1 - inclusion) / inclusion**2)[:, None])
    spread = np.sqrt(np.diag(products))
    scale = np.outer(spread, spread)
    correlations = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    np.fill_diagonal(correlations, 1)
    down, up = (float(np.sqrt(max(0.0, d @ correlations @ d))) / len(values) for d in (values - low, high - values))
    mean = float(values.mean())
    return max(0.0, mean - down), min(1.0, mean + up)


def clopper_pearson(positives: float, trials: float, confidence: float) -> tuple[float, float]:
    """Return the exact two-sided bounds of Clopper and Pearson 1934 on a share; counts may be fractions."""
    tail = (1 - confidence) / 2
    low = 0.0 if positives <= 0 else float(beta.ppf(tail, positives, trials - positives + 1))
    high = 1.0 if positives >= trials else float(beta.ppf(1 - tail, positives + 1, trials - positives))
    return low, high


def count_bounds(truth: BoolArray, inclusion: FloatArray, documents: int, confidence: float) -> tuple[float, float]:
    """Return bounds on the positives of a domain that trust the labels only.

    Documents that were drawn for certain are known. For the others these are the bounds of Clopper and Pearson at the
    weighted share of positives, with Kish's effective size ``(Σ 1/π)² / Σ 1/π²`` for theirs (Korn and Graubard 1998).

    Parameters
    ----------
    truth : bool array, shape (n,)
        Labels of the sampled documents of the domain.
    inclusion : float array, shape (n,)
        Their π.
    documents : int
        How many documents the domain has in the population.
    confidence : float
    """
    chance = inclusion < 1
    known, unknown = float(truth[~chance].sum()), documents - int((~chance).sum())
    if unknown <= 0 or not chance.any():
        return known, known + max(unknown, 0)
    weights = 1 / inclusion[chance]
    trials = float(weights.sum() ** 2 / (weights**2).sum())
    share = 1.0 if truth[chance].all() else float(weights @ truth[chance] / weights.sum())
    low, high = clopper_pearson(share * trials, trials, confidence)
    return known + unknown * low, known + unknown * high
