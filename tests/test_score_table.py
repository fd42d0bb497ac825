"""Staged rows become sorted files that every reader understands, all at once or not at all."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from confscore.corpus import ROW_KEY
from confscore.errors import JobError, TableError
from confscore.manifest import Counts, InputFile, Manifest, Provenance, add_counts, run_identity
from confscore.publication import compact, finish, plan_compactions, publish
from confscore.row_keys import without
from confscore.rows import Columns, Score, score_schema, scores_to_arrays
from confscore.run_folder import MANIFEST, PREPARED, RunFolder, committed_before, read_manifests
from confscore.score_table import STAGED, open_table, provenance_of
from confscore.verify import verify

CODES = ("S1", "S2")
COLUMNS = Columns(CODES, bounds=True)
NAMES = tuple(score_schema(COLUMNS).names)
PROVENANCE = Provenance(
    model="m",
    model_hash=None,
    revision=None,
    engine="vllm",
    engine_args={},
    guard="g",
    guard_hash="0",
    categories={"S1": "One", "S2": "Two"},
    prompt_hash="1",
    tokenizer_hash="2",
    procedure="exact",
    paper=None,
    estimators=("marginal",),
    normalization="global",
    tolerance=0.01,
    tolerance_of="absolute",
    max_requests_per_document=64,
    long_documents="chunk",
    chunk_overlap_tokens=64,
)
FILES = (InputFile(name="a.parquet", path="/c/a.parquet", size=1, modified_ns=2),)


def scored(doc_id: str, probs: list[float]) -> Score:
    values = np.array(probs)
    return Score(
        doc_id, "scored", None, 1, False, ("S1",), 0.5, values, 0.01, 0.0, 1, 10, lower=values - 0.001, upper=values
    )


def stage(run: RunFolder, name: str, scores: list[Score]) -> None:
    arrays = scores_to_arrays(scores, COLUMNS)
    arrays["run_id"] = pa.array([run.run_id] * len(scores))
    arrays["scored_at"] = pa.array([pd.Timestamp("2026-11-22", tz="UTC")] * len(scores), pa.timestamp("us", tz="UTC"))
    path = Path(run.staging) / f"{name}{STAGED}"
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays[ROW_KEY] = pa.array([zlib.crc32(score.doc_id.encode()) for score in scores], pa.int64())
    pq.write_table(pa.table(arrays), path)


def manifest(run: RunFolder, counts: Counts, **changes: object) -> Manifest:
    known: dict[str, object] = {
        "run_id": run.run_id,
        "started_at": "2026-11-22T00:00:00+00:00",
        "committed_at": "2026-11-22T01:00:00+00:00",
        "startup_seconds": 1.0,
        "scoring_seconds": 2.0,
        "resumed": 0,
        "peak_memory": {"driver": 1 << 20, "actor": None},
        "counts": counts,
        "provenance": PROVENANCE,
        "versions": {},
        "input_path": "corpus",
        "input_files": FILES,
        "skipped_files": (),
        "output_files": (),
        "columns": NAMES,
        "partition_by": (),
    }
    return Manifest(**{**known, **changes})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path / "scores"), "run-0123456789abcdef")


def finished(run: RunFolder, rows_per_file: int = 1000) -> Manifest:
    schema = score_schema(COLUMNS)
    files = [compact(run, job, schema, PROVENANCE, 100) for job in plan_compactions(run, rows_per_file)]
    counts = add_counts(each.counts for each in files)
    return manifest(run, counts, output_files=tuple(each.file for each in files))


def published(run: RunFolder, rows_per_file: int = 1000) -> Counts:
    record = finished(run, rows_per_file)
    publish(run, record, lambda: None)
    return record.counts


def visible(run: RunFolder) -> list[str]:
    """Return the document ids that a reader with a plain glob sees."""
    if not list(Path(run.table).glob("**/*.parquet")):
        return []
    return [row[0] for row in duckdb.sql(f"SELECT doc_id FROM '{run.table}/**/*.parquet' ORDER BY doc_id").fetchall()]


class InAStore(RunFolder):
    """A run whose files become visible one after the other, as in an object store."""

    @property
    def renames(self) -> bool:
        return False

    @property
    def work(self) -> str:
        return f"{self.path}/unfinished"


def test_rows_are_sorted_by_p_max_in_lossless_compact_encodings(run: RunFolder) -> None:
    rng = np.random.default_rng(0)
    probs = rng.random((500, 2)).astype(np.float32)
    for block in range(5):
        stage(run, f"b{block}", [scored(f"d{i}", probs[i].tolist()) for i in range(block * 100, block * 100 + 100)])
    stage(run, "bad", [Score("broken", "error", error="text is empty")])
    counts = published(run)
    assert (counts.read, counts.scored, counts.error, counts.requests) == (501, 500, 1, 500)
    (path,) = Path(run.table).glob("**/*.parquet")
    table = pq.read_table(path)
    p_max = table["p_max"].to_pylist()
    assert p_max[:-1] == sorted(p_max[:-1], reverse=True)
    assert p_max[-1] is None
    assert table["doc_id"][-1].as_py() == "broken"
    assert table["p_S1"][-1].as_py() is None
    back = {row["doc_id"]: (row["p_S1"], row["p_S2"]) for row in table.to_pylist()}
    assert all(back[f"d{i}"] == tuple(probs[i].tolist()) for i in range(500))
    footer = pq.ParquetFile(path).metadata
    assert footer.num_row_groups == 6
    (order,) = footer.row_group(0).sorting_columns
    assert footer.schema.names[order.column_index] == "p_max"
    assert order.descending
    chunk = footer.row_group(0).column(footer.schema.names.index("p_S1"))
    assert chunk.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in chunk.encodings
    assert chunk.statistics.has_min_max


def test_every_usual_reader_sees_the_table_and_nothing_else(run: RunFolder) -> None:
    stage(run, "date=2026-11-22/a", [scored("1", [0.9, 0.1])])
    stage(run, "date=2026-11-23/b", [scored("2", [0.2, 0.1])])
    assert duckdb.sql(f"SELECT * FROM glob('{run.table}/**/*.parquet')").fetchall() == []
    published(run)
    rows = duckdb.sql(
        f"SELECT doc_id, p_S1, date::VARCHAR FROM read_parquet('{run.table}/**/*.parquet', hive_partitioning = true) "
        "ORDER BY doc_id"
    ).fetchall()
    assert rows == [("1", pytest.approx(0.9), "2026-11-22"), ("2", pytest.approx(0.2), "2026-11-23")]
    frame = pd.read_parquet(run.table)
    assert sorted(frame["doc_id"]) == ["1", "2"]
    assert sorted(str(date) for date in frame["date"]) == ["2026-11-22", "2026-11-23"]
    table = open_table(run.output)
    assert table.count_rows() == 2
    assert provenance_of(table) == PROVENANCE
    assert sorted(path.name for path in Path(run.path).iterdir()) == ["manifest.json"]


def test_files_hold_at_most_the_asked_for_rows_as_far_as_blocks_allow(run: RunFolder) -> None:
    for block in range(7):
        stage(run, f"b{block}", [scored(f"{block}-{i}", [0.1, 0.2]) for i in range(10)])
    jobs = plan_compactions(run, 25)
    assert [len(job.sources) for job in jobs] == [2, 2, 2, 1]
    assert len({job.target for job in jobs}) == 4


def test_rows_that_were_staged_twice_are_told(run: RunFolder) -> None:
    stage(run, "a", [scored("1", [0.9, 0.1]), scored("2", [0.9, 0.1])])
    stage(run, "b", [scored("2", [0.9, 0.1]), scored("3", [0.9, 0.1])])
    (job,) = plan_compactions(run, 10)
    done = compact(run, job, score_schema(COLUMNS), PROVENANCE, 10)
    keys = {name: zlib.crc32(name.encode()) for name in "123"}
    once = pa.table({ROW_KEY: pa.array(keys.values(), pa.int64())})
    assert without(once, done.keys).num_rows == 0
    assert without(once, done.repeated)[ROW_KEY].to_pylist() == [keys["1"], keys["3"]]


def test_nothing_is_visible_before_publication(run: RunFolder) -> None:
    stage(run, "a", [scored("1", [0.9, 0.1])])
    (job,) = plan_compactions(run, 10)
    compact(run, job, score_schema(COLUMNS), PROVENANCE, 10)
    assert duckdb.sql(f"SELECT * FROM glob('{run.table}/**/*.parquet')").fetchall() == []
    assert read_manifests(run.output) == []
    with pytest.raises(TableError, match="no such score table"):
        open_table(run.output)


def test_a_column_that_a_table_cannot_hold_is_not_dropped_in_silence(run: RunFolder) -> None:
    stage(run, "a", [scored("1", [0.9, 0.1])])
    (job,) = plan_compactions(run, 10)
    wider = score_schema(Columns((*CODES, "S3"), bounds=True))
    with pytest.raises(KeyError, match="p_S3"):
        compact(run, job, wider, PROVENANCE, 10)


def another(run: RunFolder) -> RunFolder:
    return RunFolder(run.output, "run-fedcba9876543210")


def found_before(run: RunFolder, **changes: object) -> Manifest | None:
    known: dict[str, object] = {"provenance": PROVENANCE, "files": FILES, "columns": NAMES, "partition_by": ()}
    return committed_before(run, **{**known, **changes})


def test_files_that_no_committed_run_has_written_are_refused(run: RunFolder) -> None:
    published(run)
    stray = Path(run.table) / "date=2026-11-22" / "other.parquet"
    stray.parent.mkdir()
    pq.write_table(pa.table({"x": [1]}), stray)
    with pytest.raises(TableError, match=r"that no committed run has written \(.*other\.parquet\)"):
        found_before(run)
    theirs = Path(another(run).published) / "part-00000.parquet"  # of a run that died while it published
    theirs.parent.mkdir()
    stray.rename(theirs)
    with pytest.raises(TableError, match="that no committed run has written"):
        found_before(run)
    assert found_before(another(run), files=()) is None  # the run itself may go on


def test_publication_goes_on_where_a_dead_start_left_it(run: RunFolder) -> None:
    stage(run, "date=1/a", [scored("1", [0.9, 0.1])])
    stage(run, "date=2/a", [scored("2", [0.8, 0.1])])
    record = finished(run)
    assert visible(run) == [], "finished files are not in the table yet"
    run.write(PREPARED, record.model_dump_json())
    assert run.read_manifest(PREPARED) == record
    Path(run.finished).rename(run.published)  # the start died right after this
    assert read_manifests(run.output) == []
    finish(run, record)
    assert visible(run) == ["1", "2"]
    assert read_manifests(run.output) == [record]
    assert not Path(run.finished).exists()
    finish(run, record)  # and once more
    assert visible(run) == ["1", "2"]


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_publication_file_by_file_goes_on_too(tmp_path: Path, moved: int) -> None:
    run = InAStore(str(tmp_path / "scores"), "run-0123456789abcdef")
    stage(run, "date=1/a", [scored("1", [0.9, 0.1])])
    stage(run, "date=2/a", [scored("2", [0.8, 0.1])])
    record = finished(run)
    assert visible(run) == []
    for each in record.output_files[:moved]:
        target = Path(run.table) / each.path
        target.parent.mkdir(parents=True)
        (Path(run.finished) / (each.path.removeprefix(f"run={run.run_id}/") + STAGED)).rename(target)
    finish(run, record)
    assert visible(run) == ["1", "2"]
    assert [path.name for path in Path(run.path).iterdir()] == ["manifest.json"]


def test_a_finished_file_that_is_gone_is_not_committed(run: RunFolder) -> None:
    stage(run, "a", [scored("1", [0.9, 0.1])])
    record = finished(run)
    next(Path(run.finished).rglob("*.parquet")).unlink()
    with pytest.raises(TableError, match="bytes when it was finished and is gone"):
        finish(run, record)
    assert read_manifests(run.output) == []


def test_a_start_that_lost_the_lock_publishes_nothing(run: RunFolder) -> None:
    stage(run, "a", [scored("1", [0.9, 0.1])])

    def lost() -> None:
        raise JobError("lost")

    with pytest.raises(JobError, match="lost"):
        publish(run, finished(run), lost)
    assert visible(run) == []
    assert not Path(run.path, PREPARED).exists()


def test_files_finished_by_an_earlier_start_are_made_anew(run: RunFolder) -> None:
    stage(run, "a", [scored("1", [0.9, 0.1])])
    finished(run)
    stage(run, "b", [scored("2", [0.8, 0.1])])
    assert published(run).read == 2
    assert visible(run) == ["1", "2"]


def test_the_same_run_is_found_again(run: RunFolder) -> None:
    published(run)
    done = found_before(run)
    assert done is not None
    assert done.run_id == run.run_id


def test_scores_of_two_kinds_are_never_mixed(run: RunFolder) -> None:
    published(run)
    other = PROVENANCE.model_copy(update={"tolerance": 0.1})
    with pytest.raises(TableError, match=r"with another tolerance \(0.01, not 0.1\)"):
        found_before(another(run), provenance=other, files=())
    with pytest.raises(TableError, match=r"has other columns"):
        found_before(another(run), columns=NAMES[:-1], files=())
    with pytest.raises(TableError, match=r"has other output\.partition_by"):
        found_before(another(run), partition_by=("date",), files=())


def test_one_input_file_is_never_scored_twice_into_a_table(run: RunFolder) -> None:
    published(run)
    with pytest.raises(TableError, match=r"has scored /c/a\.parquet already"):
        found_before(another(run))
    new = (InputFile(name="b.parquet", path="/c/b.parquet", size=1, modified_ns=2),)
    assert found_before(another(run), files=new) is None


def test_a_run_is_its_input_and_its_settings() -> None:
    base = run_identity(PROVENANCE, FILES, [1])
    assert base == run_identity(PROVENANCE, FILES, [1])
    touched = (FILES[0].model_copy(update={"modified_ns": 3}),)
    other_model = PROVENANCE.model_copy(update={"model": "n"})
    others = [
        run_identity(other_model, FILES, [1]),
        run_identity(PROVENANCE, touched, [1]),
        run_identity(PROVENANCE, FILES, [2]),
    ]
    assert len({base, *others}) == 4


def test_a_manifest_that_cannot_be_read_is_an_error_and_not_an_empty_table(run: RunFolder) -> None:
    run.write("manifest.json", "{")
    with pytest.raises(TableError, match=r"manifest\.json: is not a readable manifest"):
        read_manifests(run.output)


def test_what_is_no_table_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="nowhere: no such score table"):
        open_table(str(tmp_path / "nowhere"))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(TableError, match="is not a score table"):
        open_table(str(tmp_path))


def test_a_table_that_agrees_with_its_manifests_is_verified(run: RunFolder) -> None:
    stage(run, "date=1/a", [scored("1", [0.9, 0.1])])
    stage(run, "date=2/a", [scored("2", [0.8, 0.1]), Score("broken", "error", error="text is empty")])
    published(run)
    assert verify(run.output) == []
    assert verify(run.output, run.run_id) == []
    with pytest.raises(TableError, match=r"has no committed run run-0; its runs are: run-0123456789abcdef"):
        verify(run.output, "run-0")


def test_what_does_not_agree_is_named(run: RunFolder) -> None:
    stage(run, "date=1/a", [scored("1", [0.9, 0.1])])
    stage(run, "date=2/a", [scored("2", [0.8, 0.1])])
    published(run)
    first, second = sorted(Path(run.published).rglob("*.parquet"))
    table = pq.read_table(first)
    pq.write_table(pa.concat_tables([table, table]), first)
    second.unlink()
    stray = Path(run.table) / "stray.parquet"
    pq.write_table(pa.table({"x": [1]}), stray)
    said = "\n".join(verify(run.output))
    assert f"{first}: has 2 rows, and the manifest says 1" in said
    assert f"{second}: is gone" in said
    assert f"{run.run_id}: 1 ids are there twice, such as 1" in said
    assert f"{stray}: is in the table, and no committed run has written it" in said
    assert "prompt_tokens" not in said, "two rows of one file stand for one row of each"
    assert f"{stray}" not in "\n".join(verify(run.output, run.run_id))


@pytest.mark.parametrize("name", Counts.model_fields)
def test_a_count_that_is_not_that_of_the_files_is_named(run: RunFolder, name: str) -> None:
    stage(run, "a", [scored("1", [0.9, 0.1])])
    record = finished(run)
    said = getattr(record.counts, name) + 7
    publish(run, record.model_copy(update={"counts": record.counts.model_copy(update={name: said})}), lambda: None)
    found = "\n".join(verify(run.output))
    assert f"{run.run_id}: {name} is {said - 7:,}, and the manifest says {said:,}" in found
    assert ("do not add up" in found) == (name in ("read", "scored", "bounded", "error"))


def test_what_is_about_to_be_published_is_noted_before(run: RunFolder) -> None:
    stage(run, "a", [scored("1", [0.9, 0.1])])
    record = finished(run)
    for path in Path(run.finished).rglob("*.parquet"):
        path.unlink()
    with pytest.raises(TableError, match=r"had .* bytes when it was finished and is gone"):
        publish(run, record, lambda: None)
    assert run.read_manifest(PREPARED) == record, "the next start can go on from here"
    assert run.read_manifest(MANIFEST) is None


def test_the_documented_queries_read_what_manifests_name_and_why_rows_failed(run: RunFolder) -> None:
    failed = [
        Score(name, "error", error=reason) for name, reason in [("3", "too long"), ("4", "empty"), ("5", "empty")]
    ]
    stage(run, "date=1/a", [scored("1", [0.9, 0.1]), *failed[:2]])
    stage(run, "date=2/a", [scored("2", [0.8, 0.1]), *failed[2:]])
    published(run)
    page = (Path(__file__).parents[1] / "docs" / "operations.md").read_text().replace("/lake/scores", run.table)
    reasons, query = re.findall(r"^```sql\n(.*?)^```", page, re.M | re.S)[::-1]
    setting, counting = query.split(";\n", 1)
    connection = duckdb.connect()
    connection.execute(setting)
    assert connection.execute(counting).fetchall() == [(5,)]
    assert connection.execute(reasons).fetchall() == [("empty", 2), ("too long", 1)]
