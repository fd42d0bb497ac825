"""Runs in tables of Iceberg and Delta Lake: once, whatever dies, and as any reader of these formats sees them."""

from __future__ import annotations

import datetime
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import table_catalog
import yaml
from pyarrow import fs
from stores import KEYS, environment, running_store
from test_score_table import CODES, PROVENANCE, manifest, scored, stage
from typer.testing import CliRunner

from confscore.cli import app
from confscore.config import OutputConfig, parse
from confscore.errors import ConfigError, InputError, JobError, TableError
from confscore.labelled import label_scores
from confscore.manifest import PARQUET, InputFile, Manifest, OutputTable, add_counts
from confscore.plan import make_plan
from confscore.publication import compact, finish, plan_compactions, publish
from confscore.rows import Columns, score_schema
from confscore.run_folder import PREPARED, RunFolder, committed_before, read_manifests
from confscore.score_table import open_table
from confscore.table_formats import TableFormat, open_format, refuse_output
from confscore.table_formats.schemas import refuse_columns
from confscore.verify import verify

table_catalog.configure()  # before pyiceberg is imported, which reads its configuration then

DATE = pa.field("date", pa.date32())
DAYS = (datetime.date(2026, 11, 22), datetime.date(2026, 11, 23))
BOTH = pytest.mark.parametrize("kind", ["iceberg", "delta"])
RUNS = tuple(f"run-{digit * 16}" for digit in "0123456789")


class Lake:
    """One table of a format, and the runs that are published to it."""

    def __init__(self, root: Path, kind: str, *, carried: Sequence[pa.Field] = (DATE,), partitioned: bool = True):
        self.output = str(root / "scores")
        name = f"{root.name.replace('-', '_')}.scores"
        iceberg = kind == "iceberg"
        catalog = table_catalog.CATALOG if iceberg else None
        self.where = OutputTable.model_validate({"format": kind, "catalog": catalog, "name": name if iceberg else None})
        self.columns = Columns(CODES, bounds=True, carried=tuple(carried))
        self.schema = score_schema(self.columns)
        self.partition_by = tuple(field.name for field in carried) if partitioned else ()

    @property
    def table(self) -> TableFormat:
        found = open_format(self.output, self.where)
        assert found is not None
        return found

    def run(self, number: int) -> RunFolder:
        return RunFolder(self.output, RUNS[number])

    def finished(self, number: int, folders: Sequence[str] = ("date=2026-11-22", "date=2026-11-23")) -> Manifest:
        """Stage and compact a run with twenty documents a folder."""
        run = self.run(number)
        rng = np.random.default_rng(number)
        for place, folder in enumerate(folders):
            probs = rng.random((20, 2)).astype(np.float32) ** 8  # tails are where rounding would show
            stage(run, f"{folder}/a", [scored(f"{number}-{place}-{i}", probs[i].tolist()) for i in range(20)])
        as_folders = self.where == PARQUET
        inside = [field for field in self.schema if not as_folders or field.name not in self.partition_by]
        jobs = plan_compactions(run, 1000, partition_folders=as_folders)
        files = [compact(run, job, pa.schema(inside), PROVENANCE, 7) for job in jobs]
        return manifest(
            run,
            add_counts(each.counts for each in files),
            output_files=tuple(each.file for each in files),
            columns=tuple(self.schema.names),
            partition_by=self.partition_by,
            input_files=(InputFile(name=f"{number}", path=f"/c/{number}.parquet", size=1, modified_ns=2),),
            published_to=self.where,
        )

    def publish(self, number: int, folders: Sequence[str] = ("date=2026-11-22", "date=2026-11-23")) -> Manifest:
        record = self.finished(number, folders)
        if self.where == PARQUET:
            publish(self.run(number), record, lambda: None)
            return record
        self.table.check(self.schema, self.partition_by)
        self.table.create(self.schema, self.partition_by)
        publish(self.run(number), record, lambda: None, self.table)
        return record

    def delta(self, options: dict[str, str] | None = None):
        from deltalake import DeltaTable

        return DeltaTable(self.output, storage_options=options)

    def iceberg(self):
        from pyiceberg.catalog import load_catalog

        return load_catalog(table_catalog.CATALOG).load_table(self.where.name)

    def read(self) -> pa.Table:
        """Return all rows as the format's own reader sees them, in order of their ids."""
        if self.where.format == "delta":
            return self.delta().to_pyarrow_table().sort_by("doc_id")
        return self.iceberg().scan().to_arrow().sort_by("doc_id")

    def commits(self) -> list[str]:
        """Return the ids of runs in the table's history, in order."""
        if self.where.format == "delta":
            said = [entry.get("confscore.run_id") for entry in reversed(self.delta().history())]
            return [run_id for run_id in said if run_id is not None]
        return [snapshot.summary.additional_properties["confscore.run_id"] for snapshot in self.iceberg().snapshots()]


