"""Clusters that start nodes when they are asked for, and nodes that leave, on this machine."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from chaos import Job
from heads import BIN, NO_TOKEN, autoscaling_head, free_port, head, worker
from ray.exceptions import RayError

from confscore.config import ClusterConfig
from confscore.demo.world import write_corpus
from confscore.errors import JobError
from confscore.pipeline.cluster import most_actors, plain_errors, threads_each

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

WAIT = """
import json, sys
from confscore.config import ClusterConfig
from confscore.errors import JobError
from confscore.pipeline import connected
from confscore.pipeline.room import wait_for_room

with connected(ClusterConfig(address=sys.argv[1])) as alone:
    for gpus, timeout_s, memory in json.loads(sys.argv[2]):
        cluster = ClusterConfig(gpus_per_actor=gpus, start_timeout_s=timeout_s, memory_per_actor=memory)
        try:
            wait_for_room(cluster, alone, lambda sentence: print("waiting:", sentence))
            print("room")
        except JobError as error:
            print("error:", error)
"""


def wait_for_room(address: str, *asked: tuple[float, float, str | None]) -> list[str]:
    """Return what is said for GPUs, seconds and memory, by a driver: the tests' process has a cluster of its own."""
    command = [sys.executable, "-c", WAIT, address, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=NO_TOKEN)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("waiting:", "error:", "room"))]


@pytest.mark.parametrize(
    ("asked", "cpus_per_actor", "alone", "most"),
    [((1, 8), 1, True, 3), ((1, 8), 1, False, 8), ((1, 8), 2, True, 1), ((1, 2), 1, True, 2), ((4, 8), 1, True, 4)],
)
def test_on_one_machine_there_are_no_more_actors_than_its_own_cpus_hold(
    asked: tuple[int, int], cpus_per_actor: float, alone: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("confscore.pipeline.cluster.get_num_cpus", lambda: 3)
    assert most_actors(ClusterConfig(actors=asked, cpus_per_actor=cpus_per_actor), alone) == most


@pytest.mark.parametrize(
    ("actors", "cpus_per_actor", "alone", "threads"),
    [(1, 1, True, 7), (2, 1, True, 3), (7, 1, True, 1), (2, 5, True, 5), (8, 0, True, 1), (16, 1, False, 4)],
)
def test_engines_without_gpus_share_the_cpus_there_are(
    actors: int, cpus_per_actor: float, alone: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("confscore.pipeline.cluster.get_num_cpus", lambda: 7)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 64.0, "node:here": 1.0})
    assert threads_each(ClusterConfig(cpus_per_actor=cpus_per_actor), alone, actors) == threads


@pytest.mark.parametrize(("number", "told"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)])
def test_a_full_disk_is_told_with_the_table_that_is_written_there(number: int, told: bool) -> None:
    said = f"OSError: [Errno {number}] Error writing bytes to file. Detail: [errno {number}] {os.strerror(number)}"
    with pytest.raises(JobError) as raised, plain_errors("/lake/scores"):
        raise RayError(f'ray::Write() (pid=1)\n  File "x.py", line 1\n{said}')
    where = " (rows are written to /lake/scores)" if told else ""
    assert str(raised.value) == (
        f"the cluster could not finish the job: {said}{where}; what was scored is kept, run the same command again"
    )


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
def test_a_node_that_may_come_is_waited_for_and_one_that_never_will_is_refused(version: int, tmp_path: Path) -> None:
    with autoscaling_head(tmp_path, version, {"resources": {"CPU": 2, "GPU": 1}}) as address:
        never, waiting, room, again = wait_for_room(address, (4, 3, None), (1, 120, None), (1, 3, None))
    assert never.startswith(
        "error: no node of the cluster has 4 GPUs and 1 CPU, as cluster.gpus_per_actor and cluster.cpus_per_actor ask "
        "for (the most of each is 0 GPUs and 2 CPUs), and none has been coming for "
    )
    assert waiting == "waiting: No node has 1 GPU and 1 CPU yet; waiting for one: the cluster is starting 1 gpu."
    assert (room, again) == ("room", "room")


