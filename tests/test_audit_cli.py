"""``confscore audit`` as a scheduler sees it: exit status, one line, a webhook, and what is kept."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import duckdb
import month
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner, Result

from confscore.cli import app
from confscore.errors import JobError

NIGHTS = 3


class Lake:
    """Three quiet nights in a score table, and an audit of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings: dict[str, object] = {
            "scores": str(root / "scores"),
            "corpus": {"path": str(root / "corpus"), "id_column": "doc_id"},
            "output": str(root / "audit"),
            "sample": {"budget": 40, "text": True},
            "top_documents": 2,
        }
        for number in range(1, NIGHTS + 1):
            self.add(month.make_night(number, 200, seed=9))

    def add(self, night: month.Night) -> None:
        month.write_scores(self.root / "scores", night, month.write_corpus(self.root / "corpus", night))

    def run(self, *options: str, **changes: object) -> Result:
        path = self.root / "audit.yaml"
        settings = {key: value for key, value in {**self.settings, **changes}.items() if value is not None}
        path.write_text(yaml.safe_dump(settings))
        return CliRunner().invoke(app, ["audit", "--config", str(path), "--today", "2026-10-04", *options])

    def nights(self) -> list[str]:
        return sorted(path.stem for path in (self.root / "audit" / "nights").glob("*.json"))

    def report(self, night: str) -> dict:
        record = json.loads((self.root / "audit" / "nights" / f"{night}.json").read_text())
        return json.loads((self.root / "audit" / record["folder"] / "report.json").read_text())

    def folder(self, night: str) -> Path:
        (path,) = (self.root / "audit" / "nights" / night).iterdir()
        return path


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict], list[int]]]:
    """A web server: its address, what it was told, and the statuses it will answer with."""
    told: list[dict] = []
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers.pop(0) if answers else 204)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            del words

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/secret-path", told, answers
        http.shutdown()
        thread.join()


def test_each_verdict_has_its_exit_status_and_standard_output_has_one_line(lake: Lake) -> None:
    found = lake.run(alerts=[])
    assert found.exit_code == 0, found.output
    (line,) = found.stdout.splitlines()
    page = lake.folder("2026-10-03") / "report.html"
    assert line == f"OK: 3 nights audited, 2026-10-01 to 2026-10-03; page: {page}"
    assert page.exists()
    assert "OK 2026-10-02: 200 documents" in found.stderr

    lake.add(month.make_night(4, 200, seed=9))
    warned = lake.run(alerts=["overall.documents > previous"])
    assert warned.exit_code == 0, "200 are not more than 200"
    lake.add(month.make_night(5, 300, seed=9))
    warned = lake.run(alerts=["overall.documents > previous"])
    assert warned.exit_code == 1
    assert "overall.documents > previous [overall.documents 300, previous(overall.documents) 200]" in warned.stdout
    lake.add(month.make_night(6, 400, seed=9))
    failed = lake.run(alerts=[{"when": "overall.documents > 2 * trailing_median - 100", "severity": "fail"}])
    assert failed.exit_code == 2
    (line,) = failed.stdout.splitlines()
    assert line.startswith("FAIL 2026-10-06: 400 documents, ")
    assert lake.run(alerts=["nonsense"]).exit_code == 2, "nothing new: the last verdict stands"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scores": "nowhere"}, "nowhere: no such score table"),
        ({"scores": None}, "give either score, the configuration of a job, or scores, an existing score table"),
        ({"alerts": ["S9.flag_rate > 1"]}, "alerts[0]: 'S9.flag_rate > 1' names S9; known are overall, each, S1"),
        ({"night_column": "day"}, "its path has no day=… part, so it belongs to no night; night_column names"),
        ({"night_column": "run"}, "is no date such as 2026-11-22 (night_column)"),
        ({"fit": "no.json"}, "no.json: no such file; confscore fit writes it"),
        ({"exzerpts": "none"}, "exzerpts is not a known key, did you mean excerpts?"),
        ({"sample": {"budgt": 3}}, "sample.budgt is not a known key, did you mean budget?"),
        ({"thresholds": ["S9=0.5"]}, "--threshold S9: is no category of the scores"),
        ({"score": "job.yaml", "scores": None, "corpus": None}, "job.yaml: no such configuration file"),
    ],
)
def test_an_audit_that_cannot_be_made_is_status_3_and_one_sentence(lake: Lake, changes: dict, sentence: str) -> None:
    found = lake.run(**changes)
    assert found.exit_code == 3
    assert sentence in found.stderr
    assert found.stdout == ""
    assert found.stderr.count("confscore: ") == 1
    assert "Traceback" not in found.stderr
    assert lake.nights() == []


