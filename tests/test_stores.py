"""Object stores, on a real S3 API: addresses, names, what goes wrong, and the lock. No Ray here."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import yaml
from pyarrow import fs
from stores import KEYS, Fault, Proxy, Store, environment, proxy_before, running_store

from confscore.cli import run_score
from confscore.cli_common import plain_errors
from confscore.config import InputConfig, load, parse
from confscore.corpus import formats, open_corpus, stores
from confscore.corpus.files import find_files, refuse_changed, resolve
from confscore.corpus.stores import S3, open_address
from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.errors import CorpusError, InputError, JobError, StoreError, TableError
from confscore.lock import TableLock
from confscore.plan import make_plan
from confscore.run_folder import RunFolder, committed_before
from confscore.run_log import open_log

SECRET = "wJalrXUtnFEMI"


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with running_store() as store:
        yield store


@pytest.fixture
def proxy(store: Store) -> Iterator[Proxy]:
    with proxy_before(store) as proxy, environment(**KEYS, AWS_ENDPOINT_URL=proxy.url):
        yield proxy


@pytest.fixture
def bucket(store: Store, proxy: Proxy) -> str:
    return store.bucket("lake")


def parquet(rows: int, start: int = 0) -> bytes:
    sink = pa.BufferOutputStream()
    ids = [f"doc-{i:06d}" for i in range(start, start + rows)]
    pq.write_table(pa.table({"doc_id": ids, "text": [f"text of {each}" for each in ids]}), sink)
    return sink.getvalue().to_pybytes()


# -- addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        f"s3://AKIAX:{SECRET}@lake/x",
        f"s3://AKIAX:{SECRET[:5]}/{SECRET}@lake/x",
        f"s3://{SECRET}@lake/x",
        f"s3://lake/x?secret_key={SECRET}",
        f"s3://lake/x?endpoint_override=http://me:{SECRET}@minio:9000",
        f"gs://me:{SECRET}@lake/x",
        f"abfs://:{SECRET}@account.dfs.core.windows.net/lake/x",
        f"abfs://:{SECRET[:5]}/{SECRET}@account.dfs.core.windows.net/lake/x",
        f"hdfs://me:{SECRET}@host:8020/x",
    ],
)
def test_an_address_with_credentials_is_refused_without_repeating_them(address: str) -> None:
    with pytest.raises(InputError, match="carries no credentials") as refused:
        resolve(address)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("s3://lake/x?retries=3", r"\?retries… is no option of such an address; the options are region"),
        ("s3a://lake/x", "no filesystem for this address"),
    ],
)
def test_an_address_that_means_nothing_is_refused(address: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        resolve(address)


def test_a_bucket_that_is_nowhere_is_bad_input_of_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(bucket: str) -> str:
        raise OSError(f"Bucket '{bucket}' not found")

    monkeypatch.setattr(fs, "resolve_s3_region", nowhere)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    lake = {"input": {"path": "s3://nosuch/corpus"}, "output": {"path": "s3://nosuch/scores"}}
    config = parse({**lake, "guard": str(GUARD_YAML), "model": {"source": str(GUARD_FOLDER)}}, "test")
    with pytest.raises(InputError, match=r"^input\.path s3://nosuch/corpus: the region of its bucket"):
        make_plan(config)


def test_paths_in_stores_are_taken_as_they_are(proxy: Proxy) -> None:
    assert resolve("s3://lake/a b/%20+é#1/")[1] == "lake/a b/%20+é#1"
    assert resolve("s3://lake/")[1] == "lake"
    assert resolve("gs://anonymous@lake/a b?endpoint_override=localhost:1&scheme=http")[1] == "lake/a b"
    assert resolve("abfs://lake@account.dfs.core.windows.net/a%20b")[1] == "lake/a%20b"


def test_a_store_may_be_named_by_its_address(store: Store, proxy: Proxy) -> None:
    store.put(store.bucket("other"), "x/a", b"1")
    with environment(AWS_ENDPOINT_URL="http://127.0.0.1:9"):
        filesystem, path = resolve(
            f"s3://other/x?endpoint_override={store.host}:{store.port}&scheme=http&region=eu-west-1"
        )
    assert filesystem.region == "eu-west-1"
    assert [info.path for info in filesystem.get_file_info(fs.FileSelector(path))] == ["other/x/a"]


def test_a_filesystem_is_as_patient_where_it_is_sent_to_and_carries_no_keys(bucket: str, proxy: Proxy) -> None:
    filesystem, _ = open_address("s3://lake", 2)
    content = pickle.dumps(filesystem)
    assert KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in content
    sent = pickle.loads(content)
    assert isinstance(sent, S3)
    proxy.fraction, proxy.kinds = 1.0, ("503",)
    proxy.requests.clear()
    with pytest.raises(OSError, match="HTTP status 503"):
        sent.get_file_info("lake/x")
    assert proxy.requests.total() == 2, "pyarrow's own would have forgotten, and sent three"


# -- names ---------------------------------------------------------------------------------------------------


def test_keys_of_any_kind_are_found_and_markers_of_folders_are_not(store: Store, bucket: str) -> None:
    names = ["a b.parquet", "100%.parquet", "%41.parquet", "a+b.parquet", "é 雪.parquet", "day=2026 11%3A/c.parquet"]
    for number, name in enumerate(names):
        store.put(bucket, f"in put/{name}", parquet(2, 10 * number))
    for marker in ("in put/", "in put/day=2026 11%3A/", "in put/empty.parquet/"):
        store.put(bucket, marker, b"")
    files, ignored = find_files("s3://lake/in put", "parquet")
    assert [file.name for file in files] == sorted(names)
    assert ignored == []
    assert dict(files[sorted(names).index(names[-1])].partition) == {"day": "2026 11:"}
    corpus = open_corpus(InputConfig(path="s3://lake/in put", id_column="doc_id"))
    ids = [
        row for part in corpus.parts for table in corpus.reader.tables(part, 10) for row in table["doc_id"].to_pylist()
    ]
    assert sorted(ids) == sorted(f"doc-{10 * number + i:06d}" for number in range(len(names)) for i in (0, 1))


def test_small_files_are_read_though_pyarrow_cannot_take_in_long_refusals(
    store: Store, bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PAUSES_S", (0.01,) * 20)
    monkeypatch.setattr(formats, "PAUSES_S", (0.01,) * 20)
    for number in range(10):
        store.put(bucket, f"small/{number}.jsonl", b'{"text": "a"}\n{"text": "b"}\n')
    proxy.fraction, proxy.kinds, proxy.methods = 0.5, ("500", "503"), ("GET",)
    proxy.within = ".jsonl"
    filesystem, _ = resolve("s3://lake")
    small = filesystem.open_input_file("lake/small/0.jsonl")
    proxy.fraction = 1.0
    with pytest.raises(OSError, match="Failed to flush response stream"):  # when this fails, patiently() may go
        small.read()
    proxy.fraction = 0.5
    corpus = open_corpus(InputConfig(path="s3://lake/small", format="jsonl"))
    assert [corpus.reader.count(part) for part in corpus.parts] == [2] * 10
    assert sum(table.num_rows for part in corpus.parts for table in corpus.reader.tables(part, 1)) == 20


def test_more_files_than_a_page_has_are_all_found(store: Store, bucket: str) -> None:
    store.fill(bucket, [f"many/{number:04d}.txt" for number in range(1100)])
    assert len(find_files("s3://lake/many", "text")[0]) == 1100
    assert len(find_files("s3://lake", "text")[0]) == 1100, "a whole bucket"


# -- what goes wrong before anything is loaded -----------------------------------------------------------------


def score(tmp_path: Path, source: str, output: str) -> None:
    settings = {
        "input": {"path": source, "id_column": "doc_id"},
        "guard": str(GUARD_YAML),
        "model": {"source": str(GUARD_FOLDER), "engine": "transformers"},
        "output": {"path": output},
    }
    config = tmp_path / "score.yaml"
    config.write_text(yaml.safe_dump(settings))
    with plain_errors(debug=False):
        run_score(load(config), open_log("text"))


@pytest.mark.parametrize(
    ("source", "output", "sentence"),
    [
        (
            "s3://no-such-bucket/x",
            "s3://lake/out",
            "input.path s3://no-such-bucket/x: there is no bucket no-such-bucket",
        ),
        ("s3://lake/in", "s3://no-such-bucket", "output.path s3://no-such-bucket: there is no bucket no-such-bucket"),
        ("s3://lake/nothing", "s3://lake/out", "input.path s3://lake/nothing: no such file or folder"),
        (f"s3://AKIAX:{SECRET}@lake/in", "s3://lake/out", "s3://lake/…: an address carries no credentials"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_in_one_sentence(
    store: Store,
    bucket: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
    output: str,
    sentence: str,
) -> None:
    store.put(bucket, "in/a.parquet", parquet(2))
    assert refused(tmp_path, source, output, capsys).startswith(f"confscore: {sentence}")
    assert store.keys(bucket) == ["in/a.parquet"], "nothing is written"


def refused(tmp_path: Path, source: str, output: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what is said of a job that is refused before anything is loaded."""
    with pytest.raises(typer.Exit) as end:
        score(tmp_path, source, output)
    assert end.value.exit_code == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in said
    assert SECRET not in said
    return said


