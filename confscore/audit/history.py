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
_LEAST_PSI = 1e-6
_PSI_SPREAD = 0.3


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
    """

    records: tuple[NightRecord, ...]
    night: date
    baseline_nights: int
    trailing_nights: int
    alpha: float

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
        count of 0 is taken for a half. The logarithm of a
        stability index of independent samples varies by about ``sqrt(2 / (bins - 1))``, the spread of a chi-squared
        variable; 0.3 is that of the twenty-odd bins that scores usually fill.
        """
        values = self._values(scope, metric)
        if not values:
            return None
        if metric in ("psi", "wasserstein"):
            return upper_band([max(value, _LEAST_PSI) for value in values], self.alpha, own_spread=_PSI_SPREAD)
        documents = float(np.median([_known(record, OVERALL, "documents") or 1.0 for record in self.trailing]))
        least = 0.5 / max(documents, 1.0) if metric.endswith(("_rate", "prevalence")) else 0.5
        positive = [max(value, least) for value in values]
        count = float(np.median(positive)) / least * 0.5
        return upper_band(positive, self.alpha, own_spread=1 / float(np.sqrt(count)))

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
