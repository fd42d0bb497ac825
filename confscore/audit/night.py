"""One night: from its scores to a folder with its page, ready to be committed."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow.dataset as pds
import pyarrow.parquet as pq

from confscore.apply import apply
from confscore.audit.alerts import OVERALL
from confscore.audit.build import (
    INTERVALS,
    Night,
    category_numbers,
    judge,
    overall_numbers,
    summarize,
)
from confscore.audit.history import History, of_kind, trend_point
from confscore.audit.kinds import baseline_of, changes, fit_for, kind_of
from confscore.audit.labels_in import (
    SAMPLED_SCORES,
    Audited,
    audit_labels,
    read_arrived,
    scores_of_sample,
)
from confscore.audit.lake import NIGHTS, Lake
from confscore.audit.nights import TableNight
from confscore.audit.nights import digest as short_digest
from confscore.audit.origins import artefacts_of, cost_of
from confscore.audit.page import render_page
from confscore.audit.record import (
    CATEGORY_METRICS,
    OVERALL_METRICS,
    AlertRecord,
    NightRecord,
    Notice,
    Report,
    SampleDrawn,
)
from confscore.audit.scoring import provenance_hash
from confscore.audit.settings import AuditConfig, read_rules
from confscore.audit.tally import NightCounts, count_night
from confscore.audit.texts import find_excerpts, find_texts
from confscore.fitted import FittedModel
from confscore.identity import identity_of
from confscore.manifest import Provenance
from confscore.rules import Rule, describe_rules, make_rules
from confscore.sample import THRESHOLD, Request, draw_sample
from confscore.sample_file import describe_draw, write_sample
from confscore.score_table import provenance_of
from confscore.versions import versions

_SAMPLE = "sample.parquet"


@dataclass(frozen=True, eq=False, slots=True)
class Desk:
    """What is the same for all nights of one start.

    Attributes
    ----------
    config : AuditConfig
    lake : Lake
    model : FittedModel or None
    model_hash : str or None
        SHA-256 of the fit's file.
    label_files : list of (str, int, int)
        Paths, sizes and times of what has arrived.
    now : callable
        The clock.
    """

    config: AuditConfig
    lake: Lake
    model: FittedModel | None
    model_hash: str | None
    label_files: list[tuple[str, int, int]]
    now: Callable[[], datetime]


def audit_night(
    desk: Desk, scores: TableNight, signature: str, records: Sequence[NightRecord], unless_same: bool
) -> NightRecord | None:
    """Write a night's folder, and return the record that commits it.

    Parameters
    ----------
    desk : Desk
    scores : TableNight
        The night's scores.
    signature : str
        Of the files that decide whether the night has changed.
    records : sequence of NightRecord
        All audited nights.
    unless_same : bool
        Return ``None`` where the night has been audited from just the same.

    Raises
    ------
    ConfscoreError
        Something that the report needs cannot be read or written.
    """
    config, lake, night = desk.config, desk.lake, str(scores.night)
    table = scores.open()
    provenance = provenance_of(table)
    identity = identity_of(provenance)
    kind = kind_of(identity)
    codes = tuple(provenance.categories)
    alert_rules = read_rules(config, codes)
    history = History(
        of_kind(records, kind, scores.night),
        scores.night,
        config.baseline_nights,
        config.trailing_nights,
        config.band_alpha,
    )
    before = next((record for record in records if record.night == night), None)
    audit_id = _audit_id(desk, scores, signature, provenance, history)
    if unless_same and before is not None and before.audit_id == audit_id and lake.has_page(before):
        return None
    folder = f"{NIGHTS}/{night}/{audit_id}"
    notices = changes(before, signature, records, identity, history)
    model, refused = fit_for(config.fit, desk.model, identity)
    notices += refused
    rules = flag_rules(config, model, codes)
    counts = count_night(scores.path, table, rules, config.top_documents)
    history = replace(history, documents=counts.scored + counts.failed, scored=counts.scored)
    audited, left_out = _audited(desk, history, codes)
    notices += left_out
    if counts.scored or counts.failed:
        _write_flags(desk, scores, table, rules, folder)
    sample, more = _draw(desk, scores, table, model, folder, counts)
    notices += more
    excerpts, missing = find_excerpts(config, scores, counts)
    notices += missing
    state = Night(
        codes,
        tuple(provenance.categories.values()),
        rules,
        counts,
        history,
        audited,
        cost_of(scores, counts),
        excerpts,
    )
    fit = (config.fit, desk.model_hash) if model is not None and config.fit and desk.model_hash else None
    overall, categories = overall_numbers(state), category_numbers(state)
    numbers = {OVERALL: overall, **{each.code: each for each in categories}}
    verdict, alerts = judge(alert_rules, numbers, history, notices)
    summary = summarize(night, verdict, overall, alerts, notices)
    metrics = {scope: each.metrics for scope, each in numbers.items()}
    created_at = desk.now().isoformat(timespec="seconds")
    report = Report(
        audit_id=audit_id,
        night=night,
        created_at=created_at,
        verdict=verdict,
        summary=summary,
        kind=kind,
        identity=identity,
        calibrated=model is not None,
        tolerance=provenance.tolerance,
        baseline=baseline_of(history, records, identity, night),
        overall=overall,
        categories=categories,
        cooccurrence=tuple(tuple(row) for row in counts.together.tolist()),
        alerts=tuple(
            AlertRecord(rule=a.rule, scope=a.scope, severity=a.severity, fired=a.fired, values=a.values) for a in alerts
        ),
        notices=tuple(notices),
        sample=sample,
        labels=None if audited is None else audited.labels,
        cost=state.cost,
        excerpts=config.excerpts,
        errors=counts.errors,
        trend=(*history.trend(), trend_point(night, verdict, metrics)),
        artefacts=artefacts_of(lake, scores, signature, provenance, sample, audited, fit),
        settings=config.model_dump(mode="json"),
        versions=versions(),
        interval_says=INTERVALS,
        metrics_say={"overall": OVERALL_METRICS, "category": CATEGORY_METRICS},
    )
    lake.write(f"{folder}/report.json", report.model_dump_json(indent=1).encode())
    lake.write(f"{folder}/report.html", render_page(report).encode())
    return NightRecord(
        night=night,
        audit_id=audit_id,
        signature=signature,
        kind=kind,
        identity=identity,
        provenance_hash=provenance_hash(provenance),
        verdict=verdict,
        summary=summary,
        folder=folder,
        sample=sample,
        metrics=metrics,
        histograms={scope: each.histogram for scope, each in numbers.items()},
        replaces=None if before is None else before.audit_id,
        created_at=created_at,
    )


def _audit_id(desk: Desk, scores: TableNight, signature: str, provenance: Provenance, history: History) -> str:
    content = [
        str(scores.night),
        signature,
        scores.signature,
        provenance_hash(provenance),
        desk.config.model_dump(mode="json", exclude={"output"}),
        desk.model_hash,
        desk.label_files,
        [[record.night, record.audit_id] for record in (*history.baseline, *history.trailing)],
        versions().get("confscore"),
    ]
    return f"audit-{short_digest(content)}"


def flag_rules(config: AuditConfig, model: FittedModel | None, codes: Sequence[str]) -> tuple[Rule, ...]:
    """Return what flags a document.

    Raises
    ------
    InputError
        A threshold cannot be understood, or is for no category of the taxonomy.
    """
    thresholds = list(config.thresholds)
    if model is None and not any("=" not in each for each in thresholds):
        thresholds.append(THRESHOLD)
    return make_rules(model, thresholds, codes)


def _audited(desk: Desk, history: History, codes: Sequence[str]) -> tuple[Audited | None, list[Notice]]:
    settings = desk.config.labels
    if settings is None:
        return None, []
    tables, notices = read_arrived(settings, desk.label_files, codes)
    audited, few = audit_labels(desk.lake.output, history.records, tables, codes, settings.least_fraction)
    return audited, [*notices, *few]


def _write_flags(desk: Desk, scores: TableNight, table: pds.Dataset, rules: Sequence[Rule], folder: str) -> None:
    desk.lake.make_folder(folder)
    about = describe_rules(rules, desk.model_hash, None)
    apply(scores.path, desk.lake.place(f"{folder}/flags.parquet"), rules, about=about, table=table)


def _draw(
    desk: Desk, scores: TableNight, table: pds.Dataset, model: FittedModel | None, folder: str, counts: NightCounts
) -> tuple[SampleDrawn | None, list[Notice]]:
    settings = desk.config.sample
    if settings is None or not counts.scored:
        return None, []
    request = Request(
        scores.path, settings.budget, settings.design, settings.floor_share, seed=scores.night.toordinal()
    )
    sample = draw_sample(request, desk.config.thresholds, model, table)
    notices: list[Notice] = []
    texts: Sequence[str] | None = None
    if settings.text:
        found, notices = find_texts(desk.config, scores, sample.doc_ids)
        texts = [found[doc_id] for doc_id in sample.doc_ids] if found else None
    about = describe_draw(request, sample, desk.model_hash if model is not None else None)
    write_sample(desk.lake.place(f"{folder}/{_SAMPLE}"), sample, texts, about)
    sink = io.BytesIO()
    pq.write_table(scores_of_sample(scores.path, table, sample), sink, compression="zstd")
    desk.lake.write(f"{folder}/{SAMPLED_SCORES}", sink.getvalue())
    drawn = SampleDrawn(
        path=f"{folder}/{_SAMPLE}", design=request.design, budget=request.budget, drawn=len(sample.doc_ids)
    )
    return drawn, notices
