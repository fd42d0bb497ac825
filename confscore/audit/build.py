"""From counts to the numbers of a report, and to what the rules make of them. Nothing here reads or writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from confscore.audit.alerts import OVERALL, Alert
from confscore.audit.alerts import Rule as AlertRule
from confscore.audit.drift import normalized_wasserstein, population_stability_index
from confscore.audit.expected import Share, expected_quality, wilson
from confscore.audit.history import History
from confscore.audit.labels_in import Audited
from confscore.audit.record import (
    CATEGORY_METRICS,
    OVERALL_METRICS,
    CategoryReport,
    Cost,
    Interval,
    Notice,
    Numbers,
    TopDocument,
    Verdict,
)
from confscore.audit.tally import NightCounts
from confscore.rows import IntArray
from confscore.rules import Rule

BANDED = ("flag_rate", "prevalence", "psi", "wasserstein", "error_rate")
"""Metrics whose bands a report shows."""
_SCATTER = "95 %: how true labels scatter about the probabilities, if those are calibrated and labels independent"
INTERVALS = {
    "flag_rate": "Wilson's interval at 95 %, as if the night's documents were draws",
    "error_rate": "Wilson's interval at 95 %, as if the night's documents were draws",
    "prevalence": _SCATTER,
    "precision": _SCATTER,
    "recall": _SCATTER,
    "f1": _SCATTER,
    "audited": "90 %, from the labelled sample by its inclusion probabilities",
}
_SEVERITY: dict[str, int] = {"ok": 0, "warn": 1, "fail": 2}
_MOST_FIRED = 3


@dataclass(frozen=True, eq=False, slots=True)
class Night:
    """What is known of a night before its report is made.

    Attributes
    ----------
    codes, names : tuple of str, length N
    rules : tuple of Rule, length N
        What flags a document.
    counts : NightCounts
    history : History
    audited : Audited or None
    cost : Cost
    excerpts : mapping of str to str or None
        Excerpts by document id.
    """

    codes: tuple[str, ...]
    names: tuple[str, ...]
    rules: tuple[Rule, ...]
    counts: NightCounts
    history: History
    audited: Audited | None
    cost: Cost
    excerpts: Mapping[str, str | None]


def overall_numbers(night: Night) -> Numbers:
    """Return the numbers of all documents."""
    counts, history, cost = night.counts, night.history, night.cost
    documents, scored = counts.scored + counts.failed, counts.scored
    decided = [j for j, rule in enumerate(night.rules) if rule.outcome != "abstained"]
    shares = _expected(counts, decided)
    shares["flag_rate"] = wilson(counts.flagged_any, scored) if decided else None
    shares["error_rate"] = wilson(counts.failed, documents)
    shares["prevalence"] = expected_quality(counts.expected(range(len(night.codes))))["prevalence"]
    metrics: dict[str, float | None] = {
        "documents": float(documents),
        "gap_days": history.gap_days(),
        "bounded_rate": _divide(counts.bounded, documents),
        "truncated_rate": _divide(counts.truncated, documents),
        "wide_rate": _divide(counts.wide, scored),
        "off_grammar": _divide(counts.off_grammar, scored),
        "tokens_per_document": _divide(counts.prompt_tokens, documents),
        "requests_per_document": _divide(counts.requests, documents),
        "documents_per_second": cost.documents_per_second,
        "actor_hours": cost.actor_hours,
    }
    return _numbers(night, OVERALL, counts.largest, shares, metrics, OVERALL_METRICS)


def category_numbers(night: Night) -> tuple[CategoryReport, ...]:
    """Return the numbers of each category."""
    counts = night.counts
    found = []
    for j, (code, name, rule) in enumerate(zip(night.codes, night.names, night.rules, strict=True)):
        decided = rule.outcome != "abstained"
        shares = _expected(counts, [j])
        if not decided:
            shares |= {"precision": None, "recall": None, "f1": None}
        flagged = int(counts.totals.flagged[j])
        shares["flag_rate"] = wilson(flagged, counts.scored) if decided else None
        metrics: dict[str, float | None] = {
            "flagged": float(flagged) if decided else None,
            "expected": float(counts.totals.expected[j]) if counts.scored else None,
        }
        numbers = _numbers(night, code, counts.histograms[j], shares, metrics, CATEGORY_METRICS)
        top = tuple(
            TopDocument(
                doc_id=each.doc_id,
                score=each.score,
                prob=each.prob,
                flagged=each.flagged,
                excerpt=night.excerpts.get(each.doc_id),
            )
            for each in counts.tops[j]
        )
        found.append(
            CategoryReport(
                **dict(numbers), code=code, name=name, outcome=rule.outcome, threshold=rule.threshold, top=top
            )
        )
    return tuple(found)


def judge(
    rules: Sequence[AlertRule], numbers: Mapping[str, Numbers], history: History, notices: Sequence[Notice]
) -> tuple[Verdict, list[Alert]]:
    """Return what the rules say of a night, and the verdict that follows."""

    def known(scope: str, metric: str, asked: str | None) -> float | None:
        if asked is not None:
            return history.look_up(scope, metric, asked)
        return numbers[scope].metrics.get(metric)

    alerts = [alert for rule in rules for alert in rule.alerts(known)]
    said: list[Verdict] = [alert.severity for alert in alerts if alert.fired]
    said += ["warn" for notice in notices if notice.severity == "warn"]
    return worst(said), alerts


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the most severe verdict; ``ok`` of none."""
    return max(verdicts, key=_SEVERITY.__getitem__, default="ok")


