"""The page on the audit: its example runs as it is written, and its tables are those of the code."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import month
import pytest
import yaml
from test_docs import ROOT, blocks, keys_of
from typer.testing import CliRunner

from confscore.audit.alerts import read_rule
from confscore.audit.build import INTERVALS
from confscore.audit.excerpts import LONGEST
from confscore.audit.lake import Lake
from confscore.audit.notify import message_of
from confscore.audit.record import CATEGORY_METRICS, OVERALL_METRICS, VERSION, Report
from confscore.audit.run import Outcome
from confscore.audit.settings import (
    DEFAULT_RULES,
    AuditConfig,
    LabelSettings,
    RuleSettings,
    SampleSettings,
    load_audit,
)
from confscore.cli import app
from confscore.cli_audit import AuditExit

PAGE = ROOT / "docs" / "audit.md"
TEXT = PAGE.read_text(encoding="utf-8")
FIRST = 5
"""Eight nights, so that the last one has a band; on it S4 doubles."""


def section(title: str) -> str:
    return re.split(r"^##+ ", TEXT.partition(f"# {title}\n")[2], maxsplit=1, flags=re.M)[0]


def table(title: str) -> list[list[str]]:
    """Return the cells of a section's table, row by row, without its head."""
    rows = (line.strip("|") for line in section(title).splitlines() if line.startswith("| `"))
    return [[cell.strip() for cell in re.split(r" \|(?= )", row)] for row in rows]


# -- the worked example --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """The page's example, run twice: its folder, exit statuses, standard outputs, and files after each."""

    folder: Path
    statuses: tuple[int, int]
    lines: tuple[str, str]
    files: tuple[dict[str, bytes], dict[str, bytes]]


def run(line: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, [*shlex.split(line), "--today", str(month.day(month.DOUBLED))])
    return found.exit_code, found.stdout


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    folder = tmp_path_factory.mktemp("page")
    for number in range(FIRST, month.DOUBLED + 1):
        night = month.make_night(number, 2000, seed=1)
        month.write_scores(folder / "lake" / "scores", night, month.write_corpus(folder / "lake" / "corpus", night))
    (folder / "audit.yaml").write_text(blocks(PAGE, "yaml")[0])
    (command,) = re.findall(r"^\$ confscore (.*)", TEXT, re.M)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        first, after_first = run(command), files(folder)
        second, after_second = run(command), files(folder)
    return Example(folder, (first[0], second[0]), (first[1], second[1]), (after_first, after_second))


def test_the_example_says_what_the_page_shows(example: Example) -> None:
    assert example.statuses == (AuditExit.WARN, AuditExit.WARN)
    (shown,) = (block for block in blocks(PAGE, "text") if block.startswith("WARN: "))
    assert example.lines[0].startswith(shown.strip().removesuffix("…"))
    assert example.lines[1].startswith("WARN: nothing new; the newest night is 2026-10-12")
    assert example.files[0] == example.files[1]


def test_the_queries_of_the_page_run(example: Example) -> None:
    (queries,) = blocks(PAGE, "python")
    words = [sys.executable, "-c", queries]
    done = subprocess.run(words, cwd=example.folder, capture_output=True, text=True, timeout=120, check=True)
    assert "warn [{'S4.flag_rate': 0.0945, 'band(S4.flag_rate)': " in done.stdout
    assert done.stdout.count("2026-10-") == 8, "a row for each night"
    assert done.stdout.count("20261012-") == 5, "five documents of the last one"
    flagged = sum(int((month.make_night(n, 2000, seed=1).probs[:, 3] >= 0.5).sum()) for n in range(FIRST, 13))
    assert re.search(rf"│ +16000 │ +{flagged} │", done.stdout)


