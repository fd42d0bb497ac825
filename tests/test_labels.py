"""Label files of every kind say the same, and whatever is unclear in one is refused with its place."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from test_score_table import PROVENANCE

from confscore.errors import InputError, TableError
from confscore.labelled import find_estimators, label_scores
from confscore.labels import read_labels
from confscore.rows import Columns, Score, score_schema, scores_to_arrays
from confscore.score_table import PROVENANCE_KEY, write_parquet

CODES = ("S1", "S2", "S10")
IDS = ("a", "é", "17")
LISTS: list[list[str]] = [["S1", "S10"], [], ["S2"]]
TRUTH = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], dtype=bool)


def score_table(
    folder: Path,
    probs: dict[str, Sequence[float]],
    *,
    codes: Sequence[str] = CODES,
    failed: Sequence[str] = (),
    run: str = "run-1",
    extra: dict[str, pa.Array] | None = None,
) -> str:
    """Write one file of a score table as a run does: ``probs`` are by document id, error rows come last."""
    columns = Columns(tuple(codes))
    scores = [
        Score(doc_id, "scored", None, 1, False, (), 0.5, np.array(row), 0.0, 0.0, 1, 10)
        for doc_id, row in probs.items()
    ]
    scores += [Score(doc_id, "error", error="text is empty") for doc_id in failed]
    arrays = scores_to_arrays(scores, columns)
    arrays["run_id"] = pa.array([run] * len(scores))
    arrays["scored_at"] = pa.array([pd.Timestamp("2026-11-22", tz="UTC")] * len(scores), pa.timestamp("us", tz="UTC"))
    table = pa.table(arrays).select(score_schema(columns).names)
    for name, array in (extra or {}).items():
        table = table.append_column(name, array)
    provenance = PROVENANCE.model_copy(update={"categories": {code: code for code in codes}})
    table = table.replace_schema_metadata({PROVENANCE_KEY: provenance.model_dump_json().encode()})
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(table, fs.LocalFileSystem(), str(folder / f"{run}-00000.parquet"), 1000)
    return str(folder)


def jsonl(path: Path, records: Sequence[object]) -> str:
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def csv(path: Path, text: str) -> str:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def lists_in(folder: Path, kind: str) -> str:
    path = folder / f"labels.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"doc_id": IDS, "text": ["x"] * 3, "categories": LISTS}), path)
        return str(path)
    if kind.startswith("jsonl"):
        return jsonl(path, [{"doc_id": i, "categories": codes} for i, codes in zip(IDS, LISTS, strict=True)])
    return csv(path, 'doc_id,categories\na,"S1, S10"\né,\n17,S2\n')


def flags_in(folder: Path, kind: str) -> str:
    path = folder / f"flags.{kind}"
    if kind == "parquet":
        columns = {code: pa.array(TRUTH[:, j]) for j, code in enumerate(CODES)}
        pq.write_table(pa.table({"doc_id": IDS, **columns}), path)
        return str(path)
    if kind.startswith("jsonl"):
        rows = [dict(zip(CODES, row, strict=True)) for row in TRUTH.astype(int).tolist()]
        return jsonl(path, [{"doc_id": i, **row} for i, row in zip(IDS, rows, strict=True)])
    return csv(path, "doc_id,S10,S2,S1\na,1,0,true\né,0,FALSE,0\n17,0,1,False\n")


@pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz", "jsonl", "jsonl.gz"])
def test_every_kind_of_file_says_the_same(tmp_path: Path, kind: str) -> None:
    for path, column in ((lists_in(tmp_path, kind), "categories"), (flags_in(tmp_path, kind), None)):
        labels = read_labels(path, CODES, label_column=column)
        assert labels.ids == IDS
        assert labels.codes == CODES
        np.testing.assert_array_equal(labels.truth, TRUTH)


def test_whole_numbers_are_ids_and_flags(tmp_path: Path) -> None:
    table = pa.table({"n": [3, 1], "S1": pa.array([1, 0], pa.int8()), "S2": [0.0, 1.0], "S10": [False, True]})
    pq.write_table(table, tmp_path / "labels.parquet")
    labels = read_labels(str(tmp_path / "labels.parquet"), CODES, id_column="n")
    assert labels.ids == ("3", "1")
    np.testing.assert_array_equal(labels.truth, [[1, 0, 0], [0, 1, 1]])


def test_more_rows_than_a_chunk_keep_their_order(tmp_path: Path) -> None:
    truth = np.random.default_rng(0).random((70_000, 3)) < 0.3
    columns = {code: truth[:, j] for j, code in enumerate(CODES)}
    pq.write_table(pa.table({"doc_id": range(70_000), **columns}), tmp_path / "l.parquet", row_group_size=10_000)
    labels = read_labels(str(tmp_path / "l.parquet"), CODES)
    assert labels.ids == tuple(str(i) for i in range(70_000))
    np.testing.assert_array_equal(labels.truth, truth)


@pytest.mark.parametrize(
    ("records", "column", "sentence"),
    [
        ([{"doc_id": "a", "c": ["S1"]}, {"doc_id": "b", "c": ["S99"]}], "c", r"row 1 \(document 'b'\): c has the unk"),
        ([{"doc_id": "a", "c": "S1,"}], "c", r"unknown code ''; the codes are S1, S2, S10"),
        ([{"doc_id": "a", "c": ["S1", None]}], "c", r"unknown code null"),
        ([{"doc_id": "a", "c": None}], "c", r"row 0 \(document 'a'\): c is null; a document without a category has"),
        ([{"doc_id": "a", "c": 3}], "c", r"c is 3, not a list of category codes"),
        ([{"doc_id": "a", "c": []}, {"doc_id": "a", "c": []}], "c", r"row 1: 'a' is labelled in row 0 already"),
        ([{"doc_id": None, "c": []}], "c", r"row 0: doc_id is null, so the label belongs to no document"),
        ([{"doc_id": "", "c": []}], "c", r"row 0: doc_id is empty"),
        ([{"doc_id": 1.5, "c": []}], "c", r"row 0: doc_id is a number, not text"),
        ([{"doc_id": "a", "S1": 1, "S2": 2, "S10": 0}], None, r"row 0 \(document 'a'\): the label of S2 is 2; it has"),
        ([{"doc_id": "a", "S1": 1, "S2": 0.5, "S10": 0}], None, r"the label of S2 is 0\.5; it has to be 0 or 1"),
        ([{"doc_id": "a", "S1": 1, "S2": None, "S10": 0}], None, r"the label of S2 is null; it has to be 0 or 1"),
        ([{"doc_id": "a", "S1": 1, "S2": "yes", "S10": 0}], None, r"the label of S2 is 'yes'; it has to be 0 or 1"),
        ([{"doc_id": "a", "S1": 1, "S2": [1], "S10": 0}], None, r"the label of S2 is \[1\]; it has to be 0 or 1"),
        ([{"doc_id": "a", "S1": 1, "S2": 1}], None, r"has no column S10 \(--label-column names .* columns are S1, S2,"),
        ([{"doc_id": "a", "c": []}], "labels", r"has no column labels; its columns are c, doc_id"),
        ([{"doc_id": "a"}], "doc_id", r"ids, labels and inclusion probabilities have to be in columns of their own"),
        ([{"doc_id": "a", "c": []}, [1]], "c", r"row 1: the line is JSON, but not an object"),
        ([[1]], "c", r"its first lines hold no JSON object"),
    ],
)
def test_what_is_unclear_is_refused(
    tmp_path: Path, records: Sequence[object], column: str | None, sentence: str
) -> None:
    path = jsonl(tmp_path / "labels.jsonl", records)
    with pytest.raises(InputError, match=sentence) as caught:
        read_labels(path, CODES, label_column=column)
    assert str(caught.value).startswith(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("doc_id,S1,S2,S10\na,1,,0\n", r"row 0 \(document 'a'\): the label of S2 is null"),
        ("doc_id,S1,S2,S10\na,1,0,0\nb,1,0\n", r"row 1: the row has 3 fields where the header has 4"),
        ("doc_id,S1,S1,S2,S10\na,1,0,0,0\n", r"has more than one column S1"),
        ("doc_id,S1,S2,S10\n,1,0,0\n", r"row 0: doc_id is empty"),
        ("doc_id,S1,S2,S10\n", r"has no row, so there is no label"),
        ("id,S1,S2,S10\na,1,0,0\n", r"has no column doc_id; its columns are id, S1, S2, S10"),
    ],
)
def test_what_is_unclear_in_csv_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = csv(tmp_path / "labels.csv", text)
    with pytest.raises(InputError, match=sentence):
        read_labels(path, CODES)


def test_what_is_no_label_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels\.xlsx: is not named like a label file \(\.parquet, "):
        read_labels(str(tmp_path / "labels.xlsx"), CODES)
    with pytest.raises(InputError, match=r"none\.csv: no such label file"):
        read_labels(str(tmp_path / "none.csv"), CODES)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"folder\.csv: is no file"):
        read_labels(str(tmp_path / "folder.csv"), CODES)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"broken\.parquet: is not a readable Parquet file"):
        read_labels(str(tmp_path / "broken.parquet"), CODES)


def test_estimators_are_the_prefixes_that_every_code_has() -> None:
    names = ["p_max", "p_any", *(f"{x}_{code}" for x in ("p", "lower", "upper", "joint") for code in CODES)]
    names += ["conditional_S1", "conditional_S2", "paper_joint_S1", "paper_joint_S2", "paper_joint_S10"]
    fields = [pa.field(name, pa.float32()) for name in names]
    fields += [pa.field(f"truth_{code}", pa.bool_()) for code in CODES]  # a column that was carried through
    assert find_estimators(pa.schema(fields), CODES) == {
        "marginal": "p",
        "joint": "joint",
        "paper_joint": "paper_joint",
    }


def test_scores_and_labels_meet_by_id_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    probs = {"x": (0.1, 0.2, 0.3), "17": (0.4, 0.5, 0.6), "a": (0.7, 0.8, 0.9)}
    joint = {f"joint_{code}": pa.array([0.0, 0.25, 0.5, None], pa.float32()) for code in CODES}
    scores = score_table(tmp_path / "scores" / "date=2026-11-22", probs, failed=["broken"], extra=joint)
    records = [{"doc_id": i, "c": c} for i, c in (("a", ["S1"]), ("gone", []), ("broken", []), (17, ["S2", "S10"]))]
    labels = jsonl(tmp_path / "labels.jsonl", records)
    labelled = label_scores(str(Path(scores).parent), labels, label_column="c")
    assert labelled.codes == CODES
    assert labelled.table["doc_id"].to_pylist() == ["a", "17"]
    assert (labelled.failed, labelled.unlabelled, labelled.unscored) == (1, 1, 1)
    np.testing.assert_array_equal(labelled.truth, [[1, 0, 0], [0, 1, 1]])
    assert list(labelled.prefixes) == ["marginal", "joint"]
    np.testing.assert_array_equal(labelled.scores("marginal"), np.float32([[0.7, 0.8, 0.9], [0.4, 0.5, 0.6]]))
    np.testing.assert_array_equal(labelled.scores("joint"), [[0.5] * 3, [0.25] * 3])
    assert list(label_scores(str(Path(scores).parent), labels, label_column="c", estimators=["joint"]).prefixes) == [
        "joint"
    ]


def test_a_document_of_two_runs_is_refused_until_a_run_is_chosen(tmp_path: Path) -> None:
    scores = score_table(tmp_path / "scores", {"a": (0.1, 0.1, 0.1), "b": (0.2, 0.2, 0.2)})
    score_table(tmp_path / "scores", {"a": (0.9, 0.9, 0.9)}, run="run-2")
    labels = jsonl(tmp_path / "labels.jsonl", [{"doc_id": "a", "c": ["S1"]}])
    with pytest.raises(TableError, match=r"'a' was scored by 2 runs \(run-1, run-2\); choose one with --run"):
        label_scores(scores, labels, label_column="c")
    chosen = label_scores(scores, labels, label_column="c", run="run-2")
    np.testing.assert_array_equal(chosen.scores("marginal"), np.float32([[0.9, 0.9, 0.9]]))
    assert chosen.unlabelled == 0
    with pytest.raises(TableError, match=r"has no run run-3; its runs are run-1, run-2"):
        label_scores(scores, labels, label_column="c", run="run-3")


def test_a_document_twice_in_one_run_is_refused(tmp_path: Path) -> None:
    scores = score_table(tmp_path / "scores", {"a": (0.1, 0.1, 0.1)}, failed=["a"])
    labels = jsonl(tmp_path / "labels.jsonl", [{"doc_id": "a", "c": ["S1"]}])
    with pytest.raises(TableError, match=r"document 'a' has several rows of run-1"):
        label_scores(scores, labels, label_column="c")


def test_scores_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    labels = jsonl(tmp_path / "labels.jsonl", [{"doc_id": i, "c": ["S1"]} for i in "abn"])
    bad = {f"joint_{code}": pa.array([0.5, None if code == "S2" else 0.5], pa.float32()) for code in CODES}
    scores = score_table(tmp_path / "null", {"a": (0.1, 0.1, 0.1), "b": (0.1, 0.1, 0.1)}, extra=bad)
    with pytest.raises(TableError, match=r"document 'b' is scored, and its joint_S2 is null or NaN"):
        label_scores(scores, labels, label_column="c")
    assert label_scores(scores, labels, label_column="c", estimators=["marginal"]).scores("marginal").shape == (2, 3)
    with pytest.raises(TableError, match=r"has no estimator greedy; its estimators are: marginal, joint"):
        label_scores(scores, labels, label_column="c", estimators=["greedy"])
    with pytest.raises(TableError, match=r"document 'n' is scored, and its p_S2 is null or NaN"):
        label_scores(score_table(tmp_path / "nan", {"n": (0.1, np.nan, 0.1)}), labels, label_column="c")


def test_labels_of_other_documents_are_refused(tmp_path: Path) -> None:
    labels = jsonl(tmp_path / "labels.jsonl", [{"doc_id": "z", "c": []}])
    scores = score_table(tmp_path / "scores", {"a": (0.1, 0.1, 0.1)})
    with pytest.raises(InputError, match=r"none of its ids in column doc_id .*'z' is labelled, 'a' is scored\)"):
        label_scores(scores, labels, label_column="c")
    failed = score_table(tmp_path / "failed", {}, failed=["z"])
    with pytest.raises(InputError, match=r"\('z' is labelled, no document is scored\)"):
        label_scores(failed, labels, label_column="c")
