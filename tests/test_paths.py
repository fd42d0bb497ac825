"""Nothing is read or written beside what a configuration names."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from confscore.config import Config, InputConfig, parse
from confscore.corpus import Corpus, open_corpus
from confscore.corpus.files import resolve
from confscore.errors import ConfigError, CorpusError, GuardError
from confscore.guards import resolve as resolve_guard
from confscore.partitions import refuse_names, without_bad_values
from confscore.plan import _keep_apart


def opened(path: Path, *, follow: bool = False) -> Corpus:
    return open_corpus(InputConfig(path=str(path), follow_links=follow))


def names(corpus: Corpus) -> list[str]:
    return [file.name for file in corpus.files]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Return a corpus of one file, with another folder beside it."""
    for name in ("corpus/date=2026-11-22", "other/deep"):
        (tmp_path / name).mkdir(parents=True)
        pq.write_table(pa.table({"text": ["hello"]}), tmp_path / name / "a.parquet")
    return tmp_path / "corpus"


@pytest.mark.parametrize("target", ["../other", "../other/deep/a.parquet"])
def test_a_link_out_of_the_corpus_is_refused_or_followed_where_that_is_asked_for(corpus: Path, target: str) -> None:
    link = corpus / ("x.parquet" if target.endswith(".parquet") else "x")
    link.symlink_to(target)
    with pytest.raises(CorpusError, match=r"x.*: is a link that leads out of the corpus, .* set input\.follow_links"):
        opened(corpus)
    inside = "x.parquet" if target.endswith(".parquet") else "x/deep/a.parquet"
    assert names(opened(corpus, follow=True)) == ["date=2026-11-22/a.parquet", inside]


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("loop", "."),
        ("loop", ".."),
        ("date=2026-11-22/up", ".."),
        ("again", "date=2026-11-22"),
        ("again.parquet", "date=2026-11-22/a.parquet"),
    ],
)
def test_a_link_to_what_is_read_anyway_is_refused(corpus: Path, name: str, target: str, follow: bool) -> None:
    (corpus / name).symlink_to(target)
    with pytest.raises(CorpusError, match=r"read twice|leads out of the corpus"):
        opened(corpus, follow=follow)


def test_links_that_go_round_outside_of_the_corpus_are_refused(corpus: Path) -> None:
    (corpus / "x").symlink_to("../other")
    (corpus.parent / "other" / "back").symlink_to("deep")
    (corpus.parent / "other" / "deep" / "up").symlink_to("../../other")
    with pytest.raises(CorpusError, match="read twice"):
        opened(corpus, follow=True)


def test_two_links_to_one_place_are_refused(corpus: Path) -> None:
    (corpus / "x").symlink_to("../other")
    (corpus / "y").symlink_to("../other/deep")
    with pytest.raises(CorpusError, match=r"y: is a link to .*other/deep, and .*/x is read too"):
        opened(corpus, follow=True)


@pytest.mark.parametrize("target", ["nowhere", "x.parquet"])
def test_a_link_that_leads_nowhere_is_no_document_less(corpus: Path, target: str) -> None:
    (corpus / "x.parquet").symlink_to(target)
    with pytest.raises(CorpusError, match="leads nowhere"):
        opened(corpus)


def test_links_that_readers_leave_out_do_not_matter(corpus: Path) -> None:
    (corpus / "_x").symlink_to("..")
    (corpus / ".y").symlink_to("../other")
    (corpus / "notes.txt").symlink_to("../other/deep/a.parquet")
    assert names(opened(corpus)) == ["date=2026-11-22/a.parquet"]


def test_the_corpus_itself_may_be_named_by_a_link(corpus: Path) -> None:
    (corpus.parent / "today").symlink_to("corpus")
    assert names(opened(corpus.parent / "today")) == ["date=2026-11-22/a.parquet"]
    assert names(opened(corpus.parent / "today" / "date=2026-11-22")) == ["a.parquet"]


def test_two_dots_after_a_link_are_what_the_file_system_says(corpus: Path) -> None:
    (corpus / "_deep").symlink_to(corpus.parent / "other" / "deep")
    assert resolve(str(corpus / "_deep" / ".."))[1] == str(corpus.parent / "other")
    assert names(opened(corpus / "_deep" / "..")) == ["deep/a.parquet"]


