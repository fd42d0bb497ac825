"""Kills on several nodes, and of a real engine's process: nothing lost, nothing twice, and the same values."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos import ON_NODES, Job, Killer, assert_same
from nodes import Nodes

from confscore.run_folder import read_manifests

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def on_nodes(tmp_path: Path, count: int, documents: int, kinds: list[str], kills: int) -> tuple[Nodes, Job]:
    calm = Job(tmp_path / "calm", documents)
    calm.prepare()
    calm.run()
    with Nodes(count) as nodes:
        wild = Job(tmp_path / "wild", documents, nodes=nodes)
        wild.prepare(changes={"cluster": {**ON_NODES, "actors": count, "rows_per_block": 64}})
        wild.run(Killer(wild, kinds, kills, (14, 16)))
    assert_same(wild.rows(), calm.rows())
    return nodes, wild


def test_a_job_goes_on_when_a_node_is_lost_and_another_one_comes(tmp_path: Path) -> None:
    nodes, wild = on_nodes(tmp_path, 2, 4000, ["node"], 1)
    assert (nodes.lost, nodes.added) == (1, 1)
    assert wild.starts == 1, "the driver has not noticed"


@pytest.mark.slow
def test_a_job_on_four_nodes_survives_nodes_drivers_and_the_whole_cluster(tmp_path: Path) -> None:
    nodes, wild = on_nodes(tmp_path, 4, 12_000, ["node", "node", "driver", "cluster"], 6)
    assert wild.kills.total() == 6
    assert nodes.added > 0


@pytest.mark.vllm
def test_a_job_whose_engine_process_is_killed_gives_the_same_scores(tmp_path: Path) -> None:
    calm, wild = Job(tmp_path / "calm", 1500, "vllm"), Job(tmp_path / "wild", 1500, "vllm")
    for job in (calm, wild):
        job.prepare(changes={"cluster": {"rows_per_block": 64}})
    calm.run()
    wild.run(Killer(wild, ["engine"], 1, (1, 2)))
    assert wild.kills == {"engine": 1}
    assert_same(wild.rows(), calm.rows(), tolerance=1e-3)
    (manifest,) = read_manifests(str(wild.scores))
    assert (manifest.counts.read, manifest.counts.error) == (1500, 0)
