"""The page of an audited night, and the index of all nights: one HTML file each, which loads nothing from anywhere.

Whatever comes from documents, taxonomies and configurations is escaped, and so is every character that does not print.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from confscore.audit.page_figures import category_figures, cooccurrence_figure, overall_figures
from confscore.audit.record import AlertRecord, CategoryReport, NightRecord, Report, TrendPoint
from confscore.audit.shown import LABELS, Shown, long_date, metric, number, percent, show
from confscore.words import one_line, printable

PAGE_NAME = "report.html"
"""What the page of a night is called in the night's folder."""
_HERE = Path(__file__).parent
_OPEN_UP_TO = 8  # categories; the figures of more are shown when they are asked for
_PAIRS = 10
_TILES = ("documents", "flag_rate", "prevalence", "psi", "f1", "error_rate")
_PROBLEMS = ("error_rate", "truncated_rate", "bounded_rate", "wide_rate", "off_grammar")
_COSTS = ("documents_per_second", "actor_hours", "tokens_per_document", "requests_per_document")
_QUALITY = ("precision", "recall", "f1")
_IN_CATEGORY_TABLE = ("flagged", "flag_rate", "prevalence", "psi", "wasserstein", *_QUALITY, "audited_f1")
_WORDS = {"ok": "OK: nobody has to act", "warn": "Warning: somebody should look", "fail": "Fail: somebody must act"}


@dataclass(frozen=True, slots=True)
class _Rule:
    """What one rule said of several scopes; ``missing`` are the numbers that were not known."""

    rule: str
    severity: str
    scopes: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Category:
    """A category as the page shows it: ``cells`` of the table by metric, ``others`` are known and not in it."""

    number: int
    report: CategoryReport
    cells: dict[str, Shown]
    others: tuple[Shown, ...]
    figures: tuple[tuple[str, Markup], ...]
    severity: str | None
    unfolded: bool


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two categories, the documents flagged with both, and their share of those flagged with either one."""

    first: str
    second: str
    both: int
    of_first: str
    of_second: str


def render_page(report: Report) -> str:
    """Return the page of a night.

    Parameters
    ----------
    report : Report
        Its numbers.

    Returns
    -------
    str
        An HTML document; equal reports give equal bytes.
    """
    earlier = [point for point in report.trend if point.night < report.night]
    before = earlier[-1] if earlier else None
    past = _metrics(before, "overall")
    overall = {name: show(name, report.overall, past.get(name)) for name in report.overall.metrics | LABELS}
    if not report.calibrated:
        overall["prevalence"] = replace(overall["prevalence"], label="Mean score")
    told = {*_PROBLEMS, *_COSTS, *_QUALITY, *(f"audited_{name}" for name in _QUALITY)}
    categories = _categories(report, before)
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            words=_WORDS[report.verdict],
            before=before,
            fired=sorted((each for each in report.alerts if each.fired), key=lambda each: each.severity != "fail"),
            unknown=_by_rule(each for each in report.alerts if each.fired is None),
            quiet=_by_rule(each for each in report.alerts if each.fired is False),
            overall=overall,
            tiles=_TILES,
            changes=[overall[name] for name in report.overall.metrics if name not in told],
            problems=[overall[name] for name in _PROBLEMS],
            costs=[overall[name] for name in _COSTS],
            quality=[(overall[name], overall[f"audited_{name}"]) for name in _QUALITY],
            scored=sum(report.overall.histogram),
            categories=categories,
            figures=overall_figures(report),
            heat=cooccurrence_figure(report),
            pairs=_pairs(report)[:_PAIRS],
            all_pairs=len(_pairs(report)),
            settings={name: json.dumps(value, ensure_ascii=False) for name, value in report.settings.items()},
        )
    )


def render_index(title: str, rows: Sequence[NightRecord], gone: Collection[str] = ()) -> str:
    """Return the index of audited nights.

    Parameters
    ----------
    title : str
        What is audited.
    rows : sequence of NightRecord
        In any order; the page has the newest first. Their folders are below the index's own.
    gone : collection of str
        Nights whose pages were removed: they are listed without a link.

    Returns
    -------
    str
        An HTML document.
    """
    newest = sorted(rows, key=lambda each: each.night, reverse=True)
    links = [None if row.night in gone else f"./{quote(row.folder.strip('/'))}/{PAGE_NAME}" for row in newest]
    return (
        _environment().get_template("index.html.jinja").render(title=title, rows=list(zip(newest, links, strict=True)))
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.filters |= {
        "number": number, "percent": percent, "one_line": one_line, "long_date": long_date
    }  # fmt: skip
    environment.globals |= {
        "style": Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
        "labels": LABELS,
        "say": metric,
        "scope_name": _scope_name,
    }
    return environment


def _finalized(value: object) -> object:
    if value is None:
        return number(None)
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _scope_name(report: Report, scope: str) -> str:
    names = {each.code: f"{each.code} {each.name}" for each in report.categories}
    return names.get(scope, "all documents" if scope == "overall" else scope)


def _by_rule(alerts: Iterable[AlertRecord]) -> list[_Rule]:
    found: dict[tuple[str, str], list[AlertRecord]] = {}
    for each in alerts:
        found.setdefault((each.rule, each.severity), []).append(each)
    return [
        _Rule(
            rule=rule,
            severity=severity,
            scopes=tuple(each.scope for each in said),
            missing=tuple(dict.fromkeys(name for each in said for name, value in each.values.items() if value is None)),
        )
        for (rule, severity), said in found.items()
    ]


def _metrics(point: TrendPoint | None, scope: str) -> dict[str, float | None]:
    return {} if point is None else point.metrics.get(scope, {})


def _categories(report: Report, before: TrendPoint | None) -> list[_Category]:
    severities: dict[str, str] = {}
    for alert in report.alerts:
        if alert.fired and severities.get(alert.scope) != "fail":
            severities[alert.scope] = alert.severity
    return [
        _Category(
            number=place,
            report=each,
            cells={name: show(name, each, _metrics(before, each.code).get(name)) for name in _IN_CATEGORY_TABLE},
            others=tuple(
                show(name, each)
                for name, value in each.metrics.items()
                if name not in _IN_CATEGORY_TABLE and value is not None
            ),
            figures=category_figures(report, place),
            severity=severities.get(each.code),
            unfolded=len(report.categories) <= _OPEN_UP_TO or each.code in severities,
        )
        for place, each in enumerate(report.categories)
    ]


def _pairs(report: Report) -> list[_Pair]:
    names = [f"{each.code} {each.name}" for each in report.categories]
    together = report.cooccurrence
    found = [(row[k], j, k) for j, row in enumerate(together) for k in range(j + 1, len(row)) if row[k]]
    return [
        _Pair(names[j], names[k], both, percent(both / together[j][j]), percent(both / together[k][k]))
        for both, j, k in sorted(found, key=lambda each: (-each[0], *each[1:]))
    ]