def config(corpus: str, output: str) -> Config:
    tree = {"input": {"path": corpus}, "model": {"source": "m"}, "output": {"path": output}}
    return parse(tree, "test")


@pytest.mark.parametrize("output", ["corpus", "corpus/x", "link", "link/x", "corpus/../link/x", "other/../corpus"])
@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("named", ["corpus", "link"])
def test_a_table_in_its_own_corpus_is_refused_by_whatever_name(
    corpus: Path, output: str, scheme: str, named: str
) -> None:
    (corpus.parent / "link").symlink_to("corpus")
    with pytest.raises(ConfigError, match=r"^output\.path .* lies in input\.path"):
        _keep_apart(config(f"{scheme}{corpus.parent}/{named}", f"{corpus.parent}/{output}"))


def test_a_table_beside_its_corpus_is_not(corpus: Path) -> None:
    for output in ("corpus-scores", "corpus/_scores", "corpus/../scores", "other"):
        _keep_apart(config(str(corpus), f"{corpus.parent}/{output}"))
    region = "?region=eu-central-1"
    _keep_apart(config(f"s3://lake/corpus{region}", f"{corpus}"))
    _keep_apart(config(f"s3://lake/corpus{region}", f"s3://lake/scores{region}"))
    with pytest.raises(ConfigError, match="lies in input"):
        _keep_apart(config(f"s3://lake/corpus{region}", f"s3://lake/corpus/scores{region}"))


@pytest.mark.parametrize("base", ["../other.yaml", "/etc/passwd", "./llama-guard-3", "llama-guard-3.yaml"])
def test_a_guard_extends_registered_guards_only(tmp_path: Path, base: str) -> None:
    (tmp_path / "guard.yaml").write_text(f"extends: {base}\nname: mine\n")
    with pytest.raises(GuardError, match=r"extends: no guard is called"):
        resolve_guard(str(tmp_path / "guard.yaml"))


@pytest.mark.parametrize("name", ["a/../../x", "/x", "a\\b", "a=b", "%2e", "_date", ".date", "", "a\nb", "\0"])
def test_a_column_whose_folders_would_be_others_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^output\.partition_by: "):
        refuse_names(["date", name])


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.none() | st.text(max_size=8) | st.text("./\\%=\0_~: \n", max_size=6), min_size=1, max_size=4))
@example(values=["../../x", "..", "/etc/x", "a/b", "\0", "a\0b", "%2e%2e/", "", " ", None])
@example(values=["x" * 300, "é" * 100, "日" * 28])
def test_a_partition_value_stays_in_the_table_and_comes_back_or_is_a_fault(values: list[str | None]) -> None:
    rows = pa.table({"fault": pa.array([None] * len(values), pa.string()), "k": pa.array(values, pa.string())})
    checked = without_bad_values(rows, ["k"])
    for before, after, fault in zip(values, checked["k"].to_pylist(), checked["fault"].to_pylist(), strict=True):
        assert (after == before) == (fault is None)
        assert fault is None or (after is None and "output.partition_by" in fault)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "lake", "scores")
        numbered = checked.append_column("n", pa.array(np.arange(len(values))))
        kwargs = {"format": "parquet", "partitioning": ["k"], "partitioning_flavor": "hive"}
        pds.write_dataset(numbered, table, **kwargs)  # as Ray Data does it
        written = [path for path in Path(folder).rglob("*") if path.is_file()]
        assert all(path.parent.parent == table for path in written)
        partitioning = pds.partitioning(pa.schema([("k", pa.string())]), flavor="hive")
        back = pds.dataset(table, partitioning=partitioning).to_table().sort_by("n")["k"].to_pylist()
        assert back == [None if each == "__HIVE_DEFAULT_PARTITION__" else each for each in checked["k"].to_pylist()]


def test_a_pipe_in_a_corpus_is_no_file(corpus: Path) -> None:
    os.mkfifo(corpus / "x.parquet")
    found: list[str] = []
    reading = threading.Thread(target=lambda: found.extend(names(opened(corpus))), daemon=True)
    reading.start()
    reading.join(timeout=20)
    assert found == ["date=2026-11-22/a.parquet"]
