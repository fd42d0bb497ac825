"""How many GPUs an engine takes, and whether an actor holds them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from confscore.config import Config
from confscore.errors import ConfigError

SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size", "data_parallel_size")
"""Arguments of vLLM; an engine runs one process, with one GPU, for each combination."""
_BACKENDS = ("distributed_executor_backend", "data_parallel_backend")


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
