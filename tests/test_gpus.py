"""An actor holds as many GPUs as its engine takes, or nothing is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from confscore.config import Config, load
from confscore.errors import ConfigError
from confscore.gpus import check_gpus, engine_processes
from confscore.plan import make_plan


def config(gpus: float, engine: str = "vllm", **engine_args: object) -> Config:
    return Config.model_validate(
        {
            "input": {"path": "corpus"},
            "model": {"source": "model", "engine": engine, "engine_args": engine_args},
            "cluster": {"gpus_per_actor": gpus},
            "output": {"path": "scores"},
        }
    )


@pytest.mark.parametrize(
    ("gpus", "engine_args"),
    [
        (1, {}),
        (0.5, {}),
        (1, {"tensor_parallel_size": 1}),
        (2, {"tensor_parallel_size": 2}),
        (8, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "data_parallel_size": 2}),
        (2, {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}),
        (0, {}),
        (0, {"tensor_parallel_size": 2}),
    ],
)
def test_numbers_that_agree_are_taken(gpus: float, engine_args: dict) -> None:
    check_gpus(config(gpus, **engine_args))


@pytest.mark.parametrize(
    ("gpus", "engine_args", "sentence"),
    [
        (
            1,
            {"tensor_parallel_size": 2},
            "model.engine_args.tensor_parallel_size is 2, so that an engine takes 2 GPUs, and "
            "cluster.gpus_per_actor is 1; give an actor as many GPUs as its engine takes",
        ),
        (
            2,
            {},
            "model.engine_args.tensor_parallel_size is not set, so that an engine takes 1 GPU, and "
            "cluster.gpus_per_actor is 2; give an actor as many GPUs as its engine takes",
        ),
        (1.5, {}, "cluster.gpus_per_actor is 1.5"),
        (0.5, {"tensor_parallel_size": 2}, "cluster.gpus_per_actor is 0.5"),
        (
            2,
            {"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
            "size is 2 and model.engine_args.pipeline_parallel_size is 2, so that an engine takes 4 GPUs",
        ),
        (
            2,
            {"tensor_parallel_size": "2"},
            "model.engine_args.tensor_parallel_size is '2': it has to be a whole number",
        ),
        (
            1,
            {"tensor_parallel_size": True},
            "model.engine_args.tensor_parallel_size is True: it has to be a whole number",
        ),
        (1, {"data_parallel_size": 0}, "model.engine_args.data_parallel_size is 0: it has to be a whole number"),
        (0, {"distributed_executor_backend": "ray"}, "model.engine_args.distributed_executor_backend is ray: "),
        (1, {"data_parallel_backend": "ray"}, "model.engine_args.data_parallel_backend is ray: "),
    ],
)
def test_numbers_that_differ_are_refused(gpus: float, engine_args: dict, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_gpus(config(gpus, **engine_args))
    assert sentence in str(caught.value)


def test_the_transformers_engine_takes_one_gpu() -> None:
    check_gpus(config(1, "transformers"))
    with pytest.raises(ConfigError, match="the transformers engine uses 1; set it to 1"):
        check_gpus(config(2, "transformers"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_engine_splits_a_model_among_as_many_processes_as_vllm_counts() -> None:
    parallel = pytest.importorskip("vllm.config").ParallelConfig
    sizes = {"tensor_parallel_size": 2, "pipeline_parallel_size": 3, "prefill_context_parallel_size": 1}
    vllms = parallel(**sizes, data_parallel_size=2, distributed_executor_backend="mp")
    assert engine_processes({**sizes, "data_parallel_size": 2}) == vllms.world_size_across_dp == 12


def test_nothing_is_read_before_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "score.yaml"
    path.write_text(yaml.safe_dump(config(1, tensor_parallel_size=2).model_dump(mode="json")))
    with pytest.raises(ConfigError, match=r"cluster\.gpus_per_actor is 1"):
        make_plan(load(path))  # neither corpus nor model is there