def test_a_range_in_which_nothing_has_changed_says_what_its_nights_said(
    example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(example.folder)
    status, line = run("audit --config audit.yaml --from 2026-10-12 --to 2026-10-12")
    assert (status, line.partition(";")[0]) == (AuditExit.WARN, "WARN: nothing in this range is new or has changed")


# -- the configuration ---------------------------------------------------------------------------------------


def test_the_whole_configuration_is_valid_and_names_every_key(tmp_path: Path) -> None:
    _, shown = blocks(PAGE, "yaml")
    (tmp_path / "audit.yaml").write_text(shown)
    config = load_audit(tmp_path / "audit.yaml")
    assert config.alerts == DEFAULT_RULES
    named = set(yaml.safe_load(shown)) | set(re.findall(r"^# ([a-z]+):", shown, re.M))
    assert named == set(AuditConfig.model_fields)
    assert set(config.labels.model_fields_set) == set(LabelSettings.model_fields)
    assert set(config.sample.model_fields_set) == set(SampleSettings.model_fields)
    with_table = re.sub(r"^# (?=scores:|corpus:)", "", re.sub(r"^score:.*\n", "", shown, flags=re.M), flags=re.M)
    (tmp_path / "other.yaml").write_text(with_table)
    other = load_audit(tmp_path / "other.yaml")
    assert (other.score, other.scores) == (None, "s3://lake/scores/")
    assert other.corpus is not None


def test_every_key_is_documented_with_its_default() -> None:
    rows = {row[0].strip("`"): row[1].strip("` ") for row in table("All keys")}
    own = {**keys_of(AuditConfig), **keys_of(LabelSettings, "labels."), **keys_of(SampleSettings, "sample.")}
    actual = {**own, **keys_of(RuleSettings, "alerts.")}
    assert set(rows) == set(actual)
    for key, default in actual.items():
        if key in ("sample", "alerts"):
            assert rows[key].startswith("see "), key
        elif default in (None, ()):
            assert rows[key] in ("", "none"), key
        else:
            assert yaml.safe_load(rows[key]) == default, key
    required = {key for key, shown in rows.items() if not shown}
    assert required == {"output", "labels.path", "alerts.when"}


# -- rules ---------------------------------------------------------------------------------------------------


def rule(text: str) -> None:
    metrics = {"overall": tuple(OVERALL_METRICS), "category": tuple(CATEGORY_METRICS)}
    read_rule(text, "warn", metrics, month.CODES, "docs")


def test_the_rules_that_are_shown_are_rules() -> None:
    (shown,) = re.findall(r"^```text\n(.*?)^```", section("Rules"), re.M | re.S)
    lines = shown.splitlines()
    assert len(lines) == 7
    for line in lines:
        rule(line)


def test_the_number_of_default_rules_over_bands_is_the_one_that_is_said() -> None:
    banded = [each.when for each in DEFAULT_RULES if "band" in each.when]
    count = sum(14 if "each." in when else 1 for when in banded)
    alpha = AuditConfig.model_fields["band_alpha"].default
    assert f"rules that use bands are {count}; at {alpha} chance fires one in\nabout {1 / (count * alpha):.0f}" in TEXT


# -- the report ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "metrics"),
    [("Metrics of all documents", OVERALL_METRICS), ("Metrics of a category", CATEGORY_METRICS)],
)
def test_every_metric_is_documented_as_the_report_says_it(title: str, metrics: dict[str, str]) -> None:
    rows = table(title)
    assert [(row[0].strip("`"), row[1]) for row in rows] == list(metrics.items())
    assert all(row[2] for row in rows), "each has a unit"


def test_every_name_in_a_report_is_documented() -> None:
    named = {name for row in table("report.json") for name in re.findall(r"`([a-z_]+)`", row[0])}
    said_elsewhere = {"format", "version", "excerpts", "interval_says", "metrics_say"}
    assert named == set(Report.model_fields) - said_elsewhere
    assert all(f"`{name}`" in TEXT for name in said_elsewhere)


def test_every_interval_is_documented_with_its_confidence() -> None:
    rows = {name: row[1] for row in table("Intervals") for name in re.findall(r"`([a-z0-9_]+)…?`", row[0])}
    assert {name.rstrip("_") for name in rows} == set(INTERVALS)
    for name, confidence in rows.items():
        assert confidence in INTERVALS[name.rstrip("_")]


def test_what_is_said_in_passing_is_so() -> None:
    assert f"`version` is {VERSION}." in TEXT
    assert f"the first {LONGEST} characters" in TEXT
    statuses = {int(row[0]): row[1] for row in re.findall(r"^\| ([0-3]) \| (\w+)", section("Exit status"), re.M)}
    assert set(statuses) == {int(status) for status in AuditExit}
    assert [statuses[n] for n in range(3)] == ["ok", "warn", "fail"]


def test_the_webhook_is_told_what_is_shown(example: Example) -> None:
    lake = Lake(str(example.folder / "lake" / "audit"))
    last = lake.read_records()[-1]
    message = message_of(Outcome((last,), last.verdict, last.summary, last), Lake("lake/audit"))
    shown = json.loads(*blocks(PAGE, "json"))
    assert list(message) == list(shown)
    assert message["text"].startswith(shown["text"].removesuffix("…"))
    assert {key: message[key] for key in ("verdict", "status", "output")} == {
        key: shown[key] for key in ("verdict", "status", "output")
    }
    (ours,), (theirs,) = message["nights"], shown["nights"]
    assert list(ours) == list(theirs)
    assert re.sub(r"audit-\w+", "", ours["page"]) == re.sub(r"audit-\w+", "", theirs["page"])
