"""The demo: the main job on real vLLM and real Ray, as ``make demo`` runs it, on fewer documents."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from confscore.audit.record import Report

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(420)]

CONFSCORE = Path(sys.executable).parent / "confscore"


def test_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = subprocess.run(
        [CONFSCORE, "demo", "--out", out, "--documents", "300"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "EngineDeadError" not in done.stderr
    assert re.search(r"Scored 300 documents in .*: 300 scored, 0 bounded, 0 failed", done.stdout)
    assert "Residual" in done.stdout
    assert "the ten most confident documents" in done.stdout
    auc, truth = map(float, re.findall(r"micro AUC: (\S+) \((\S+)\)", done.stdout)[0])
    assert truth > 0.9
    assert auc > truth - 0.05
    assert float(re.findall(r"mean \|p - P\(category \| text\)\|: (\S+)", done.stdout)[0]) < 0.01
    (query,) = re.findall(r"'''(SELECT .*?)'''", done.stdout)
    rows = duckdb.sql(query).fetchall()
    assert [str(row[0]) for row in rows] == ["2026-11-22", "2026-11-23"]
    assert sum(row[1] for row in rows) == 300

    (command,) = re.findall(r"^  \S+ (evaluate .*)$", done.stdout, re.M)
    evaluated = subprocess.run([CONFSCORE, *command.split()], capture_output=True, text=True, check=False)
    assert evaluated.returncode == 0, evaluated.stderr
    table = pd.read_csv(out / "evaluation" / "evaluation.csv").set_index("estimator")
    assert list(table.index) == ["marginal", "conditional", "joint", "greedy"]
    assert table.loc["marginal", "micro_auc"] == pytest.approx(auc, abs=1e-4)
    assert table.loc["marginal", "micro_auc"] > table.loc["greedy", "micro_auc"]

    assert "OK: nothing new" not in done.stdout
    (page,) = re.findall(r"^The page of the last night: (\S+);", done.stdout, re.M)
    assert page.startswith(str(out / "audit" / "nights" / "2026-11-23"))
    report = Report.model_validate_json(Path(page).with_name("report.json").read_bytes())
    assert report.calibrated
    assert report.labels is not None
    assert report.labels.night == "2026-11-22"
    assert report.overall.metrics["documents"] == 150
    assert report.overall.metrics["gap_days"] == 1
    assert all(top.excerpt for each in report.categories for top in each.top)
    assert (out / "audit" / "index.html").exists()

    refused = subprocess.run([CONFSCORE, "demo", "--out", tmp_path], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "is not the folder of an earlier demo" in refused.stderr
