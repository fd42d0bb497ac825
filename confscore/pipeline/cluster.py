"""Connecting to Ray, what a job takes of its object stores, and saying in one sentence what went wrong on it."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray
from ray._private.utils import get_num_cpus
from ray.data import DataContext
from ray.exceptions import RayError

from confscore import errors
from confscore.config import ClusterConfig
from confscore.corpus.stores import failed_store
from confscore.errors import ConfscoreError, JobError
from confscore.supervise import stoppable

KNOCK_S = 10.0
_LEAST_CPUS = 4
"""Of a cluster on this machine: for an actor, and a task each that reads, cuts and writes blocks. With fewer Ray Data
lets the writers wait until nothing is left to read, and a crash costs all that has been scored."""
_ANY_RAISED = re.compile(r"^\s*((?:\w+\.)*\w*(?:Error|Exception): .+)", re.M)
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded")
_RAISED = re.compile(r"confscore\.errors\.(\w+): (.+)")


@contextmanager
def connected(cluster: ClusterConfig) -> Iterator[bool]:
    """Connect to the cluster, or start one on this machine for as long as the context lasts.

    Yields
    ------
    bool
        Whether the cluster is this machine alone, so that it will never grow.
    """
    if ray.is_initialized():
        yield False
        return
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    named = f"{'cluster.address' if cluster.address else 'RAY_ADDRESS'} {address}"
    _knock(address, named)
    try:
        if address:
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
        else:
            logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it says that it is safe
            # Not whatever cluster was last started on this machine, which Ray would take without the word "local".
            ray.init(
                "local",
                num_cpus=max(get_num_cpus(), _LEAST_CPUS),
                include_dashboard=False,
                logging_level=logging.WARNING,
                log_to_driver=False,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"{named}: no Ray cluster answers there" if address else "Ray could not be started on this machine"
        raise JobError(f"{where}: {error}") from error
    # Ray takes the signal for itself when it starts.
    with stoppable() if threading.current_thread() is threading.main_thread() else nullcontext():
        try:
            yield not address
        finally:
            ray.shutdown()


def most_actors(cluster: ClusterConfig, alone: bool) -> int:
    """Return how many actors there may be; ``alone`` on this machine no more than its own CPUs hold."""
    least, most = cluster.actor_range
    if not alone or not cluster.cpus_per_actor:
        return most
    return max(least, min(most, int(get_num_cpus() / cluster.cpus_per_actor)))


def threads_each(cluster: ClusterConfig, alone: bool, actors: int) -> int:
    """Return how many threads an engine without GPU computes with: as many CPUs as so many actors have each.

    Each with all CPUs, several engines on a machine would wait for each other's threads: two of them on two cores do
    less together than one.
    """
    there = get_num_cpus() if alone else int(ray.cluster_resources().get("CPU", 0))
    return max(1, int(cluster.cpus_per_actor), there // actors)


@contextmanager
def limited_memory(cluster: ClusterConfig) -> Iterator[None]:
    """Keep datasets that are made meanwhile to ``object_store_memory`` and ``memory_per_actor``.

    Ray Data reads no further where its blocks would pass the first, but always goes on with a block, however large.
    Without a number it takes half of what the object stores have, and never more than that.

    Its tasks that read and write ask Ray for memory as well, as soon as it knows the size of their blocks. On a node
    whose memory actors hold they would wait for ever for a few kilobytes, so with the second they ask for none.
    """
    options = DataContext.get_current().execution_options
    before = options.resource_limits
    if cluster.object_store_memory is not None:
        options.resource_limits = before.copy(object_store_memory=cluster.object_store_memory)
    try:
        with _tasks_without_memory() if cluster.memory_per_actor is not None else nullcontext():
            yield
    finally:
        options.resource_limits = before


@contextmanager
def _tasks_without_memory() -> Iterator[None]:
    # Late, because these are insides of Ray: whoever does not need them works with a Ray that has no such rule, too.
    from ray.data._internal.logical.optimizers import get_physical_ruleset  # noqa: PLC0415
    from ray.data._internal.logical.rules import ConfigureMapTaskMemoryUsingOutputSize as Rule  # noqa: PLC0415

    rules = get_physical_ruleset()
    if Rule not in rules:
        yield
        return
    rules.remove(Rule)
    try:
        yield
    finally:
        rules.add(Rule)


class StorePeak:
    """The most that was seen in use in the object stores of all nodes together.

    Attributes
    ----------
    bytes : int or None
        ``None`` before the first look.
    """

    def __init__(self) -> None:
        self.bytes: int | None = None

    def look(self) -> None:
        """See how much is in use now; nodes tell it to Ray a few times a second."""
        name = "object_store_memory"
        there, free = ray.cluster_resources(), ray.available_resources()
        # A node that came or went in between would count as used up.
        if name in there and there == ray.cluster_resources():
            self.bytes = max(self.bytes or 0, round(there[name] - free.get(name, 0.0)))


@contextmanager
def plain_errors(output: str) -> Iterator[None]:
    """Turn Ray's errors into one sentence: the innermost confscore error if there is one.

    A disk without space does not say what was to be written there; it most likely was what goes to ``output``.
    """
    try:
        yield
    except (RayError, OSError) as error:
        inner = _ours(error)
        if inner is not None:
            raise inner from error
        failed = failed_store(error)
        if failed is not None:
            raise failed from error
        raised = _ANY_RAISED.findall(str(error)) or [line for line in str(error).splitlines() if line.strip()]
        full = f" (rows are written to {output})" if _NO_SPACE.search(str(error)) else ""
        raise JobError(
            f"the cluster could not finish the job: {raised[-1] if raised else repr(error)}{full}; what was scored is "
            "kept, run the same command again"
        ) from error


def _ours(error: BaseException) -> ConfscoreError | None:
    """Return the confscore error that a worker raised. Ray brings home its text, but not the object."""
    found = _RAISED.findall(str(error))
    if not found:
        return None
    name, message = found[-1]
    kind = getattr(errors, name, JobError)
    return kind(message) if issubclass(kind, ConfscoreError) else JobError(message)


def _knock(address: str | None, named: str) -> None:
    """Refuse an address, with its name, at which nobody listens; Ray would wait there for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return  # auto, local, or none
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
    except (OSError, ValueError) as error:
        raise JobError(f"{named}: no Ray cluster answers there: {error}") from None
