"""What earlier nights say about this one: its baseline, its bands, and its trend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median

import numpy as np

from confscore.audit.alerts import OVERALL
from confscore.audit.drift import BINS, upper_band
from confscore.audit.record import NightRecord, TrendPoint
from confscore.rows import IntArray

Metrics = Mapping[str, Mapping[str, float | None]]
"""By scope and name."""

TREND_METRICS = ("flag_rate", "prevalence", "psi", "wasserstein", "f1", "audited_f1")
"""What is kept of a category; of all documents everything is."""
_DISTANCES = {"psi": 1.0, "wasserstein": 0.5}
_COUNTS = ("documents", "flagged", "expected")
_OF_ALL = ("error_rate", "bounded_rate", "truncated_rate")
_LEAST = 1e-6
_LEAST_COUNT = 0.05
_PSI_SPREAD = 0.3
_OTHER_SPREAD = 0.05


@dataclass(frozen=True, eq=False, slots=True)
class History:
    """Earlier nights of one kind of scores.

    Attributes
    ----------
    records : tuple of NightRecord
        All nights of the kind before this one, oldest first.
    night : date
        This one.
    baseline_nights, trailing_nights : int
        See :class:`confscore.audit.settings.AuditConfig`.
    alpha : float
        How often a band is exceeded by chance.
    documents, scored : int or None
        Of this night, all and those with scores: numbers of fewer documents vary more. ``None``: as many as before.
    """

    records: tuple[NightRecord, ...]
    night: date
    baseline_nights: int
    trailing_nights: int
    alpha: float
    documents: int | None = None
    scored: int | None = None

    @property
    def baseline(self) -> tuple[NightRecord, ...]:
        """Return the nights that scores are compared with: the first ones of their kind."""
        return self.records[: self.baseline_nights]

    @property
    def trailing(self) -> tuple[NightRecord, ...]:
        """Return the nights of the last days."""
        since = self.night - timedelta(days=self.trailing_nights)
        return tuple(record for record in self.records if date.fromisoformat(record.night) >= since)

    def baseline_histogram(self, scope: str) -> IntArray | None:
        """Return the baseline's scored documents by log-odds; ``None`` where there are none."""
        counts = np.zeros(BINS, np.int64)
        for record in self.baseline:
            counts += np.asarray(record.histograms.get(scope, np.zeros(BINS)), dtype=np.int64)
        return counts if counts.any() else None

    def gap_days(self) -> float | None:
        """Return the days since the last night before this one."""
        return float((self.night - date.fromisoformat(self.records[-1].night)).days) if self.records else None

    def look_up(self, scope: str, metric: str, history: str) -> float | None:
        """Return what a metric was: ``previous``, ``trailing_median`` or ``band``; ``None`` where that is not known."""
        values = self._values(scope, metric)
        if history == "band":
            return self.band(scope, metric)
        if not values:
            return None
        return values[-1] if history == "previous" else float(median(values))

    def band(self, scope: str, metric: str) -> float | None:
        """Return what a metric exceeds by chance; ``None`` for too short a history.

        Rates are counts of documents, which vary by themselves, their logarithms by ``1 / sqrt(count)`` (Poisson); a
        count of 0 is taken for a half. The logarithm of a stability index of independent samples varies by about
        ``sqrt(2 / (bins - 1))``, the spread of a chi-squared variable; 0.3 is that of the twenty-odd bins that scores
        usually fill.

        On a night with fewer documents than the ones before, rates vary more, and distances of mere chance are larger:
        a Wasserstein distance by the root of the ratio of documents, a stability index by the ratio, and by that of
        ``log(1 + baseline / documents)`` too, because the half counts in empty bins are larger shares. More documents
        make no band narrower, because nights differ by more than chance. Other metrics vary as they have varied, and
        at least by some per cent.
        """
        values = self._values(scope, metric)
        if not values:
            return None
        before = max(float(np.median([_known(record, OVERALL, "documents") or 1.0 for record in self.trailing])), 1.0)
        size = self.documents if metric in _OF_ALL else self.scored
        tonight = before if size is None else float(min(max(size, 1), before))
        if metric in _DISTANCES:
            larger = (before / tonight) ** _DISTANCES[metric]
            if metric == "psi":
                with_all = sum(_known(record, OVERALL, "documents") or 0.0 for record in self.baseline)
                larger *= float(np.log1p(with_all / tonight) / np.log1p(max(with_all, 1.0) / before))
            distances = [larger * max(value, _LEAST) for value in values]
            return upper_band(distances, self.alpha, own_spread=_PSI_SPREAD)
        if metric.endswith(("_rate", "prevalence")):
            positive = [max(value, 0.5 / before) for value in values]
            rate = float(np.median(positive))
            further = 1 / max(rate * tonight, _LEAST_COUNT) - 1 / (rate * before)
            band = upper_band(positive, self.alpha, 1 / float(np.sqrt(rate * before)), max(further, 0.0))
            return None if band is None else min(band, 1.0)
        if metric in _COUNTS:
            positive = [max(value, 0.5) for value in values]
            return upper_band(positive, self.alpha, own_spread=1 / float(np.sqrt(np.median(positive))))
        return upper_band([max(value, _LEAST) for value in values], self.alpha, own_spread=_OTHER_SPREAD)

    def trend(self) -> list[TrendPoint]:
        """Return the last nights for lines over time."""
        return [trend_point(record.night, record.verdict, record.metrics) for record in self.trailing]

    def _values(self, scope: str, metric: str) -> list[float]:
        values = (_known(record, scope, metric) for record in self.trailing)
        return [value for value in values if value is not None]


def trend_point(night: str, verdict: str, metrics: Metrics) -> TrendPoint:
    """Return what a trend keeps of a night."""
    kept = {
        scope: {name: value for name, value in own.items() if scope == OVERALL or name in TREND_METRICS}
        for scope, own in metrics.items()
    }
    return TrendPoint.model_validate({"night": night, "verdict": verdict, "metrics": kept})


def of_kind(records: Sequence[NightRecord], kind: str, night: date) -> tuple[NightRecord, ...]:
    """Return the nights of one kind of scores before a night, oldest first."""
    before = (record for record in records if record.kind == kind and date.fromisoformat(record.night) < night)
    return tuple(sorted(before, key=lambda record: record.night))


def _known(record: NightRecord, scope: str, metric: str) -> float | None:
    return record.metrics.get(scope, {}).get(metric)