def test_an_audit_within_the_score_table_is_refused(lake: Lake) -> None:
    found = lake.run(output=f"{lake.root}/scores/audit")
    assert found.exit_code == 3
    assert "lies in the score table" in found.stderr


def test_a_range_without_nights_names_what_there_is(lake: Lake) -> None:
    found = lake.run("--from", "2026-09-01", "--to", "2026-09-30")
    assert found.exit_code == 3
    assert "no night in 2026-09-01 to 2026-09-30; there are nights from 2026-10-01 to 2026-10-03" in found.stderr
    assert lake.run("--to", "2026-10-02").exit_code == 0
    assert lake.nights() == ["2026-10-01", "2026-10-02"]


def test_nights_before_the_first_are_left_alone(lake: Lake) -> None:
    assert lake.run(first_night="2026-10-03").exit_code == 0
    assert lake.nights() == ["2026-10-03"]


def test_what_a_night_leaves_is_read_by_others(lake: Lake) -> None:
    assert lake.run().exit_code == 0
    folder = lake.folder("2026-10-02")
    night = month.make_night(2, 200, seed=9)
    flagged = duckdb.sql(f"SELECT count(*) FROM '{folder}/flags.parquet' WHERE flag_S2").fetchall()
    assert flagged == [(int((night.probs[:, 1] >= 0.5).sum()),)]
    assert duckdb.sql(f"SELECT count(*) FROM '{folder}/flags.parquet'").fetchall() == [(200,)]
    sample = pq.read_table(folder / "sample.parquet")
    texts = dict(zip(night.ids, night.texts, strict=True))
    assert sample.num_rows > 10
    assert sample["text"].to_pylist() == [texts[doc_id] for doc_id in sample["doc_id"].to_pylist()]
    assert not any(name.startswith(("p_", "prob_", "flag_")) for name in sample.column_names), "labellers see no score"
    report = json.loads((folder / "report.json").read_text())
    assert (report["format"], report["version"], report["night"]) == ("confscore.audit", 1, "2026-10-02")
    index = (lake.root / "audit" / "index.html").read_text()
    assert index.count("report.html") == NIGHTS
    assert index.index("2026-10-03") < index.index("2026-10-01")


@pytest.mark.parametrize("how", ["none", "full", "redacted"])
def test_excerpts_are_shown_as_asked(lake: Lake, how: str) -> None:
    night = month.make_night(4, 200, seed=9)
    spoken = "write to ann.other@example.org or ring 0151 2345 6789 about the parcel"
    shown = month.replace(night, texts=[spoken] * 200)
    lake.add(shown)
    assert lake.run("--from", "2026-10-04", excerpts=how).exit_code == 0
    page = (lake.folder("2026-10-04") / "report.html").read_text()
    assert ("ann.other@example.org" in page) == (how == "full")
    assert ("write to [mail] or ring [number] about the parcel" in page) == (how == "redacted")
    assert ("about the parcel" in page) == (how != "none")