@pytest.mark.slow
def test_a_job_goes_on_elsewhere_when_its_node_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spot instance is drained when its notice comes, and is gone at the deadline."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with (
        head(tmp_path, "--include-dashboard=false", "--num-gpus=0") as address,
        worker(tmp_path, address, "first", "--num-cpus=2", "--num-gpus=1") as first,
        worker(tmp_path, address, "second", "--num-cpus=2", "--num-gpus=1") as second,
    ):
        job = Job(tmp_path / "job", 4000)
        changes = {"address": address, "gpus_per_actor": 1, "rows_per_block": 64}
        job.prepare(changes={"cluster": changes, "model": {"engine": "vllm"}})
        driver = job.start()
        try:
            poll(lambda: re.search(r"^progress [1-9]", job.log.read_text(), re.M))
            (node_id, process), other = (first, second) if actors(first[1]) else (second, first)
            assert actors(process)
            drain(address, node_id, seconds=5)
            time.sleep(5)
            kill(process)
            assert driver.wait(200) == 0, job.log.read_text()
        finally:
            driver.kill()
        assert len(job.rows()) == 4000
        assert actors(other[1]) == []


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [60, 3])
def test_a_stopped_job_says_how_to_go_on_and_the_next_one_does(
    tmp_path: Path, settings: dict, write_config, monkeypatch: pytest.MonkeyPatch, wait_s: int
) -> None:
    """With Ray's default of 3 s before it kills a job, and with time for an engine to end in order."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    write_corpus(tmp_path / "corpus", 600, seed=9)
    settings["scoring"]["tolerance"] = 0.02
    config = write_config(settings)
    port = free_port()
    options = ("--dashboard-host=127.0.0.1", f"--dashboard-port={port}")
    with head(tmp_path, *options, environment={"RAY_JOB_STOP_WAIT_TIME_S": str(wait_s)}):
        client = JobSubmissionClient(f"http://127.0.0.1:{port}")

        def ended() -> bool:
            return client.get_job_status(name).is_terminal()

        name = submit(port, config)
        poll(lambda: re.search(r"^ +[1-9]\d* of 600", client.get_job_logs(name), re.M) or ended())
        stopped = subprocess.run(
            job_command("stop", port, name), capture_output=True, text=True, check=False, env=NO_TOKEN
        )
        assert stopped.returncode == 0, stopped.stderr
        log = client.get_job_logs(name)
        assert client.get_job_status(name) == JobStatus.STOPPED
        assert "Traceback" not in log
        assert log.count("confscore: stopping; what was scored is kept, and the same command goes on from there\n") == 1
        last = log.strip().splitlines()[-1]
        assert last.startswith(("confscore: stopping", "confscore: interrupted before the run was committed"))
        assert last.startswith("confscore: interrupted") or wait_s == 3
        assert not list((tmp_path / "scores").rglob("*.parquet"))

        name = submit(port, config)
        poll(ended, 200)
        log = client.get_job_logs(name)
        assert client.get_job_info(name).driver_exit_code == 0, log
    assert re.search(r"An earlier start had scored [1-9]\d* of 600 documents", log)
    assert sum(pq.read_metadata(path).num_rows for path in (tmp_path / "scores").rglob("*.parquet")) == 600


def job_command(verb: str, port: int, *words: object) -> list[str]:
    return [str(word) for word in (BIN / "ray", "job", verb, "--address", f"http://127.0.0.1:{port}", *words)]


def submit(port: int, config: Path) -> str:
    """Submit a job and return its name; a head that has just come up may not have its job agent yet."""
    words = ("--no-wait", "--working-dir", ".", "--", sys.executable, "jobs/score_corpus.py", "--config", config)
    command = job_command("submit", port, *words)
    for _ in range(10):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False, env=NO_TOKEN)
        if done.returncode == 0:
            return re.findall(r"raysubmit_\w+", done.stdout)[0]
        time.sleep(2)
    raise AssertionError(done.stderr)


@pytest.mark.slow
@pytest.mark.vllm
def test_an_engine_of_two_processes_in_one_actor_scores_as_another_one_does(
    tmp_path: Path, settings: dict, write_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tensor parallelism does on the GPUs of an actor, on two CPUs."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two CPUs")
    write_corpus(tmp_path / "corpus", 60, seed=9)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # vLLM would like a NUMA node for each
    arguments = {"tensor_parallel_size": 2, "dtype": "float32", "max_model_len": 1024, "enforce_eager": True}
    arguments["kv_cache_memory_bytes"] = 1 << 28
    for name, model in (("one", {}), ("two", {"engine": "vllm", "engine_args": arguments})):
        changed = {**settings, "model": {**settings["model"], **model}, "output": {"path": str(tmp_path / name)}}
        command = [BIN / "confscore", "score", "--config", write_config(changed)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (pq.read_table(tmp_path / name).sort_by("doc_id").to_pandas() for name in ("one", "two"))
    assert len(one) == len(two) == 60
    np.testing.assert_allclose(two["p_any"], one["p_any"], atol=1e-4)


def drain(address: str, node_id: str, seconds: int) -> None:
    command = [BIN / "ray", "drain-node", f"--address={address}", f"--node-id={node_id}"]
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
    command += [f"--deadline-remaining-seconds={seconds}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=NO_TOKEN)
    assert done.returncode == 0, done.stderr


def actors(node: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the engines' processes on a node."""
    return [process for process in psutil.Process(node.pid).children(recursive=True) if is_actor(process)]


def is_actor(process: psutil.Process) -> bool:
    try:
        return "ScoringActor" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def kill(node: subprocess.Popen[bytes]) -> None:
    for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
        process.kill()


def poll(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def test_what_a_cluster_does_is_said_in_words() -> None:
    from confscore.pipeline.room import Coming

    assert not Coming()
    assert str(Coming({"spot": 2, "large": 1})) == "starting 1 large, 2 spot"
    both = Coming({"large": 1}, {"spot": "InsufficientInstanceCapacity", "old": ""})
    assert both
    assert str(both) == "starting 1 large and asking in vain for old, spot (InsufficientInstanceCapacity)"
