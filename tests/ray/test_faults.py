"""Kills on several nodes, and of a real engine's process: nothing lost, nothing twice, and the same values.

What the values have to be is found out without Ray, by a scorer in this process.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from chaos import ON_NODES, Job, Killer, assert_same
from nodes import Nodes
from table_job import open_table_scorer

from confscore.actor import OpenScorer
from confscore.config import load
from confscore.guards import resolve
from confscore.loading import open_scorer
from confscore.rows import Document, Message
from confscore.run_folder import read_manifests

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def expected(job: Job, open_engine: OpenScorer) -> dict[str, tuple[float | str, ...]]:
    """Return what :meth:`Job.rows` has to be."""
    config = load(job.config)

    async def score() -> dict[str, tuple[float | str, ...]]:
        scorer = open_engine(resolve(config.guard.name), config.model, config.scoring)
        try:
            texts = job.texts().items()
            scores = await scorer.score_all([Document(doc_id, (Message("user", text),)) for doc_id, text in texts])
        finally:
            await scorer.close()
        return {
            each.doc_id: (each.status, *np.float32([each.p_any, max(each.probs), *each.probs]).tolist())
            for each in scores
        }

    return asyncio.run(score())


def survive(
    tmp_path: Path, nodes: Nodes, count: int, documents: int, killer: tuple[list[str], int], pause: float = 12
) -> Job:
    job = Job(tmp_path / "job", documents, nodes=nodes)
    job.prepare(changes={"cluster": {**ON_NODES, "actors": count, "rows_per_block": 64}})
    job.run(Killer(job, *killer, (pause, pause + 2)))
    assert_same(job.rows(), expected(job, open_table_scorer))
    return job


def test_a_job_goes_on_when_a_node_is_lost_and_another_one_comes(tmp_path: Path) -> None:
    with Nodes(2) as nodes:
        job = survive(tmp_path, nodes, 2, 1000, (["node"], 1), pause=6)
    assert (nodes.lost, nodes.added) == (1, 1)
    assert job.starts == 1, "the driver has not noticed"


@pytest.mark.slow
def test_a_job_on_four_nodes_survives_nodes_drivers_and_the_whole_cluster(tmp_path: Path) -> None:
    with Nodes(4) as nodes:
        job = survive(tmp_path, nodes, 4, 12_000, (["node", "node", "driver", "cluster"], 6))
    assert job.kills.total() == 6
    assert nodes.added > 0


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Unclosed context:ResourceWarning")  # vLLM's own
def test_a_job_whose_engine_process_is_killed_gives_the_same_scores(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", 2500, "vllm")
    job.prepare(changes={"cluster": {"rows_per_block": 64}})
    job.run(Killer(job, ["engine"], 1, (0, 0), after=" documents, "))
    assert job.kills == {"engine": 1}
    assert_same(job.rows(), expected(job, open_scorer), tolerance=1e-3)
    (manifest,) = read_manifests(str(job.scores))
    assert (manifest.counts.read, manifest.counts.error) == (2500, 0)
