"""The OpenMP threads of processes that are started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


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
