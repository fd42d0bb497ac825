"""Calibration curves: from a score to the probability that the label is true. Numbers that can be written down.

A curve is what a fit leaves behind. It is read from JSON, computed on arrays, and turned into SQL, all from the same
few numbers. Every curve is monotone, and its probabilities lie in ``[EPS, 1 - EPS]``, so inside (0, 1).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import expit, logit

from confscore.rows import FloatArray

EPS = 2.0**-25
"""Scores are clipped to ``[EPS, 1 - EPS]`` before their log-odds are taken.

Scores are float32: the largest below 1 is ``1 - 2^-24``, so 1.0 stands for whatever is above ``1 - 2^-25``, and nothing
finer can be told apart at that end. Near 0 float32 goes on to 1e-45, log-odds of -103; clipped at the same distance
from both ends, a few such scores do not tilt a fit by their leverage alone.
"""

_FARTHEST = float(logit(1 - EPS))
_ONE = int(np.float32(1).view(np.uint32))


class _Curve(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Identity(_Curve):
    """The score is the probability, but for the clipping."""

    kind: Literal["identity"] = "identity"

    @property
    def domain(self) -> tuple[float, float]:
        """Return the lowest and the highest score that the curve tells from its neighbours."""
        return EPS, 1 - EPS

    def prob(self, scores: FloatArray) -> FloatArray:
        """Return probabilities of the shape of the scores; a nan stays one."""
        clipped: FloatArray = np.clip(scores.astype(np.float64), *self.domain)
        return clipped


class Logistic(_Curve):
    """``1 / (1 + exp(-(intercept + slope · log(p / (1 - p)))))``, for scores p clipped to its domain (Platt 1999)."""

    kind: Literal["logistic"] = "logistic"
    intercept: float
    slope: Annotated[float, Field(ge=0)]

    @property
    def domain(self) -> tuple[float, float]:
        """Return the lowest and the highest score that the curve tells from its neighbours.

        Beyond them the probability would leave ``[EPS, 1 - EPS]``.
        """
        if not self.slope:
            return EPS, 1 - EPS
        with np.errstate(over="ignore"):  # a slope of next to nothing has its ends infinitely far away
            ends = (np.array([-_FARTHEST, _FARTHEST]) - self.intercept) / self.slope
        low, high = expit(np.clip(ends, -_FARTHEST, _FARTHEST)).tolist()
        return low, high

    def prob(self, scores: FloatArray) -> FloatArray:
        """Return probabilities of the shape of the scores; a nan stays one."""
        clipped = np.clip(scores.astype(np.float64), *self.domain)
        prob: FloatArray = 1 / (1 + np.exp(-(self.intercept + self.slope * np.log(clipped / (1 - clipped)))))
        return prob


class Isotonic(_Curve):
    """Straight lines between knots, constant outside of them. Scores ascend, and probabilities do not descend."""

    kind: Literal["isotonic"] = "isotonic"
    scores: Annotated[tuple[float, ...], Field(min_length=1)]
    probs: Annotated[tuple[Annotated[float, Field(ge=EPS, le=1 - EPS)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if len(self.scores) != len(self.probs):
            raise ValueError("an isotonic curve has as many probs as scores")
        if (np.diff(self.scores) <= 0).any() or (np.diff(self.probs) < 0).any():
            raise ValueError("scores of an isotonic curve must ascend, and its probs must not descend")
        return self

    def prob(self, scores: FloatArray) -> FloatArray:
        """Return probabilities of the shape of the scores; a nan stays one."""
        prob: FloatArray = np.interp(scores, self.scores, self.probs)
        return prob


Curve = Annotated[Identity | Logistic | Isotonic, Field(discriminator="kind")]


def log_odds(scores: FloatArray) -> FloatArray:
    """Return ``log(p / (1 - p))`` of scores in [0, 1], clipped to ``[EPS, 1 - EPS]`` first."""
    odds: FloatArray = logit(np.clip(scores, EPS, 1 - EPS))
    return odds


def logistic(intercept: float, slope: float) -> Logistic:
    """Return a logistic curve that ascends and has a domain; a slope below 0 has to be dealt with before."""
    reach = _FARTHEST * (1 + slope)
    return Logistic(intercept=float(np.clip(intercept, -reach, reach)), slope=slope)


def score_at(curve: Curve, prob: float) -> float | None:
    """Return the smallest float32 score whose probability is at least ``prob``; ``None`` where no score has it.

    Scores are float32, so a cut on the score is a cut on the probability, and compares alike everywhere. Found by
    bisection over the floats from 0 to 1, which are as many as their bit patterns and in their order.
    """
    if not _reaches(curve, _ONE, prob):
        return None
    low, high = -1, _ONE  # the cut is above low, and not above high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _reaches(curve, middle, prob) else (middle, high)
    return _float32(high)


def _float32(bits: int) -> float:
    return float(np.uint32(bits).view(np.float32))


def _reaches(curve: Curve, bits: int, prob: float) -> bool:
    return bool(curve.prob(np.array([_float32(bits)]))[0] >= prob)
