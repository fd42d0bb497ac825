"""What does not fit into a machine is refused before it is loaded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from confscore.engines.base import AnswerTokens
from confscore.errors import EngineError
from confscore.gpus import refuse_too_large_for_gpus, refuse_unfit
from confscore.manifest import PeakMemory
from confscore.memory import available_memory, refuse_too_large
from confscore.model_size import find_folder, least_bytes

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


def test_what_was_there_is_never_collected_again_and_what_comes_after_it_still_is() -> None:
    script = """
        import gc
        from confscore.memory import collect_rarely

        class Cycle:
            left = 0
            def __init__(self):
                self.me = self
                Cycle.left += 1
            def __del__(self):
                Cycle.left -= 1

        before = Cycle()
        collect_rarely()
        del before
        for _ in range(50_000):
            Cycle()
        print(0 < Cycle.left < 40_000)
        gc.collect()
        print(Cycle.left)
    """
    done = subprocess.run([sys.executable, "-c", dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "1"]


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


# -- on GPUs -------------------------------------------------------------------------------------------------

WIDTHS = {"F64": 8, "F32": 4, "BF16": 2, "F8_E4M3": 1, "I32": 4}


@dataclass(frozen=True)
class Machine:
    """What vLLM would tell of a machine that is not this one."""

    total: int | None = None
    gpu: bool = True

    def is_cpu(self) -> bool:
        return not self.gpu

    def is_cuda_alike(self) -> bool:
        return self.gpu

    def get_device_total_memory(self, device_id: int = 0) -> int:
        if self.total is None:
            raise RuntimeError("no driver")
        return self.total


def write_weights(path: Path, tensors: Mapping[str, tuple[str, list[int]]]) -> None:
    """Write a file as large as one of weights; its numbers are a hole that takes no room on the disk."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, shape) in tensors.items():
        start, end = end, end + WIDTHS[kind] * int(np.prod(shape))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Return a model of 16 GiB in 16 bits."""
    for part in (1, 2):
        write_weights(tmp_path / f"model-{part}.safetensors", {f"layer.{part}": ("BF16", [4, GIB])})
    return tmp_path


def refused(total: int | None, source: Path | str, gpu: bool = True, **engine_args: object) -> str | None:
    try:
        refuse_unfit(Machine(total, gpu), str(source), None, engine_args, 0.92)
    except EngineError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("gib", "engine_args"),
    [
        (24, {}),
        (16.1, {"gpu_memory_utilization": 1}),
        (12, {"tensor_parallel_size": 2}),
        (6, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}),
        (6, {"tensor_parallel_size": 2, "data_parallel_size": 2, "enable_expert_parallel": True}),
        (16, {"quantization": "fp8"}),
        (16, {"cpu_offload_gb": 8}),
        (17, {"kv_cache_memory_bytes": GIB}),
        (None, {}),
    ],
)
def test_what_fits_a_gpu_or_is_not_known_is_let_through(weights: Path, gib: float | None, engine_args: dict) -> None:
    assert refused(None if gib is None else int(gib * GIB), weights, **engine_args) is None


@pytest.mark.parametrize(
    ("gib", "engine_args", "sentence"),
    [
        (
            16,
            {},
            "its weights take at least 16.0 GiB of a GPU, and vLLM may take 14.7 GiB: "
            "model.engine_args.gpu_memory_utilization is 0.92, and a GPU of ",
        ),
        (
            24,
            {"gpu_memory_utilization": 0.5},
            "may take 12.0 GiB: model.engine_args.gpu_memory_utilization is 0.5, and",
        ),
        (16, {"dtype": "float32", "tensor_parallel_size": 2}, "at least 16.0 GiB of a GPU"),
        (8, {"tensor_parallel_size": 2, "data_parallel_size": 2}, "at least 8.0 GiB of a GPU"),
        (
            17,
            {"kv_cache_memory_bytes": 2 * GIB},
            "at least 16.0 GiB of a GPU, model.engine_args.kv_cache_memory_bytes takes 2.0 GiB, and a GPU of ",
        ),
        (1, {"quantization": "fp8", "kv_cache_memory_bytes": 2 * GIB}, "kv_cache_memory_bytes takes 2.0 GiB, and"),
    ],
)
def test_what_does_not_fit_a_gpu_is_refused_with_its_sizes(
    weights: Path, gib: float, engine_args: dict, sentence: str
) -> None:
    said = refused(int(gib * GIB), weights, **engine_args)
    assert said is not None
    assert said.startswith(f"model.source {weights}: its weights take ")
    assert sentence in said
    assert "\n" not in said


def test_the_whole_of_a_gpu_may_be_taken() -> None:
    refuse_too_large_for_gpus("m", 16 * GIB, 16 * GIB, {"gpu_memory_utilization": 1.0})
    with pytest.raises(EngineError, match=r"vLLM may take 16\.0 GiB"):
        refuse_too_large_for_gpus("m", 16 * GIB + 1, 16 * GIB, {"gpu_memory_utilization": 1.0})


def test_without_a_gpu_the_memory_of_the_machine_counts(weights: Path) -> None:
    said = refused(None, weights, gpu=False, kv_cache_memory_bytes=1 << 50)
    assert said is not None
    assert re.search(r"kv_cache_memory_bytes takes 1048576\.0 GiB, and \S+ has", said)


def test_numbers_of_32_bits_are_loaded_as_16_unless_asked_for(tmp_path: Path) -> None:
    tensors = {
        "a": ("F32", [1000]),
        "b": ("BF16", [10, 10]),
        "c": ("F8_E4M3", [7]),
        "d": ("I32", [3]),
        "e": ("F32", []),
    }
    write_weights(tmp_path / "model.safetensors", tensors)
    assert least_bytes(tmp_path, full_floats=False) == 2000 + 200 + 7 + 12 + 2
    assert least_bytes(tmp_path, full_floats=True) == 4000 + 400 + 7 + 12 + 4


def test_weights_that_are_there_twice_count_once(weights: Path) -> None:
    write_weights(weights / "consolidated.safetensors", {"all": ("BF16", [8, GIB])})
    assert least_bytes(weights, full_floats=False) == 16 * GIB
    write_weights(weights / "copy.safetensors", {"all": ("BF16", [8, GIB])})
    index = {"weight_map": {"layer.1": "model-1.safetensors", "layer.2": "model-2.safetensors"}}
    (weights / "model.safetensors.index.json").write_text(json.dumps(index))
    assert least_bytes(weights, full_floats=False) == 16 * GIB


@pytest.mark.parametrize(
    "content",
    [b"", b"short", b"\xff" * 16, (2).to_bytes(8, "little") + b"[]", (7).to_bytes(8, "little") + b'{"a":1}'],
)
def test_files_that_are_not_safetensors_count_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    assert least_bytes(tmp_path, full_floats=False) == 0


def test_the_size_is_that_of_the_file(tmp_path: Path) -> None:
    tensors = pytest.importorskip("safetensors.numpy")
    tensors.save_file({"a": np.zeros((3, 5), np.float16), "b": np.zeros(7, np.int8)}, tmp_path / "model.safetensors")
    assert least_bytes(tmp_path, full_floats=False) == 3 * 5 * 2 + 7


def test_a_hub_model_is_found_once_it_has_been_downloaded(weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--somebody--a-model"
    snapshot = repository / "snapshots" / commit
    (repository / "refs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_text("{}")
    for path in weights.glob("*.safetensors"):
        (snapshot / path.name).symlink_to(path)  # as the cache does
    cache = str(tmp_path / "cache")
    assert find_folder("somebody/a-model", None, cache) == find_folder("somebody/a-model", commit, cache) == snapshot
    assert find_folder("somebody/another", None, cache) is None
    assert find_folder("somebody/a-model", "v2", cache) is None
    assert find_folder("/no/such/folder", None, cache) is None
    said = refused(16 * GIB, "somebody/a-model", download_dir=cache)
    assert said is not None
    assert said.startswith("model.source somebody/a-model: its weights take at least 16.0 GiB of a GPU")
    assert refused(16 * GIB, "somebody/another", download_dir=cache) is None


def test_a_record_from_before_object_stores_were_looked_at_is_read() -> None:
    old = PeakMemory.model_validate_json('{"driver": 1, "actor": null}')
    assert (old.driver, old.actor, old.object_store) == (1, None, None)
    assert PeakMemory.model_validate_json(old.model_dump_json()) == old
