"""How many actors there are, and what each of them holds: on two nodes of a real cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from heads import NO_TOKEN
from paced_job import ACTORS

ROWS, ROWS_PER_BLOCK, BLOCKS_IN_FLIGHT = 96, 4, 2
pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]


@pytest.mark.slow
def test_actors_come_with_the_work_and_go_with_it_and_a_slow_one_holds_what_it_works_on(
    settings: dict, write_config: Callable[[dict], Path], tmp_path: Path
) -> None:
    corpus, notes = tmp_path / "corpus", tmp_path / "notes"
    corpus.mkdir()
    notes.mkdir()
    ids = [f"{i:03d}" for i in range(ROWS)]
    pq.write_table(pa.table({"doc_id": ids, "text": ["quiet"] * ROWS}), corpus / "part.parquet")
    script = Path(__file__).parent / "paced_job.py"
    settings["cluster"] = {
        "actors": [1, ACTORS],
        "gpus_per_actor": 1,
        "cpus_per_actor": 1,
        "rows_per_block": ROWS_PER_BLOCK,
        "blocks_in_flight": BLOCKS_IN_FLIGHT,
    }
    command = [sys.executable, str(script), str(write_config(settings)), str(notes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, env=NO_TOKEN)
    assert done.returncode == 0, done.stderr

    def noted(what: str) -> dict[str, list[str]]:
        return {path.name.removeprefix(f"{what}-"): path.read_text().split() for path in notes.glob(f"{what}-*")}

    assert len(noted("came")) == ACTORS
    assert noted("went").keys() == noted("came").keys()
    ((straggler, held),) = noted("straggler-scored").items()
    others = [doc_id for doc_ids in noted("scored").values() for doc_id in doc_ids]
    assert sorted([*held, *others]) == ids
    assert len(held) == BLOCKS_IN_FLIGHT * ROWS_PER_BLOCK
    went = {path.name: path.stat().st_mtime for path in notes.glob("went-*")}
    began = (notes / f"straggler-scored-{straggler}").stat()
    assert sum(when <= began.st_mtime for when in went.values()) == ACTORS - 1
