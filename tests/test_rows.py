"""The score table's schema and the arrays that fill it."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest

from confscore.rows import TOP_ANSWERS, Columns, Score, TopAnswer, score_schema, scores_to_arrays

CODES = ("S1", "S2", "S10")
FIXED = ["doc_id", "status", "error", "chunks", "truncated", "answer", "p_any", "p_max"]
COUNTS = ["residual", "off_grammar", "requests", "prompt_tokens"]
EVERYTHING = Columns(
    CODES,
    bounds=True,
    estimators=("conditional", "joint"),
    top_answers=True,
    carried=(pa.field("lang", pa.string()), pa.field("date", pa.date32())),
)


def scored(doc_id: str = "a", **changes: object) -> Score:
    given: dict[str, object] = {
        "status": "scored",
        "chunks": 2,
        "answer": ("S1", "S10"),
        "p_any": 0.75,
        "probs": np.array([0.5, 1e-30, 0.25]),
        "residual": 0.01,
        "off_grammar": 1e-9,
        "requests": 3,
        "prompt_tokens": 120,
        "lower": np.array([0.4, 0.0, 0.2]),
        "upper": np.array([0.6, 0.1, 0.3]),
        "estimates": {"conditional": np.array([0.9, 0.0, 0.8]), "joint": np.array([0.5, 0.0, 0.4])},
        "top_answers": (TopAnswer(("S1", "S10"), 0.4), TopAnswer((), 0.25)),
    }
    return Score(doc_id, **given | changes)


FAILED = Score("bad", "error", error="empty text")


def test_columns_come_in_the_order_of_the_design() -> None:
    assert score_schema(Columns(CODES)).names == [
        *FIXED,
        *("p_S1", "p_S2", "p_S10"),
        *COUNTS,
        *("run_id", "scored_at"),
    ]


def test_extras_stand_between_counts_and_carried_columns() -> None:
    extras = [f"{name}_{code}" for name in ("lower", "upper", "conditional", "joint") for code in CODES]
    assert score_schema(EVERYTHING).names == [
        *FIXED,
        *("p_S1", "p_S2", "p_S10"),
        *COUNTS,
        *extras,
        "top_answers",
        *("lang", "date"),
        *("run_id", "scored_at"),
    ]


def test_probabilities_are_float32_and_have_a_unit() -> None:
    schema = score_schema(EVERYTHING)
    prefixes = ("p_", "lower_", "upper_", "conditional_", "joint_")
    probabilities = [field for field in schema if field.name.startswith(prefixes)]
    probabilities += [schema.field("residual"), schema.field("off_grammar")]
    assert len(probabilities) == 2 + 5 * len(CODES) + 2
    for field in probabilities:
        assert field.type == pa.float32(), field.name
        assert field.metadata[b"unit"] == b"probability", field.name
    assert TOP_ANSWERS.value_type.field("prob").type == pa.float32()


def test_types_and_nulls() -> None:
    schema = score_schema(Columns(CODES))
    types = {field.name: field.type for field in schema}
    assert types["doc_id"] == types["status"] == types["error"] == types["run_id"] == pa.string()
    assert types["chunks"] == types["requests"] == types["prompt_tokens"] == pa.int32()
    assert types["truncated"] == pa.bool_()
    assert types["answer"] == pa.list_(pa.string())
    assert types["scored_at"] == pa.timestamp("us", tz="UTC")
    required = {field.name for field in schema if not field.nullable}
    assert required == {"doc_id", "status", "chunks", "truncated", "requests", "prompt_tokens", "run_id", "scored_at"}


@pytest.mark.parametrize("columns", [Columns(CODES), Columns(CODES, bounds=True), EVERYTHING])
@pytest.mark.parametrize("scores", [[], [FAILED], [scored(), FAILED, scored("b")]], ids=["none", "failed", "mixed"])
def test_scores_fit_the_schema(columns: Columns, scores: list[Score]) -> None:
    schema = score_schema(columns)
    arrays = scores_to_arrays(scores, columns)
    carried = {field.name: pa.nulls(len(scores), field.type) for field in columns.carried}
    now = datetime.datetime.now(datetime.UTC)
    run = {
        "run_id": pa.array(["r"] * len(scores), pa.string()),
        "scored_at": pa.array([now] * len(scores), schema.field("scored_at").type),
    }
    table = pa.table(arrays | carried | run, schema=schema)
    table.validate(full=True)
    assert table.num_rows == len(scores)
    assert [name for name in arrays if name not in schema.names] == []
    for field in schema:
        if not field.nullable:
            assert table[field.name].null_count == 0


def test_values_arrive() -> None:
    arrays = scores_to_arrays([scored()], EVERYTHING)
    row = {name: array[0].as_py() for name, array in arrays.items()}
    assert (row["doc_id"], row["status"], row["error"]) == ("a", "scored", None)
    assert (row["chunks"], row["truncated"], row["requests"], row["prompt_tokens"]) == (2, False, 3, 120)
    assert row["answer"] == ["S1", "S10"]
    assert (row["p_any"], row["p_max"], row["p_S1"], row["p_S10"]) == (0.75, 0.5, 0.5, 0.25)
    assert row["p_S2"] == pytest.approx(1e-30, rel=1e-6), "tails are kept"
    assert row["residual"] == pytest.approx(0.01)
    assert row["upper_S2"] == pytest.approx(0.1)
    assert row["lower_S10"] == pytest.approx(0.2)
    assert row["conditional_S1"] == pytest.approx(0.9)
    assert row["joint_S10"] == pytest.approx(0.4)
    assert [top["categories"] for top in row["top_answers"]] == [["S1", "S10"], []]


def test_a_failed_row_has_nulls_and_not_zeros() -> None:
    arrays = scores_to_arrays([scored(), FAILED], EVERYTHING)
    row = {name: array[1].as_py() for name, array in arrays.items()}
    assert (row["doc_id"], row["status"], row["error"]) == ("bad", "error", "empty text")
    counts = {"doc_id", "status", "error", "chunks", "truncated", "requests", "prompt_tokens"}
    assert {name for name, value in row.items() if value is not None} == counts
    assert (row["chunks"], row["requests"], row["prompt_tokens"]) == (0, 0, 0)


def test_a_safe_answer_is_an_empty_list_and_not_a_null() -> None:
    assert scores_to_arrays([scored(answer=())], Columns(CODES))["answer"][0].as_py() == []