def test_texts_that_cannot_be_read_are_no_reason_to_lose_a_report(lake: Lake) -> None:
    found = lake.run(corpus={"path": f"{lake.root}/elsewhere"})
    assert found.exit_code == 0
    report = json.loads((lake.folder("2026-10-03") / "report.json").read_text())
    assert [notice["severity"] for notice in report["notices"]] == ["info", "info"]
    assert "texts could not be read: input.path" in report["notices"][0]["text"]
    assert "text" not in pq.read_schema(lake.folder("2026-10-03") / "sample.parquet").names


def test_labels_that_are_refused_are_said_and_do_not_stop_the_night(lake: Lake) -> None:
    folder = lake.root / "labels"
    folder.mkdir()
    (folder / "wrong.csv").write_text("doc_id,S1\nx,maybe\n")
    (folder / "notes.txt").write_text("not labels")
    found = lake.run("--to", "2026-10-01", labels={"path": str(folder)})
    assert found.exit_code == 1
    assert "labels were left out: " in found.stdout
    assert "wrong.csv" in found.stdout


def test_a_verdict_is_not_lost_where_old_pages_cannot_be_removed(
    lake: Lake, server: tuple[str, list[dict], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise JobError("the disk is read-only")

    monkeypatch.setattr("confscore.audit.run.keep_nights", fail)
    url, told, _ = server
    found = lake.run("--webhook", url, "--keep-nights", "1", "--to", "2026-10-01", alerts=[])
    assert found.exit_code == 3
    assert "confscore: the disk is read-only" in found.stderr
    assert found.stdout.startswith("OK 2026-10-01: 200 documents")
    assert [message["verdict"] for message in told] == ["ok"]


def test_a_webhook_is_told(lake: Lake, server: tuple[str, list[dict], list[int]]) -> None:
    url, told, answers = server
    found = lake.run("--webhook", url, alerts=["overall.documents == 200"])
    assert found.exit_code == 1
    (message,) = told
    assert (message["verdict"], message["status"]) == ("warn", 1)
    assert message["text"] in found.stdout
    assert [night["night"] for night in message["nights"]] == ["2026-10-01", "2026-10-02", "2026-10-03"]
    assert all(Path(night["page"]).exists() and Path(night["report"]).exists() for night in message["nights"])
    assert "secret-path" not in found.output

    lake.add(month.make_night(4, 200, seed=9))
    answers.append(500)
    found = lake.run("--webhook", url, alerts=[])
    assert found.exit_code == 0
    assert "the webhook at 127.0.0.1 was not told: it answered 500 Internal Server Error" in found.stderr
    assert "secret-path" not in found.output
    assert lake.nights()[-1] == "2026-10-04"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://127.0.0.1:9/secret", "the webhook at 127.0.0.1 was not told: [Errno 111] Connection refused"),
        ("ftp://example.org/secret", "its address has to start with http:// or https://"),
        ("secret", "its address has to start with http:// or https://"),
        ("http://[secret", "its address has to start with http:// or https://"),
    ],
)
def test_a_webhook_that_is_down_is_a_warning_and_not_a_lost_report(lake: Lake, url: str, sentence: str) -> None:
    found = lake.run("--to", "2026-10-01", "--webhook", url)
    assert found.exit_code == 0
    assert sentence in found.stderr
    assert "secret" not in found.stderr
    assert lake.nights() == ["2026-10-01"]


def test_old_pages_are_removed_and_never_records_or_scores(lake: Lake) -> None:
    assert lake.run().exit_code == 0
    scores = sorted((lake.root / "scores").rglob("*.parquet"))
    found = lake.run("--keep-nights", "1")
    assert "Removed the pages, samples and flags of 2 nights: 2026-10-01, 2026-10-02" in found.stderr
    assert found.exit_code == 0
    assert lake.nights() == ["2026-10-01", "2026-10-02", "2026-10-03"]
    assert [path.name for path in (lake.root / "audit" / "nights").iterdir() if path.is_dir()] == ["2026-10-03"]
    assert sorted((lake.root / "scores").rglob("*.parquet")) == scores
    again = lake.run("--keep-nights", "1")
    assert "Removed" not in again.stderr
    lake.add(month.make_night(4, 200, seed=9))
    report = lake.run()
    assert report.exit_code == 0
    trend = json.loads((lake.folder("2026-10-04") / "report.json").read_text())["trend"]
    assert len(trend) == 4, "trends rest on records"


