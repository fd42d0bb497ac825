"""Connecting to Ray, and saying in one sentence what went wrong on it."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from confscore import errors
from confscore.config import ClusterConfig
from confscore.corpus.stores import failed_store
from confscore.errors import ConfscoreError, JobError
from confscore.supervise import interrupt_once

KNOCK_S = 10.0
_ANY_RAISED = re.compile(r"^\s*((?:\w+\.)*\w*(?:Error|Exception): .+)", re.M)
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
    _knock(address)
    try:
        if address:
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
        else:
            logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it says that it is safe
            # Not whatever cluster was last started on this machine, which Ray would take without the word "local".
            ray.init("local", include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise JobError(f"cluster.address {address}: no Ray cluster answers there: {error}") from error
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt_once)
    try:
        yield not address
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn Ray's errors into one sentence: the innermost confscore error if there is one."""
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
        raise JobError(
            f"the cluster could not finish the job: {raised[-1] if raised else repr(error)}; what was scored is kept, "
            "run the same command again"
        ) from error


def _ours(error: BaseException) -> ConfscoreError | None:
    """Return the confscore error that a worker raised. Ray brings home its text, but not the object."""
    found = _RAISED.findall(str(error))
    if not found:
        return None
    name, message = found[-1]
    kind = getattr(errors, name, JobError)
    return kind(message) if issubclass(kind, ConfscoreError) else JobError(message)


def _knock(address: str | None) -> None:
    """Refuse an address at which nobody listens; Ray would wait there for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return  # auto, local, or none
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
    except (OSError, ValueError) as error:
        raise JobError(f"cluster.address {address}: no Ray cluster answers there: {error}") from None
