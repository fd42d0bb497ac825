"""Every kind of file and every kind of bad cell has a defined outcome."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from confscore.config import InputConfig
from confscore.corpus import Corpus, open_corpus
from confscore.errors import CorpusError


def rows(corpus: Corpus, size: int = 1000) -> list[dict]:
    tables = [table for part in corpus.parts for table in corpus.reader.tables(part, size)]
    for table in tables:
        assert table.schema.equals(corpus.reader.schema)
        assert table.num_rows <= size
    return [row for table in tables for row in table.to_pylist()]


def write(path: Path, **columns: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def opened(path: Path, carry: tuple[str, ...] = (), **settings: object) -> Corpus:
    return open_corpus(InputConfig(path=str(path), **settings), carry)


def test_parquet_rows_come_in_order_with_their_ids(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", doc_id=["3"], text=["three"])
    write(tmp_path / "a.parquet", doc_id=["1", "2"], text=["one", "two"])
    corpus = opened(tmp_path, id_column="doc_id")
    assert corpus.rows == 3
    assert [(row["doc_id"], row["content"]) for row in rows(corpus)] == [("1", "one"), ("2", "two"), ("3", "three")]


def test_ids_are_derived_from_file_and_row_and_do_not_depend_on_how_a_file_is_read(tmp_path: Path) -> None:
    text = [f"document {i}" for i in range(10)]
    path = tmp_path / "deep" / "er" / "a.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"text": text}), path, row_group_size=3)
    whole = [row["doc_id"] for row in rows(opened(tmp_path))]
    assert whole == [f"deep/er/a.parquet#{i}" for i in range(10)]
    assert [row["doc_id"] for row in rows(opened(tmp_path), size=2)] == whole


def test_a_large_parquet_file_is_cut_at_row_groups_without_losing_or_repeating_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"text": [f"t{i}" for i in range(100)]}), tmp_path / "a.parquet", row_group_size=7)
    monkeypatch.setattr("confscore.corpus.opening.PART_BYTES", 1)
    corpus = opened(tmp_path)
    assert len(corpus.parts) == 15
    found = rows(corpus)
    assert [row["content"] for row in found] == [f"t{i}" for i in range(100)]
    assert [row["doc_id"] for row in found] == [f"a.parquet#{i}" for i in range(100)]


def test_hive_partitions_become_columns_and_null_partitions_null(tmp_path: Path) -> None:
    write(tmp_path / "date=2026-11-22" / "lang=a%20b" / "x.parquet", text=["one"])
    write(tmp_path / "date=2026-11-23" / "lang=__HIVE_DEFAULT_PARTITION__" / "x.parquet", text=["two"])
    found = rows(opened(tmp_path, ("date", "lang")))
    assert [(row["date"], row["lang"]) for row in found] == [("2026-11-22", "a b"), ("2026-11-23", None)]


def test_the_partition_may_stand_in_the_input_path_itself(tmp_path: Path) -> None:
    write(tmp_path / "date=2026-11-22" / "x.parquet", text=["one"])
    assert rows(opened(tmp_path / "date=2026-11-22", ("date",)))[0]["date"] == "2026-11-22"


def test_carried_columns_keep_their_type(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", text=["x"], n=pa.array([7], pa.int32()), tags=[["a", "b"]])
    write(tmp_path / "b.parquet", text=["y"], n=pa.array([2**40], pa.int64()), tags=[[]])
    found = rows(opened(tmp_path, ("n", "tags")))
    assert [(row["n"], row["tags"]) for row in found] == [(7, ["a", "b"]), (2**40, [])]


def test_carried_columns_of_one_name_and_two_kinds_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", text=["x"], n=[7])
    write(tmp_path / "b.parquet", text=["y"], n=["seven"])
    with pytest.raises(CorpusError, match=r"column n has different types .* int64 in .*a\.parquet and string in "):
        opened(tmp_path, ("n",))


def test_a_carried_value_that_does_not_fit_the_type_of_all_files_is_not_rounded(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", text=["x"], n=pa.array([2**60 + 1], pa.int64()))
    write(tmp_path / "b.parquet", text=["y"], n=[0.5])
    with pytest.raises(CorpusError, match=r"a\.parquet: column n has a value that does not fit into double"):
        rows(opened(tmp_path, ("n",)))


BAD_CELLS = [
    (None, "text is null"),
    ("", "text is empty"),
    (" \n\t ", "text is empty"),
    (7, "text is a number, not text"),
    (True, "text is true or false, not text"),
    (["a"], "text is a list, not text"),
    ({"a": 1}, "text is an object, not text"),
    ("\ud800", r"text is not valid Unicode \(character 0\)"),
]


@pytest.mark.parametrize(("cell", "reason"), BAD_CELLS)
def test_a_bad_text_is_a_fault_of_its_row_only(tmp_path: Path, cell: object, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(["ok", cell, "fine"])))
    found = rows(opened(path, format="jsonl", id_column="id"))
    assert [row["content"] for row in found] == ["ok", None, "fine"]
    assert [row["doc_id"] for row in found] == ["0", "1", "2"]
    assert re.search(reason, found[1]["fault"])
    assert found[0]["fault"] is None


def test_parquet_text_that_is_not_utf8_is_a_fault(tmp_path: Path) -> None:
    cells = pa.array([b"good", b"caf\xe9", None], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, cells.buffers())
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    found = rows(opened(tmp_path))
    assert [row["content"] for row in found] == ["good", None, None]
    assert [row["fault"] for row in found] == [None, "text is not valid UTF-8 (byte 3)", "text is null"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_every_arrow_type_of_text_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.array(["héllo", "a"]).cast(kind)}), tmp_path / "a.parquet")
    assert [row["content"] for row in rows(opened(tmp_path))] == ["héllo", "a"]


def test_an_id_that_cannot_be_used_is_a_fault_under_a_derived_id(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    cells = ["good", None, "", 3.5, True, 12]
    path.write_text("".join(json.dumps({"id": cell, "text": "t"}) + "\n" for cell in cells))
    found = rows(opened(path, format="jsonl", id_column="id"))
    assert [row["doc_id"] for row in found] == ["good", "a.jsonl#1", "a.jsonl#2", "a.jsonl#3", "a.jsonl#4", "12"]
    assert [row["fault"] is None for row in found] == [True, False, False, False, False, True]
    assert found[1]["fault"] == "id is null"


def test_broken_json_lines_cost_one_row_each_and_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "one"}',
        b"",
        b"{oops",
        b'["a list"]',
        b'{"text": "\xff"}',
        b"[" * 100_000,
        b'{"text": "last"}',
    ]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(lines)))
    found = rows(opened(path, format="jsonl"))
    assert [row["doc_id"] for row in found] == [f"a.jsonl.gz#{i}" for i in (0, 2, 3, 4, 5, 6)]
    assert [row["content"] for row in found] == ["one", None, None, None, None, "last"]
    faults = [row["fault"] or "" for row in found]
    for fault, word in zip(faults[1:5], ["not valid JSON", "not an object", "not valid UTF-8", "nested"], strict=True):
        assert word in fault


def test_csv_rows_with_newlines_quotes_and_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,"a,b\nc"\n2\n\n3,caf\xe9\n4,caf\xc3\xa9\n5,"x"y\n6,NA\n7,"open\n')
    found = rows(opened(path, format="csv", id_column="id"))
    assert [row["doc_id"] for row in found] == ["1", "a.csv#1", "3", "4", "a.csv#5", "6", "a.csv#7"]
    assert [row["content"] for row in found] == ["a,b\nc", None, None, "café", None, "NA", None]
    assert found[1]["fault"] == "the row has 1 fields where the header has 2"
    assert found[2]["fault"] == "text is not valid UTF-8 (byte 3)"
    assert "not valid CSV" in found[4]["fault"]
    assert "unexpected end" in found[6]["fault"]


def test_a_csv_field_may_be_longer_than_the_parsers_default(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "x" * 200_000 + "\n")
    assert len(rows(opened(path, format="csv"))[0]["content"]) == 200_000


def test_a_folder_of_text_files_is_one_document_a_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("two")
    (tmp_path / "a.md").write_text("one")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / "_ignored").mkdir()
    (tmp_path / "_ignored" / "c.txt").write_text("no")
    corpus = opened(tmp_path, format="text")
    assert corpus.ignored == ("image.png",)
    assert [(row["doc_id"], row["content"], row["fault"]) for row in rows(corpus)] == [
        ("a.md", "one", None),
        ("empty.txt", None, "the file is empty"),
        ("sub/b.txt", "two", None),
    ]


CONVERSATION = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def test_conversations_come_from_lists_and_from_json_text(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", chat=[CONVERSATION])
    write(tmp_path / "b" / "b.parquet", chat=[json.dumps(CONVERSATION)])
    for path in (tmp_path / "a.parquet", tmp_path / "b"):
        assert [row["content"] for row in rows(opened(path, messages_column="chat"))] == [CONVERSATION]


BAD_CHATS = [
    (None, "chat is null"),
    ([], "chat has no message"),
    ("not json", "chat is text, but not a JSON list"),
    ([{"role": "system", "content": "x"}], r"chat\[0\].role is 'system', not user or assistant"),
    ([{"role": "user"}], r"chat\[0\].content is null"),
    (["x"], r"chat\[0\] is text, not an object"),
    ([{"role": "user", "content": " "}], "the last message is empty"),
]


@pytest.mark.parametrize(("cell", "reason"), BAD_CHATS)
def test_a_bad_conversation_is_a_fault(tmp_path: Path, cell: object, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"chat": cell}) + "\n")
    found = rows(opened(path, format="jsonl", messages_column="chat"))
    assert re.search(reason, found[0]["fault"])


def test_what_cannot_be_read_at_all_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="nowhere: no such file"):
        opened(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"no parquet file in it"):
        opened(tmp_path)
    broken = tmp_path / "a.parquet"
    broken.write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(CorpusError, match=r"a\.parquet: is not a readable Parquet file"):
        opened(tmp_path)
    write(broken, body=["x"], n=[1])
    with pytest.raises(
        CorpusError, match=r"a\.parquet: has no column text \(input\.text_column\); its columns are body, n"
    ):
        opened(tmp_path)
    with pytest.raises(CorpusError, match=r"column n \(input\.text_column\) is int64, and has to be text"):
        opened(tmp_path, text_column="n")
    with pytest.raises(CorpusError, match="has no column lang, which the score table is to carry"):
        opened(tmp_path, ("lang",), text_column="body")


def test_a_key_that_no_json_object_has_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{broken\n{"body": "x", "id": 1}\n')
    with pytest.raises(CorpusError, match=r"a\.jsonl: no object has the key text \(input\.text_column\); .* body, id"):
        opened(path, format="jsonl")
    path.write_text('[\n  "a",\n  "b"\n]\n')
    with pytest.raises(CorpusError, match="its first lines hold no JSON object"):
        opened(path, format="jsonl")
    path.write_text('{"body": "x"}\n' * 99 + '{"text": "late, but here"}\n')
    assert len(rows(opened(path, format="jsonl"))) == 100


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text,n\xe9\n1,hello,x\n")
    with pytest.raises(CorpusError, match=r"a\.csv: has no CSV header: the names are not valid UTF-8"):
        opened(path, format="csv")
    path.write_bytes(b"")
    with pytest.raises(CorpusError, match=r"a\.csv: has no CSV header: the file is empty"):
        opened(path, format="csv")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "ok.txt").write_text("x")
    with open(bytes(tmp_path / "b") + b"/n\xe9.txt", "w"):
        pass
    with pytest.raises(CorpusError, match="a file name in it is not valid UTF-8"):
        opened(tmp_path / "b", format="text")


def test_a_compressed_file_that_is_cut_short_is_an_error_and_not_a_short_corpus(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"text": "x" * 1000}).encode() * 1000)[:-20])
    with pytest.raises(CorpusError, match=r"a\.jsonl\.gz: cannot be read as jsonl"):
        rows(opened(path, format="jsonl"))


@pytest.mark.parametrize(
    ("kind", "suffix", "bad"),
    [
        ("parquet", ".parquet", b"PAR1 nothing PAR1"),
        ("csv", ".csv", b""),
        ("csv", ".csv", b"id,text,n\xe9\n1,hello,x\n"),
        ("jsonl", ".jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 1000, mtime=0)[:-20]),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_or_skipped_and_named(
    tmp_path: Path, kind: str, suffix: str, bad: bytes
) -> None:
    for name in ("b", "c"):
        write(tmp_path / "good.parquet", text=[name])
        good = {"parquet": (tmp_path / "good.parquet").read_bytes(), "csv": f"text\n{name}\n".encode()}
        good["jsonl"] = gzip.compress(f'{{"text": "{name}"}}\n'.encode())
        (tmp_path / "good.parquet").unlink()
        (tmp_path / f"{name}{suffix}").write_bytes(good[kind])
    (tmp_path / f"a{suffix}").write_bytes(bad)
    with pytest.raises(CorpusError, match=f"a{re.escape(suffix)}: "):
        opened(tmp_path, format=kind)
    corpus = opened(tmp_path, format=kind, on_bad_file="skip")
    ((path, reason),) = corpus.bad
    assert path == f"{tmp_path}/a{suffix}"
    assert reason.startswith(path)
    assert [row["content"] for row in rows(corpus)] == ["b", "c"]


def test_a_corpus_without_any_readable_file_is_an_error(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CorpusError, match=r"a\.csv: has no CSV header"):
        opened(tmp_path, format="csv", on_bad_file="skip")


def test_equal_ids_have_equal_hashes_and_are_found_again(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", doc_id=["x", "y", "x"], text=["1", "2", "3"])
    corpus = opened(tmp_path, id_column="doc_id")
    (part,) = corpus.parts
    hashes = corpus.reader.id_hashes(part)
    assert hashes[0] == hashes[2] != hashes[1]
    found = corpus.reader.find_ids(part, np.unique(hashes[:1]))
    assert found == [("x", f"{tmp_path}/a.parquet row 0"), ("x", f"{tmp_path}/a.parquet row 2")]


def test_an_id_is_found_where_its_row_is_although_lines_before_it_are_blank(tmp_path: Path) -> None:
    lines = ['{"id": "x", "text": "1"}', "", "", '{"id": "y", "text": "2"}', '{"id": "x", "text": "3"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    corpus = opened(tmp_path, format="jsonl", id_column="id")
    (part,) = corpus.parts
    found = corpus.reader.find_ids(part, corpus.reader.id_hashes(part)[:1])
    (table,) = corpus.reader.tables(part, 10)
    rows = [key & ((1 << 40) - 1) for key in table["row_key"].to_pylist()]
    assert found == [("x", f"{tmp_path}/a.jsonl row {rows[0]}"), ("x", f"{tmp_path}/a.jsonl row {rows[2]}")]
    assert rows[2] == 4
