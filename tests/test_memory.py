"""What does not fit into a machine is refused before it is loaded."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from confscore.engines.base import AnswerTokens
from confscore.errors import EngineError
from confscore.memory import available_memory, refuse_too_large

GIB = 1 << 30


@pytest.fixture
def model(tmp_path: Path) -> str:
    for number, size in enumerate((3 * GIB, 2 * GIB)):
        with (tmp_path / f"model-{number}.safetensors").open("wb") as file:
            file.truncate(size)  # a hole: it takes no room on the disk
    return str(tmp_path)


def test_what_is_left_is_less_than_what_there_is() -> None:
    total = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    assert total is not None
    available = available_memory()
    assert available is not None
    assert 0 < available < int(total[1]) * 1024


@pytest.mark.parametrize(("cache", "available"), [(0, 5 * GIB), (GIB, 6 * GIB), (GIB, None), ("auto", 5 * GIB)])
def test_what_fits_or_is_not_known_is_let_through(model: str, cache: object, available: int | None) -> None:
    refuse_too_large(model, {"kv_cache_memory_bytes": cache}, available)


@pytest.mark.parametrize(("cache", "available"), [(0, 5 * GIB - 1), (GIB, 6 * GIB - 1)])
def test_what_does_not_fit_is_refused_with_its_sizes(model: str, cache: int, available: int) -> None:
    sizes = f"weights take 5.0 GiB, .* takes {cache / GIB:.1f} GiB, and .* has {available / GIB:.1f} GiB left"
    with pytest.raises(EngineError, match=sizes):
        refuse_too_large(model, {"kv_cache_memory_bytes": cache}, available)


def test_a_hub_id_is_left_to_the_engine() -> None:
    refuse_too_large("somebody/a-model", {}, 1)


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # vLLM's own, while it is imported
def test_an_engine_that_would_not_fit_is_not_loaded(model: str) -> None:
    from confscore.engines.vllm import VllmEngine

    answers = AnswerTokens(np.array([1, 2]), (2,), 4)
    with pytest.raises(EngineError, match=r"kv_cache_memory_bytes takes 1048576\.0 GiB"):
        VllmEngine(model, answers, engine_args={"kv_cache_memory_bytes": 1 << 50})
