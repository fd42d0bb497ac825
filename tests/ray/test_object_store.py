"""Jobs whose corpus and table are in an S3 store: kills, a store that stumbles or is down, and what readers find."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest
import table_job
from chaos import Job, assert_same
from stores import KEYS, Proxy, Store, environment, proxy_before, running_store
from test_faults import expected

from confscore.config import load
from confscore.errors import JobError
from confscore.manifest import Counts
from confscore.plan import make_plan
from confscore.run_folder import read_manifests
from confscore.score_table import open_table
from confscore.verify import verify

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

SOURCE = "lake/corpus a+b/%41 é"
OUTPUT = "s3://lake/scores of %20 é+/x"
BLOCKS = {"cluster": {"rows_per_block": 64}}


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with running_store() as store:
        yield store


@pytest.fixture
def proxy(store: Store) -> Iterator[Proxy]:
    store.bucket("lake")
    with proxy_before(store) as proxy, environment(**KEYS, AWS_ENDPOINT_URL=proxy.url):
        yield proxy


def job_in(store: Store, root: Path, documents: int, output: str = OUTPUT) -> Job:
    """Return a job whose corpus is in a store, with what consoles and Hadoop leave there."""
    job = Job(root, documents)
    changes: dict[str, dict] = {
        "input": {"path": f"s3://{SOURCE}"},
        "output": {"path": output, "partition_by": ["day"]},
    }
    job.prepare(changes=BLOCKS | changes)
    bucket, _, folder = SOURCE.partition("/")
    for path in (root / "corpus").iterdir():
        store.put(bucket, f"{folder}/day=22 11%3A/{path.name}", path.read_bytes())
    store.put(bucket, f"{folder}/", b"")
    store.put(bucket, f"{folder}/day=22 11%3A/", b"")
    return job


def wait_for(condition: Callable[[], bool], driver: subprocess.Popen[bytes], job: Job) -> None:
    end = time.monotonic() + 200
    while not condition():
        assert driver.poll() is None, job.log.read_text()
        assert time.monotonic() < end, f"waited in vain:\n{job.log.read_text()}"
        time.sleep(0.2)


def staged(store: Store, at_least: int) -> Callable[[], bool]:
    """Return whether so many write tasks are noted as finished."""

    def look() -> bool:
        notes = [key for key in store.keys("lake") if "/checkpoints/" in key and key.endswith(".parquet")]
        return sum(".pending." not in key for key in notes) >= at_least

    return look


def rows(output: str) -> dict[str, tuple[float | str, ...]]:
    """Return the published rows as :meth:`Job.rows` does, and make sure that several readers see the same."""
    scored = open_table(output).to_table()
    names = [name for name in scored.column_names if name.startswith("p_")]
    frame = scored.to_pandas()
    assert frame["doc_id"].is_unique
    found = duckdb.sql(f"SELECT doc_id, status, {', '.join(names)} FROM scored").fetchall()
    assert len(found) == len(frame)
    assert set(frame["day"].astype(str)) == {"22 11:"}
    return {row[0]: row[1:] for row in found}


def committed(store: Store, output: str, job: Job, documents: int) -> None:
    """Make sure that a job is done, and that what is left is its table and its record."""
    assert_same(rows(output), expected(job, table_job.open_table_scorer))
    assert verify(output) == []
    (manifest,) = read_manifests(output)
    assert (manifest.counts.read, manifest.counts.error) == (documents, 0)
    bucket, _, folder = output.removeprefix("s3://").partition("/")
    left = [key for key in store.keys(bucket, folder) if not key.endswith("/") and not key.startswith("corpus")]
    record = f"{folder}/_confscore/{manifest.run_id}/manifest.json".lstrip("/")
    assert sorted(left) == sorted([record, *(f"{folder}/{file.path}".lstrip("/") for file in manifest.output_files)])
    content = [store.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in left]
    for secret in (KEYS["AWS_SECRET_ACCESS_KEY"], KEYS["AWS_ACCESS_KEY_ID"]):
        assert not any(secret.encode() in each for each in content)
        assert secret not in job.log.read_text()


@pytest.mark.slow
def test_a_killed_job_in_a_stumbling_store_goes_on_and_has_every_document_once(
    store: Store, proxy: Proxy, tmp_path: Path
) -> None:
    job = job_in(store, tmp_path / "job", 600)
    proxy.fraction, proxy.delay_s = 0.03, 0.2
    driver = job.start()
    wait_for(staged(store, 2), driver, job)
    driver.kill()
    driver.wait()
    assert not [key for key in store.keys("lake") if "/run=" in key], "nothing is visible yet"
    said = job.run()
    assert "committed 600" in said
    assert job.resumed[0] >= 2 * 32
    assert proxy.faults.total() > 10
    proxy.fraction = 0.0
    committed(store, OUTPUT, job, 600)
    again = make_plan(load(job.config))
    assert again.done is not None, "a further start has nothing to do"


@pytest.mark.slow
def test_a_corpus_that_changes_while_it_is_read_is_not_published(ray_here: None, tmp_path: Path) -> None:
    from ray import cloudpickle

    from confscore.pipeline import run_plan

    cloudpickle.register_pickle_by_value(table_job)  # workers do not see this folder
    job = Job(tmp_path / "job", 100)
    job.prepare()
    file = job.root / "corpus" / "part-3.parquet"

    def change_at_the_end(counts: Counts, ready: bool) -> None:
        if counts.read == 100:  # every row has been read: only what comes after can notice
            file.write_bytes(file.read_bytes())

    with pytest.raises(JobError, match=rf"{file}: was .* and is .* now, so the corpus has changed while it was read"):
        run_plan(make_plan(load(job.config)), change_at_the_end, table_job.open_table_scorer)
    assert not list(job.scores.rglob("*.parquet"))


@pytest.mark.slow
def test_a_corpus_in_a_store_that_changes_is_not_published(store: Store, proxy: Proxy, tmp_path: Path) -> None:
    job = job_in(store, tmp_path / "job", 1500)
    driver = job.start()
    wait_for(staged(store, 1), driver, job)
    (key,) = [key for key in store.keys("lake") if key.endswith("part-0.parquet")]  # as many rows, and bytes
    store.put("lake", key, store.client.get_object(Bucket="lake", Key=key)["Body"].read())
    assert driver.wait() == 3
    said = job.log.read_text().strip().splitlines()[-1]
    assert said.startswith(f"confscore: lake/{key}: was ")
    assert "so the corpus has changed while it was read; nothing was published" in said
    assert not [key for key in store.keys("lake") if "/run=" in key]


@pytest.mark.slow
def test_a_job_whose_store_is_down_ends_in_one_sentence_and_goes_on_later(
    store: Store, proxy: Proxy, tmp_path: Path
) -> None:
    job = job_in(store, tmp_path / "job", 3000)
    driver = job.start()
    wait_for(staged(store, 3), driver, job)
    proxy.fraction, proxy.kinds = 1.0, ("reset",)
    assert driver.wait(timeout=400) == 3
    said = [line for line in job.log.read_text().splitlines() if line.startswith("confscore: ")]
    assert len(said) == 1, job.log.read_text()
    assert "the store does not answer (NETWORK_CONNECTION: " in said[0]
    assert said[0].endswith("run the same command again")
    assert "Traceback" not in job.log.read_text()
    proxy.fraction = 0.0
    assert "committed 3000" in job.run()
    assert job.resumed[-1] >= 3 * 64
    committed(store, OUTPUT, job, 3000)


@pytest.mark.slow
def test_a_store_in_which_a_fifth_of_all_requests_fails_is_no_reason_to_lose_documents(
    store: Store, proxy: Proxy, tmp_path: Path
) -> None:
    job = job_in(store, tmp_path / "job", 1500)
    proxy.fraction, proxy.delay_s = 0.2, 1.0
    assert "committed 1500" in job.run()
    assert job.starts == 1
    assert set(proxy.faults) == set(proxy.kinds), "every kind was met"
    proxy.fraction = 0.0
    committed(store, OUTPUT, job, 1500)


@pytest.mark.slow
@pytest.mark.parametrize("output", [OUTPUT, "s3://scores", "s3://scores/"])
def test_of_two_starts_on_one_store_one_wins_and_the_other_is_told(
    store: Store, proxy: Proxy, tmp_path: Path, output: str
) -> None:
    store.bucket("scores")
    job, twin = job_in(store, tmp_path / "job", 400, output), Job(tmp_path / "twin", 400)
    twin.root.mkdir()
    twin.config.write_text(job.config.read_text())  # the same corpus and the same output
    first, second = job.start(), twin.start()
    assert sorted([first.wait(), second.wait()]) == [0, 3]
    said = job.log.read_text() + twin.log.read_text()
    assert f"output.path {output}: another start is writing to it" in said
    committed(store, output.rstrip("/"), job, 400)


@pytest.mark.slow
def test_the_command_line_works_on_a_store(store: Store, proxy: Proxy, tmp_path: Path) -> None:
    job = job_in(store, tmp_path / "job", 40)
    for line, said in [
        (["score", "--config", str(job.config)], "Scored 40 documents"),
        (["score", "--config", str(job.config)], "Nothing to do"),
        (["inspect", OUTPUT], "p_S14"),
        (["inspect", "--verify", OUTPUT], f"{OUTPUT}: nothing to complain of"),
    ]:
        done = subprocess.run(
            [Path(sys.executable).with_name("confscore"), *line],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    (config,) = [key for key in store.keys("lake") if key.endswith("config.yaml")]
    kept = store.client.get_object(Bucket="lake", Key=config)["Body"].read().decode()
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in kept