@pytest.fixture
def lake(tmp_path: Path, kind: str) -> Lake:
    return Lake(tmp_path, kind)


def bits(column: pa.ChunkedArray) -> list[int]:
    """Return the bits of floats, so that nothing near counts as equal."""
    return column.to_numpy().view(np.int32).tolist()


@BOTH
def test_two_nights_are_one_table_whose_rows_are_those_of_parquet_bit_for_bit(tmp_path: Path, kind: str) -> None:
    lake, plain = Lake(tmp_path, kind), Lake(tmp_path / "plain", "parquet")
    for number in (0, 1):
        lake.publish(number)
        plain.publish(number)
    expected = open_table(plain.output).to_table().sort_by("doc_id")
    found = lake.read()
    assert found.num_rows == expected.num_rows == 80
    assert set(found.column_names) == set(lake.schema.names)
    for name in ("p_S1", "p_S2", "p_any", "p_max", "residual", "lower_S1", "upper_S2", "off_grammar"):
        assert found.schema.field(name).type == pa.float32()
        assert bits(found[name]) == bits(expected[name]), name
    for name in ("doc_id", "status", "answer", "run_id", "scored_at", "requests", "truncated"):
        assert found[name].to_pylist() == expected[name].to_pylist(), name
    assert [str(day) for day in found["date"].to_pylist()] == expected["date"].to_pylist()
    assert found.schema.field("date").type == pa.date32()
    assert lake.commits() == list(RUNS[:2])


def count_by_day(rows: list[tuple]) -> dict[str, int]:
    return {str(day): count for day, count in rows}


def test_readers_of_delta_tables_need_nothing_of_ours(tmp_path: Path) -> None:
    from deltalake import QueryBuilder

    lake = Lake(tmp_path, "delta")
    lake.publish(0)
    lake.publish(1, ["date=2026-11-23"])
    expected = {"2026-11-22": 20, "2026-11-23": 40}
    connection = duckdb.connect()
    connection.register("scores", lake.delta().to_pyarrow_dataset())
    assert count_by_day(connection.sql("SELECT date, count(*) FROM scores GROUP BY date").fetchall()) == expected
    (row,) = connection.sql("SELECT count(*), max(p_S1) FROM scores WHERE date = DATE '2026-11-22'").fetchall()
    of_day = lake.read().filter(pc.field("date") == pa.scalar(DAYS[0]))
    assert row == (20, pc.max(of_day["p_S1"]).as_py())
    query = "SELECT date, count(*) AS n FROM scores WHERE p_S1 >= 0 GROUP BY date"
    counted = pa.table(QueryBuilder().register("scores", lake.delta()).execute(query)).to_pylist()
    assert count_by_day([(row["date"], row["n"]) for row in counted]) == expected
    # Neither a day that is not asked for nor a file without a confident row is opened.
    assert len(lake.delta().file_uris()) == 3
    assert len(lake.delta().file_uris(file_pruning_predicate=[("date", "=", "2026-11-22")])) == 1
    highest = sorted(pc.max(pq.read_table(path)["p_S1"]).as_py() for path in Path(lake.output).rglob("*.parquet"))
    assert len(lake.delta().file_uris(file_pruning_predicate=f"p_S1 > {highest[1]}")) == 1
    (comment,) = [field.metadata for field in lake.delta().schema().fields if field.name == "residual"]
    assert comment == {"comment": "widest upper - lower bound over the row's probabilities; probability"}


def test_readers_of_iceberg_tables_need_nothing_of_ours(tmp_path: Path) -> None:
    lake = Lake(tmp_path, "iceberg")
    lake.publish(0)
    lake.publish(1, ["date=2026-11-23"])
    connection = lake.iceberg().scan().to_duckdb("scores")
    found = count_by_day(connection.sql("SELECT date, count(*) FROM scores GROUP BY date").fetchall())
    assert found == {"2026-11-22": 20, "2026-11-23": 40}
    assert [field.name for field in lake.iceberg().spec().fields] == ["date"]

    def files(where: str) -> int:
        return len(list(lake.iceberg().scan(row_filter=where).plan_files()))

    assert files("p_S1 >= 0") == 3
    assert files("date = '2026-11-22'") == 1
    highest = sorted(pc.max(pq.read_table(path)["p_S1"]).as_py() for path in Path(lake.output).rglob("*.parquet"))
    assert files(f"p_S1 > {highest[1]}") == 1
    assert lake.iceberg().scan(row_filter="date = '2026-11-22'").to_arrow().num_rows == 20
    assert lake.iceberg().schema().find_field("doc_id").doc == "id of the corpus row, unique within a run"


