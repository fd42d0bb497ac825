"""Exit statuses mean what they say, whatever happens to the job's process, and no process is left behind.

All of it with the real command line; where a job has to end in a certain way, only ``run_score`` is another one.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from confscore import supervise

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

CONFIG = """
input: {path: corpus}
output: {path: scores}
model: {source: model}
"""
ENDED = (
    "confscore: the job's process was ended from outside ({}): its cluster is gone, or the machine is out of memory; "
    "nothing was published, and what was scored is kept, so run the same command again\n"
)
STOPPING = "confscore: stopping; what was scored is kept, and the same command goes on from there\n"
INTERRUPTED = "confscore: interrupted before the run was committed; run the same command again\n"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start ``confscore score`` with a configuration, in a session of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(config: str | Path, *options: str, job: str = "") -> subprocess.Popen[str]:
        """``job`` is the body of another ``run_score``; every Python process runs sitecustomize.py when it starts."""
        (tmp_path / "sitecustomize.py").write_text(
            f"import os, signal, sys\n"
            f"if {bool(job)} and 'CONFSCORE_VERDICT_FD' in os.environ:\n"
            f"    import confscore.cli\n"
            f"    def run_score(config, log):\n        {job or 'pass'}\n"
            f"    confscore.cli.run_score = run_score\n"
        )
        words = [sys.executable, "-m", "confscore", "score", f"--config={config}", *options]
        environment = {name: value for name, value in os.environ.items() if name != "CONFSCORE_VERDICT_FD"}
        started.append(
            subprocess.Popen(
                words,
                env=environment | {"PYTHONPATH": str(tmp_path)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for parent in started:
        if parent.poll() is None:
            os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "score.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def stuck(start: Start, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Yield a command and its child, which waits for the end of its configuration."""
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    parent = start(pipe)
    writers: list[int] = []

    def is_open() -> bool:
        try:
            writers.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads it yet
            return False
        return True

    poll(is_open)
    (child,) = psutil.Process(parent.pid).children(recursive=True)
    yield parent, child
    os.close(writers[0])


