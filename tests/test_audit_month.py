"""Thirty nights with planted events: which nights alert, for which category and why, and which stay quiet."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import month
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from confscore.audit.record import Report
from confscore.audit.run import Outcome, Span, audit
from confscore.audit.settings import AuditConfig

DOCUMENTS = 2000
SEED = 1
LABELLED, LABELS_COME = 4, 6
"""The sample of one night has labels when a later one is audited."""
LATE, CHANGED = month.MISSING, month.NIGHTS


@dataclass
class Month:
    """The corpus, its scores and audits in one folder."""

    root: Path

    def config(self, table: str = "scores-aa", output: str = "audit") -> AuditConfig:
        return AuditConfig.model_validate(
            {
                "scores": str(self.root / table),
                "corpus": {"path": str(self.root / "corpus"), "id_column": "doc_id"},
                "output": str(self.root / output),
                "labels": {"path": str(self.root / "labels"), "label_column": "labels"},
                "sample": {"budget": 150},
            }
        )

    def add(self, night: month.Night) -> str:
        table = f"scores-{night.provenance.model_hash[:2]}"
        month.write_scores(self.root / table, night, month.write_corpus(self.root / "corpus", night))
        return table

    def audit(self, table: str, today: date, first: date | None = None, last: date | None = None, **more) -> Outcome:
        return audit(self.config(table, **more), Span(first, last, today), lambda sentence: None)

    def report(self, number: int, output: str = "audit") -> Report:
        (path,) = (self.root / output / "nights" / str(month.day(number))).glob("*/report.json")
        return Report.model_validate_json(path.read_bytes())

    def files(self) -> dict[str, tuple[bytes, int]]:
        paths = (path for path in (self.root / "audit").rglob("*") if path.is_file())
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def nights() -> list[int]:
    return [number for number in range(1, month.NIGHTS + 1) if number != month.MISSING]


def label(root: Path, night: month.Night) -> None:
    """Label a night's sample as a person would who knows the truth."""
    (path,) = (root / "audit" / "nights" / str(night.day)).glob("*/sample.parquet")
    ids = pq.read_table(path)["doc_id"].to_pylist()
    truth = dict(zip(night.ids, night.truth, strict=True))
    labels = [[code for code, has in zip(month.CODES, truth[doc_id], strict=True) if has] for doc_id in ids]
    (root / "labels").mkdir()
    table = pa.table({"doc_id": ids, "labels": labels})
    pq.write_table(table.replace_schema_metadata(pq.read_schema(path).metadata), root / "labels" / "first.parquet")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Month, dict[int, Outcome]]:
    world = Month(tmp_path_factory.mktemp("month"))
    outcomes = {}
    for number in nights():
        table = world.add(month.make_night(number, DOCUMENTS, SEED))
        if number == LABELS_COME:
            label(world.root, month.make_night(LABELLED, DOCUMENTS, SEED))
        outcomes[number] = world.audit(table, month.day(number))
    return world, outcomes


def fired(report: Report) -> set[tuple[str, str]]:
    """Return scope and first metric of every rule that fired."""
    return {(alert.scope, next(iter(alert.values)).partition(".")[2]) for alert in report.alerts if alert.fired}


def test_the_planted_events_and_nothing_else_alert(audited: tuple[Month, dict[int, Outcome]]) -> None:
    world, outcomes = audited
    expected = {number: set() for number in nights()}
    expected[month.DOUBLED] = {("S4", "flag_rate")}
    expected[month.MISSING + 1] = {("overall", "gap_days")}
    expected[month.BROKEN] = {("overall", "error_rate"), ("S2", "psi")}
    drifting = range(month.DRIFTS, month.NEW_MODEL)
    found = {number: fired(world.report(number)) for number in nights()}
    for number in drifting:
        found[number] -= {("overall", "psi")}  # it follows, as soon as the drift of one category shows in the largest
    first_seen = min(number for number in drifting if ("S2", "psi") in found[number])
    assert first_seen - month.DRIFTS <= 2, "half a unit of log-odds is seen in three nights"
    expected |= {number: {("S2", "psi")} | expected[number] for number in drifting if number >= first_seen}
    assert found == expected
    status = {number: outcome.status for number, outcome in outcomes.items()}
    warned = {month.DOUBLED, month.MISSING + 1, month.NEW_MODEL, *(n for n in drifting if n >= first_seen)}
    assert status == {n: 2 if n == month.BROKEN else int(n in warned) for n in nights()}
    assert outcomes[month.DOUBLED].line.startswith("WARN 2026-10-12: 2,000 documents, ")
    assert "[S4.flag_rate 0.0" in outcomes[month.DOUBLED].line
    assert outcomes[month.BROKEN].line.startswith("FAIL 2026-10-22")