def test_removed_pages_have_no_link_and_a_range_makes_them_anew(lake: Lake) -> None:
    assert lake.run("--keep-nights", "1", "--to", "2026-10-02").exit_code == 0
    assert lake.folder("2026-10-01").exists(), "it was audited just now"
    assert lake.run("--keep-nights", "1").exit_code == 0
    index = lake.root / "audit" / "index.html"
    assert index.read_text().count("report.html") == 1
    assert index.read_text().count("(page removed)") == 2
    assert lake.run("--from", "2026-10-01", "--to", "2026-10-01").exit_code == 0
    assert (lake.folder("2026-10-01") / "report.html").exists()
    assert index.read_text().count("report.html") == 2
    index.unlink()
    assert lake.run().exit_code == 0
    assert index.read_text().count("report.html") == 2, "a lost list is written again"


def test_a_range_in_which_nothing_has_changed_has_the_verdict_of_its_nights(lake: Lake) -> None:
    rules = ["overall.gap_days < 2"]  # not known on the first night
    assert lake.run(alerts=rules).exit_code == 1
    for night, status in (("2026-10-01", 0), ("2026-10-02", 1)):
        again = lake.run("--from", night, "--to", night, alerts=rules)
        assert (again.exit_code, "nothing in this range" in again.stdout) == (status, True)


def test_a_command_line_that_cannot_be_read_is_no_verdict(lake: Lake) -> None:
    for wrong in (["--keep-nigths", "3"], ["--from", "yesterday"], ["--keep-nights", "0"]):
        found = lake.run(*wrong)
        assert (found.exit_code, found.stdout) == (3, "")
    assert CliRunner().invoke(app, ["audit"]).exit_code == 3
    assert CliRunner().invoke(app, ["sql", "--no-such"]).exit_code == 2


def test_a_webhook_hears_of_an_audit_that_failed(lake: Lake, server: tuple[str, list[dict], list[int]]) -> None:
    url, told, _ = server
    assert lake.run("--webhook", url, scores="nowhere").exit_code == 3
    (message,) = told
    assert (message["verdict"], message["status"], message["nights"]) == (None, 3, [])
    assert message["text"] == "AUDIT FAILED: nowhere: no such score table"