def exit_status(verdict: Verdict) -> int:
    """Return the exit status that a verdict means: 0 ok, 1 warn, 2 fail."""
    return _SEVERITY[verdict]


def summarize(
    night: str, verdict: Verdict, overall: Numbers, alerts: Sequence[Alert], notices: Sequence[Notice]
) -> str:
    """Return a night in one line: the verdict, its size, and what fired."""
    metrics = overall.metrics
    flagged = metrics["flag_rate"]
    size = f"{metrics['documents'] or 0:,.0f} documents" + ("" if flagged is None else f", {flagged:.2%} flagged")
    fired = sorted((alert for alert in alerts if alert.fired), key=lambda alert: -_SEVERITY[alert.severity])
    said = [f"{alert.rule} [{', '.join(_values(alert))}]" for alert in fired[:_MOST_FIRED]]
    said += [f"and {len(fired) - _MOST_FIRED} more"] if len(fired) > _MOST_FIRED else []
    said += [notice.text for notice in notices if notice.severity == "warn"]
    return "; ".join([f"{verdict.upper()} {night}: {size}", *said])


def _values(alert: Alert) -> list[str]:
    return [f"{name} {'unknown' if value is None else format(value, '.3g')}" for name, value in alert.values.items()]


def _expected(counts: NightCounts, which: Sequence[int]) -> dict[str, Share | None]:
    return expected_quality(counts.expected(which))


def _numbers(
    night: Night,
    scope: str,
    histogram: IntArray,
    shares: Mapping[str, Share | None],
    metrics: Mapping[str, float | None],
    order: Mapping[str, str],
) -> Numbers:
    """Put together the numbers of one scope, drift and labels included, in the order of their names."""
    history, audited = night.history, night.audited
    baseline = history.baseline_histogram(scope)
    compared = baseline is not None and histogram.any()
    found: dict[str, float | None] = {
        **metrics,
        **{name: None if share is None else share.value for name, share in shares.items()},
        "psi": _compare(population_stability_index, histogram, baseline) if compared else None,
        "wasserstein": _compare(normalized_wasserstein, histogram, baseline) if compared else None,
        **(audited.metrics[scope] if audited is not None else {}),
    }
    intervals = {name: Interval(low=one.low, high=one.high) for name, one in shares.items() if one is not None}
    if audited is not None:
        intervals |= audited.intervals[scope]
    bands = {name: history.band(scope, name) for name in BANDED if name in order}
    return Numbers(
        metrics={name: found.get(name) for name in order},
        intervals={name: one for name, one in intervals.items() if name in order},
        bands={name: band for name, band in bands.items() if band is not None},
        histogram=tuple(histogram.tolist()),
        baseline_histogram=None if baseline is None else tuple(baseline.tolist()),
    )


def _compare(
    distance: Callable[[IntArray, IntArray], float], histogram: IntArray, baseline: IntArray | None
) -> float | None:
    return None if baseline is None else distance(np.asarray(histogram), baseline)


def _divide(part: float, whole: float) -> float | None:
    return part / whole if whole else None
