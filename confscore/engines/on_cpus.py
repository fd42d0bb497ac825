"""How vLLM runs a model on CPUs: in the process of its core, on all cores, without looking for work in the meantime."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vllm import envs
from vllm.config import VllmConfig
from vllm.platforms import current_platform
from vllm.utils.ompmultiprocessing import OMPProcessManager
from vllm.utils.torch_utils import available_cpu_count

_NODES = Path("/sys/devices/system/node")


@contextmanager
def in_one_process(config: VllmConfig, engine_args: Mapping[str, object]) -> Iterator[None]:
    """Let an engine that is started within this context run its model in the process of its core, where that is better.

    By itself vLLM has a worker beside the core, which looks for the worker's answer without a pause: on a core of the
    machine that the worker leaves to it, and shares with whoever asks. Threads that sleep while they wait need no such
    reserve. On two cores they made long prompts half as fast again; see ``benchmarks/RESULTS.md``.

    Models on several workers, machines of several memory nodes, and users who bind threads or name an executor keep
    vLLM's own ways.

    Parameters
    ----------
    config : VllmConfig
        Of the engine; its executor is changed.
    engine_args : mapping
        What the user asked for.
    """
    parallel = config.parallel_config
    as_vllm_does = (
        not current_platform.is_cpu()
        or parallel.world_size_across_dp > 1
        or "distributed_executor_backend" in engine_args
        or envs.VLLM_CPU_OMP_THREADS_BIND != "auto"
        or len(list(_NODES.glob("node[0-9]*"))) > 1
    )
    if as_vllm_does:
        yield
        return
    parallel.distributed_executor_backend = "uni"
    # OpenMP reads these when the core's process begins. Ray sets the first one for its actors, to the CPUs that they
    # have asked for.
    found = OMPProcessManager(config)
    cores = len(found.cpu_lists[0]) + len(found.reserved_cpu_list)
    threads = {"OMP_NUM_THREADS": str(min(cores, available_cpu_count())), "OMP_WAIT_POLICY": "PASSIVE"}
    before = {name: os.environ.get(name) for name in threads}
    os.environ.update(threads)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
