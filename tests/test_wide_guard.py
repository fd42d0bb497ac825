"""The small guard in another shape, as benchmarks on GPUs take it, says what the small guard says."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from confscore.demo import GUARD_FOLDER

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_a_wider_and_deeper_guard_has_the_same_probabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    wide_guard = importlib.import_module("wide_guard")
    shape = wide_guard.Shape(1024, 600, 6, 16, 8, 128, 3000)
    wide_guard.WideGuard(shape, "cpu").write(tmp_path)
    small = AutoModelForCausalLM.from_pretrained(GUARD_FOLDER, dtype=torch.float32).eval()
    wide = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert sum(each.numel() for each in wide.parameters()) == shape.parameters > 50 * small.num_parameters()
    tokens = small.config.vocab_size
    ids = torch.randint(0, tokens, (1, 200), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = torch.log_softmax(small(ids).logits, dim=-1)
        found = torch.log_softmax(wide(ids).logits, dim=-1)
    torch.testing.assert_close(found[..., :tokens], expected, rtol=0, atol=1e-3)
    assert found[..., tokens:].max() < -30
