"""Runs in tables of Iceberg and Delta Lake: once, whatever dies, and as any reader of these formats sees them."""

from __future__ import annotations

import datetime
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from lake import BOTH, DAYS, RUNS, Lake
from pyarrow import fs
from stores import KEYS, environment, running_store
from test_score_table import PROVENANCE
from typer.testing import CliRunner

from confscore.cli import app
from confscore.errors import TableError
from confscore.labelled import label_scores
from confscore.manifest import Manifest
from confscore.publication import finish
from confscore.run_folder import PREPARED, committed_before, read_manifests
from confscore.score_table import open_table
from confscore.verify import verify


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
