"""The transformers engine: one rollout at a time, for small local runs and as the oracle for vLLM.

It is the only module that imports a transformers model. Everything is plain: the whole sequence goes through
the model at every step unless its key-value cache can be continued, and log-probabilities are a log-softmax
over the whole vocabulary in float64.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch

# Else weights that are not safetensors would be sent to a converter, whose answer is weights of somebody else's making.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

from transformers import AutoModelForCausalLM
from transformers.utils import logging

from confscore.engines.base import AnswerTokens, Rollout
from confscore.errors import EngineError
from confscore.rows import FloatArray

logging.disable_progress_bar()  # a bar for every actor that loads weights is no progress of the job


class TransformersEngine:
    """Rollouts on a transformers causal language model.

    Parameters
    ----------
    source : str
        Model folder or hub id.
    answers : AnswerTokens
        The alphabet and the end tokens.
    revision : str, optional
        Revision of a hub model.
    engine_args : mapping
        ``dtype`` (a torch dtype's name, default float32), ``device`` (default cpu) and ``max_model_len``.
    trust_remote_code : bool
        Whether code from the model's repository may run.
    allow_pickle : bool
        Whether weights other than safetensors may be loaded.

    Raises
    ------
    EngineError
        An argument is unknown, or the model cannot be loaded.
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
        given = {"dtype": "float32", "device": "cpu", "max_model_len": None, **(engine_args or {})}
        unknown = set(given) - {"dtype", "device", "max_model_len"}
        if unknown:
            raise EngineError(
                f"model.engine_args.{sorted(unknown)[0]}: the transformers engine takes dtype, device, max_model_len"
            )
        try:
            model = AutoModelForCausalLM.from_pretrained(
                source,
                revision=revision,
                trust_remote_code=trust_remote_code,
                use_safetensors=None if allow_pickle else True,
                dtype=getattr(torch, str(given["dtype"])),
            )
        except Exception as error:  # loaders raise whatever their libraries raise
            raise EngineError(f"transformers could not load {source}: {' '.join(str(error).split())}") from error
        self._model = model.to(str(given["device"])).eval()
        self._answers = answers
        self._columns = torch.as_tensor(answers.alphabet, device=self._model.device)
        longest = self._model.config.max_position_embeddings
        self.max_length: int = int(str(given["max_model_len"] or longest))
        self.documents_at_once = 4
        self._turn = asyncio.Lock()

    async def rollout(self, prompt: Sequence[int], prefix: Sequence[int]) -> Rollout:
        """Decode greedily within the alphabet; see :class:`~confscore.engines.base.Engine`."""
        async with self._turn:
            return await asyncio.to_thread(self._rollout, [*prompt, *prefix], len(prefix))

    async def speak(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """Decode greedily among all tokens."""
        async with self._turn:
            return await asyncio.to_thread(self._speak, list(prompt), max_tokens)

    async def warm_up(self) -> None:
        """Do nothing: nothing is compiled."""

    async def close(self) -> None:
        """Do nothing: the weights go with the object."""

    def _rollout(self, ids: list[int], forced: int) -> Rollout:
        with torch.inference_mode():
            return self._decode(ids, forced)

    def _decode(self, ids: list[int], forced: int) -> Rollout:
        room = max(1, min(self._answers.max_tokens - forced, self.max_length - len(ids)))
        tokens: list[int] = []
        rows: list[FloatArray] = []
        normalizers: list[float] = []
        cache = None
        step = torch.tensor([ids], device=self._model.device)
        for _ in range(room):
            out = self._model(input_ids=step, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits = out.logits[0, -1].double()
            normalizers.append(float(torch.logsumexp(logits, dim=-1)))
            log_probs = torch.log_softmax(logits, dim=-1)[self._columns]
            rows.append(log_probs.cpu().numpy())
            tokens.append(int(self._answers.alphabet[int(log_probs.argmax())]))
            if tokens[-1] in self._answers.ends:
                break
            step = torch.tensor([[tokens[-1]]], device=self._model.device)
        return Rollout(tokens, np.array(rows), np.array(normalizers))

    def _speak(self, ids: list[int], max_tokens: int) -> list[int]:
        with torch.inference_mode():
            given = torch.tensor([ids], device=self._model.device)
            own = self._model.generation_config.eos_token_id
            ends = {*self._answers.ends, *(own if isinstance(own, list) else [] if own is None else [own])}
            said = self._model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=max_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                eos_token_id=sorted(ends) or None,
                pad_token_id=0,
            )
        return [int(token) for token in said[0, len(ids) :]]
