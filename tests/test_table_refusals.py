"""What a table format refuses, and in which words: before anything is scored."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import table_catalog
import yaml
from lake import BOTH, Lake
from test_score_table import PROVENANCE, manifest, scored, stage

from confscore.config import OutputConfig, parse
from confscore.errors import ConfigError, InputError, JobError, TableError
from confscore.plan import make_plan
from confscore.publication import compact, finish, plan_compactions, publish
from confscore.run_folder import committed_before
from confscore.table_formats import refuse_output
from confscore.table_formats.schemas import refuse_columns


@pytest.fixture
def lake(tmp_path: Path, kind: str) -> Lake:
    return Lake(tmp_path, kind)


def refused(lake: Lake, schema: pa.Schema, partition_by: Sequence[str] = ("date",)) -> str:
    with pytest.raises(TableError) as caught:
        lake.table.check(schema, partition_by)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@BOTH
def test_a_table_with_other_columns_is_refused_by_the_column(lake: Lake) -> None:
    lake.publish(0)
    place = lake.schema.get_field_index("p_S2")
    assert "lacks column p_S9" in refused(lake, lake.schema.append(pa.field("p_S9", pa.float32())))
    assert "has column p_S2, which this run does not write" in refused(lake, lake.schema.remove(place))
    wider = lake.schema.set(place, pa.field("p_S2", pa.float64()))
    assert "has column p_S2 as float, and this run writes double" in refused(lake, wider)
    nullable = lake.schema.set(0, pa.field("doc_id", pa.string()))
    assert "allows no null in column doc_id" in refused(lake, nullable)
    assert "is partitioned by date, and this run by nothing" in refused(lake, lake.schema, ())
    lake.table.check(lake.schema, ("date",))


def test_delta_tables_of_others_are_refused(tmp_path: Path) -> None:
    from deltalake import write_deltalake

    lake = Lake(tmp_path, "delta")
    write_deltalake(lake.output, lake.schema.empty_table(), partition_by=["date"])
    assert "is a Delta table that confscore has not made" in refused(lake, lake.schema)


def test_iceberg_tables_of_others_are_refused(tmp_path: Path) -> None:
    from pyiceberg.catalog import load_catalog

    lake, other = Lake(tmp_path, "iceberg"), Lake(tmp_path, "iceberg")
    other.output = str(tmp_path / "elsewhere")
    lake.publish(0)
    assert f"holds the scores of output.path file://{lake.output}, not of" in refused(other, other.schema)
    catalog = load_catalog(table_catalog.CATALOG)
    catalog.drop_table(lake.where.name)
    catalog.create_table(lake.where.name, lake.schema)
    assert "was not made by confscore" in refused(lake, lake.schema)


def test_a_catalog_that_is_not_configured_is_said_so(tmp_path: Path) -> None:
    lake = Lake(tmp_path, "iceberg")
    lake.where = lake.where.model_copy(update={"catalog": "nowhere"})
    assert "environment variable PYICEBERG_CATALOG__NOWHERE__URI" in refused(lake, lake.schema)
    lake.where = lake.where.model_copy(update={"catalog": table_catalog.CATALOG})
    record = lake.finished(0)
    finish(lake.run(0), record)
    with pytest.raises(JobError, match="pyiceberg says: NoSuchTableError"):
        lake.table.commit(record)


def test_one_output_path_has_one_format(tmp_path: Path) -> None:
    plain, lake = Lake(tmp_path, "parquet"), Lake(tmp_path, "delta")
    plain.publish(0)
    known = (PROVENANCE, (), lake.schema.names, lake.partition_by)
    assert committed_before(plain.run(1), *known) is None
    with pytest.raises(TableError, match=r"has other output\.format \(parquet\)"):
        committed_before(lake.run(1), *known, lake.where)


@BOTH
def test_parquet_files_of_others_are_refused_before_there_is_a_run(lake: Lake) -> None:
    stray = Path(lake.output) / "a.parquet"
    stray.parent.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), stray)
    with pytest.raises(TableError, match="that no committed run has written"):
        committed_before(lake.run(0), PROVENANCE, (), lake.schema.names, (), lake.where)


@BOTH
@pytest.mark.parametrize(
    "bad",
    [pa.uint8(), pa.float16(), pa.timestamp("ns"), pa.time32("s"), pa.duration("s"), pa.list_(pa.uint64()), pa.null()],
    ids=str,
)
def test_columns_that_would_be_changed_are_refused(kind: str, bad: pa.DataType) -> None:
    with pytest.raises(TableError, match=r"column source: is .*, which tables of output\.format"):
        refuse_columns(pa.schema([pa.field("source", bad)]), (), kind)


@BOTH
def test_columns_that_are_carried_come_back(tmp_path: Path, kind: str) -> None:
    moment = datetime.datetime(2026, 11, 22, 1, 2, 3, 456789)
    values = {
        "int8": (pa.int8(), -7),
        "large": (pa.large_string(), "é"),
        "binary": (pa.binary(), b"\x00\xff"),
        "double": (pa.float64(), 0.1),
        "naive": (pa.timestamp("us"), moment),
        "millis": (pa.timestamp("ms", "UTC"), moment.replace(microsecond=456000, tzinfo=datetime.UTC)),
        "decimal": (pa.decimal128(12, 3), None),
        "nested": (pa.list_(pa.struct([("role", pa.string()), ("n", pa.int64())])), [{"role": "user", "n": 1}]),
    }
    carried = [pa.field(name, kind_of_value) for name, (kind_of_value, _) in values.items()]
    lake = Lake(tmp_path, kind, carried=carried, partitioned=False)
    refuse_columns(lake.schema, (), kind)
    run = lake.run(0)
    stage(run, "a", [scored("x", [0.1, 0.2])])
    (path,) = Path(run.staging).iterdir()
    table = pq.read_table(path)
    for field in carried:
        table = table.append_column(field, pa.array([values[field.name][1]], field.type))
    pq.write_table(table, path)
    (job,) = plan_compactions(run, 10)
    done = compact(run, job, lake.schema, PROVENANCE, 10)
    record = manifest(run, done.counts, output_files=(done.file,), columns=lake.schema.names, published_to=lake.where)
    lake.table.create(lake.schema, ())
    publish(run, record, lambda: None, lake.table)
    (row,) = lake.read().to_pylist()
    assert {name: row[name] for name in values} == {name: value for name, (_, value) in values.items()}
    lake.table.check(lake.schema, ())


def test_names_and_partitions_that_a_format_lacks_are_refused() -> None:
    with pytest.raises(TableError, match=r"column 'a b': output\.format delta allows no spaces"):
        refuse_columns(pa.schema([pa.field("a b", pa.string())]), (), "delta")
    with pytest.raises(TableError, match=r"output\.partition_by: column x is float"):
        refuse_columns(pa.schema([pa.field("x", pa.float32())]), ("x",), "iceberg")


@pytest.mark.parametrize(("kind", "library"), [("iceberg", "pyiceberg"), ("delta", "deltalake")])
def test_a_missing_library_is_one_sentence_before_anything_is_loaded(
    kind: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # what a library that is not installed looks like
    output = {"path": "nowhere", "format": kind}
    output |= {"catalog": "lake", "table": "a.b"} if kind == "iceberg" else {}
    config = parse({"input": {"path": "nowhere"}, "model": {"source": "nowhere"}, "output": output}, "test")
    with pytest.raises(ConfigError) as caught:
        make_plan(config)
    assert str(caught.value) == (
        f"output.format {kind}: needs {library}, which is not installed; run: pip install 'confscore[{kind}]'"
    )
    assert caught.value.exit_code == 2


def test_no_table_library_is_loaded_before_it_is_needed() -> None:
    script = "import sys, confscore.verify, confscore.plan; print({'pyiceberg', 'deltalake'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"format": "iceberg"}, "output: format iceberg needs catalog"),
        ({"format": "iceberg", "catalog": "lake", "table": "scores"}, "table is a namespace and a name"),
        ({"format": "delta", "table": "a.b"}, "format delta has no table: leave it out"),
        ({"catalog": "lake"}, "format parquet has no catalog"),
        ({"format": "hudi"}, "output.format: input should be 'parquet', 'iceberg' or 'delta'"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(output: dict[str, str], said: str) -> None:
    tree: dict[str, object] = {"input": {"path": "a"}, "model": {"source": "b"}, "output": {"path": "c", **output}}
    with pytest.raises(ConfigError) as caught:
        parse(tree, "job.yaml")
    assert said in str(caught.value)


def test_the_documented_outputs_are_valid() -> None:
    page = (Path(__file__).parents[1] / "docs" / "score-table.md").read_text()
    shown = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)]
    assert [OutputConfig.model_validate(tree["output"]).format for tree in shown] == ["iceberg", "delta"]


def test_an_address_that_other_programs_cannot_read_is_refused() -> None:
    with pytest.raises(InputError, match="may have no"):
        refuse_output(OutputConfig(path="s3://bucket/scores?region=eu-west-1", format="delta"))
    refuse_output(OutputConfig(path="s3://bucket/scores?region=eu-west-1"))


def test_no_manifest_has_the_catalogs_address(tmp_path: Path) -> None:
    lake = Lake(tmp_path, "iceberg")
    lake.publish(0)
    kept = [path.read_text() for path in Path(lake.run(0).path).iterdir()]
    address = os.environ["PYICEBERG_CATALOG__TESTLAKE__URI"]
    assert kept
    assert not any(address in text for text in kept)
