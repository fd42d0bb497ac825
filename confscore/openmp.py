"""The OpenMP threads of processes that are started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def threads_asked_for() -> int | None:
    """Return how many threads ``OMP_NUM_THREADS`` asks for, of a list the outermost level's; ``None`` without a number.

    OpenMP itself takes no notice of what is not a positive number.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return (int(asked) or None) if asked.isdecimal() else None


@contextmanager
def sleeping_threads(count: int) -> Iterator[None]:
    """Let processes that are started meanwhile have so many threads, which sleep while they wait for each other.

    OpenMP reads its settings when a process begins. Ray sets the number of threads for its actors by itself, to the
    CPUs that they have asked for.
    """
    settings = {"OMP_NUM_THREADS": str(count), "OMP_WAIT_POLICY": "PASSIVE"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
