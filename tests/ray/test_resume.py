"""Nothing lost, nothing twice: jobs that are killed, documents that do harm, and what recovery rests on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import table_job
from chaos import Job, Killer, assert_same
from test_score_table import PROVENANCE

from confscore.actor import OpenScorer
from confscore.config import load
from confscore.corpus import ROW_KEY
from confscore.errors import CorpusError, EngineError, JobError
from confscore.manifest import Manifest
from confscore.plan import make_plan
from confscore.publication import compact, plan_compactions
from confscore.run_folder import RunFolder, read_manifests
from confscore.score_table import STAGED

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture
def wait_for():
    def wait(condition, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.1)

    return wait


def notes(job: Job) -> list[Path]:
    """Return Ray Data's notes of finished write tasks."""
    return [path for path in job.root.glob("scores.run-*/checkpoints/*.parquet") if ".pending" not in path.name]


def the_manifest(job: Job) -> Manifest:
    (manifest,) = read_manifests(str(job.scores))
    return manifest


@pytest.mark.slow
def test_a_killed_job_goes_on_where_it_was_and_gives_the_same_table(ray_here: None, tmp_path: Path, wait_for) -> None:
    calm, wild = Job(tmp_path / "calm", 2000), Job(tmp_path / "wild", 2000)
    for job in (calm, wild):
        job.prepare(changes={"cluster": {"rows_per_block": 64}})
    run_here(calm)

    driver = wild.start()
    wait_for(lambda: len(notes(wild)) >= 4)
    driver.kill()
    driver.wait()
    assert not list(wild.scores.rglob("*.parquet")), "nothing is visible yet"
    # The next start loses its engine once, and finishes.
    said = wild.run(Killer(wild, ["actor"], 1, (14, 16)))
    assert wild.resumed[0] >= 4 * 32, "what was staged is not scored again"
    assert "committed 2000" in said
    assert_same(wild.rows(), calm.rows())
    counts = the_manifest(wild).counts
    assert (counts.read, counts.error) == (2000, 0)
    assert not list(wild.root.glob("scores.run-*")), "the run's work folder is gone"

    assert "committed 2000" in wild.run(), "a further start has nothing to do"
    assert_same(wild.rows(), calm.rows())