@pytest.mark.parametrize(
    ("kind", "methods", "sentence"),
    [
        ("403", "GET HEAD PUT", "input.path s3://lake/in: the credentials in the environment do not allow it"),
        (
            "403",
            "PUT",
            "output.path s3://lake/out: cannot be written: the credentials in the environment do not allow it",
        ),
        ("expired", "GET HEAD PUT", "input.path s3://lake/in: the credentials in the environment have expired"),
        ("reset", "GET HEAD PUT", "input.path s3://lake/in: the store does not answer (NETWORK_CONNECTION: "),
    ],
)
def test_a_store_that_refuses_or_is_silent_is_told_before_anything_is_loaded(
    store: Store,
    bucket: str,
    proxy: Proxy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: Fault,
    methods: str,
    sentence: str,
) -> None:
    store.put(bucket, "in/a.parquet", parquet(2))
    proxy.fraction, proxy.kinds, proxy.methods = 1.0, (kind,), methods.split()
    assert refused(tmp_path, "s3://lake/in", "s3://lake/out", capsys).startswith(f"confscore: {sentence}")
    assert store.keys(bucket) == ["in/a.parquet"]


def test_keys_that_the_store_does_not_know_are_told_before_anything_is_loaded(
    store: Store, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put(bucket, "in/a.parquet", parquet(2))
    with store.asking_for_keys():
        said = refused(tmp_path, "s3://lake/in", "s3://lake/out", capsys)
    assert said.startswith("confscore: input.path s3://lake/in: the store refuses the credentials in the environment (")
    assert store.keys(bucket) == ["in/a.parquet"]


def test_a_file_that_may_not_be_read_is_named_and_not_skipped(store: Store, bucket: str, proxy: Proxy) -> None:
    store.put(bucket, "in/a.parquet", parquet(2))
    store.put(bucket, "in/b.parquet", b"not Parquet at all")
    config = InputConfig(path="s3://lake/in", id_column="doc_id", on_bad_file="skip")
    corpus = open_corpus(config)
    assert [path for path, _ in corpus.bad] == ["lake/in/b.parquet"]
    proxy.fraction, proxy.kinds, proxy.methods = 1.0, ("403",), ("GET", "HEAD")
    proxy.within = "a.parquet"
    with pytest.raises(CorpusError, match=r"input\.path s3://lake/in: lake/in/a\.parquet: .* do not allow it"):
        open_corpus(config)
    (part,) = corpus.parts
    with pytest.raises(StoreError, match=r"^lake/in/a\.parquet: the credentials in the environment do not allow it"):
        corpus.reader.id_hashes(part)


def test_a_file_that_is_written_again_is_noticed_with_as_many_bytes(store: Store, bucket: str) -> None:
    content = parquet(3)
    store.put(bucket, "in/a.parquet", content)
    store.put(bucket, "in/b.parquet", content)
    files, _ = find_files("s3://lake/in", "parquet")
    refuse_changed("s3://lake/in", "parquet", files)
    store.put(bucket, "in/c.parquet", content)
    refuse_changed("s3://lake/in", "parquet", files)  # a new file is no change of the old ones
    time.sleep(1.1)
    store.put(bucket, "in/b.parquet", content)
    with pytest.raises(
        JobError, match=r"lake/in/b\.parquet: was .* bytes of .* and is .* now, so the corpus has changed"
    ):
        refuse_changed("s3://lake/in", "parquet", files)
    store.client.delete_object(Bucket=bucket, Key="in/b.parquet")
    with pytest.raises(JobError, match=r"lake/in/b\.parquet: is gone, so the corpus has changed"):
        refuse_changed("s3://lake/in", "parquet", files)


# -- the lock ------------------------------------------------------------------------------------------------


def lock(what: str) -> TableLock:
    filesystem, table = resolve("s3://lake/scores")
    return TableLock(filesystem, f"{table}/_confscore/claims", "s3://lake/scores", what)


def test_of_many_starts_at_once_one_wins_while_the_store_stumbles(store: Store, bucket: str, proxy: Proxy) -> None:
    proxy.fraction, proxy.delay_s = 0.05, 0.2
    ready, ends = threading.Barrier(4), []

    def start(number: int) -> None:
        mine = lock(f"start {number}")
        ready.wait()
        try:
            mine.acquire()
        except JobError as error:
            ends.append(str(error))
        else:
            mine.check()
            ends.append("won")
            won.append(mine)

    won: list[TableLock] = []
    threads = [threading.Thread(target=start, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert ends.count("won") == 1
    assert all("another start is writing to it" in end for end in ends if end != "won")
    won[0].release()
    assert not [key for key in store.keys(bucket) if key.endswith(".claim")]
    lock("later").acquire()


def test_a_claim_that_is_taken_away_ends_its_owner(store: Store, bucket: str) -> None:
    mine = lock("mine")
    mine.acquire()
    (claim,) = [key for key in store.keys(bucket) if key.endswith(".claim")]
    store.client.delete_object(Bucket=bucket, Key=claim)
    with pytest.raises(JobError, match="did not renew its lock"):
        mine.check()
    mine.release()


def test_files_of_a_run_appear_whole_while_the_store_stumbles(store: Store, bucket: str, proxy: Proxy) -> None:
    run = RunFolder("s3://lake/scores", "run-0123456789abcdef")
    proxy.fraction, proxy.delay_s = 0.3, 0.1
    for number in range(6):
        run.write(f"{number}.json", "x" * 1000)
    proxy.fraction = 0.0
    keys = [key for key in store.keys(bucket) if not key.endswith("/")]
    assert sorted(keys) == sorted(f"scores/_confscore/{run.run_id}/{number}.json" for number in range(6))
    assert not run.renames
    assert RunFolder("s3://lake", run.run_id).work == f"lake/_confscore/{run.run_id}/unfinished"


def test_notes_of_an_unfinished_run_in_a_whole_bucket_are_no_foreign_files(store: Store, bucket: str) -> None:
    run = RunFolder("s3://lake", "run-0123456789abcdef")
    store.put(bucket, f"_confscore/{run.run_id}/unfinished/checkpoints/a.parquet", parquet(1))
    assert committed_before(run, None, [], [], []) is None  # type: ignore[arg-type]
    store.put(bucket, "other/a.parquet", parquet(1))
    with pytest.raises(TableError, match=r"holds a Parquet file that no committed run has written \(lake/other/a"):
        committed_before(run, None, [], [], [])  # type: ignore[arg-type]