def test_another_model_begins_a_baseline_of_its_own(audited: tuple[Month, dict[int, Outcome]]) -> None:
    world, outcomes = audited
    report = world.report(month.NEW_MODEL)
    (notice,) = report.notices
    assert notice.severity == "warn"
    assert notice.text == ("a new baseline begins: scores have another model hash (bbbbbbbbbbbb…, not aaaaaaaaaaaa…)")
    assert notice.text in outcomes[month.NEW_MODEL].line
    assert report.overall.metrics["psi"] is None
    assert report.overall.metrics["gap_days"] is None
    assert [point.night for point in report.trend] == [str(month.day(month.NEW_MODEL))]
    after = world.report(month.NEW_MODEL + 1)
    assert (after.baseline.began, after.baseline.nights) == (report.night, (report.night,))
    assert after.kind == report.kind != world.report(month.NEW_MODEL - 1).kind


def test_a_broken_field_is_said_in_words_and_numbers(audited: tuple[Month, dict[int, Outcome]]) -> None:
    report = audited[0].report(month.BROKEN)
    empty = sum(not text for text in month.make_night(month.BROKEN, DOCUMENTS, SEED).texts)
    assert report.errors == {"text is empty": empty}
    assert report.overall.metrics["error_rate"] == pytest.approx(empty / DOCUMENTS)
    interval = report.overall.intervals["error_rate"]
    assert interval.low < empty / DOCUMENTS < interval.high


def test_numbers_are_those_of_the_documents(audited: tuple[Month, dict[int, Outcome]]) -> None:
    night, report = month.make_night(3, DOCUMENTS, SEED), audited[0].report(3)
    probs = night.probs.astype(np.float64)
    flags = probs >= 0.5
    assert report.cooccurrence == tuple(tuple(row) for row in (flags.T.astype(int) @ flags.astype(int)).tolist())
    assert report.overall.metrics["flag_rate"] == flags.any(axis=1).mean()
    for j, each in enumerate(report.categories):
        true, positives, flagged = probs[flags[:, j], j].sum(), probs[:, j].sum(), flags[:, j].sum()
        assert each.metrics["flagged"] == flagged
        assert each.metrics["prevalence"] == pytest.approx(positives / DOCUMENTS)
        assert each.metrics["precision"] == pytest.approx(true / flagged)
        assert each.metrics["recall"] == pytest.approx(true / positives)
        assert each.metrics["f1"] == pytest.approx(2 * true / (flagged + positives))
        # Probabilities are calibrated here, so the truth lies in the intervals, but for chance.
        interval = each.intervals["prevalence"]
        assert interval.low * 0.8 < night.truth[:, j].mean() < interval.high * 1.2
        order = sorted(range(DOCUMENTS), key=lambda i, j=j: (-probs[i, j], night.ids[i]))
        assert [top.doc_id for top in each.top] == [night.ids[i] for i in order[:5]]
        assert each.top[0].excerpt == night.texts[order[0]]
    cost = report.cost
    assert cost is not None
    assert (cost.requests, cost.prompt_tokens, cost.documents_per_second) == (2000, 240_000, 20.0)
    assert cost.actor_hours == pytest.approx(180 / 3600)


