"""The worked example of the page on thresholds: its files, its commands and its queries, run one after the other."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from test_docs import ROOT, blocks
from test_labels import score_table
from typer.testing import CliRunner

from confscore.cli import app
from confscore.demo.world import CODES, DATES, write_corpus

PAGE = ROOT / "docs" / "thresholds.md"
DOCUMENTS = 3000


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a demo-run whose scores are the probabilities that labels were drawn from."""
    folder = tmp_path_factory.mktemp("page")
    labels = pq.read_table(write_corpus(folder / "demo-run" / "corpus", DOCUMENTS, 5))
    probs = np.stack([labels[f"prob_{code}"].to_numpy() for code in CODES], axis=1)
    ids = labels["doc_id"].to_pylist()
    for half, date in zip(np.array_split(np.arange(DOCUMENTS), 2), DATES, strict=True):
        rows = {ids[i]: probs[i].tolist() for i in half}
        score_table(folder / "demo-run" / "scores" / "run=run-1" / f"date={date}", rows, codes=CODES)
    return folder


def test_the_example_runs_as_it_is_written(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    (policy,) = blocks(PAGE, "yaml")
    Path("policy.yaml").write_text(policy)
    commands = [line for block in blocks(PAGE, "console") for line in re.findall(r"^\$ confscore (.*)", block, re.M)]
    assert [line.split()[0] for line in commands] == ["fit", "apply", "sql", "sql", "sql"]
    for line in commands:
        words, _, target = line.partition(" > ")
        done = CliRunner().invoke(app, shlex.split(words))
        assert done.exit_code == (1 if words.startswith("fit") else 0), done.output  # S5 has no threshold
        if target:
            Path(target).write_text(done.output)
    model = json.loads(Path("model.json").read_text())
    named = yaml.safe_load(policy)["categories"]
    outcomes = {each["code"]: each["outcome"] for each in model["categories"]}
    assert outcomes == {code: "abstained" if code == "S5" else "threshold" for code in CODES}
    assert [each["policy"]["policy"] for each in model["categories"][:5]] == [one["policy"] for one in named.values()]
    (queries,) = blocks(PAGE, "python")
    shown = subprocess.run([sys.executable, "-c", queries], capture_output=True, text=True, timeout=120, check=True)
    assert "calibrated_S3" in shown.stdout
    connection = duckdb.connect()
    connection.execute(Path("flags.sql").read_text())
    columns = ", ".join([*(f"flag_{code}" for code in CODES), "flagged"])
    views, written = (
        connection.sql(f"SELECT doc_id, {columns} FROM {source} ORDER BY doc_id").fetchall()
        for source in ("flags", "read_parquet('flags.parquet')")
    )
    assert len(views) == DOCUMENTS
    assert views == written


def test_the_job_script_is_the_command(demo: Path) -> None:
    script = str(ROOT / "jobs" / "fit_thresholds.py")
    words = ["--scores", "demo-run/scores", "--labels", "demo-run/labels.parquet", "--label-column", "labels"]
    place = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script, *words, "--out", "job.json"],
        cwd=demo,
        env=place,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Wrote job.json" in done.stdout
