"""How many GPUs an engine takes, whether an actor holds them, and whether the model fits them."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from math import prod
from typing import Protocol

from confscore.config import Config
from confscore.errors import ConfigError, EngineError
from confscore.memory import available_memory, refuse_too_large
from confscore.model_size import find_folder, least_bytes

SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size", "data_parallel_size")
"""Arguments of vLLM; an engine runs one process, with one GPU, for each combination."""
_BACKENDS = ("distributed_executor_backend", "data_parallel_backend")
_GIB = 1 << 30
_CHANGES_SIZE = (
    "quantization",
    "quantization_config",
    "cpu_offload_gb",
    "offload_backend",
    "offload_group_size",
    "hf_overrides",
    "language_model_only",
    "limit_mm_per_prompt",
)
"""Arguments of vLLM with which less than a model's files may end up on a GPU."""


class Platform(Protocol):
    """What vLLM knows of the machine that it runs on."""

    def is_cpu(self) -> bool:
        """Say whether engines run on CPUs."""

    def is_cuda_alike(self) -> bool:
        """Say whether engines run on GPUs of NVIDIA or AMD."""

    def get_device_total_memory(self, device_id: int = 0) -> int:
        """Return the bytes of a GPU."""


def engine_processes(engine_args: Mapping[str, object]) -> int:
    """Return how many processes one vLLM engine splits a model among, each of which takes a GPU.

    Raises
    ------
    ConfigError
        A size is not a whole number, or not positive.
    """
    sizes = []
    for name in SIZES:
        size = engine_args.get(name, 1)
        if type(size) is not int or size < 1:
            raise ConfigError(f"model.engine_args.{name} is {size!r}: it has to be a whole number of at least 1")
        sizes.append(size)
    return prod(sizes)


def check_gpus(config: Config) -> None:
    """Refuse an actor that holds other GPUs than its engine takes.

    One actor is one engine on one machine. Without GPUs there is nothing to hold: vLLM may split a model among
    processes on CPUs too.

    Raises
    ------
    ConfigError
        The numbers differ, or vLLM is told to look for GPUs beside those of its actor.
    """
    arguments, held = config.model.engine_args, config.cluster.gpus_per_actor
    if config.model.engine == "transformers":
        if held > 1:
            raise ConfigError(f"cluster.gpus_per_actor is {held:g}, and the transformers engine uses 1; set it to 1")
        return
    for name in _BACKENDS:
        if arguments.get(name) == "ray":
            raise ConfigError(
                f"model.engine_args.{name} is ray: an engine would take GPUs beside those of cluster.gpus_per_actor; "
                "leave it out, all GPUs of an engine are on one machine"
            )
    taken = engine_processes(arguments)
    if not held or held == taken or (taken == 1 and held < 1):
        return
    named = [f"model.engine_args.{name} is {arguments[name]}" for name in SIZES if arguments.get(name, 1) != 1]
    why = " and ".join(named) or "model.engine_args.tensor_parallel_size is not set"
    raise ConfigError(
        f"{why}, so that an engine takes {taken} GPU{'s' * (taken > 1)}, and cluster.gpus_per_actor is {held:g}; "
        "give an actor as many GPUs as its engine takes"
    )


def refuse_unfit(
    platform: Platform, source: str, revision: str | None, engine_args: Mapping[str, object], utilization: float
) -> None:
    """Refuse a model that does not fit into this machine, before it is loaded.

    Parameters
    ----------
    platform : Platform
        Of vLLM, which asks a GPU's driver and starts nothing on the GPU.
    source, revision : str
        ``model.source`` and ``model.revision``; of a hub model nothing is known before it has been downloaded.
    engine_args : mapping
        ``model.engine_args``.
    utilization : float
        The share of a GPU that vLLM takes where ``engine_args`` do not say.

    Raises
    ------
    EngineError
        The message has the sizes.
    """
    if platform.is_cpu():
        refuse_too_large(source, engine_args, available_memory())
    if not platform.is_cuda_alike():
        return
    try:
        total = platform.get_device_total_memory()
    except Exception:  # whatever the library of a GPU's driver raises; vLLM, too, goes on without the number
        return
    cache = engine_args.get("download_dir")
    folder = find_folder(source, revision, cache if isinstance(cache, str) else None)
    weights = 0
    if folder is not None and not any(engine_args.get(name) for name in _CHANGES_SIZE):
        weights = least_bytes(folder, full_floats=engine_args.get("dtype") in ("float", "float32"))
    refuse_too_large_for_gpus(source, weights, total, {"gpu_memory_utilization": utilization, **engine_args})


def refuse_too_large_for_gpus(source: str, weights: int, total: int, engine_args: Mapping[str, object]) -> None:
    """Refuse weights and a cache that do not fit into GPUs of ``total`` bytes each.

    Tensor and pipeline parallel processes share the weights; the others each have all of them, but for experts.

    Parameters
    ----------
    source : str
        ``model.source``.
    weights : int
        Bytes that they take at least, added up over the processes that share them.
    total : int
        Bytes of one GPU.
    engine_args : mapping
        Of vLLM, ``gpu_memory_utilization`` among them. With ``kv_cache_memory_bytes`` vLLM does not keep to that.

    Raises
    ------
    EngineError
        The message has the sizes.
    """
    sharing = SIZES if engine_args.get("enable_expert_parallel") else SIZES[:2]
    split = engine_processes({name: engine_args[name] for name in sharing if name in engine_args})
    share = weights / split
    utilization, cache = engine_args["gpu_memory_utilization"], engine_args.get("kv_cache_memory_bytes")
    subject = f"model.source {source}: its weights take at least {share / _GIB:.1f} GiB of a GPU"
    advice = "take larger GPUs, or split the model among more of them (model.engine_args.tensor_parallel_size)"
    if isinstance(cache, int) and cache:
        if share + cache > total:
            raise EngineError(
                f"{subject}, model.engine_args.kv_cache_memory_bytes takes {cache / _GIB:.1f} GiB, and a GPU of "
                f"{socket.gethostname()} has {total / _GIB:.1f} GiB; take a smaller cache, {advice}"
            )
    elif isinstance(utilization, int | float) and share > total * utilization:
        raise EngineError(
            f"{subject}, and vLLM may take {total * utilization / _GIB:.1f} GiB: "
            f"model.engine_args.gpu_memory_utilization is {utilization:g}, and a GPU of {socket.gethostname()} has "
            f"{total / _GIB:.1f} GiB; {advice}"
        )
