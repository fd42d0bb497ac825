"""How the audit's page says numbers: rates in per cent, three digits, and a dash where a number is not known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date

from confscore.audit.record import Interval, Numbers

UNKNOWN = "–"
RATES = (
    *("error_rate", "bounded_rate", "truncated_rate", "wide_rate", "off_grammar"),
    *("flag_rate", "prevalence", "audited_prevalence"),
)
"""Metrics that are said in per cent."""
LABELS = {
    "documents": "Documents",
    "gap_days": "Days since the last audited night",
    "error_rate": "Errors: no scores",
    "bounded_rate": "Spent budgets: tolerance not met",
    "truncated_rate": "Truncated: some text not shown to the model",
    "wide_rate": "Wide residuals: above 0.1",
    "off_grammar": "Probability of something that is no answer",
    "tokens_per_document": "Prompt tokens a document",
    "requests_per_document": "Engine requests a document",
    "flag_rate": "Flagged",
    "prevalence": "Prevalence",
    "psi": "Drift: PSI, in nats",
    "wasserstein": "Drift: Wasserstein, in SD",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "audited_prevalence": "Prevalence, from labels",
    "audited_precision": "Precision, from labels",
    "audited_recall": "Recall, from labels",
    "audited_f1": "F1, from labels",
    "documents_per_second": "Documents a second",
    "actor_hours": "Actor-hours",
    "flagged": "Documents flagged",
    "expected": "Documents expected, Σp",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A metric as a page says it; whatever is not known is a dash, but for ``interval``, ``band`` and ``value``.

    Attributes
    ----------
    name, label : str
        As the rules call it, and as people do.
    value : float or None
        To sort by.
    tonight, before : str
        Tonight, and the night before it.
    interval, band : str or None
        None where there is none.
    above : bool
        Whether tonight is above the band.
    """

    name: str
    label: str
    value: float | None
    tonight: str
    before: str
    interval: str | None
    band: str | None
    above: bool


def show(name: str, numbers: Numbers, before: float | None = None) -> Shown:
    """Return a metric of tonight's numbers as it is shown."""
    value, interval, band = numbers.metrics.get(name), numbers.intervals.get(name), numbers.bands.get(name)
    return Shown(
        name=name,
        label=LABELS.get(name, name),
        value=value,
        tonight=metric(name, value),
        before=metric(name, before),
        interval=None if interval is None or value is None else between(name, interval),
        band=None if band is None else metric(name, band),
        above=value is not None and band is not None and value > band,
    )


def metric(name: str, value: float | None) -> str:
    """Return a metric's value, in per cent where it is a rate."""
    return percent(value) if name in RATES else number(value)


def between(name: str, interval: Interval) -> str:
    """Return the ends of an interval."""
    low, high = metric(name, interval.low), metric(name, interval.high)
    return f"{low.removesuffix(' %')}–{high}"


def number(value: float | None) -> str:
    """Return a number with three digits, or all digits before the point; whole ones as they are.

    Zeros at the end are kept, because they say how exact a number is.
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value):
        return f"{int(value):,}".replace("-", "−")
    size = abs(value)
    digits = max(0, 2 - math.floor(math.log10(float(f"{size:.2e}"))))
    text = f"{value:,.{digits}f}" if size >= 1e-4 else f"{value:.2e}"
    return text.replace("-", "−")


def percent(share: float | None) -> str:
    """Return a share in per cent."""
    return UNKNOWN if share is None or math.isnan(share) else f"{number(100 * share)} %"


def long_date(night: str) -> str:
    """Return an ISO date for people, such as ``Wednesday, 25 November 2026``."""
    day = date.fromisoformat(night)
    return f"{day:%A}, {day.day} {day:%B} {day.year}"