@BOTH
@pytest.mark.parametrize(
    ("kind_of_value", "values"),
    [
        (pa.string(), ["2026-11-22", "a/b = c, %20 é", None]),
        (pa.int64(), [1, -(2**62), None]),
        (pa.int16(), [7, None]),
        (pa.bool_(), [True, False, None]),
        (pa.date32(), [DAYS[0], None]),
    ],
    ids=str,
)
def test_partition_values_come_back_as_they_were(
    tmp_path: Path, kind: str, kind_of_value: pa.DataType, values: list[object]
) -> None:
    import pyarrow.dataset as pds

    lake = Lake(tmp_path, kind, carried=[pa.field("key", kind_of_value)])
    keys = pa.table({"key": pa.array(values, kind_of_value), "x": range(len(values))})
    pds.write_dataset(keys, tmp_path / "keys", format="parquet", partitioning=["key"], partitioning_flavor="hive")
    folders = sorted(path.name for path in (tmp_path / "keys").iterdir())  # as Ray Data writes them
    lake.publish(0, folders)
    assert Counter(lake.read()["key"].to_pylist()) == dict.fromkeys(values, 20)
    first = values[0]
    if kind == "delta":
        text = str(first).lower() if isinstance(first, bool) else str(first)
        assert len(lake.delta().file_uris(file_pruning_predicate=[("key", "=", text)])) == 1
    else:
        from pyiceberg.expressions import EqualTo

        literal = first.isoformat() if isinstance(first, datetime.date) else first
        scan = lake.iceberg().scan(row_filter=EqualTo("key", literal))
        assert len(list(scan.plan_files())) == 1
        assert scan.to_arrow().num_rows == 20


@BOTH
def test_own_commands_work_on_such_tables(lake: Lake, tmp_path: Path) -> None:
    for number in (0, 1):
        lake.publish(number)
    assert open_table(lake.output).count_rows() == 80
    said = CliRunner().invoke(app, ["inspect", lake.output])
    assert said.exit_code == 0, said.output
    assert f"format: {lake.where}" in said.output
    assert RUNS[0] in said.output
    said = CliRunner().invoke(app, ["inspect", "--verify", lake.output])
    assert (said.exit_code, said.output) == (0, f"{lake.output}: nothing to complain of\n")
    ids = [f"{number}-{place}-{i}" for number in (0, 1) for place in (0, 1) for i in range(20)]
    labels = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"doc_id": ids, "labels": [["S1"] if i % 2 else [] for i in range(80)]}), labels)
    labelled = label_scores(lake.output, str(labels), "doc_id", "labels", [], None)
    assert labelled.truth.shape == (80, 2)


@BOTH
def test_a_run_that_is_missing_from_its_table_is_named(lake: Lake) -> None:
    lake.publish(0)
    record = lake.finished(1)
    finish(lake.run(1), record)  # as if nobody had told the table
    (problem,) = verify(lake.output)
    assert problem == f"{RUNS[1]}: is not in the table that the manifest names, {lake.where}"


@pytest.mark.parametrize(
    ("kind", "when"),
    [("iceberg", "before"), ("iceberg", "inside"), ("iceberg", "after"), ("delta", "before"), ("delta", "after")],
)
def test_a_start_that_is_killed_at_the_commit_leaves_a_run_that_is_added_once(lake: Lake, when: str) -> None:
    lake.publish(0)
    record = lake.finished(1)
    run = lake.run(1)
    run.write(PREPARED, record.model_dump_json())
    script = Path(__file__).with_name("dying_start.py")
    killed = subprocess.run([sys.executable, str(script), run.output, run.run_id, when], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert lake.commits() == list(RUNS[: 2 if when == "after" else 1])
    assert lake.read().num_rows == (80 if when == "after" else 40), "a reader sees all of a run or nothing of it"
    assert [known.run_id for known in read_manifests(lake.output)] == [RUNS[0]]
    prepared = run.read_manifest(PREPARED)
    assert prepared is not None
    finish(run, prepared, lake.table)
    assert lake.commits() == list(RUNS[:2])
    assert lake.read().num_rows == 80
    assert [known.run_id for known in read_manifests(lake.output)] == list(RUNS[:2])
    assert verify(lake.output) == []


@BOTH
def test_the_same_run_again_changes_nothing(lake: Lake) -> None:
    record = lake.publish(0)
    before = lake.read()
    finish(lake.run(0), record, lake.table)
    lake.table.create(lake.schema, lake.partition_by)
    assert lake.commits() == [RUNS[0]]
    assert lake.read() == before
    done = committed_before(
        lake.run(0), PROVENANCE, record.input_files, lake.schema.names, lake.partition_by, lake.where
    )
    assert done == record
    assert not lake.table.committed(RUNS[1])


@BOTH
def test_a_run_without_a_document_is_committed_too(lake: Lake) -> None:
    lake.publish(0, [])
    assert lake.read().num_rows == 0
    assert lake.table.committed(RUNS[0])
    lake.publish(1)
    assert lake.read().num_rows == 40


@BOTH
def test_writers_at_the_same_moment_are_all_added_once(lake: Lake) -> None:
    records = [lake.finished(number) for number in range(3)]
    lake.table.create(lake.schema, lake.partition_by)
    for number, record in enumerate(records):
        finish(lake.run(number), record)  # files into place
    together = threading.Barrier(6)
    failures: list[BaseException] = []

    def commit(record: Manifest) -> None:
        table = lake.table
        together.wait()
        try:
            table.commit(record)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=commit, args=(record,)) for record in records * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(lake.commits()) == list(RUNS[:3])
    assert lake.read().num_rows == 120


