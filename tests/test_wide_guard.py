"""The small guard in another shape, as benchmarks on GPUs take it, says what the small guard says."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.demo.world import generate
from confscore.guards import resolve
from confscore.prompt import Prompter
from confscore.rows import Document, Message
from confscore.vocabulary import load_tokenizer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.usefixtures("benchmarks")
def test_a_wider_and_deeper_guard_has_the_same_probabilities(tmp_path: Path) -> None:
    wide_guard = importlib.import_module("wide_guard")
    shape = wide_guard.Shape(1024, 600, 6, 16, 8, 128, 3000)
    wide_guard.WideGuard(shape, "cpu").write(tmp_path)
    small, wide = load(GUARD_FOLDER), load(tmp_path)
    assert sum(each.numel() for each in wide.parameters()) == shape.parameters > 50 * small.num_parameters()
    tokens = small.config.vocab_size
    ids = torch.randint(0, tokens, (1, 200), generator=torch.Generator().manual_seed(0))
    expected, found = log_probs(small, ids), log_probs(wide, ids)
    torch.testing.assert_close(found[..., :tokens], expected, rtol=0, atol=1e-3)
    assert found[..., tokens:].max() < -30


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize(("shape", "dtype"), [(None, torch.float32), ((1024, 300, 5, 8, 4, 128, 2000), torch.bfloat16)])
def test_letters_that_it_has_not_heard_of_change_nothing(
    tmp_path: Path, shape: tuple[int, ...] | None, dtype: torch.dtype
) -> None:
    wide_guard, unheard = (importlib.import_module(name) for name in ("wide_guard", "unheard"))
    taken = wide_guard.ON_CPUS if shape is None else wide_guard.Shape(*shape)
    wide_guard.WideGuard(taken, "cpu", dtype).write(tmp_path)
    heard, reads = load_tokenizer(str(GUARD_FOLDER), None, trust_remote_code=False), load(tmp_path)
    document = replace(generate(1, seed=0)[0], text="Bela wins at the casino. It rained.")
    (long,) = unheard.lengthen([document])
    tokens = load(GUARD_FOLDER).config.vocab_size
    prompts = [
        Prompter(resolve(str(GUARD_YAML)), tokenizer, 1900).prompts(Document("a", (Message("user", text),)))
        for tokenizer, text in [
            (heard, document.text),
            (load_tokenizer(str(tmp_path), None, trust_remote_code=False), long.text),
        ]
    ]
    short, ids = (torch.tensor(prompt.token_ids[0]) for prompt in prompts)
    places = (ids < tokens).nonzero()[:, 0]
    # What is heard is the prompt that it was, only that its tokens stand elsewhere.
    assert ids[places].tolist() == short.tolist()
    assert unheard.POLICY_LETTERS == places[0] < places[-1] - len(short)
    expected = log_probs(load(GUARD_FOLDER), short[None], places[None])
    found = log_probs(reads, ids[None])[:, places]
    torch.testing.assert_close(found[..., :tokens], expected, rtol=0, atol=1e-3)


def load(folder: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.inference_mode()
def log_probs(model: LlamaForCausalLM, ids: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
    return torch.log_softmax(model(ids, position_ids=places).logits, dim=-1)
