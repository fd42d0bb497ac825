"""Which figures the page of a night has, with what is written above them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
from markupsafe import Markup

from confscore.audit.plots import ACCENT, SECOND, Line, draw_cooccurrence, draw_distribution, draw_trend
from confscore.audit.record import CategoryReport, Numbers, Report
from confscore.rows import FloatArray

Captioned = tuple[str, Markup]
"""A caption and its figure."""
_OF_SCORED = "documents (% of scored)"


def overall_figures(report: Report) -> tuple[Captioned, ...]:
    """Return the figures of all documents."""
    trend = _Trend(report, "overall", report.overall)
    return (
        ("Documents", trend.draw("documents", (("documents", "documents", ACCENT),), "documents")),
        ("Flagged with any category", trend.draw("flags", (("flagged", "flag_rate", ACCENT),), _OF_SCORED, 100)),
        ("Largest score of a document", _distribution("overall", "all documents", report.overall, None)),
        ("Drift of the largest score", trend.draw("drift", (("PSI", "psi", ACCENT),), "PSI (nats)")),
        (
            "F1, micro average",
            trend.draw(
                "f1", (("estimated", "f1", ACCENT), ("from labels", "audited_f1", SECOND)), "F1 (0 to 1)", most=1
            ),
        ),
        ("Documents without scores", trend.draw("errors", (("errors", "error_rate", ACCENT),), "documents (%)", 100)),
    )


def category_figures(report: Report, place: int) -> tuple[Captioned, ...]:
    """Return the figures of one category."""
    category = report.categories[place]
    trend = _Trend(report, f"category-{place}", category, category.code)
    probable = "prevalence" if report.calibrated else "mean score"
    lines = (("flagged", "flag_rate", ACCENT), (probable, "prevalence", SECOND))
    return (
        ("Scores", _distribution(f"category-{place}", category.code, category, category.threshold)),
        (f"Flagged, and {probable}", trend.draw("flags", lines, _OF_SCORED, 100)),
        ("Drift of the scores", trend.draw("drift", (("PSI", "psi", ACCENT),), "PSI (nats)")),
    )


def cooccurrence_figure(report: Report) -> Markup:
    """Return the map of categories that are flagged together."""
    says = "Which categories are flagged together, as shares of the documents flagged with the row's category"
    codes = [each.code for each in report.categories]
    return Markup(draw_cooccurrence("cooccurrence", says, codes, report.cooccurrence))


class _Trend:
    """Figures of one scope over the nights of a report."""

    def __init__(self, report: Report, name: str, numbers: Numbers, scope: str = "overall") -> None:
        self._points = report.trend
        self._nights = [date.fromisoformat(point.night) for point in report.trend]
        self._name, self._numbers, self._scope = name, numbers, scope

    def draw(
        self,
        name: str,
        lines: Sequence[tuple[str, str, str]],
        unit: str,
        times: float = 1.0,
        most: float | None = None,
    ) -> Markup:
        """Return metrics over nights; ``lines`` have a label, the metric and a colour, and the first has a band."""
        band = self._numbers.bands.get(lines[0][1])
        drawn = [
            Line(label, self._values(metric) * times, color, self._interval(metric, times))
            for label, metric, color in lines
        ]
        says = f"{self._scope}: {', '.join(label for label, _, _ in lines)} over {len(self._nights)} nights"
        band = None if band is None else band * times
        svg = draw_trend(f"{self._name}-{name}", says, self._nights, drawn, unit, band, most)
        return Markup(svg)

    def _values(self, metric: str) -> FloatArray:
        values = [point.metrics.get(self._scope, {}).get(metric) for point in self._points]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def _interval(self, metric: str, times: float) -> tuple[float, float] | None:
        interval = self._numbers.intervals.get(metric)
        return None if interval is None else (interval.low * times, interval.high * times)


def _distribution(name: str, of: str, numbers: Numbers | CategoryReport, threshold: float | None) -> Markup:
    says = f"{of}: documents by the log-odds of their score, tonight and on the baseline's nights"
    svg = draw_distribution(f"{name}-scores", says, numbers.histogram, numbers.baseline_histogram, threshold)
    return Markup(svg)
