"""The thread beside a job, and what it makes of a stop."""

from __future__ import annotations

import os
import signal
import time

import pytest

from confscore.config import parse
from confscore.manifest import NOTHING
from confscore.supervise import stoppable

pytestmark = pytest.mark.ray


def test_a_stop_that_a_library_swallows_is_not_lost(ray_here: None, settings: dict) -> None:
    import ray

    from confscore.actor import Progress
    from confscore.pipeline.cluster import StorePeak
    from confscore.pipeline.watch import Limits, watch

    went_on = []

    def swallow() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except KeyboardInterrupt:
            went_on.append(True)

    progress = ray.remote(num_cpus=0)(Progress).remote()
    limits = Limits(parse(settings, "test"), 10, lambda: None)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), stoppable():
            watch(swallow, progress, lambda counts, ready: None, limits, NOTHING, StorePeak())
    watch(lambda: None, progress, lambda counts, ready: None, limits, NOTHING, StorePeak())
    assert went_on == [True, True]
