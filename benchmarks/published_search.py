"""The search of arXiv 2511.22312 as published, one node at a time: what certified marginals are measured against.

Depth first: at each node the whole text so far goes through the model by one ``generate`` call of transformers, the
nucleus of all tokens is followed, and a label gets a node's probability where the decoded text ends with it. It keeps
no cache between nodes, matches ``S1`` wherever a text ends so, and does not tell what its stops have cut off: that is
what it is. :mod:`confscore.paper` is the same search without these faults, on rollouts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Stops:
    """Where the search leaves a branch; see :class:`confscore.config.PaperConfig` for those that are not here."""

    top_p: float
    eps: float
    max_new_tokens: int


AS_IN_THE_PAPER = Stops(top_p=0.99, eps=0.01, max_new_tokens=20)
AS_BY_DEFAULT = Stops(top_p=0.999, eps=1e-7, max_new_tokens=10)
"""What the published experiments set, and what the published function does by itself."""
_END_PROB = 0.7
_LAST_BESIDE_END = 2


class PublishedSearch:
    """The published search on one model.

    Parameters
    ----------
    source : str
        Model folder, loaded in float32; on a GPU in the numbers it is stored in.
    tokenizer : PreTrainedTokenizerBase
    labels : sequence of str
        What texts may end with; each that fits counts.
    ends : sequence of int
        End tokens.
    stops : Stops
    """

    def __init__(
        self,
        source: str,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        ends: Sequence[int],
        stops: Stops,
    ) -> None:
        on_gpu = torch.cuda.is_available()
        dtype = "auto" if on_gpu else torch.float32
        self._model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).eval()
        if on_gpu:
            self._model.to("cuda")
        self._tokenizer = tokenizer
        self._labels = labels
        self._ends = set(ends)
        self._stops = stops
        self._once = GenerationConfig(
            max_new_tokens=1,
            do_sample=False,
            pad_token_id=next(iter(ends)),
            output_logits=True,
            return_dict_in_generate=True,
        )
        self.calls = 0

    @torch.inference_mode()
    def confidences(self, prompt: Sequence[int]) -> dict[str, float]:
        """Return what each label has collected; sums may exceed 1."""
        found = dict.fromkeys(self._labels, 0.0)
        self._visit(found, torch.tensor([list(prompt)], device=self._model.device), 1.0, 0)
        return found

    def _visit(self, found: dict[str, float], ids: torch.Tensor, prob: float, depth: int) -> None:
        if prob < self._stops.eps:
            return
        self.calls += 1
        told = self._model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=self._once)
        probs, order = torch.softmax(told.logits[0][0].float(), dim=-1).sort(descending=True)
        kept = int(torch.searchsorted(probs.cumsum(0), self._stops.top_p, right=True)) + 1
        tokens = order[:kept].tolist()
        an_end_is_kept = not self._ends.isdisjoint(tokens)
        for rank, (token, one) in enumerate(zip(tokens, probs[:kept].tolist(), strict=True)):
            longer = torch.cat([ids, torch.tensor([[token]], device=ids.device)], dim=1)
            text = self._tokenizer.decode(longer[0])
            for label in self._labels:
                if text.endswith(label):
                    found[label] += prob * one
            if token in self._ends and one >= _END_PROB:
                return
            if an_end_is_kept and rank == _LAST_BESIDE_END:
                return
            if depth < self._stops.max_new_tokens and token not in self._ends:
                self._visit(found, longer, prob * one, depth + 1)


def timed(search: PublishedSearch, prompts: Sequence[Sequence[int]]) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Search all prompts, one after the other; return what was found, and what it cost."""
    search.calls = 0
    start = time.perf_counter()
    found = [search.confidences(prompt) for prompt in prompts]
    seconds = time.perf_counter() - start
    return found, {
        "documents": len(prompts),
        "documents_per_s": len(prompts) / seconds,
        "calls_per_document": search.calls / len(prompts),
    }