def test_labels_that_arrive_are_taken_in(audited: tuple[Month, dict[int, Outcome]]) -> None:
    world, _ = audited
    assert world.report(LABELS_COME - 1).labels is None
    report = world.report(LABELS_COME)
    labels, night = report.labels, month.make_night(LABELLED, DOCUMENTS, SEED)
    assert labels is not None
    assert labels.night == str(night.day)
    assert labels.labelled == labels.sampled > 100
    flags = night.probs >= 0.5
    true = (flags & night.truth).sum()
    known = {"precision": true / flags.sum(), "recall": true / night.truth.sum()}
    for name, value in known.items():
        interval = report.overall.intervals[f"audited_{name}"]
        assert interval.low < value < interval.high
        assert 0.02 < interval.high - interval.low < 0.4
    assert report.overall.metrics["audited_f1"] == pytest.approx(2 * true / (flags.sum() + night.truth.sum()), abs=0.1)
    assert world.report(month.NEW_MODEL).labels is None, "they are of the scores of another model"


def test_the_same_night_again_changes_nothing(audited: tuple[Month, dict[int, Outcome]]) -> None:
    world, outcomes = audited
    before = world.files()
    again = world.audit("scores-bb", month.day(month.NIGHTS))
    assert again.records == ()
    assert again.status == outcomes[month.NIGHTS].status == 0
    assert again.line.startswith("OK: nothing new; the newest night is 2026-10-30; audited before: OK 2026-10-30")
    assert world.files() == before


def test_a_lake_that_nobody_fills_any_more_is_a_warning(audited: tuple[Month, dict[int, Outcome]]) -> None:
    world, _ = audited
    assert world.audit("scores-bb", date(2026, 11, 1)).status == 0
    late = world.audit("scores-bb", date(2026, 11, 2))
    assert late.status == 1
    assert "WARN: nothing new; the newest night is 2026-10-30, 3 days old (max_age_days 2)" in late.line


def test_a_backfill_says_what_the_nights_said(audited: tuple[Month, dict[int, Outcome]]) -> None:
    world, _ = audited
    first, last = month.day(1), month.day(4)
    outcome = world.audit("scores-aa", last, first, last, output="backfill")
    assert [record.night for record in outcome.records] == [str(month.day(number)) for number in range(1, 5)]
    assert outcome.line == "OK: 4 nights audited, 2026-10-01 to 2026-10-04"
    for number in (1, 4):
        one, other = world.report(number), world.report(number, "backfill")
        ours = {name: value for name, value in one.overall.metrics.items() if not name.startswith("audited")}
        assert ours.items() <= other.overall.metrics.items()
        assert one.trend[-1].night == other.trend[-1].night
    again = world.audit("scores-aa", last, first, last, output="backfill")
    assert (again.records, again.status) == ((), 0)


def test_a_late_and_a_changed_partition_are_audited_and_no_other(audited: tuple[Month, dict[int, Outcome]]) -> None:
    world, _ = audited
    copy = Month(world.root / "copy")
    shutil.copytree(world.root / "audit", copy.root / "audit")
    shutil.copytree(world.root / "corpus", copy.root / "corpus")
    shutil.copytree(world.root / "scores-aa", copy.root / "scores-aa")
    copy.add(month.make_night(LATE, DOCUMENTS, SEED))
    late = copy.audit("scores-aa", month.day(month.NIGHTS))
    assert [record.night for record in late.records] == [str(month.day(LATE))]
    report = copy.report(LATE)
    assert report.trend[-2].night == str(month.day(LATE - 1)), "it is compared with the nights before it"
    assert report.overall.metrics["gap_days"] == 1

    night = month.make_night(9, DOCUMENTS, SEED)
    old = copy.report(9)
    (part,) = (copy.root / "scores-aa").glob("run=*/date=2026-10-09/*.parquet")
    shutil.rmtree(part.parents[1])
    copy.add(month.shuffled(night, 5))
    changed = copy.audit("scores-aa", month.day(month.NIGHTS))
    (record,) = changed.records
    assert (record.night, record.replaces, changed.status) == (str(night.day), old.audit_id, 1)
    assert f"this night was audited before ({old.audit_id}), and its files have changed since" in changed.line
    assert (copy.root / "audit" / record.folder / "report.html").exists()
