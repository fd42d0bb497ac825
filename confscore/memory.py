"""How much memory a process has taken at most, as the kernel counts it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_KIB = 1024


def peak_memory(*, descendants: bool) -> int | None:
    """Return the largest resident memory of this process so far, in bytes.

    Parameters
    ----------
    descendants : bool
        Add the largest of each process below this one that is still running, such as an engine's. Pages that they share
        are counted for each, and their peaks need not have been at one time, so the sum is an upper bound.

    Returns
    -------
    int or None
        ``None`` where the kernel does not tell (anything but Linux).
    """
    own = _high_water_mark(os.getpid())
    if own is None or not descendants:
        return own
    return own + sum(_high_water_mark(pid) or 0 for pid in _below(os.getpid()))


def _high_water_mark(pid: int) -> int | None:
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * _KIB
    except OSError:  # another system, or the process has ended
        return None
    return None


def _below(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text(encoding="utf-8").split()
        except OSError:  # the thread has ended
            continue
        for child in map(int, children):
            yield child
            yield from _below(child)
