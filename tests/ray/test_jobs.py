"""The job as an operator runs it: the command line, and ``ray job submit`` against a running head."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from heads import BIN, NO_TOKEN, free_port, head

from confscore.config import ClusterConfig
from confscore.demo.world import write_corpus
from confscore.errors import JobError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

ROOT = Path(__file__).parents[2]


def confscore(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "confscore", *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False
    )


def test_score_on_the_command_line(settings: dict, write_config, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", 40, seed=7)
    empty = {"doc_id": ["empty"], "text": [""], "source": ["mail"]}
    pq.write_table(pa.table(empty), tmp_path / "corpus" / "date=2026-11-23" / "empty.parquet")
    config = write_config(settings)
    done = confscore("score", "--config", config, "--set", "scoring.tolerance=0.1")
    assert done.returncode == 1, done.stderr
    assert re.search(r"Scored 41 documents in .* 1 failed", done.stdout)
    assert "Traceback" not in done.stderr
    kept = next((tmp_path / "scores" / "_confscore").glob("run-*/config.yaml")).read_text()
    assert "tolerance: 0.1" in kept

    allowed = "scoring.error_fraction_allowed=0.5"
    again = confscore("score", "--config", config, "--set", "scoring.tolerance=0.1", "--set", allowed)
    assert again.returncode == 0
    assert "Nothing to do" in again.stdout

    shown = confscore("inspect", tmp_path / "scores")
    assert shown.returncode == 0, shown.stderr
    assert "p_S14" in shown.stdout
    assert "tolerance: 0.1" in shown.stdout


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("input.path=nowhere", "input.path nowhere: no such file or folder"),
        ("input.text_colum=x", "input.text_colum is not a known key, did you mean text_column?"),
        ("guard=llama-guard-9", "no guard is called 'llama-guard-9'"),
        ("model.source=/no/where", "model.source /no/where: no such folder"),
        ("output.path={corpus}/scores", "so that the next run would read scores as documents"),
        ("output.path={corpus}/date=2026-11-22/part-0000.parquet/x", "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_status_2(
    settings: dict, write_config, tmp_path: Path, change: str, sentence: str
) -> None:
    write_corpus(tmp_path / "corpus", 10, seed=8)
    if "part-0000" in change:
        settings["input"]["path"] = str(tmp_path / "corpus" / "date=2026-11-23")
    change = change.format(corpus=tmp_path / "corpus")
    done = confscore("score", "--config", write_config(settings), "--set", change)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_address_at_which_nobody_listens_is_said_at_once(settings: dict, write_config, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", 10, seed=8)
    settings["cluster"]["address"] = f"127.0.0.1:{free_port()}"
    done = confscore("score", "--config", write_config(settings), timeout=100)
    assert done.returncode == 3
    assert "no Ray cluster answers there" in done.stderr


def test_an_address_of_the_environment_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from confscore.pipeline import cluster

    monkeypatch.setattr("ray.is_initialized", lambda: False)  # the tests' own cluster may run in this process
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with (
        pytest.raises(JobError, match=r"^RAY_ADDRESS 127\.0\.0\.1:\d+: no Ray cluster answers there"),
        cluster.connected(ClusterConfig()),
    ):
        raise AssertionError("there is none")


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running head's dashboard, where jobs are submitted."""
    port = free_port()
    with head(tmp_path_factory.mktemp("r"), "--dashboard-host=127.0.0.1", f"--dashboard-port={port}"):
        yield f"http://127.0.0.1:{port}"


def submit(address: str, config: Path) -> subprocess.CompletedProcess[str]:
    """Submit a job and follow it; a head that has just come up may not have its job agent yet."""
    for _ in range(10):
        done = _submit(address, config)
        if "No available agent" not in done.stderr:
            break
        time.sleep(2)
    return done


def _submit(address: str, config: Path) -> subprocess.CompletedProcess[str]:
    command = [BIN / "ray", "job", "submit", "--address", address, "--working-dir", ".", "--"]
    command += [sys.executable, "jobs/score_corpus.py", "--config", config]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env=NO_TOKEN)


def exit_code(address: str, output: str, monkeypatch: pytest.MonkeyPatch) -> int | None:
    from ray.job_submission import JobSubmissionClient

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")

    (name,) = set(re.findall(r"raysubmit_\w+", output))
    return JobSubmissionClient(address).get_job_info(name).driver_exit_code


def test_ray_job_submit(
    dashboard: str, settings: dict, write_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus", 40, seed=9)
    done = submit(dashboard, write_config(settings))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Scored 40 documents" in done.stdout
    assert exit_code(dashboard, done.stdout, monkeypatch) == 0
    assert sum(pq.read_metadata(path).num_rows for path in (tmp_path / "scores").rglob("*.parquet")) == 40

    settings["input"]["text_column"] = "body"
    settings["output"]["path"] = str(tmp_path / "other")
    failed = submit(dashboard, write_config(settings))
    assert failed.returncode != 0
    assert "has no column body" in failed.stdout
    assert exit_code(dashboard, failed.stdout, monkeypatch) == 2
    assert not list((tmp_path / "other").glob("**/*.parquet"))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_says_so_and_publishes_nothing(
    settings: dict, write_config, tmp_path: Path, how: signal.Signals
) -> None:
    """Many small blocks, so that Ray Data is in the middle of many tasks when the signal comes."""
    write_corpus(tmp_path / "corpus", 1500, seed=9)
    settings["cluster"] |= {"rows_per_block": 16, "blocks_in_flight": 2}
    settings["scoring"]["tolerance"] = 0.02
    command = [BIN / "confscore", "score", "--config", str(write_config(settings))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        seen = []
        for line in job.stdout:
            seen.append(line)
            if re.search(r"^ +[1-9]\d* of 1,500 documents", line):
                break
        job.send_signal(how)
        rest, said = job.communicate(timeout=120)
    assert "Committed" not in "".join([*seen, rest])
    assert "interrupted before the run was committed" in said
    assert "Traceback" not in said
    assert job.returncode == 3
    assert not list((tmp_path / "scores").rglob("*.parquet"))
