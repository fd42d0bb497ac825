"""Whether a node of the cluster has room for an engine, or will have.

A cluster that starts nodes when they are asked for has none at first. One that never will have such a node looks the
same, and Ray waits on both for ever. The difference is what the autoscaler does once it has been asked: it starts
something, or tries to, within seconds.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import ray
import ray.util.client
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.placement_group import placement_group, remove_placement_group

from confscore.config import ClusterConfig
from confscore.errors import JobError

OnWait = Callable[[str], None]
"""Told in a sentence what the job waits for, whenever that changes."""

GRACE_S = 60.0
"""So long nothing may be seen of a node that is asked for. Autoscalers look at what is asked for every 5 seconds."""
_POLL_S = 1.0
_GIB = 1 << 30
_KEYS = {
    "GPU": "cluster.gpus_per_actor",
    "CPU": "cluster.cpus_per_actor",
    "memory": "cluster.memory_per_actor",
}


@dataclass(frozen=True, slots=True)
class Coming:
    """What an autoscaler does.

    Attributes
    ----------
    starting : mapping of str to int
        How many nodes of a type are being started.
    refused : mapping of str to str
        Types that could not be started lately, and what the cloud said where that is told.
    """

    starting: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.starting or self.refused)

    def __str__(self) -> str:
        parts = []
        if self.starting:
            parts.append(f"starting {', '.join(f'{count} {name}' for name, count in sorted(self.starting.items()))}")
        if self.refused:
            said = (f"{name} ({reason})" if reason else name for name, reason in sorted(self.refused.items()))
            parts.append(f"asking in vain for {', '.join(said)}")
        return " and ".join(parts) or "starting nothing"


def wait_for_room(cluster: ClusterConfig, alone: bool, on_wait: OnWait) -> None:
    """Wait until a node is there that an engine fits on; whether it is free does not matter.

    Parameters
    ----------
    cluster : ClusterConfig
        Says what an engine takes.
    alone : bool
        Whether the cluster is this machine, so that nothing will ever come.
    on_wait : callable
        Told what is waited for.

    Raises
    ------
    JobError
        There is no such node, and none has been coming for a minute, or none came within ``cluster.start_timeout_s``.
    """
    amounts = {
        "GPU": cluster.gpus_per_actor,
        "CPU": cluster.cpus_per_actor,
        "memory": float(cluster.memory_per_actor or 0),
    }
    wanted = {name: amount for name, amount in amounts.items() if amount}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
        return
    if alone:
        _refuse_here(wanted, nodes[0])
    if ray.util.client.ray.is_connected():
        return  # through Ray's client the autoscaler cannot be asked
    group = placement_group([wanted])  # asks the autoscaler, and waits without taking anything
    try:
        _wait(group, cluster.start_timeout_s, wanted, nodes, on_wait)
    finally:
        remove_placement_group(group)


def _wait(
    group: ray.util.placement_group.PlacementGroup,
    timeout_s: float,
    wanted: Mapping[str, float],
    nodes: list[dict[str, float]],
    on_wait: OnWait,
) -> None:
    began = seen = time.monotonic()
    coming, said = Coming(), ""
    while not group.wait(_POLL_S):
        now = time.monotonic()
        coming = look(wanted)
        seen = now if coming else seen
        if coming and str(coming) != said:
            said = str(coming)
            on_wait(f"No node has {_amounts(wanted)} yet; waiting for one: the cluster is {said}.")
        if now - seen > min(GRACE_S, timeout_s):
            best = {name: max(node.get(name, 0) for node in nodes) for name in wanted}
            raise JobError(
                f"no node of the cluster has {_amounts(wanted)}, as {_keys(wanted)} ask for (the most of each is "
                f"{_amounts(best)}), and none has been coming for {now - seen:.0f} s; ask for less, or add such nodes"
                + (" (whose type names memory among its resources)" if "memory" in wanted else "")
            )
        if now - began > timeout_s:
            raise JobError(
                f"no node with {_amounts(wanted)} came up within cluster.start_timeout_s ({timeout_s:g} s), and the "
                f"cluster is {coming}"
            )


def look(wanted: Mapping[str, float]) -> Coming:
    """Return what the autoscaler does that may bring ``wanted``, the resources of one node."""
    if is_autoscaler_v2():
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        starting = Counter(node.ray_node_type_name for node in status.pending_nodes)
        for launch in status.pending_launches:
            starting[launch.ray_node_type_name] += launch.count
        lately = time.time() - GRACE_S
        refused = {
            launch.ray_node_type_name: launch.details or ""
            for launch in status.failed_launches
            if (launch.failed_ts_s or 0) > lately
        }
        return Coming(starting, refused)
    told = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}").get("autoscaler_report", {})
    starting = Counter(told.get("pending_launches", {}))
    starting.update(kind for _, kind, _ in told.get("pending_nodes", []))
    pending = told.get("pending_resources", {})
    if any(pending.get(name, 0) < amount for name, amount in wanted.items()):
        starting.clear()  # they are for others
    records = told.get("node_availability_summary", {}).get("node_availabilities", {})
    refused = {
        name: record["unavailable_node_information"]["category"]
        for name, record in records.items()
        if not record["is_available"] and record["unavailable_node_information"]
    }
    return Coming(starting, refused)


def _refuse_here(wanted: Mapping[str, float], here: Mapping[str, float]) -> None:
    """Refuse at once what this machine will never have."""
    name = next(name for name, amount in wanted.items() if here.get(name, 0) < amount)
    key = _KEYS[name]
    best = here.get(name, 0.0)
    if name == "memory":
        raise JobError(
            f"{key} is {_gib(wanted[name])}, and Ray has {_gib(best)} of this machine's memory to give; ask for no "
            "more than that, or connect to a cluster with cluster.address"
        )
    raise JobError(
        f"{key} is {wanted[name]:g}, and Ray counts {best:g} on this machine; set {key} to {best:g}, or connect to a "
        "cluster with cluster.address"
    )


def _keys(wanted: Mapping[str, float]) -> str:
    """Return the keys that say what an actor takes."""
    return _listed([key for name, key in _KEYS.items() if name in ("GPU", "CPU") or name in wanted])


def _amounts(resources: Mapping[str, float]) -> str:
    return _listed(
        [
            f"{_gib(amount)} of memory" if name == "memory" else f"{amount:g} {name}{'s' * (amount != 1)}"
            for name, amount in resources.items()
        ]
    )


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _gib(amount: float) -> str:
    return f"{round(amount / _GIB, 2):,.12g} GiB"