@pytest.mark.parametrize("rival", [1, 0], ids=["another run", "the same run"])
def test_a_commit_that_comes_in_between_is_met_by_another_look(tmp_path: Path, rival: int) -> None:
    from sqlalchemy import Engine, event

    lake = Lake(tmp_path, "iceberg")
    records = [lake.finished(number) for number in (0, 1)]
    for number, record in enumerate(records):
        finish(lake.run(number), record)
    lake.table.create(lake.schema, lake.partition_by)
    waiting = [records[rival]]

    def come_in_between(connection, cursor, statement, *rest) -> None:
        if statement.startswith("UPDATE iceberg_tables") and waiting:
            lake.table.commit(waiting.pop())

    event.listen(Engine, "before_cursor_execute", come_in_between)
    try:
        lake.table.commit(records[0])
    finally:
        event.remove(Engine, "before_cursor_execute", come_in_between)
    assert waiting == []
    assert lake.commits() == ([RUNS[1], RUNS[0]] if rival else [RUNS[0]])


def test_the_tables_own_maintenance_does_not_disturb_the_next_night(tmp_path: Path) -> None:
    lake = Lake(tmp_path, "delta")
    lake.publish(0)
    lake.publish(1)
    table = lake.delta()
    table.optimize.compact()
    table.create_checkpoint()
    assert len(lake.delta().file_uris()) == 2
    assert open_table(lake.output).count_rows() == 80, "rewritten rows are not read beside the old ones"
    assert verify(lake.output) == []
    known = (PROVENANCE, (), lake.schema.names, lake.partition_by, lake.where)
    assert committed_before(lake.run(2), *known) is None
    lake.publish(2)
    assert lake.read().num_rows == 120
    lake.delta().vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)
    assert len(read_manifests(lake.output)) == 3
    assert lake.read().num_rows == 120
    with pytest.raises(TableError, match=r"part-0000\d\.parquet: a run has written it, and it is gone"):
        open_table(lake.output)


def test_a_run_is_remembered_when_its_snapshot_has_expired(tmp_path: Path) -> None:
    lake = Lake(tmp_path, "iceberg")
    record = lake.publish(0)
    lake.publish(1)
    oldest = lake.iceberg().snapshots()[0]
    lake.iceberg().maintenance.expire_snapshots().by_id(oldest.snapshot_id).commit()
    assert lake.commits() == [RUNS[1]]
    lake.table.commit(record)
    assert lake.commits() == [RUNS[1]]
    assert lake.read().num_rows == 80


@pytest.mark.slow
@BOTH
def test_tables_lie_in_object_stores_too(tmp_path: Path, kind: str) -> None:
    here, lake = Lake(tmp_path, kind), Lake(tmp_path, kind)
    lake.output = f"s3://lake/{kind}"
    records = [here.finished(number) for number in range(3)]
    with running_store() as store, environment(**KEYS, AWS_ENDPOINT_URL=store.url):
        store.bucket("lake")
        lake.table.create(lake.schema, lake.partition_by)
        if kind == "iceberg":  # in earnest this stands in the catalog's configuration
            with lake.iceberg().transaction() as change:
                change.set_properties({"s3.endpoint": store.url, "s3.region": "us-east-1"})
        for number, record in enumerate(records):
            finish(here.run(number), record)
            there = lake.run(number)
            fs.copy_files(here.run(number).published, there.published, destination_filesystem=there.filesystem)
        commits = [threading.Thread(target=lake.table.commit, args=(record,)) for record in records * 2]
        for thread in commits:
            thread.start()
        for thread in commits:
            thread.join()
        for number, record in enumerate(records):
            finish(lake.run(number), record, lake.table)
        if kind == "delta":
            options = {"AWS_ENDPOINT_URL": store.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
            assert lake.delta(options).to_pyarrow_table().num_rows == 120
        else:
            assert lake.iceberg().scan().to_arrow().num_rows == 120
        assert verify(lake.output) == []
        assert open_table(lake.output).count_rows() == 120


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
