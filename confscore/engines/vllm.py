"""The vLLM engine; the only module that imports vLLM.

Measured choices: prompts travel as token ids (a rendered string would get a second begin-of-text token),
``logprob_token_ids`` with flat log-probabilities and no detokenizing costs no throughput, sampling defaults of
the model's repository are kept out, and ``raw_logprobs`` are taken before any mask, over the whole vocabulary.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from confscore.config import RELIED_ON
from confscore.engines.base import AnswerTokens, Rollout
from confscore.errors import EngineError
from confscore.gpus import engine_processes, refuse_unfit
from confscore.openmp import sleeping_threads, threads_asked_for
from confscore.rows import FloatArray

# vLLM takes no telemetry consent from a batch job, and its log lines are for its own developers.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

from vllm import AsyncEngineArgs, SamplingParams, envs
from vllm.config import VllmConfig
from vllm.inputs import tokens_input
from vllm.outputs import CompletionOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.utils.ompmultiprocessing import OMPProcessManager
from vllm.utils.torch_utils import available_cpu_count
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

if current_platform.is_cpu():
    # What vLLM 0.32 compiles for CPUs ahead of time it cannot load again, and compiles anew at each start. Its other
    # cache can be loaded: measured, an engine is there in 10 s instead of 15, and in 32 s as before without a cache.
    os.environ.setdefault("VLLM_USE_AOT_COMPILE", "0")

MOST_IDS = 128
"""How many ``logprob_token_ids`` vLLM takes in one request."""
MOST_ALLOWED = 1024
"""How many allowed tokens vLLM's newer workers take in one request."""
_QUEUED = 2
"""So many documents are taken for each request that runs at once."""
_MEMORY_NODES = Path("/sys/devices/system/node")
_ALPHABET = "confscore_alphabet"
SPEAKS = "confscore_speaks"
"""Among a request's ``extra_args``: it may say any token of the vocabulary."""


