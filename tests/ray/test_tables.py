"""Jobs whose scores go into tables of Iceberg and Delta Lake, from the corpus to the reader."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import table_catalog
import table_job

from confscore.config import parse
from confscore.demo.world import write_corpus
from confscore.errors import TableError
from confscore.plan import make_plan
from confscore.score_table import open_table
from confscore.verify import verify

pytestmark = pytest.mark.ray
table_catalog.configure()


@pytest.mark.parametrize("kind", ["delta", pytest.param("iceberg", marks=pytest.mark.slow)])
def test_a_job_ends_in_a_table(ray_here: None, settings: dict, tmp_path: Path, kind: str) -> None:
    from ray import cloudpickle

    from confscore.pipeline import run_plan

    cloudpickle.register_pickle_by_value(table_job)  # workers do not see this folder
    write_corpus(tmp_path / "corpus", 40, seed=8)
    settings["scoring"] = {"tolerance": 0.3, "max_requests_per_document": 2}
    settings["output"] |= {"format": kind, "partition_by": ["date"]}
    if kind == "iceberg":
        settings["output"] |= {"catalog": table_catalog.CATALOG, "table": "jobs.scores"}
    config = parse(settings, "test")
    manifest = run_plan(make_plan(config), lambda counts, ready: None, table_job.open_table_scorer)
    assert manifest.counts.read == 40

    if kind == "iceberg":
        from pyiceberg.catalog import load_catalog

        rows = load_catalog(table_catalog.CATALOG).load_table("jobs.scores").scan().to_arrow()
    else:
        from deltalake import DeltaTable

        rows = DeltaTable(config.output.path).to_pyarrow_table()
    assert Counter(rows["date"].to_pylist()) == {"2026-11-22": 20, "2026-11-23": 20}
    files = open_table(config.output.path).to_table().select(rows.column_names)
    assert rows.cast(files.schema).sort_by("doc_id") == files.sort_by("doc_id")
    assert verify(config.output.path) == []

    assert make_plan(config).done == manifest, "a second start has nothing to do"
    with pytest.raises(TableError, match=r"has other output\.format"):
        make_plan(parse({**settings, "output": {"path": config.output.path, "partition_by": ["date"]}}, "test"))
