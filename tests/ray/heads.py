"""Ray heads on loopback in processes of their own, ended by process id: other clusters may run on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
NO_TOKEN = os.environ | {"RAY_AUTH_MODE": "disabled"}  # a token in the home folder would be demanded of everybody
_HEAD_ID = "f" * 51 + "00000"
_UP = "This command will now block forever"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def head(
    where: Path, *options: str, port: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Start a head, and yield its address."""
    port = port or free_port()
    command = [BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += ["--num-cpus=2", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0"]
    command += [f"--dashboard-agent-listen-port={free_port()}", *options]
    log = where / "head.log"
    env = NO_TOKEN | {"RAY_raylet_start_wait_time_s": "120"} | dict(environment or {})
    process = _launch(command, log, env)
    family: list[psutil.Process] = []
    try:
        _wait_until_up(process, log)
        yield f"127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()  # it ends its children itself, unless they get the signal too
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        for left in psutil.wait_procs(family, timeout=5)[1]:
            left.kill()


@contextmanager
def autoscaling_head(where: Path, version: int, node_type: Mapping[str, object]) -> Iterator[str]:
    """Start a head that starts workers of one type, ``gpu``, on this machine when they are asked for."""
    port = free_port()
    provider: dict[str, object] = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": f"127.0.0.1:{port}",
        "launch_multiple": True,
        "head_node_id": _HEAD_ID,
    }
    here: dict[str, object] = {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0}
    config = {
        "cluster_name": "here",
        "max_workers": 1,
        "provider": provider,
        "available_node_types": {"ray.head.default": here, "gpu": {"node_config": {}, "max_workers": 1, **node_type}},
        "head_node_type": "ray.head.default",
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{f"{name}_commands": [] for name in ("initialization", "setup", "head_setup", "worker_setup")},
        **{f"{name}_start_ray_commands": [] for name in ("head", "worker")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1,
    }
    path = where / "autoscaler.json"
    path.write_text(json.dumps(config))
    environment = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    if version == 2:
        environment |= {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": _HEAD_ID}
        environment |= {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID}
    options = (f"--autoscaling-config={path}", "--include-dashboard=false")
    with head(where, *options, port=port, environment=environment) as address:
        yield address


@contextmanager
def worker(where: Path, address: str, name: str, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a node, and yield its id and the process that holds all of it."""
    node_id = name.encode().hex().ljust(56, "0")
    command = [BIN / "ray", "start", "--block", f"--address={address}", "--disable-usage-stats"]
    command += ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={free_port()}", *options]
    environment = NO_TOKEN | {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id, "RAY_raylet_start_wait_time_s": "120"}
    log = where / f"{name}.log"
    process = _launch(command, log, environment)
    try:
        _wait_until_up(process, log)
        yield node_id, process
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in family:
            each.kill()
        process.wait(30)


def _launch(command: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with log.open("w") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=environment)


def _wait_until_up(process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120
    while _UP not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)
