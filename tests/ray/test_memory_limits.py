"""What a job takes of the memory of a cluster's nodes: set aside for its actors, and in their object stores."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from heads import head
from test_clusters import wait_for_room as asked_for_room

from confscore.config import ClusterConfig, parse
from confscore.demo.world import write_corpus
from confscore.errors import JobError
from confscore.plan import make_plan

pytestmark = pytest.mark.ray
MIB = 1 << 20


def test_limits_reach_ray_and_end_with_the_job(ray_here: None, settings: dict, tmp_path: Path) -> None:
    import ray
    from ray.data import DataContext
    from ray.data._internal.execution.execution_callback import ExecutionCallback
    from ray.data._internal.logical.optimizers import get_physical_ruleset

    from confscore.pipeline import run_plan

    limits: list[float] = []
    reserved: list[float] = []

    class Look(ExecutionCallback):
        def on_execution_step(self, executor) -> None:
            limits.append(executor._resource_manager.get_global_limits().object_store_memory)
            reserved.append(executor._resource_manager.get_global_usage().memory)

    write_corpus(tmp_path / "corpus", 30, seed=4)
    here = int(ray.nodes()[0]["Resources"]["memory"])  # all of it: what reads and writes must do with none
    settings["cluster"] |= {"object_store_memory": "3MiB", "memory_per_actor": here}
    context = DataContext.get_current()
    before, rules = context.execution_options.resource_limits, list(get_physical_ruleset())
    context.custom_execution_callback_classes.append(Look)
    try:
        manifest = run_plan(make_plan(parse(settings, "test")), lambda counts, ready: None)
    finally:
        context.custom_execution_callback_classes.remove(Look)
    assert max(limits) == 3 * MIB  # 0 until Ray has been asked what the nodes have
    assert max(reserved) == here
    assert (context.execution_options.resource_limits, list(get_physical_ruleset())) == (before, rules)
    assert manifest.counts.read == 30
    assert manifest.peak_memory.object_store is not None


def test_the_peak_of_the_object_store_stays_when_it_is_given_back(ray_here: None) -> None:
    import ray

    from confscore.pipeline.cluster import StorePeak

    peak = StorePeak()
    assert peak.bytes is None
    peak.look()
    before = peak.bytes
    assert before is not None
    kept = ray.put(np.zeros(before + 40 * MIB, np.uint8))
    look_until(peak, before + 40 * MIB)
    seen = peak.bytes
    del kept
    peak.look()
    assert peak.bytes >= seen >= before + 40 * MIB


def look_until(peak, least: int) -> None:
    end = time.monotonic() + 60
    while peak.bytes < least and time.monotonic() < end:
        peak.look()
        time.sleep(0.1)


def test_memory_that_this_machine_lacks_is_refused_at_once(ray_here: None) -> None:
    import ray

    from confscore.pipeline.room import wait_for_room

    here = ray.nodes()[0]["Resources"]["memory"]
    fits, too_large = (ClusterConfig(gpus_per_actor=0, memory_per_actor=size) for size in (int(here), 1 << 50))
    wait_for_room(fits, True, print)
    with pytest.raises(JobError) as caught:
        wait_for_room(too_large, True, print)
    assert str(caught.value) == (
        f"cluster.memory_per_actor is 1,048,576 GiB, and Ray has {round(here / (1 << 30), 2):g} GiB of this machine's "
        "memory to give; ask for no more than that, or connect to a cluster with cluster.address"
    )


def test_memory_that_no_node_has_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with head(tmp_path, "--include-dashboard=false", "--num-gpus=0", f"--memory={4 << 30}") as address:
        never, room = asked_for_room(address, (0, 2, "8GiB"), (0, 2, "4GiB"))
    assert never.startswith(
        "error: no node of the cluster has 1 CPU and 8 GiB of memory, as cluster.gpus_per_actor, "
        "cluster.cpus_per_actor and cluster.memory_per_actor ask for (the most of each is 2 CPUs and 4 GiB of memory), "
        "and none has been coming for "
    )
    assert room == "room"
