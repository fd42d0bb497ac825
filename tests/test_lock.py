"""One start of many gets the lock of a table; the dead, and those who do not renew it, lose it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyarrow import fs

from confscore import lock as module
from confscore.errors import JobError, TableError
from confscore.lock import TableLock, locked

TABLE = "/data/scores"
HERE = socket.gethostname()
MANY = 8
FIRST, LAST = "0" * 32, "f" * 32
"""Claim names before and after any other."""
OWNER = """
import sys
from pyarrow import fs
from confscore import lock as module
from confscore.errors import JobError
module.BEAT_S, module._LOOK_EVERY_S = 0.05, 0.02
lock = module.TableLock(fs.LocalFileSystem(), sys.argv[1], "/data/scores", "run-of-another-process")
sys.stdin.readline()
try:
    lock.acquire()
except JobError as error:
    print(error, flush=True)
else:
    print("held", flush=True)
    if sys.argv[2] == "until told":
        sys.stdin.readline()
        lock.release()
    else:
        lock.lost.wait()
        print("lost", flush=True)
"""


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.05)
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "claims"


@pytest.fixture
def start_owner(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(until: str = "until told") -> subprocess.Popen[str]:
        words = [sys.executable, "-c", OWNER, str(folder), until]
        started.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def new_lock(folder: Path, what: str = "run-1") -> TableLock:
    return TableLock(fs.LocalFileSystem(), str(folder), TABLE, what)


def write_claim(folder: Path, name: str, **changes: object) -> Path:
    content = {"held": True, "beat": 3, "host": "elsewhere", "machine": "other", "pid": 4711, "born": "1"}
    content |= {"what": "run-2"} | changes
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.claim"
    path.write_text(json.dumps(content))
    return path


def claims(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def poll(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def takes_at_once(folder: Path) -> None:
    """Take the lock, and give it back; the lease is a minute, so that waiting for it would show."""
    assert module.LEASE_S == 60
    began = time.monotonic()
    with locked(fs.LocalFileSystem(), str(folder), TABLE, "run-1") as check:
        assert time.monotonic() - began < 10
        assert len(claims(folder)) == 1
        check()
    assert claims(folder) == []


# -- several at a time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_one_of_many_gets_it_and_all_others_are_told_who(folder: Path, seed: int) -> None:
    delays = random.Random(seed)
    pauses = [delays.choice([0, delays.uniform(0, 0.03)]) for _ in range(MANY)]
    told = threading.Semaphore(0)

    def contend(number: int) -> str | None:
        lock = new_lock(folder, f"run-{number}")
        time.sleep(pauses[number])
        try:
            lock.acquire()
        except JobError as error:
            told.release()
            return str(error)
        for _ in range(MANY - 1):
            assert told.acquire(timeout=30), "somebody else has it as well, or waits for ever"
        lock.check()
        lock.release()
        return None

    with ThreadPoolExecutor(MANY) as pool:
        said = list(pool.map(contend, range(MANY)))
    (winner,) = [number for number, sentence in enumerate(said) if sentence is None]
    sentence = (
        f"output.path {TABLE}: another start is writing to it (run-{winner}, on {HERE}, process {os.getpid()}); "
        "wait for it to end"
    )
    assert [each for each in said if each is not None] == [sentence] * (MANY - 1)
    assert claims(folder) == []


def test_one_of_many_processes_gets_it(folder: Path, start_owner: Callable[..., subprocess.Popen[str]]) -> None:
    owners = [start_owner() for _ in range(MANY)]
    for owner in owners:
        owner.stdin.write("go\n")
    said = [owner.stdout.readline() for owner in owners]
    assert said.count("held\n") == 1
    winner = owners[said.index("held\n")]
    others = [sentence for sentence in said if sentence != "held\n"]
    assert all(f"on {HERE}, process {winner.pid});" in sentence and TABLE in sentence for sentence in others)
    winner.stdin.write("done\n")
    assert [owner.wait() for owner in owners] == [0] * MANY
    assert claims(folder) == []


# -- the dead ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buried", [True, False], ids=["buried", "zombie"])
def test_a_killed_process_of_this_machine_does_not_hold_it(
    folder: Path, start_owner: Callable[..., subprocess.Popen[str]], buried: bool
) -> None:
    owner = start_owner()
    owner.stdin.write("go\n")
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(JobError, match=rf"run-of-another-process, on {HERE}, process {owner.pid}\)"):
        new_lock(folder).acquire()
    owner.send_signal(signal.SIGKILL)
    if buried:
        owner.wait()
    else:  # nobody has asked for its exit status yet
        os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)
    assert len(claims(folder)) == 1
    takes_at_once(folder)


@pytest.mark.parametrize("held", [True, False])
def test_a_reused_process_number_is_not_its_owner(folder: Path, held: bool) -> None:
    write_claim(folder, FIRST, held=held, host=HERE, machine=module._machine(), pid=os.getpid(), born="1")
    takes_at_once(folder)


def test_an_owner_that_slept_while_it_renewed_does_not_publish_beside_its_successor(folder: Path) -> None:
    lock = new_lock(folder)
    lock.acquire()
    lock.check()
    write_claim(folder, LAST)  # taken over, and then this one's claim is written again
    with pytest.raises(JobError, match="did not renew its lock for 60 s and lost it; nothing was published"):
        lock.check()
    lock.release()


@pytest.mark.parametrize(
    ("name", "held", "host"),
    [(FIRST, True, "elsewhere"), (LAST, False, "elsewhere"), (FIRST, True, HERE)],
    ids=["held", "pending", "a machine or container of this name"],
)
def test_an_owner_elsewhere_that_does_not_beat_loses_it_after_the_lease_only(
    folder: Path, name: str, held: bool, host: str
) -> None:
    theirs = write_claim(folder, name, held=held, host=host)
    age(theirs, module.LEASE_S - 30)
    lock = new_lock(folder)
    taker = threading.Thread(target=lock.acquire, daemon=True)
    taker.start()
    poll(lambda: lock._mine.beat > 10)  # it has looked ten times
    assert taker.is_alive()
    assert theirs.exists()
    age(theirs, module.LEASE_S + 5)
    taker.join(20)
    assert not taker.is_alive()
    assert not theirs.exists()
    lock.check()
    lock.release()


def test_an_owner_elsewhere_that_beats_keeps_it(folder: Path) -> None:
    write_claim(folder, FIRST)
    ended = threading.Event()

    def beat() -> None:
        number = 3
        while not ended.wait(0.03):
            number += 1
            write_claim(folder, FIRST, beat=number)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(JobError) as caught:
            new_lock(folder).acquire()
    finally:
        ended.set()
        beating.join()
    assert str(caught.value) == (
        f"output.path {TABLE}: another start is writing to it (run-2, on elsewhere, process 4711); wait for it to end"
    )
    assert claims(folder) == [f"{FIRST}.claim"]


def test_a_process_that_was_stopped_for_longer_than_the_lease_notices(
    folder: Path, start_owner: Callable[..., subprocess.Popen[str]]
) -> None:
    owner = start_owner("until lost")
    owner.stdin.write("go\n")
    assert owner.stdout.readline() == "held\n"
    owner.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, owner.pid, os.WSTOPPED)
    (name,) = claims(folder)
    age(folder / name, module.LEASE_S + 5)
    with locked(fs.LocalFileSystem(), str(folder), TABLE, "run-1") as check:
        owner.send_signal(signal.SIGCONT)
        assert owner.stdout.readline() == "lost\n"
        check()
        assert name not in claims(folder)


def test_an_owner_whose_claim_was_removed_notices(folder: Path) -> None:
    lock = new_lock(folder)
    lock.acquire()
    lock.check()
    (name,) = claims(folder)
    poll(lambda: json.loads((folder / name).read_text() or '{"beat": 0}')["beat"] > 4)  # it is renewed
    assert not lock.lost.is_set()
    (folder / name).unlink()
    assert lock.lost.wait(20)
    with pytest.raises(JobError, match=f"output.path {TABLE}: .* lost it; nothing was published"):
        lock.check()
    assert claims(folder) == [], "who has lost it does not take it back"
    lock.release()


def test_a_lost_claim_is_noticed_before_the_next_beat(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 1000)
    lock = new_lock(folder)
    lock.acquire()
    (name,) = claims(folder)
    (folder / name).unlink()
    with pytest.raises(JobError, match="lost it"):
        lock.check()
    lock.release()


# -- giving it back ------------------------------------------------------------------------------------------


def test_a_released_lock_is_free_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0)  # it is being renewed whenever it is released
    for number in range(200):
        with locked(fs.LocalFileSystem(), str(folder), TABLE, f"run-{number}") as check:
            check()
    assert claims(folder) == []


def test_it_is_given_back_on_an_exception(folder: Path) -> None:
    def fail() -> None:
        with locked(fs.LocalFileSystem(), str(folder), TABLE, "run-1"):
            assert len(claims(folder)) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    takes_at_once(folder)


# -- whatever lies there -------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", '{"held": tr', "\x00\x00", "null", "[1]", '{"held": true}', '{"later": 1}'])
@pytest.mark.parametrize("name", [FIRST, LAST])
def test_a_claim_that_cannot_be_read_is_waited_for(folder: Path, content: str, name: str) -> None:
    theirs = write_claim(folder, name)
    theirs.write_text(content)
    lock = new_lock(folder)
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(lock.acquire)
        poll(lambda: lock._mine.beat > 3 or taking.done())
        assert not taking.done()
        age(theirs, module.LEASE_S + 5)
        taking.result(20)
    assert not theirs.exists()
    lock.release()


def test_other_files_are_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    new = new_lock(folder)
    new.acquire()
    new.release()
    assert claims(folder) == ["notes.txt"]


def test_a_table_that_cannot_be_written_to_is_refused(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(TableError, match=f"output.path {TABLE}: cannot be written: "):
        new_lock(folder).acquire()
