"""An audit that scores its nights on a real Ray, as a scheduler starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest
import yaml

from confscore.demo.world import DATES, write_corpus
from confscore.run_folder import read_manifests

pytestmark = [pytest.mark.ray, pytest.mark.timeout(500)]
CONFSCORE = Path(sys.executable).parent / "confscore"
JOB = Path(__file__).parents[2] / "jobs" / "nightly_audit.py"


@pytest.fixture
def config(tmp_path: Path, settings: dict) -> Path:
    write_corpus(tmp_path / "corpus", 20, seed=6)
    settings["output"]["path"] = str(tmp_path / "not-used")
    (tmp_path / "score.yaml").write_text(yaml.safe_dump(settings))
    path = tmp_path / "audit.yaml"
    audit = {"score": str(tmp_path / "score.yaml"), "output": str(tmp_path / "audit"), "sample": {"budget": 5}}
    path.write_text(yaml.safe_dump(audit))
    return path


def audit(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in (*words, "--today", "2026-11-24")]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def records(config: Path) -> dict[str, dict]:
    paths = (config.parent / "audit" / "nights").glob("*.json")
    return {path.stem: json.loads(path.read_text()) for path in paths}


@pytest.mark.slow
def test_a_night_is_scored_and_reported_by_one_command(config: Path) -> None:
    done = audit(CONFSCORE, "audit", "--config", config, "--to", DATES[0])
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"OK {DATES[0]}: 10 documents, ")
    assert "Scored 10 documents" in done.stderr
    (table,) = (config.parent / "audit" / "scores").iterdir()
    (manifest,) = read_manifests(str(table))
    rows = duckdb.sql(f"SELECT doc_id, date FROM read_parquet('{table}/**/*.parquet', hive_partitioning = true)")
    assert {str(row[1]) for row in rows.fetchall()} == {DATES[0]}
    record = records(config)[DATES[0]]
    report = json.loads((config.parent / "audit" / record["folder"] / "report.json").read_text())
    assert report["cost"]["runs"] == [manifest.run_id]
    assert report["cost"]["requests"] == manifest.counts.requests > 0
    assert 0 < report["cost"]["actor_hours"] < 1
    assert any(top["excerpt"] for top in report["categories"][0]["top"])
    assert not (config.parent / "not-used").exists()

    again = audit(CONFSCORE, "audit", "--config", config, "--to", DATES[0])
    assert (again.returncode, again.stdout.partition(";")[0]) == (
        0,
        "OK: nothing in this range is new or has changed",
    )
    assert records(config) == {DATES[0]: record}


@pytest.mark.slow
def test_an_audit_that_is_stopped_goes_on_where_it_was(config: Path) -> None:
    """Stopped before and while it scores; then the job for clusters goes on, and a changed night is scored again."""
    command = [CONFSCORE, "audit", "--config", config, "--today", "2026-11-24"]
    log = config.parent / "log.txt"
    for awaited, last in (
        ("Auditing", "confscore: interrupted before the run was committed; run the same command again"),
        ("loading…", f"confscore: night {DATES[0]} could not be scored"),
    ):
        with log.open("w") as stream:
            stopped = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True)
            while awaited not in log.read_text():
                assert stopped.poll() is None, log.read_text()
                time.sleep(0.1)
            os.kill(stopped.pid, signal.SIGTERM)
            said, _ = stopped.communicate(timeout=120)
        assert (stopped.returncode, said) == (3, "")
        assert log.read_text().splitlines()[-1].startswith(last)
        assert "Traceback" not in log.read_text()
        assert records(config) == {}
    assert "confscore: stopping" in log.read_text()

    done = audit(sys.executable, JOB, "--config", config)
    assert done.returncode == 0, done.stdout + done.stderr
    before = records(config)
    assert sorted(before) == list(DATES)
    (part, *_) = sorted((config.parent / "corpus" / f"date={DATES[1]}").iterdir())
    part.unlink()
    changed = audit(sys.executable, JOB, "--config", config)
    assert changed.returncode == 1, changed.stdout + changed.stderr
    after = records(config)
    assert after[DATES[0]] == before[DATES[0]]
    assert after[DATES[1]]["replaces"] == before[DATES[1]]["audit_id"]
    (table,) = (config.parent / "audit" / "scores").iterdir()
    runs = [manifest.run_id for manifest in read_manifests(str(table))]
    assert len(runs) == 2
    assert {path.name for path in table.glob("run=*")} == {f"run={run}" for run in runs}
