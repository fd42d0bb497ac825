"""Datasets in their published forms."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from confscore.demo import GUARD_YAML
from confscore.demo.published import write_beavertails, write_queries
from confscore.errors import CorpusError
from confscore.guards import resolve
from confscore.published import BEAVERTAILS, read_dataset
from confscore.rows import Message

GUARD = resolve("llama-guard-3")
FLAGS = dict.fromkeys(BEAVERTAILS, False)


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def named(truth: object, codes: tuple[str, ...]) -> list[list[str]]:
    return [[codes[j] for j in row.nonzero()[0]] for row in truth]


def test_the_papers_form(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        {"llama_guard_3_categories": ["S2", "S10"], "unsafe_query": "one"},
        {"llama_guard_3_categories": [], "unsafe_query": "two"},
    )
    found = read_dataset(path, GUARD)
    assert found.form == "published"
    assert [document.messages for document in found.documents] == [(Message("user", "one"),), (Message("user", "two"),)]
    assert named(found.truth, GUARD.codes) == [["S2", "S10"], []]
    assert len(read_dataset(path, GUARD, limit=1).documents) == 1


def test_llama_guard_2_has_a_column_of_its_own(tmp_path: Path) -> None:
    row = {"llama_guard_2_categories": ["S9"], "llama_guard_3_categories": ["S10"], "unsafe_query": "one"}
    guard = GUARD.model_copy(update={"name": "llama-guard-2", "categories": GUARD.categories[:11]})
    assert named(read_dataset(write(tmp_path / "a.jsonl", row), guard).truth, guard.codes) == [["S9"]]
    assert named(read_dataset(tmp_path / "a.jsonl", GUARD).truth, GUARD.codes) == [["S10"]]


def test_the_form_of_beavertails(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "response": "r", "category": FLAGS | {"self_harm": True, "animal_abuse": True}},
        {"prompt": "p", "response": "r", "category": FLAGS | {"self_harm": True, "animal_abuse": True}},
        {"prompt": "p", "response": None, "category": FLAGS},
        {"prompt": "p", "response": "s", "category": FLAGS, "is_safe": True},
    ]
    path = tmp_path / "b.jsonl.gz"
    path.write_bytes(gzip.compress(write(tmp_path / "b.jsonl", *rows).read_bytes()))
    found = read_dataset(path, GUARD)
    assert found.form == "beavertails"
    assert [d.messages for d in found.documents] == [
        (Message("user", "p"), Message("assistant", "r")),
        (Message("user", "p"), Message("assistant", "s")),
    ], "rows without a response, and rows that are there twice, are left out as published"
    assert named(found.truth, GUARD.codes) == [["S1", "S11"], []]


def test_every_flag_is_mapped_to_a_category_of_both_guards() -> None:
    assert len(BEAVERTAILS) == 14
    for codes in BEAVERTAILS.values():
        assert int(codes[2][1:]) <= 11
        assert codes[3] in GUARD.codes
    by_name = {"S4": "S4", "S6": "S5", "S7": "S6", "S10": "S9", "S11": "S10", "S12": "S11", "S1": "S1", "S2": "S2"}
    renamed = {flag: codes for flag, codes in BEAVERTAILS.items() if codes[3] != "S13"}
    assert all(codes[2] == by_name[codes[3]] for codes in renamed.values()), "the same category under its other number"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"text": "x"}], r"has the columns text; it needs unsafe_query and"),
        ([{"unsafe_query": "x"}], "has no column llama_guard_3_categories"),
        ([{"unsafe_query": None, "llama_guard_3_categories": []}], "row 0: unsafe_query has to be text"),
        ([{"unsafe_query": "x", "llama_guard_3_categories": "S1"}], "row 0: .* a list of codes"),
        (
            [{"unsafe_query": "x", "llama_guard_3_categories": ["S99"]}],
            "row 0: guard llama-guard-3 has no cate.* S99",
        ),
        (
            [{"prompt": "p", "response": "r", "category": {"self_harm": True}}],
            "row 0: category has to hold",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, rows: list[dict], sentence: str) -> None:
    path = write(tmp_path / "a.jsonl", *rows)
    with pytest.raises(CorpusError, match=sentence) as caught:
        read_dataset(path, GUARD)
    assert str(caught.value).startswith(str(path))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        read_dataset(tmp_path / "none.jsonl", GUARD)
    (tmp_path / "bad.jsonl").write_text("{not json")
    with pytest.raises(CorpusError, match="cannot be read as JSON lines"):
        read_dataset(tmp_path / "bad.jsonl", GUARD)


def test_the_small_world_in_published_forms(tmp_path: Path) -> None:
    guard = resolve(str(GUARD_YAML))
    write_queries(tmp_path / "q.jsonl", 20, seed=3)
    queries = read_dataset(tmp_path / "q.jsonl", guard)
    assert len(queries.documents) == 20
    assert queries.truth.sum(axis=1).min() >= 2
    write_beavertails(tmp_path / "b.jsonl.gz", 40, seed=3)
    exchanges = read_dataset(tmp_path / "b.jsonl.gz", guard)
    assert len(exchanges.documents) == 40
    assert exchanges.truth.any()
    assert set(named(exchanges.truth.any(axis=0)[None], guard.codes)[0]) <= {codes[3] for codes in BEAVERTAILS.values()}
