"""One Ray instance for all tests that run the pipeline in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from confscore.demo import GUARD_FOLDER, GUARD_YAML


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    from confscore.config import ClusterConfig
    from confscore.pipeline import connected

    with connected(ClusterConfig()):
        yield


@pytest.fixture
def settings(tmp_path: Path) -> dict:
    """A small job on the transformers engine; ``corpus`` is still to be written."""
    return {
        "input": {"path": str(tmp_path / "corpus"), "id_column": "doc_id"},
        "guard": str(GUARD_YAML),
        "model": {"source": str(GUARD_FOLDER), "engine": "transformers"},
        "scoring": {"tolerance": 0.05},
        "cluster": {"actors": 1, "gpus_per_actor": 0, "rows_per_block": 16, "blocks_in_flight": 2},
        "output": {"path": str(tmp_path / "scores")},
    }


@pytest.fixture
def write_config(tmp_path: Path):
    def write(settings: dict) -> Path:
        path = tmp_path / "score.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    return write