def test_too_few_labels_are_said(lake: Lake) -> None:
    assert lake.run("--to", "2026-10-01").exit_code == 0
    ids = pq.read_table(lake.folder("2026-10-01") / "sample.parquet")["doc_id"].to_pylist()
    folder = lake.root / "labels"
    folder.mkdir()
    rows = [f"{doc_id},0,0,0,0,0" for doc_id in ids[: len(ids) // 2]]
    (folder / "half.csv").write_text("\n".join(["doc_id,S1,S2,S3,S4,S5", *rows]))
    assert lake.run("--to", "2026-10-02", labels={"path": str(folder)}).exit_code == 0
    report = json.loads((lake.folder("2026-10-02") / "report.json").read_text())
    (notice,) = report["notices"]
    assert notice["severity"] == "info"
    assert notice["text"].startswith(f"{len(rows)} of the {len(ids)} sampled documents of 2026-10-01 have labels")
    assert report["labels"] is None


def test_a_start_that_was_killed_leaves_nothing_that_counts(lake: Lake) -> None:
    from confscore.audit.run import Span, audit
    from confscore.audit.settings import AuditConfig

    def die() -> datetime:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(AuditConfig.model_validate(lake.settings), Span(None, None, month.day(4)), lambda said: None, now=die)
    assert (lake.folder("2026-10-01") / "sample.parquet").exists(), "it was at work"
    assert lake.nights() == []
    assert lake.run().exit_code == 0
    assert lake.nights() == ["2026-10-01", "2026-10-02", "2026-10-03"]
    assert (lake.folder("2026-10-01") / "report.html").exists(), "in the same folder"


def test_an_audit_loads_no_engine(lake: Lake) -> None:
    assert lake.run("--to", "2026-10-01").exit_code == 0
    script = (
        "import sys\n"
        "from confscore.cli import app\n"
        f"try:\n    app(['audit', '--config', {str(lake.root / 'audit.yaml')!r}])\n"
        "except SystemExit as end:\n    print('status', end.code)\n"
        "print([name for name in ('ray', 'vllm', 'torch', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "nights audited, 2026-10-02 to 2026-10-03" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_night_without_any_row_is_a_night_of_no_documents(lake: Lake) -> None:
    (part,) = (lake.root / "scores").glob("run=*/date=2026-10-02/*.parquet")
    pq.write_table(pq.ParquetFile(part).read().slice(0, 0), part)
    found = lake.run()
    assert found.exit_code == 1, found.output
    assert "WARN 2026-10-02: 0 documents; overall.documents < 0.5 * trailing_median" in found.stdout
    assert lake.nights() == ["2026-10-01", "2026-10-02", "2026-10-03"], "the nights behind it do not wait"
    assert "report.html" in {path.name for path in lake.folder("2026-10-02").iterdir()}
    assert lake.run().exit_code == 0


def test_hidden_files_among_the_records_are_none(lake: Lake) -> None:
    assert lake.run("--to", "2026-10-02").exit_code == 0
    for name in ("._2026-10-01.json", "_2026-10-01.json"):
        (lake.root / "audit" / "nights" / name).write_bytes(b"\0")
    assert lake.run().exit_code == 0


def test_half_a_record_and_one_of_a_later_version_are_refused_and_new_names_are_not(lake: Lake) -> None:
    assert lake.run().exit_code == 0
    path = lake.root / "audit" / "nights" / "2026-10-02.json"
    whole = path.read_bytes()
    for content in (whole[:300], json.dumps(json.loads(whole) | {"version": 2}).encode()):
        path.write_bytes(content)
        found = lake.run()
        assert found.exit_code == 3
        assert "2026-10-02.json: is no readable record of an audited night" in found.stderr
    path.write_bytes(json.dumps(json.loads(whole) | {"later": 1}).encode())
    assert lake.run().exit_code == 0


def test_labels_that_differ_between_files_are_said(lake: Lake) -> None:
    assert lake.run("--to", "2026-10-01").exit_code == 0
    ids = pq.read_table(lake.folder("2026-10-01") / "sample.parquet")["doc_id"].to_pylist()
    folder = lake.root / "labels"
    folder.mkdir()
    for name, cells in (("a.csv", "1,0,0,0,0"), ("b.csv", "0,1,0,0,0")):
        rows = [f"{doc_id},{cells}" for doc_id in (ids if name == "a.csv" else ids[:2])]
        (folder / name).write_text("\n".join(["doc_id,S1,S2,S3,S4,S5", *rows]))
    found = lake.run("--to", "2026-10-02", labels={"path": str(folder)})
    assert found.exit_code == 1
    assert "labels of 2 documents differ between files, and those of the last file by name count" in found.stdout
    report = json.loads((lake.folder("2026-10-02") / "report.json").read_text())
    assert report["labels"]["labelled"] == report["labels"]["sampled"] == len(ids)


def test_labels_of_too_few_sampled_documents_wait_for_the_others(lake: Lake) -> None:
    assert lake.run("--to", "2026-10-01").exit_code == 0
    ids = pq.read_table(lake.folder("2026-10-01") / "sample.parquet")["doc_id"].to_pylist()
    folder = lake.root / "labels"
    folder.mkdir()
    half = len(ids) // 2
    rows = [f"{doc_id},1,0,0,0,0" for doc_id in [*ids[:half], "20261002-00001", "of no night"]]
    (folder / "a.csv").write_text("\n".join(["doc_id,S1,S2,S3,S4,S5", *rows]))

    def labels_of(night: str, least: float) -> dict | None:
        changes = {"labels": {"path": str(folder), "least_fraction": least}}
        assert lake.run("--from", night, "--to", night, **changes).exit_code == 0
        (path,) = (lake.root / "audit" / "nights" / night).glob("*/report.json")
        return json.loads(path.read_text())["labels"]

    assert labels_of("2026-10-02", 0.9) is None
    labels = labels_of("2026-10-03", half / len(ids))
    assert labels is not None
    assert (labels["night"], labels["labelled"], labels["sampled"]) == ("2026-10-01", half, len(ids))


def test_a_model_that_comes_back_is_said_and_compared_with_its_own_nights(lake: Lake) -> None:
    assert lake.run().exit_code == 0
    other = month.replace(
        month.make_night(4, 200, seed=9), provenance=month.MODEL.model_copy(update={"model_hash": "b" * 64})
    )
    month.write_scores(lake.root / "other", other, month.write_corpus(lake.root / "corpus", other))
    found = lake.run(scores=str(lake.root / "other"))
    assert found.exit_code == 1
    assert "a new baseline begins: scores have another model hash (bbbbbbbbbbbb…, not aaaaaaaaaaaa…)" in found.stdout
    lake.add(month.make_night(5, 200, seed=9))
    found = lake.run(alerts=[])
    assert found.exit_code == 1
    assert "scores have another model hash (aaaaaaaaaaaa…, not bbbbbbbbbbbb…) again" in found.stdout
    assert "they are compared with 2026-10-03 and before" in found.stdout


def test_a_fit_gives_curves_and_thresholds_and_one_of_other_scores_is_left_out(lake: Lake) -> None:
    nights = [month.make_night(number, 200, seed=9) for number in range(1, NIGHTS + 1)]
    columns = {"doc_id": [doc_id for night in nights for doc_id in night.ids]}
    for j, code in enumerate(month.CODES):
        columns[code] = [int(truth) for night in nights for truth in night.truth[:, j]]
    pq.write_table(pa.table(columns), lake.root / "truth.parquet")
    (lake.root / "policy.yaml").write_text("categories: {S1: {policy: precision_at_least, precision: 0.9999}}\n")
    model = lake.root / "model.json"
    words = ["fit", "--scores", lake.root / "scores", "--labels", lake.root / "truth.parquet", "--out", model]
    assert CliRunner().invoke(app, [*map(str, words), "--policy", str(lake.root / "policy.yaml")]).exit_code == 1

    assert lake.run(fit=str(model)).exit_code == 0
    first = lake.report("2026-10-03")
    assert first["calibrated"]
    outcomes = {each["code"]: each["outcome"] for each in first["categories"]}
    assert (outcomes["S1"], outcomes["S2"]) == ("abstained", "threshold")
    for name in ("flag_rate", "flagged", "precision", "recall", "f1"):
        assert first["categories"][0]["metrics"][name] is None, "nobody knows"
    assert first["categories"][0]["metrics"]["prevalence"] > 0
    assert lake.run("--from", "2026-10-03", fit=str(model)).stdout.startswith("OK: nothing in this range is new")
    model.write_text(model.read_text() + "\n")
    assert lake.run("--from", "2026-10-03", fit=str(model)).stdout.startswith("OK 2026-10-03"), "the file has changed"

    lines = json.loads(model.read_text())
    lines["identity"]["normalization"] = "local"
    model.write_text(json.dumps(lines))
    found = lake.run("--from", "2026-10-03", fit=str(model))
    assert found.exit_code == 1
    assert "was fitted to scores with another normalization (local, not global), so it is left out" in found.stdout
    assert not lake.report("2026-10-03")["calibrated"]


@pytest.mark.slow
def test_a_late_night_changes_what_later_ones_rest_on_when_they_are_asked_for(lake: Lake) -> None:
    for number in (6, 7):
        lake.add(month.make_night(number, 200, seed=9))
    assert lake.run(alerts=[]).exit_code == 0
    lake.add(month.make_night(5, 200, seed=9))
    assert lake.run(alerts=[]).stdout.startswith("OK 2026-10-05")
    before = len(lake.report("2026-10-07")["trend"])
    assert lake.run("--from", "2026-10-06", alerts=[]).stdout.startswith("OK: 2 nights audited")
    assert len(lake.report("2026-10-07")["trend"]) == before + 1
    assert lake.run("--from", "2026-10-06", alerts=[]).stdout.startswith("OK: nothing in this range")


def test_the_last_night_with_labels_counts_and_part_of_a_sample_stands_for_all_of_it(lake: Lake) -> None:
    assert lake.run("--to", "2026-10-02", sample={"budget": 200, "design": "uniform"}).exit_code == 0
    folder = lake.root / "labels"
    folder.mkdir()

    def label(night: str, share: float) -> int:
        ids = pq.read_table(lake.folder(night) / "sample.parquet")["doc_id"].to_pylist()
        kept = ids[: int(len(ids) * share)]
        (folder / f"{night}.csv").write_text("\n".join(["doc_id,S1,S2,S3,S4,S5", *(f"{i},1,0,0,0,0" for i in kept)]))
        return len(kept)

    changes = {"labels": {"path": str(folder), "least_fraction": 0.5}}
    label("2026-10-01", 1)
    assert lake.run("--to", "2026-10-03", "--from", "2026-10-03", **changes).exit_code == 0
    report = lake.report("2026-10-03")
    assert report["labels"]["night"] == "2026-10-01"
    assert report["categories"][0]["metrics"]["audited_prevalence"] == pytest.approx(1, abs=0.05)
    count = label("2026-10-02", 0.5)
    assert lake.run("--to", "2026-10-03", "--from", "2026-10-03", **changes).exit_code == 0, "labels are new"
    report = lake.report("2026-10-03")
    assert (report["labels"]["night"], report["labels"]["labelled"]) == ("2026-10-02", count)
    assert report["categories"][0]["metrics"]["audited_prevalence"] == pytest.approx(1, abs=0.05)


def test_a_start_that_lost_its_lock_commits_nothing(lake: Lake) -> None:
    from confscore.audit.run import Span, audit
    from confscore.audit.settings import AuditConfig

    def stopped_for_long() -> datetime:
        for claim in (lake.root / "audit" / "_claims").glob("*.claim"):
            claim.unlink()
        return datetime(2026, 10, 4, tzinfo=UTC)

    settings = AuditConfig.model_validate(lake.settings)
    with pytest.raises(JobError, match="lost it; nothing was published"):
        audit(settings, Span(None, None, month.day(4)), lambda said: None, now=stopped_for_long)
    assert lake.nights() == []


@pytest.mark.slow
def test_bands_of_a_night_of_fewer_documents_are_wider(lake: Lake) -> None:
    for number in range(NIGHTS + 1, 9):
        lake.add(month.make_night(number, 100, seed=9))
    lake.add(month.make_night(9, 10, seed=9))
    assert (
        lake.run(alerts=["overall.psi > band", "each.psi > band", "each.flag_rate > band"], sample=None).exit_code == 0
    )
    usual, small = (lake.report(night)["overall"]["bands"] for night in ("2026-10-08", "2026-10-09"))
    assert "psi" not in usual, "of six nights with one before it"
    assert small["psi"] > 1
    assert small["flag_rate"] > 1.5 * usual["flag_rate"]