def poll(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def end_of(parent: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a command; return its exit status and what it wrote to stderr."""
    _, said = parent.communicate(timeout=60)
    return parent.returncode, said


def test_a_missing_configuration_is_said_once(start: Start, tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    status, said = end_of(start(missing))
    assert status == 2
    assert said.startswith(f"confscore: {missing}: ")
    assert said.count("\n") == 1


def test_options_reach_the_child(start: Start, config: Path) -> None:
    options = ["--set=scoring.tolerance=0.125", "--set", "model.source=other model", "--log-format=json", "--debug"]
    said = "{config.scoring.tolerance} {config.model.source}"
    parent = start(config, *options, job=f"print(f'{said}', sys.argv[1:]); return 0")
    heard, _ = parent.communicate(timeout=60)
    assert parent.returncode == 0
    expected = ["score", f"--config={config}", "--log-format=json", *options[:1], f"--set={options[2]}", "--debug"]
    assert heard == f"0.125 other model {expected}\n"


@pytest.mark.parametrize("status", [0, 1])
def test_the_status_of_a_job_is_the_status_of_the_command(start: Start, config: Path, status: int) -> None:
    assert end_of(start(config, job=f"return {status}")) == (status, "")


def test_a_fault_of_ours_is_a_failure(start: Start, config: Path) -> None:
    status, said = end_of(start(config, job="raise ZeroDivisionError('by zero')"))
    assert status == 3
    assert re.fullmatch(
        r"confscore: unexpected ZeroDivisionError in confscore/cli\.py line \d+; --debug shows more\n", said
    )


@pytest.mark.parametrize("status", [0, 1])
def test_an_end_without_a_verdict_is_a_failure(start: Start, config: Path, status: int) -> None:
    """As Ray ends a driver."""
    assert end_of(start(config, job=f"os._exit({status})")) == (3, ENDED.format(f"with exit status {status}"))


def test_a_process_that_is_left_behind_does_not_hold_the_command(start: Start, config: Path, tmp_path: Path) -> None:
    """It has the child's end of the pipe, and never says anything."""
    group = tmp_path / "group"
    job = f"open({str(group)!r}, 'w').write(str(os.getpgrp())); os.fork() and os._exit(1); "
    job += "[os.close(n) for n in (0, 1, 2)]; signal.pause()"
    parent = start(config, job=job)
    try:
        assert end_of(parent) == (3, ENDED.format("with exit status 1"))
    finally:
        os.killpg(int(group.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_child_that_is_killed_is_told_of_once(
    stuck: tuple[subprocess.Popen[str], psutil.Process], number: signal.Signals
) -> None:
    parent, child = stuck
    child.send_signal(number)
    assert end_of(parent) == (3, ENDED.format(f"by {number.name}"))


def test_a_stop_of_the_command_reaches_the_child(stuck: tuple[subprocess.Popen[str], psutil.Process]) -> None:
    parent, child = stuck
    parent.terminate()
    assert end_of(parent) == (3, STOPPING + INTERRUPTED)
    assert is_gone(child)


def test_a_stop_of_both_processes_is_said_once(stuck: tuple[subprocess.Popen[str], psutil.Process]) -> None:
    """``ray job stop`` tells every process of a job, and the command tells its child again."""
    parent, child = stuck
    parent.terminate()
    child.terminate()
    status, said = end_of(parent)
    # Two processes write the lines, in either order; each of them says how to go on.
    assert (status, sorted(said.splitlines())) == (3, sorted((STOPPING + INTERRUPTED).splitlines()))
    assert is_gone(child)


def test_what_to_do_is_said_before_the_child_has_ended(start: Start, config: Path, tmp_path: Path) -> None:
    """``ray job stop`` kills all processes of a job a few seconds later."""
    ready = tmp_path / "ready"
    job = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(ready)!r}, 'w'); signal.pause()"
    parent = start(config, job=job)
    poll(ready.exists)
    (child,) = psutil.Process(parent.pid).children()
    parent.terminate()
    assert parent.stderr is not None
    assert parent.stderr.readline() == STOPPING
    child.kill()


def test_a_stop_of_the_child_alone_is_an_interrupt(stuck: tuple[subprocess.Popen[str], psutil.Process]) -> None:
    parent, child = stuck
    child.terminate()
    assert end_of(parent) == (3, INTERRUPTED)


def test_a_child_that_cannot_say_how_it_was_stopped_is_spoken_for(start: Start, config: Path, tmp_path: Path) -> None:
    """It is stopped while it starts, for one."""
    ready = tmp_path / "ready"
    job = f"signal.signal(signal.SIGTERM, signal.SIG_DFL); open({str(ready)!r}, 'w'); signal.pause()"
    parent = start(config, job=job)
    poll(ready.exists)
    parent.terminate()
    assert end_of(parent) == (3, STOPPING + INTERRUPTED)


@pytest.mark.skipif(signal.getsignal(signal.SIGINT) == signal.SIG_IGN, reason="inherited by every process from here")
def test_an_interrupt_at_a_terminal_is_said_once(stuck: tuple[subprocess.Popen[str], psutil.Process]) -> None:
    parent, child = stuck
    os.killpg(parent.pid, signal.SIGINT)  # a terminal tells the whole group
    status, said = end_of(parent)
    assert (status, sorted(said.splitlines())) == (3, sorted((STOPPING + INTERRUPTED).splitlines()))
    assert is_gone(child)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends a child with its parent on Linux only")
def test_a_killed_command_takes_its_child_with_it(stuck: tuple[subprocess.Popen[str], psutil.Process]) -> None:
    parent, child = stuck
    parent.kill()
    parent.wait()
    poll(lambda: is_gone(child))


def test_an_interrupt_of_its_own_that_came_to_nothing_hides_no_later_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise._thread, "interrupt_main", lambda: None)
    supervise.interrupt_work()
    with supervise.stoppable():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            told = supervise.is_stopped()
        supervise._stopped.clear()
    assert told
