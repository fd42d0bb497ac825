"""A partition that has changed is scored again, and its new run takes the place of the old one."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from confscore.config import Config, parse
from confscore.demo.world import write_corpus
from confscore.errors import ConfigError, CorpusError, TableError
from confscore.manifest import Manifest
from confscore.plan import make_plan
from confscore.publication import retire
from confscore.run_folder import RunFolder, read_manifests
from confscore.verify import verify

pytestmark = pytest.mark.ray
NIGHT = "2026-11-22"


def run(config: Config) -> Manifest:
    from confscore.pipeline import run_plan

    return run_plan(make_plan(config), lambda counts, ready: None)


def ids(config: Config) -> list[str]:
    return sorted(row[0] for row in duckdb.sql(f"SELECT doc_id FROM '{config.output.path}/**/*.parquet'").fetchall())


@pytest.fixture
def job(settings: dict, tmp_path: Path) -> Config:
    write_corpus(tmp_path / "corpus", 24, seed=3)
    settings["input"]["where"] = {"date": NIGHT}
    settings["output"] |= {"partition_by": ["date"], "replace_changed": True}
    return parse(settings, "test")


def add_document(tmp_path: Path) -> None:
    path = min((tmp_path / "corpus" / f"date={NIGHT}").iterdir())
    old = pq.read_table(path)
    more = pa.table({name: [f"late {name}"] for name in old.column_names}, schema=old.schema)
    pq.write_table(pa.concat_tables([old, more]), path)


def test_one_partition_is_scored_and_scored_again_when_it_has_changed(
    ray_here: None, job: Config, tmp_path: Path
) -> None:
    first = run(job)
    before = ids(job)
    assert len(before) == 12
    assert {file.name.partition("/")[0] for file in first.input_files} == {f"date={NIGHT}"}
    assert first.engine_seconds is not None
    assert 0 < first.engine_seconds <= first.scoring_seconds + first.startup_seconds
    assert make_plan(job).done == first
    assert make_plan(job).replaces == ()

    add_document(tmp_path)
    with pytest.raises(TableError, match=r"has scored .* already, and the input"):
        make_plan(job.model_copy(update={"output": job.output.model_copy(update={"replace_changed": False})}))
    # What a start leaves that dies after it has committed, and before it has removed the run that it replaces.
    shutil.copytree(job.output.path, tmp_path / "aside")
    second = run(job)
    assert second.replaces == (first.run_id,)
    assert ids(job) == sorted([*before, "late doc_id"])
    assert [manifest.run_id for manifest in read_manifests(job.output.path)] == [second.run_id]
    for part in (f"run={first.run_id}", f"_confscore/{first.run_id}"):
        assert not (Path(job.output.path) / part).exists()
        shutil.copytree(tmp_path / "aside" / part, Path(job.output.path) / part)
    plan = make_plan(job)
    assert (plan.done, plan.replaces) == (second, (first.run_id,))
    retire(plan.run, plan.replaces)
    assert ids(job) == sorted([*before, "late doc_id"])
    assert verify(job.output.path) == []


@pytest.mark.slow
def test_a_run_that_scored_other_files_too_keeps_its_place(ray_here: None, job: Config, tmp_path: Path) -> None:
    whole = job.model_copy(update={"input": job.input.model_copy(update={"where": {}})})
    first = run(whole)
    add_document(tmp_path)
    with pytest.raises(TableError, match=r"and .*date=2026-11-23.* as well, which is not in this run's input"):
        make_plan(job)
    assert make_plan(whole).replaces == (first.run_id,)
    shutil.rmtree(tmp_path / "corpus" / "date=2026-11-23")
    assert make_plan(job).replaces == (first.run_id,), "its other files are gone"


def test_a_partition_that_is_not_there_is_refused(job: Config) -> None:
    source = job.input.model_copy(update={"where": {"date": "2026-11-30"}})
    with pytest.raises(CorpusError, match=r"no file's path has date=2026-11-30 \(input.where\); date=2026-11-22/"):
        make_plan(job.model_copy(update={"input": source}))


def test_runs_are_replaced_among_parquet_files_only(settings: dict) -> None:
    settings["output"] |= {"format": "delta", "replace_changed": True}
    with pytest.raises(ConfigError, match="replace_changed works on Parquet files, and format is delta"):
        parse(settings, "test")


def test_a_run_that_is_gone_is_no_error(tmp_path: Path) -> None:
    retire(RunFolder(str(tmp_path / "scores"), "run-1"), ("run-0",))
