"""How much memory a process has taken at most, how much is left, and what does not fit into it."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from confscore.errors import EngineError

_KIB = 1024
_GIB = 1 << 30
_THRESHOLDS = 10_000, 20, 20
"""More objects than before, collections of the youngest and of the middle ones, until the next ones are collected."""


def collect_rarely() -> None:
    """Let Python's garbage collector leave alone what there is, and seldom go through what comes after it.

    What has been loaded with an engine, some 500,000 objects, stays until the end: a collector that goes through it
    again whenever enough documents have come and gone holds up everything in flight, a quarter of a second each time.
    Thousands of documents in flight outlive many collections as well, and leave next to no cycles behind; measured,
    with the default thresholds a scorer spends an eighth of its time on them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


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


def available_memory() -> int | None:
    """Return how many bytes this process may still take: of the machine, or of the container, whichever is less.

    ``None`` where the kernel does not tell.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * _KIB for line in lines if line.startswith("MemAvailable:")]
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8").strip()
        found += [int(limit) - int(used)] if limit.isdigit() else []
    except OSError:  # no such group
        pass
    return min(found, default=None)


def refuse_too_large(source: str, engine_args: Mapping[str, object], available: int | None) -> None:
    """Refuse a model whose weights and cache do not fit into a machine without a GPU, before it is loaded.

    The kernel would end the process that loads it, or another one, and nobody would be told why.

    Parameters
    ----------
    source : str
        ``model.source``; of a hub id nothing is known here.
    engine_args : mapping
        ``model.engine_args``, of which ``kv_cache_memory_bytes`` counts.
    available : int or None
        From :func:`available_memory`.

    Raises
    ------
    EngineError
        The message has the sizes.
    """
    weights = sum(path.stat().st_size for path in Path(source).glob("*.safetensors"))
    cache = engine_args.get("kv_cache_memory_bytes", 0)
    cache = cache if isinstance(cache, int) else 0
    if available is not None and weights + cache > available:
        raise EngineError(
            f"model.source {source}: its weights take {weights / _GIB:.1f} GiB, "
            f"model.engine_args.kv_cache_memory_bytes takes {cache / _GIB:.1f} GiB, and {socket.gethostname()} has "
            f"{available / _GIB:.1f} GiB left; run fewer actors on a machine (cluster.cpus_per_actor), or take a "
            "smaller cache"
        )


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