class VllmEngine:
    """Rollouts on vLLM's asynchronous engine, which batches whatever is in flight.

    Parameters
    ----------
    source : str
        Model folder or hub id.
    answers : AnswerTokens
        The alphabet and the end tokens. An alphabet of more than 128 tokens is asked for in several requests
        a rollout, which share the prompt's cache.
    revision : str, optional
        Revision of a hub model.
    engine_args : mapping
        Arguments of vLLM's ``AsyncEngineArgs``; what scoring relies on cannot be overridden.
    trust_remote_code : bool
        Whether code from the model's repository may run.
    allow_pickle : bool
        Whether weights other than safetensors may be loaded.

    Raises
    ------
    EngineError
        vLLM refuses the arguments, or cannot load the model.
    """

    def __init__(
        self,
        source: str,
        answers: AnswerTokens,
        *,
        revision: str | None = None,
        engine_args: Mapping[str, object] | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        self._answers = answers
        ids = [int(token) for token in answers.alphabet]
        self._parts = [ids[start : start + MOST_IDS] for start in range(0, len(ids), MOST_IDS)]
        arguments = {
            **_defaults(allow_pickle, engine_processes(engine_args or {})),
            **(engine_args or {}),
            "model": source,
            "revision": revision,
            "trust_remote_code": trust_remote_code,
            "max_logprobs": max(len(part) for part in self._parts),
            **RELIED_ON,
        }
        refuse_unfit(current_platform, source, revision, engine_args or {}, AsyncEngineArgs.gpu_memory_utilization)
        try:
            config = AsyncEngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
            self._masks = not _takes_processors(config)
            if getattr(config, "use_v2_model_runner", False):
                refuse_too_many(len(ids))
            if not self._masks:
                processors = [*(config.model_config.logits_processors or ()), f"{__name__}:{AlphabetOnly.__name__}"]
                config.model_config.logits_processors = processors
                config.additional_config[_ALPHABET] = ids
            with in_one_process(config, engine_args or {}):
                llm = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
        except ValidationError as error:
            raise EngineError(f"vLLM could not load {source}: {error.errors()[0]['msg']}") from None
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            raise EngineError(f"vLLM could not load {source}: {error}") from error
        self._llm: AsyncLLM | None = llm
        self._ranks = config.scheduler_config.policy == "priority"
        self.max_length: int = llm.model_config.max_model_len
        # Enough that requests always wait for those that run to end, and few enough that a document that is gone on
        # with is still in the cache.
        running = config.scheduler_config.max_num_seqs * config.parallel_config.data_parallel_size
        self.documents_at_once: int = _QUEUED * running
        self._numbers = itertools.count()
        self._sampling: dict[tuple[int, int], SamplingParams] = {}

    async def rollout(self, prompt: Sequence[int], prefix: Sequence[int]) -> Rollout:
        """Decode greedily within the alphabet; see :class:`~confscore.engines.base.Engine`."""
        ids = [*prompt, *prefix]
        room = max(1, min(self._answers.max_tokens - len(prefix), self.max_length - len(ids)))
        # Whoever goes on with a document goes first: what the cache holds of its prompt would be gone after a queue
        # of others' prompts, and would be computed again.
        rank = -1 if prefix else 0
        asked = [self._request(ids, self._params(part, room), rank) for part in range(len(self._parts))]
        if len(asked) == 1:
            tokens, rows = await asked[0]
            return Rollout(tokens, rows)
        return _joined(await asyncio.gather(*asked))

    async def speak(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """Decode greedily among all tokens."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            stop_token_ids=list(self._answers.ends),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={SPEAKS: True},
        )
        completion = await self._generate(list(prompt), params)
        return [int(token) for token in completion.token_ids]

    async def warm_up(self) -> None:
        """Run one rollout, so that kernels are compiled before documents wait for them."""
        await self.rollout([int(self._answers.alphabet[0])] * 2, ())

    async def close(self) -> None:
        """Stop the engine's process in order; without it, the end of a run logs a dead engine."""
        # Let go of as well: its finalizer fails with a traceback if it is left to the interpreter's exit.
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.shutdown()

    def _params(self, part: int, room: int) -> SamplingParams:
        key = (part, room)
        if key not in self._sampling:
            ids = self._parts[part]
            self._sampling[key] = SamplingParams(
                temperature=0.0,
                max_tokens=room,
                stop_token_ids=list(self._answers.ends),
                ignore_eos=True,
                allowed_token_ids=[int(token) for token in self._answers.alphabet] if self._masks else None,
                logprob_token_ids=ids,
                flat_logprobs=True,
                detokenize=False,
                skip_special_tokens=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
                skip_clone=True,  # of what it holds; else vLLM copies all of it for each request
            )
        return self._sampling[key]

    async def _request(self, ids: list[int], params: SamplingParams, rank: int) -> tuple[list[int], FloatArray]:
        completion = await self._generate(ids, params, rank)
        tokens = [int(token) for token in completion.token_ids]
        # Each step has the chosen token's log-probability first, then those of the ids asked for.
        rows = np.array(completion.logprobs.logprobs, dtype=np.float64).reshape(len(tokens), -1)
        return tokens, rows[:, 1:]

    async def _generate(self, ids: list[int], params: SamplingParams, rank: int = 0) -> CompletionOutput:
        if self._llm is None:
            raise EngineError("the vLLM engine is closed")
        number = f"confscore-{next(self._numbers)}"
        final = None
        # Rendered already: a raw prompt would go through a thread of its own, which only passes it on.
        asked = self._llm.generate(tokens_input(ids), params, number, priority=rank if self._ranks else 0)
        try:
            async for output in asked:
                final = output
        except (EngineDeadError, EngineGenerateError, ValueError) as error:
            raise EngineError(f"vLLM stopped answering: {error}") from error
        if final is None or not final.finished:
            raise EngineError("vLLM ended a request without a result")
        return final.outputs[0]


def _defaults(allow_pickle: bool, processes: int) -> dict[str, object]:
    """Return arguments that a user may override."""
    # vLLM's own default reads .bin files where a model has no safetensors.
    defaults: dict[str, object] = {} if allow_pickle else {"load_format": "safetensors"}
    defaults["scheduling_policy"] = "priority"
    if processes > 1:
        # In a placement group vLLM would by itself ask Ray for actors with GPUs of their own; those of this process
        # would stay idle, and where the cluster has no more it would wait for ever.
        defaults["distributed_executor_backend"] = "mp"
    # Only whole blocks of a prompt are cached, and on CPUs a block has 128 tokens by default: most of a short prompt
    # would be computed again for each rollout. 32 is the least that vLLM's CPU attention takes; measured, it
    # doubles the throughput of the demo.
    return defaults | ({"block_size": 32} if current_platform.is_cpu() else {})


def in_one_process(config: VllmConfig, engine_args: Mapping[str, object]) -> AbstractContextManager[None]:
    """Return the context to start an engine in that runs its model in the process of its core, where that is better.

    On CPUs vLLM by itself has a worker beside the core, which looks for the worker's answer without a pause: on a CPU
    that the worker leaves to it, and shares with whoever asks. Threads that sleep while they wait need no such
    reserve. On two cores that made long prompts half as fast again; see ``benchmarks/RESULTS.md``. There are as many
    threads as cores, or as ``OMP_NUM_THREADS`` says where engines share a machine.

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
        or len(list(_MEMORY_NODES.glob("node[0-9]*"))) > 1
    )
    if as_vllm_does:
        return nullcontext()
    parallel.distributed_executor_backend = "uni"
    found = OMPProcessManager(config)
    cores = len(found.cpu_lists[0]) + len(found.reserved_cpu_list)
    return sleeping_threads(min(threads_asked_for() or cores, cores, available_cpu_count()))


class AlphabetOnly(LogitsProcessor):  # type: ignore[misc]  # vLLM's types are not read
    """Lets no token outside the alphabet be chosen, in every request but those that speak.

    vLLM's own mask of allowed tokens is a row of the whole vocabulary for each request, filled when the request comes
    and read at each step. One alphabet for all requests needs neither; measured, that is most of what a mask costs.
    """

    def __init__(self, vllm_config: VllmConfig, device: Any, is_pin_memory: bool) -> None:
        del device, is_pin_memory
        self._alphabet: list[int] = vllm_config.additional_config[_ALPHABET]
        self._speaking: dict[int, bool] = {}

    def is_argmax_invariant(self) -> bool:
        """Say that it changes what is chosen greedily."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Note which rows of the batch are requests that speak."""
        process_dict_updates(self._speaking, batch_update, _speaks)

    def apply(self, logits: Any) -> Any:
        """Return a tensor of logits, minus infinity for all other tokens; those that are told were taken before."""
        if len(self._speaking) == len(logits):
            return logits
        spoken = logits[list(self._speaking)]
        kept = logits[:, self._alphabet]
        logits.fill_(float("-inf"))
        logits[:, self._alphabet] = kept
        logits[list(self._speaking)] = spoken
        return logits


def refuse_too_many(tokens: int) -> None:
    """Refuse an alphabet that vLLM would fail on at the first request.

    Raises
    ------
    EngineError
        It has more than :data:`MOST_ALLOWED` tokens.
    """
    if tokens > MOST_ALLOWED:
        raise EngineError(
            f"the guard's answers are spelled with {tokens:,} different tokens, and vLLM takes at most "
            f"{MOST_ALLOWED:,}; let answers name categories by short codes"
        )


def _speaks(params: SamplingParams, prompt: list[int] | None, said: list[int]) -> bool | None:
    del prompt, said
    return True if SPEAKS in (params.extra_args or {}) else None


def _takes_processors(config: VllmConfig) -> bool:
    """Say whether the engine's workers take a processor of logits; the newer ones for GPUs mask cheaply themselves."""
    newer = getattr(config, "use_v2_model_runner", False)
    return bool(current_platform.is_cpu() and not newer and config.speculative_config is None)


def _joined(parts: Sequence[tuple[list[int], FloatArray]]) -> Rollout:
    """Put the columns of several requests side by side, up to the first step where their choices differ.

    All of them decode greedily from the same tokens, so they differ only where rounding breaks a near tie; the
    step of the difference itself still has the same tokens before it.
    """
    tokens = parts[0][0]
    steps = min(len(other) for other, _ in parts)
    for other, _ in parts[1:]:
        same = [mine == theirs for mine, theirs in zip(tokens, other, strict=False)]
        steps = min(steps, same.index(False) + 1 if False in same else steps)
    return Rollout(tokens[:steps], np.concatenate([rows[:steps] for _, rows in parts], axis=1))
