"""The job on a real Ray: every document once, whole or not at all."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from confscore.config import Config, parse
from confscore.demo.world import CODES, generate, write_corpus
from confscore.errors import CorpusError, EngineError, InputError, JobError, TableError
from confscore.manifest import Counts, Manifest
from confscore.plan import make_plan
from confscore.rows import Document, Message
from confscore.run_folder import read_manifests

pytestmark = pytest.mark.ray


def run(config: Config, told: list[Counts] | None = None) -> Manifest:
    from confscore.pipeline import run_plan

    plan = make_plan(config)
    assert plan.done is None
    return run_plan(plan, lambda counts, ready: None if told is None else told.append(counts))


def read_scores(config: Config) -> list[dict]:
    table = duckdb.sql(f"FROM read_parquet('{config.output.path}/**/*.parquet', hive_partitioning = true)")
    names = table.columns
    return [dict(zip(names, row, strict=True)) for row in table.fetchall()]


def test_every_document_is_scored_once_and_as_it_would_be_without_ray(
    ray_here: None, settings: dict, tmp_path: Path
) -> None:
    from confscore.loading import open_scorer

    write_corpus(tmp_path / "corpus", 60, seed=1)
    bad = pa.table({"doc_id": ["empty", None], "text": ["", "no id"], "source": ["mail", None]})
    pq.write_table(bad, tmp_path / "corpus" / "date=2026-11-23" / "bad.parquet")
    settings["input"]["carry_columns"] = ["source"]
    settings["output"]["partition_by"] = ["date"]
    settings["scoring"]["bounds"] = True
    config = parse(settings, "test")
    told: list[Counts] = []
    manifest = run(config, told)

    counts = manifest.counts
    assert (counts.read, counts.error) == (62, 2)
    assert counts.read == counts.scored + counts.bounded + counts.error
    assert told[-1].read == 62
    scores = {row["doc_id"]: row for row in read_scores(config)}
    assert len(scores) == 62
    assert scores["empty"]["error"] == "text is empty"
    assert scores["date=2026-11-23/bad.parquet#1"]["error"] == "doc_id is null"
    assert all(scores["empty"][f"p_{code}"] is None for code in CODES)
    assert {row["run_id"] for row in scores.values()} == {manifest.run_id}

    documents = generate(60, seed=1)
    scorer = open_scorer(make_plan_guard(config), config.model, config.scoring)
    alone = asyncio.run(scorer.score_all([Document(d.doc_id, (Message("user", d.text),)) for d in documents[:8]]))
    for expected in alone:
        row = scores[expected.doc_id]
        assert expected.probs is not None
        np.testing.assert_allclose([row[f"p_{code}"] for code in CODES], expected.probs, atol=1e-4)
        assert row["lower_S1"] <= row["p_S1"] <= row["upper_S1"]
        assert row["status"] == expected.status
        assert row["source"] in ("forum", "mail", "review")
    assert str(scores["doc-000000"]["date"]) == "2026-11-22"
    assert str(scores["doc-000059"]["date"]) == "2026-11-23"

    assert make_plan(config).done == manifest  # a second run has nothing to do
    with pytest.raises(TableError, match="with another tolerance"):
        make_plan(parse({**settings, "scoring": {"tolerance": 0.5}}, "test"))


def make_plan_guard(config: Config):
    from confscore.guards import resolve

    return resolve(config.guard.name, config.guard.order)


@pytest.mark.slow
def test_prometheus_can_read_how_a_job_is_doing(ray_here: None, settings: dict, tmp_path: Path) -> None:
    import ray

    write_corpus(tmp_path / "corpus", 30, seed=8)
    bad = pa.table({"doc_id": ["empty"], "text": [""], "source": ["mail"]})
    pq.write_table(bad, tmp_path / "corpus" / "bad.parquet")
    config = parse(settings, "test")
    manifest = run(config)
    counts = manifest.counts
    residuals = [row["residual"] for row in read_scores(config) if row["status"] != "error"]
    tag = f'run_id="{manifest.run_id}"'
    pattern = re.compile(rf'^ray_confscore_(\w+){{(?:[^}}]*le="(\S+?)",)?[^}}]*{tag}(?:,status="(\w+)")?}} (\S+)', re.M)
    expected = {
        ("documents_total", "scored"): counts.scored,
        ("documents_total", "bounded"): counts.bounded,
        ("documents_total", "error"): counts.error,
        ("requests_total", ""): counts.requests,
        ("prompt_tokens_total", ""): counts.prompt_tokens,
        ("residual_bucket_total", "0.001"): sum(residual <= 0.001 for residual in residuals),
        ("residual_bucket_total", "0.01"): sum(residual <= 0.01 for residual in residuals),
        ("residual_bucket_total", "+Inf"): counts.read - counts.error,
        ("documents_in_flight", ""): 0,
        ("requests_waiting", ""): 0,
    }
    expected = {name: value for name, value in expected.items() if value or "total" not in name[0]}
    address = f"http://{ray.util.get_node_ip_address()}:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    found: dict[tuple[str, str], float] = {}
    end = time.monotonic() + 60
    while found != expected and time.monotonic() < end:
        with urllib.request.urlopen(address) as page:
            said = pattern.findall(page.read().decode())
        found = {key: float(value) for name, le, status, value in said if (key := (name, le or status)) in expected}
        time.sleep(0.5)
    assert found == expected
    assert counts.error == 1
    assert manifest.peak_memory.driver > 100 << 20
    assert manifest.peak_memory.actor > 100 << 20


def test_conversations_are_scored_and_the_manifest_is_whole(ray_here: None, settings: dict, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    texts = [d.text for d in generate(6, seed=2)]
    chats = [[{"role": "user", "content": "hello"}, {"role": "assistant", "content": text}] for text in texts]
    lines = [json.dumps({"id": i, "chat": chat}) for i, chat in enumerate(chats)] + ["{broken"]
    (tmp_path / "corpus" / "a.jsonl").write_text("\n".join(lines))
    settings["input"] |= {"format": "jsonl", "id_column": "id", "messages_column": "chat"}
    config = parse(settings, "test")
    manifest = run(config)
    scores = {row["doc_id"]: row for row in read_scores(config)}
    assert set(scores) == {*(str(i) for i in range(6)), "a.jsonl#6"}
    assert scores["a.jsonl#6"]["status"] == "error"
    assert read_manifests(config.output.path) == [manifest]
    assert manifest.counts.requests == sum(row["requests"] for row in scores.values())
    assert manifest.counts.prompt_tokens == sum(row["prompt_tokens"] for row in scores.values()) > 0
    assert sum(file.rows for file in manifest.output_files) == 7
    assert {"confscore", "ray", "python"} <= set(manifest.versions)


def test_ids_that_occur_twice_are_refused_with_both_places(ray_here: None, settings: dict, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", 20, seed=3)
    again = pa.table({"doc_id": ["new", "doc-000003"], "text": ["a", "b"], "source": ["mail", "mail"]})
    pq.write_table(again, tmp_path / "corpus" / "again.parquet")
    with pytest.raises(CorpusError) as caught:
        run(parse(settings, "test"))
    assert "'doc-000003' occurs twice" in str(caught.value)
    assert "again.parquet row 1" in str(caught.value)
    assert "part-0000.parquet row 3" in str(caught.value)
    assert read_manifests(settings["output"]["path"]) == []


def test_a_model_that_cannot_be_loaded_ends_the_job_in_one_sentence(
    ray_here: None, settings: dict, tmp_path: Path
) -> None:
    write_corpus(tmp_path / "corpus", 20, seed=4)
    settings["model"]["engine_args"] = {"dtype": "float33"}
    with pytest.raises(EngineError) as caught:
        run(parse(settings, "test"))
    assert "float33" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(Path(settings["output"]["path"]).glob("**/*.parquet"))


def test_a_file_that_changes_under_the_job_ends_it_and_publishes_nothing(
    ray_here: None, settings: dict, tmp_path: Path
) -> None:
    from confscore.pipeline import run_plan

    write_corpus(tmp_path / "corpus", 20, seed=5)
    del settings["input"]["id_column"]
    plan = make_plan(parse(settings, "test"))
    (tmp_path / "corpus" / "date=2026-11-22" / "part-0000.parquet").write_bytes(b"gone")
    with pytest.raises(JobError, match=r"part-0000\.parquet: was .* bytes of .* and is 4 bytes of "):
        run_plan(plan, lambda counts, ready: None)
    assert not list(Path(settings["output"]["path"]).glob("**/*.parquet"))


def test_what_does_not_fit_is_refused_before_a_cluster_is_asked_for(settings: dict, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", 20, seed=6)

    def refused(**changes: dict) -> str:
        merged = {
            key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value
            for key, value in settings.items()
        }
        with pytest.raises(InputError) as caught:
            make_plan(parse({**merged, **{k: v for k, v in changes.items() if k == "guard"}}, "test"))
        return str(caught.value)

    assert "has no column body" in refused(input={"text_column": "body"})
    assert "no=… part" not in refused(output={"partition_by": ["lang"]})
    assert "has no column lang" in refused(output={"partition_by": ["lang"]})
    assert "tokenizer cannot be loaded" in refused(model={"source": str(tmp_path)})
    guard = yaml.safe_load(Path(settings["guard"]).read_text())
    guard["end_tokens"] = ["<nope>"]
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(guard))
    assert "none of its end tokens" in refused(guard={"name": str(other)})
    pq.write_table(pa.table({"doc_id": ["x"], "text": ["y"], "p_S1": [1.0]}), tmp_path / "c.parquet")
    assert "input.carry_columns: p_S1 is a column of the score table" in refused(
        input={"path": str(tmp_path / "c.parquet"), "carry_columns": ["p_S1"]}
    )
