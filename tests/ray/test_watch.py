"""The thread beside a job, and what it makes of a stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from confscore.config import parse
from confscore.errors import JobError
from confscore.manifest import NOTHING
from confscore.supervise import stoppable

pytestmark = pytest.mark.ray
Watch = Callable[..., None]


@pytest.fixture
def watched(ray_here: None, settings: dict) -> Watch:
    """Do some work beside the thread that watches it; ``still_ours`` is the check that fails where one is to."""
    import ray

    from confscore.actor import Progress
    from confscore.pipeline.cluster import StorePeak
    from confscore.pipeline.watch import Limits, watch

    progress = ray.remote(num_cpus=0)(Progress).remote()

    def run(work: Callable[[], None], still_ours: Callable[[], None] = lambda: None) -> None:
        limits = Limits(parse(settings, "test"), 10, 1, still_ours, patience_s=0.2)
        watch(work, progress, lambda counts, ready: None, limits, NOTHING, StorePeak())

    return run


class Swallower:
    """Work that takes so many interrupts and goes on, as a finalizer does; the first one is a signal, if any."""

    def __init__(self, interrupts: int, first: signal.Signals | None = None) -> None:
        self.left, self._first = interrupts, first

    def __call__(self) -> None:
        until = time.monotonic() + 60
        while self.left and time.monotonic() < until:
            try:
                if self._first is not None:
                    os.kill(os.getpid(), self._first)
                time.sleep(0.01)
            except KeyboardInterrupt:
                self.left, self._first = self.left - 1, None


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_a_library_swallows_is_not_lost(watched: Watch, how: signal.Signals) -> None:
    for _ in range(2):
        swallower = Swallower(1, how)
        with pytest.raises(KeyboardInterrupt), stoppable():
            watched(swallower)
        assert swallower.left == 0, "it was not the signal itself that ended the work"
    watched(lambda: None)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_work_that_goes_on_after_a_stop_is_interrupted_again(watched: Watch, how: signal.Signals) -> None:
    swallower = Swallower(3, how)
    with pytest.raises(KeyboardInterrupt), stoppable():
        watched(swallower)
    assert swallower.left == 0


@pytest.mark.parametrize("interrupts", [1, 3])
def test_work_that_goes_on_after_a_problem_is_interrupted_again(watched: Watch, interrupts: int) -> None:
    def lost() -> None:
        raise JobError("the lock is lost")

    swallower = Swallower(interrupts)
    with stoppable():
        with pytest.raises(JobError, match="the lock is lost"):
            watched(swallower, lost)
        watched(lambda: None)  # nobody has stopped what comes after it
    assert swallower.left == 0
