"""An audit that keeps everything in an object store, at addresses with options at their ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import month
import pyarrow.parquet as pq
import pytest
import yaml
from stores import KEYS, Store, environment, running_store
from typer.testing import CliRunner, Result

from confscore.audit.lake import below
from confscore.cli import app


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with running_store() as running, environment(**KEYS):
        yield running


def test_options_of_an_address_stay_at_its_end() -> None:
    assert below("s3://b/a?region=x", "c/d") == "s3://b/a/c/d?region=x"
    assert below("s3://b/a/", "c") == "s3://b/a/c"
    assert below("/disk/what?/", "c") == "/disk/what?/c", "a local path has no options"


def test_a_whole_audit_works_in_a_store(store: Store, tmp_path: Path) -> None:  # noqa: PLR0915
    bucket = store.bucket("lake")
    nights = [month.make_night(number, 100, seed=9) for number in (1, 2, 3)]

    def address(name: str) -> str:
        return f"s3://{bucket}/{name}?endpoint_override={store.url}"

    def read(key: str) -> dict:
        return json.loads(store.client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def put(folder: str) -> None:
        for path in sorted(tmp_path.joinpath(folder).rglob("*")):
            if path.is_file():
                store.put(bucket, str(path.relative_to(tmp_path)), path.read_bytes())

    def audit(*options: str) -> Result:
        settings = {
            "scores": address("scores"),
            "corpus": {"path": address("corpus"), "id_column": "doc_id"},
            "output": address("audit"),
            "labels": {"path": address("labels"), "label_column": "labels"},
            "sample": {"budget": 30, "text": True},
        }
        config = tmp_path / "audit.yaml"
        config.write_text(yaml.safe_dump(settings))
        return CliRunner().invoke(app, ["audit", "--config", str(config), "--today", "2026-10-03", *options])

    for night in nights[:2]:
        month.write_scores(tmp_path / "scores", night, month.write_corpus(tmp_path / "corpus", night))
    put("scores")
    put("corpus")
    found = audit()
    assert found.exit_code == 0, found.output
    record = read("audit/nights/2026-10-02.json")
    page = f"s3://{bucket}/audit/{record['folder']}/report.html?endpoint_override={store.url}"
    assert found.stdout.rstrip("\n").endswith(f"; page: {page}")
    keys = [key for key in store.keys(bucket, "audit/") if not key.endswith("/")]  # pyarrow leaves markers of folders
    names = {"flags.parquet", "report.html", "report.json", "sample.parquet", "sample_scores.parquet"}
    assert {key.rpartition("/")[2] for key in keys if key.startswith(f"audit/{record['folder']}/")} == names
    assert "audit/index.html" in keys
    assert not [key for key in keys if "endpoint" in key or key.endswith((".partial", ".claim"))]
    report = read(f"audit/{record['folder']}/report.json")
    assert report["notices"] == []
    assert report["categories"][0]["top"][0]["excerpt"]

    again = audit()
    assert again.exit_code == 0
    assert "nothing new" in again.stdout
    assert [key for key in store.keys(bucket, "audit/") if not key.endswith("/")] == keys

    sample = tmp_path / "sample.parquet"
    store.client.download_file(bucket, f"audit/{record['folder']}/sample.parquet", str(sample))
    drawn = pq.read_table(sample)
    truth = dict(zip(nights[1].ids, nights[1].truth, strict=True))
    labels = [[c for c, has in zip(month.CODES, truth[i], strict=True) if has] for i in drawn["doc_id"].to_pylist()]
    (tmp_path / "labels" / "second night").mkdir(parents=True)
    pq.write_table(
        drawn.select(["doc_id"]).append_column("labels", [labels]), tmp_path / "labels" / "second night" / "a.parquet"
    )
    put("labels")
    month.write_scores(tmp_path / "scores", nights[2], month.write_corpus(tmp_path / "corpus", nights[2]))
    put("scores")
    put("corpus")
    third = audit("--keep-nights", "1")
    assert third.exit_code == 0, third.output
    (path,) = (key for key in store.keys(bucket, "audit/nights/2026-10-03/") if key.endswith("report.json"))
    report = read(path)
    assert report["labels"]["night"] == "2026-10-02"
    assert report["labels"]["files"] == [address("labels/second night/a.parquet")]
    assert "Removed the pages, samples and flags of 2 nights: 2026-10-01, 2026-10-02" in third.stderr
    kept = {key.split("/")[2] for key in store.keys(bucket, "audit/nights/") if key.endswith((".html", ".parquet"))}
    assert kept == {"2026-10-03"}
    assert "audit/nights/2026-10-01.json" in store.keys(bucket, "audit/")