@pytest.mark.slow
def test_of_two_starts_one_wins_and_the_other_is_told(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", 400)
    job.prepare()
    twin = Job(tmp_path / "twin", 400)
    shutil.copytree(job.root, twin.root)
    twin.config.write_text(job.config.read_text())  # the same corpus and the same output
    first, second = job.start(), twin.start()
    codes = sorted([first.wait(), second.wait()])
    assert codes == [0, 3]
    said = job.log.read_text() + twin.log.read_text()
    assert f"output.path {job.scores}: another start is writing to it" in said
    assert len(job.rows()) == 400


@pytest.mark.slow
def test_a_document_that_ends_its_process_becomes_an_error_row(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", 200)
    job.prepare({57: "KILL", 120: "FAULT"}, {"cluster": {"rows_per_block": 64, "blocks_in_flight": 2}})
    job.run()
    rows = job.rows()
    assert {doc_id for doc_id, row in rows.items() if row[0] == "error"} == {"doc-000057", "doc-000120"}
    errors = {row["doc_id"]: row["error"] for row in read_all(job) if row["error"]}
    assert "process ended 2 times while it scored this document and no other" in errors["doc-000057"]
    assert errors["doc-000120"].startswith("unexpected ")


@pytest.mark.slow
def test_an_engine_that_never_answers_is_replaced(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", 24)
    job.prepare({5: "HANG"}, {"cluster": {"request_timeout_s": 2, "rows_per_block": 24}})
    said = job.run()
    assert "committed 24" in said
    rows = job.rows()
    assert {doc_id for doc_id, row in rows.items() if row[0] == "error"} == {"doc-000005"}


def run_here(job: Job, open_scorer: OpenScorer = table_job.open_table_scorer) -> Manifest:
    """Run a job in this process, on the cluster that the tests share."""
    from ray import cloudpickle

    from confscore.pipeline import run_plan

    cloudpickle.register_pickle_by_value(table_job)  # workers do not see this folder
    return run_plan(make_plan(load(job.config)), lambda counts, ready: None, open_scorer)


@pytest.mark.slow
def test_engines_that_die_while_they_are_loaded_end_the_job(ray_here: None, tmp_path: Path) -> None:
    job = Job(tmp_path / "job", 60)
    job.prepare()
    with pytest.raises(
        JobError, match="4 actors ended while they loaded their engine, and none was ready: killed from"
    ):
        run_here(job, table_job.die_while_loading)
    assert not list(job.scores.rglob("*.parquet"))


@pytest.mark.parametrize("actors", [1, 2])
def test_an_engine_without_a_gpu_has_its_share_of_the_cpus(ray_here: None, tmp_path: Path, actors: int) -> None:
    import ray

    job = Job(tmp_path / "job", 8)
    job.prepare({}, {"cluster": {"actors": actors}})
    share = int(ray.cluster_resources()["CPU"]) // actors
    assert share > 1, "Ray itself says one"
    with pytest.raises(EngineError, match=f"it would have {share} threads"):
        run_here(job, table_job.tell_its_threads)


def test_too_many_failed_rows_end_the_job_early(ray_here: None, tmp_path: Path) -> None:
    job = Job(tmp_path / "job", 60)
    job.prepare(dict.fromkeys(range(40), "FAULT"))
    with pytest.raises(JobError, match=r"max_failed_fraction \(0\.5\); one of them is doc-0000\d\d: unexpected "):
        run_here(job)
    assert not list(job.scores.rglob("*.parquet"))


def test_an_unreadable_file_is_refused_or_skipped_by_name(ray_here: None, tmp_path: Path) -> None:
    job, skipping = Job(tmp_path / "job", 80), Job(tmp_path / "skipping", 80)
    job.prepare()
    skipping.prepare({5: "FAULT"}, {"input": {"on_bad_file": "skip"}})
    for each in (job, skipping):
        bad = each.root / "corpus" / "part-3.parquet"
        bad.write_bytes(bad.read_bytes()[:-100])
    with pytest.raises(CorpusError, match=r"part-3\.parquet: is not a readable Parquet file"):
        run_here(job)
    manifest = run_here(skipping)
    assert len(skipping.rows()) == 70
    assert (manifest.counts.read, manifest.counts.error) == (70, 1)
    (skipped,) = the_manifest(skipping).skipped_files
    assert skipped.path == str(bad)
    assert "is not a readable Parquet file" in skipped.reason
    (error,) = [row["error"] for row in read_all(skipping) if row["error"]]
    assert error.startswith("unexpected "), "whatever one text causes is an error of its row"


def read_all(job: Job) -> list[dict]:
    return [row for path in job.scores.rglob("*.parquet") for row in pq.read_table(path).to_pylist()]


# -- what can be relied on after a stop ----------------------------------------------------------------------


def staged_run(tmp_path: Path) -> RunFolder:
    """Return a run with three write tasks: A is finished, B is pending, C is both."""
    run = RunFolder(str(tmp_path / "scores"), "run-0123456789abcdef")
    Path(run.staging).mkdir(parents=True)
    Path(run.checkpoints).mkdir(parents=True)
    for name, keys, kinds in [("A", [1, 2], [""]), ("B", [3], [".pending"]), ("C", [4, 5], ["", ".pending"])]:
        table = pa.table({ROW_KEY: pa.array(keys, pa.int64())})
        pq.write_table(table, Path(run.staging) / f"parquet-{name}-0{STAGED}")
        for kind in kinds:
            pq.write_table(table, Path(run.checkpoints) / f"parquet-{name}{kind}.parquet")
    return run


def staged_names(run: RunFolder) -> list[str]:
    return sorted(path.name for path in Path(run.staging).iterdir())


def test_only_what_is_surely_whole_is_restored(ray_here: None, tmp_path: Path) -> None:
    from confscore.pipeline.restore import restore

    run = staged_run(tmp_path)
    pq.write_table(pa.table({ROW_KEY: [9]}), Path(run.staging) / f"parquet-X-0{STAGED}")  # nobody has noted it
    assert list(restore(run)) == [1, 2]
    assert staged_names(run) == [f"parquet-A-0{STAGED}"]
    assert [path.name for path in Path(run.checkpoints).iterdir()] == ["parquet-A.parquet"]
    assert list(restore(run)) == [1, 2]


def cut_to(left: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:left])


def lose_a_page(path: Path) -> None:
    """As a disk does that had written the footer, and not yet what is before it."""
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + bytes(40) + whole[80:])


POWER_FAILURES = [cut_to(0), cut_to(4), cut_to(300), lose_a_page]


def stage_another(run: RunFolder) -> tuple[Path, Path]:
    """Finish a write task D; return its data and its note."""
    table = pa.table({ROW_KEY: list(range(6, 1000))})
    data, note = Path(run.staging) / f"parquet-D-0{STAGED}", Path(run.checkpoints) / "parquet-D.parquet"
    for path in (data, note):
        pq.write_table(table, path, write_page_checksum=path == data)  # Ray writes notes without
    return data, note


@pytest.mark.parametrize("fail", [*POWER_FAILURES, Path.unlink])
@pytest.mark.parametrize("of", ["data", "note"])
def test_what_a_power_failure_has_left_of_a_task_is_scored_again(
    ray_here: None, tmp_path: Path, fail: Callable[[Path], None], of: str
) -> None:
    from confscore.pipeline.restore import restore

    run = staged_run(tmp_path)
    restore(run)
    data, note = stage_another(run)
    fail(data if of == "data" else note)
    if data.exists() and of == "data":  # nobody looks into data before it is needed
        with pytest.raises(JobError, match=r"parquet-D-0\.staged is not whole, .*; start the job again"):
            [compact(run, job, pa.schema([]), PROVENANCE, 10) for job in plan_compactions(run, 2000)]
    assert list(restore(run)) == [1, 2]
    assert staged_names(run) == [f"parquet-A-0{STAGED}"]
    assert [path.name for path in Path(run.checkpoints).iterdir()] == ["parquet-A.parquet"]
    assert len(plan_compactions(run, 10)) == 1


@pytest.mark.slow
def test_a_page_that_never_came_to_the_disk_is_noticed(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of probabilities: zeros in place of them would be read without an error."""

    def power_failure(*_: object) -> None:
        raise JobError("power failure")

    job = Job(tmp_path / "job", 60)
    job.prepare(changes={"cluster": {"rows_per_block": 64}})
    monkeypatch.setattr("confscore.pipeline._compact", power_failure)
    with pytest.raises(JobError, match="power failure"):
        run_here(job)
    monkeypatch.undo()
    staged, *_ = [path for path in job.root.glob("scores.run-*/**/*") if path.suffix == STAGED]
    group = pq.read_metadata(staged).row_group(0)
    (column,) = [group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "p_S1"]
    whole, table = staged.read_bytes(), pq.ParquetFile(staged).read()
    # A page of the dictionary's floats ends where the first page of the data begins.
    end = column.data_page_offset
    staged.write_bytes(whole[: end - 4] + bytes(4) + whole[end:])
    assert not pq.ParquetFile(staged).read().equals(table), "without checksums it is read, and is something else"
    with pytest.raises(JobError, match=r"is not whole, as after a power failure; start the job again"):
        run_here(job)
    assert run_here(job).counts.read == 60
    assert len(job.rows()) == 60


def test_nothing_is_restored_where_nothing_was_staged(ray_here: None, tmp_path: Path) -> None:
    from confscore.pipeline.restore import restore

    assert len(restore(RunFolder(str(tmp_path / "scores"), "run-0123456789abcdef"))) == 0
