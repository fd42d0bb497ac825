"""One writer a score table: a lock that works on any filesystem, and that the dead do not hold.

Object stores have no "create unless it exists" that pyarrow would offer, so every start writes a claim of its own and
looks at the others'. A claim is pending until its owner has seen no other one, and held afterwards. Of two starts, one
has written its claim before the other one looks, so at least one sees the other; who sees a held claim gives up, and of
two pending ones the larger name steps back. An owner renews its claim; one that is not renewed for ``LEASE_S``, by the
clock of the store, belongs to nobody.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pyarrow import fs

from confscore.corpus.files import make_folder
from confscore.corpus.stores import in_words, is_gone, patiently
from confscore.errors import JobError, TableError

BEAT_S = 5.0
LEASE_S = 60.0
_LOOK_EVERY_S = 0.5
_SUFFIX = ".claim"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a start says of itself.

    Attributes
    ----------
    name : str
        Unique.
    held : bool
        Its owner has seen no other claim.
    beat : int
        Grows whenever the claim is renewed.
    host, machine, pid, born : str, str, int, str
        The owner's process. ``machine`` tells machines and containers apart that have one name, and ``born`` a process
        from a later one with the same number.
    what : str
        What the owner is doing, in words.
    """

    name: str
    held: bool
    beat: int
    host: str
    machine: str
    pid: int
    born: str
    what: str


class TableLock:
    """The lock of one score table.

    Parameters
    ----------
    filesystem : pyarrow.fs.FileSystem
        The table's.
    folder : str
        Where claims are kept.
    table : str
        The table's address, for messages.
    what : str
        What the owner is doing, for the messages of others.
    """

    def __init__(self, filesystem: fs.FileSystem, folder: str, table: str, what: str) -> None:
        self._filesystem = filesystem
        self._folder = folder
        self._table = table
        pid = os.getpid()
        self._mine = Claim(uuid.uuid4().hex, False, 0, socket.gethostname(), _machine(), pid, _born(pid), what)
        self._released = threading.Event()
        self._renewing = threading.Lock()
        self.lost = threading.Event()

    def acquire(self) -> None:
        """Take the lock, waiting only to see whether another owner is alive.

        Raises
        ------
        JobError
            Another start holds it.
        TableError
            The table cannot be written to.
        """
        try:
            self._acquire()
        except BaseException:
            with suppress(OSError):  # where claims cannot be written there is none to remove
                self._remove(self._mine)  # a claim of nobody would make others wait
            raise

    def _acquire(self) -> None:
        seen: dict[str, int] = {}
        while True:
            self._write(held=False)
            others = self._living(seen)
            if not others:
                self._write(held=True)
                threading.Thread(target=self._renew, name="lock", daemon=True).start()
                return
            for other in others:
                if other.held and other.beat != seen.setdefault(other.name, other.beat):
                    raise JobError(
                        f"output.path {self._table}: another start is writing to it ({other.what}, on {other.host}, "
                        f"process {other.pid}); wait for it to end"
                    )
            if any(not other.held and other.name < self._mine.name for other in others):
                self._remove(self._mine)  # step back for a moment
                time.sleep(_LOOK_EVERY_S * (1 + random.random()))
            time.sleep(_LOOK_EVERY_S)

    def check(self) -> None:
        """Make sure that the lock is still held.

        Raises
        ------
        JobError
            It is not: this process was stopped for longer than the lease.
        """
        gone = self.lost.is_set() or self._read(self._path(self._mine)) is None
        # One that woke up between looking at its claim and renewing it holds it beside its successor.
        if gone or any(other.held for other in self._living({})):
            raise JobError(
                f"output.path {self._table}: this start did not renew its lock for {LEASE_S:g} s and lost it; "
                "nothing was published, start it again"
            )

    def release(self) -> None:
        """Give the lock back."""
        self._released.set()
        with self._renewing:  # or it would be written again
            self._remove(self._mine)

    def _renew(self) -> None:
        while not self._released.wait(BEAT_S):
            try:
                with self._renewing:
                    if self._released.is_set():
                        return
                    if self._read(self._path(self._mine)) is None:
                        self.lost.set()
                        return
                    self._write(held=True)
            except (OSError, TableError):
                continue  # the store may answer again before the lease is over

    def _living(self, seen: dict[str, int]) -> list[Claim]:
        """Return the claims of others, without those that nobody renews, which are removed."""
        selector = fs.FileSelector(self._folder, allow_not_found=True)
        now = self._filesystem.get_file_info(self._path(self._mine)).mtime_ns or 0
        living = []
        for info in self._filesystem.get_file_info(selector):
            name = info.base_name.removesuffix(_SUFFIX)
            if name in (self._mine.name, info.base_name):
                continue
            claim = self._read(info.path)
            if claim is None:
                continue
            if now - (info.mtime_ns or now) > LEASE_S * 1e9 or self._is_dead_here(claim):
                self._remove(claim)
                continue
            if claim.held and claim.name not in seen and self._is_here(claim):
                seen[claim.name] = claim.beat - 1  # its process runs here: no need to wait for a sign of life
            living.append(claim)
        return living

    def _is_here(self, claim: Claim) -> bool:
        return claim.machine == self._mine.machine != ""

    def _is_dead_here(self, claim: Claim) -> bool:
        return self._is_here(claim) and _born(claim.pid) != claim.born

    def _path(self, claim: Claim) -> str:
        return f"{self._folder}/{claim.name}{_SUFFIX}"

    def _write(self, *, held: bool) -> None:
        self._mine = replace(self._mine, held=held, beat=self._mine.beat + 1)
        content = {key: value for key, value in asdict(self._mine).items() if key != "name"}
        try:
            make_folder(self._filesystem, self._folder)
            with self._filesystem.open_output_stream(self._path(self._mine)) as stream:
                stream.write(json.dumps(content).encode())
        except OSError as error:
            raise TableError(f"output.path {self._table}: cannot be written: {in_words(error)}") from None

    def _read(self, path: str) -> Claim | None:
        """Return a claim: ``None`` where it is gone, a pending one of nobody where it cannot be read (yet)."""
        name = path.rpartition("/")[2].removesuffix(_SUFFIX)
        try:
            return Claim(name, **json.loads(patiently(lambda: self._content(path))))
        except OSError as error:
            if is_gone(error):
                return None
            raise
        except (ValueError, TypeError):
            return Claim(name, held=False, beat=0, host="", machine="", pid=0, born="", what="")

    def _content(self, path: str) -> bytes:
        with self._filesystem.open_input_stream(path) as stream:
            content: bytes = stream.read()
        return content

    def _remove(self, claim: Claim) -> None:
        try:
            self._filesystem.delete_file(self._path(claim))
        except FileNotFoundError:
            return


@contextmanager
def locked(filesystem: fs.FileSystem, folder: str, table: str, what: str) -> Iterator[Callable[[], None]]:
    """Hold the lock of a score table, and yield what makes sure that it is still held.

    Raises
    ------
    JobError
        Another start holds it.
    """
    lock = TableLock(filesystem, folder, table, what)
    lock.acquire()
    try:
        yield lock.check
    finally:
        with suppress(OSError):  # of a store that is down: the claim is nobody's when its lease is over
            lock.release()


def _born(pid: int) -> str:
    """Return when a process of this machine started, in ticks since boot; empty where there is none, or no telling."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if told[0] in ("Z", "X") else told[19]  # one that has ended stays in the list until its parent asks
    except (OSError, IndexError):
        return ""


def _machine() -> str:
    """Return what tells this machine, and the container on it, from others; empty where nothing does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
