"""Flags beside a score table: every row, in order, and nothing that nobody knows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_fitted import VERSION_1
from test_labels import CODES, score_table
from typer.testing import CliRunner, Result

from confscore.apply import RULES_KEY, apply
from confscore.cli import app
from confscore.curves import Identity, Isotonic, Logistic
from confscore.decisions import COLUMNS, decide_batch
from confscore.errors import InputError, TableError
from confscore.fitted import load_model
from confscore.rows import TOP_ANSWERS, FloatArray
from confscore.rules import Rule, make_rules

NINE = float(np.float32(0.9))
RULES = (
    Rule("S1", "threshold", NINE, Logistic(intercept=-1, slope=0.5)),
    Rule("S2", "nothing", None, Isotonic(scores=(0.1, 0.6), probs=(0.2, 0.7))),
    Rule("S10", "abstained", None, Identity()),
)
EDGES = [0.0, 1.0, 2**-149, 1 - 2**-24, NINE, float(np.nextafter(np.float32(NINE), np.float32(0))), 0.5]
SETS = [[(["S1", "S2"], 0.6), ([], 0.4)], [([], 0.9), (["S10"], 0.1)], [], [(["S2"], 0.5), (["S10"], 0.5)]]


def edge_table(folder: Path, documents: int = 200) -> tuple[str, FloatArray]:
    """Return a score table with scores that are hard to compare, and its scores; the last row has failed."""
    probs = np.random.default_rng(2).random((documents, 3))
    probs[: len(EDGES)] = np.array(EDGES)[:, None]
    scores = score_table(folder, {f"d{i:04d}": row for i, row in enumerate(probs.tolist())}, failed=["broken"])
    return scores, np.vstack([probs.astype(np.float32).astype(np.float64), np.full((1, 3), np.nan)])


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_every_row_has_its_flags_in_the_order_of_the_table(tmp_path: Path) -> None:
    scores, probs = edge_table(tmp_path / "scores", 70_000)  # more than a batch
    flagged = apply(scores, str(tmp_path / "flags.parquet"), RULES, probabilities=True, about='{"by": "me"}')
    table = pq.read_table(tmp_path / "flags.parquet")
    assert table.column_names == [
        *("doc_id", "run_id", "calibrated_S1", "flag_S1", "calibrated_S2", "flag_S2", "calibrated_S10", "flag_S10"),
        "flagged",
    ]
    assert table["doc_id"].to_pylist() == [*(f"d{i:04d}" for i in range(70_000)), "broken"]
    assert set(table["run_id"].to_pylist()) == {"run-1"}
    expected = [None if np.isnan(score) else bool(score >= NINE) for score in probs[:, 0]]
    assert table["flag_S1"].to_pylist() == expected
    assert expected[1] is True
    assert expected[4:6] == [True, False]
    assert table["flagged"].to_pylist() == expected
    assert table["flag_S2"].to_pylist() == [False] * 70_000 + [None]
    assert table["flag_S10"].null_count == 70_001
    for j, rule in enumerate(RULES):
        assert rule.curve is not None
        calibrated = table[f"calibrated_{rule.code}"].to_numpy(zero_copy_only=False)
        np.testing.assert_array_equal(calibrated, rule.curve.prob(probs[:, j]))
    count = int((probs[:, 0] >= NINE).sum())
    assert (flagged.rows, flagged.failed, flagged.any) == (70_001, 1, count)
    assert flagged.categories == {"S1": count, "S2": 0, "S10": None}
    assert table.schema.metadata[RULES_KEY] == b'{"by": "me"}'


def test_where_nobody_knows_of_any_category_nobody_knows_of_a_document(tmp_path: Path) -> None:
    scores, _ = edge_table(tmp_path / "scores", 10)
    apply(scores, str(tmp_path / "flags.parquet"), RULES[2:])
    assert pq.read_table(tmp_path / "flags.parquet")["flagged"].null_count == 11


def test_one_run_can_be_flagged_by_itself(tmp_path: Path) -> None:
    scores = score_table(tmp_path / "scores", {"a": (0.95, 0.1, 0.1), "b": (0.2, 0.2, 0.2)})
    score_table(tmp_path / "scores", {"c": (0.1, 0.1, 0.1)}, run="run-2")
    assert apply(scores, str(tmp_path / "f.parquet"), RULES, run="run-1").rows == 2
    assert pq.read_table(tmp_path / "f.parquet")["doc_id"].to_pylist() == ["a", "b"]
    assert apply(scores, str(tmp_path / "f.parquet"), RULES).rows == 3  # and an earlier file is replaced
    with pytest.raises(TableError, match="has no row of run run-3"):
        apply(scores, str(tmp_path / "g.parquet"), RULES, run="run-3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.parquet", "scores"]


def test_flags_are_kept_out_of_the_score_table(tmp_path: Path) -> None:
    scores, _ = edge_table(tmp_path / "scores", 10)
    with pytest.raises(InputError, match="lies in the score table"):
        apply(scores, str(tmp_path / "scores" / "flags.parquet"), RULES)
    with pytest.raises(InputError, match=r"has to end in \.parquet"):
        apply(scores, str(tmp_path / "flags.csv"), RULES)
    with pytest.raises(InputError, match="cannot be written to"):
        apply(scores, str(tmp_path / "nowhere" / "flags.parquet"), RULES)
    with pytest.raises(TableError, match="has no column p_S99"):
        apply(scores, str(tmp_path / "flags.parquet"), [Rule("S99", "threshold", 0.5)])


def test_rules_of_the_command_line_come_before_those_of_a_fit(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(VERSION_1)
    model = load_model(str(tmp_path / "model.json"))
    curve = Logistic(intercept=-0.69, slope=0.67)
    assert make_rules(model)[0] == Rule("S1", "threshold", 0.5, curve)
    assert make_rules(model)[1].outcome == "abstained"
    (tmp_path / "edited.json").write_text(VERSION_1.replace('"threshold": 0.5', '"threshold": 0.9'))
    assert make_rules(load_model(str(tmp_path / "edited.json")))[0].threshold == NINE, "a score is a float32 number"
    first, second = make_rules(model, ["S2=0.9"])
    assert (first.threshold, second.threshold, second.outcome) == (0.5, NINE, "threshold")
    assert [rule.threshold for rule in make_rules(model, ["0.25", "S1=0.75"])] == [0.75, 0.25]
    assert make_rules(None, ["S3=0.9"]) == (Rule("S3", "threshold", NINE),)
    assert [rule.code for rule in make_rules(None, ["S2=0.5"], CODES)] == ["S2"]
    assert [rule.threshold for rule in make_rules(None, ["0.5", "S2=0.25"], CODES)] == [0.5, 0.25, 0.5]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is no rule to flag by; give --model, or --threshold CODE=P"),
        (["S3"], "--threshold S3: write it as CODE=P"),
        (["S3=90"], r"--threshold S3=90: write it as CODE=P, such as S3=0.9, with P in \[0, 1\]"),
        (["S3=nan"], "--threshold S3=nan: write it"),
        (["=0.5"], "--threshold =0.5: write it"),
        (["S1=0.5", "S1=0.6"], "--threshold S1=0.6: this is the second one for S1"),
        (["S3=0.5"], "--threshold S3: is no category of the scores; they are S1, S2, S10"),
    ],
)
def test_thresholds_that_cannot_be_understood_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_rules(None, words, CODES)
    with pytest.raises(InputError, match="which categories there are is not known here"):
        make_rules(None, ["0.5"])


def answers_table(folder: Path) -> str:
    rows = [[{"categories": codes, "prob": prob} for codes, prob in row] for row in SETS]
    tops = {"top_answers": pa.array([*rows, None], TOP_ANSWERS)}
    scores = score_table(folder, {f"d{i}": (0.5, 0.5, 0.5) for i in range(4)}, failed=["broken"], extra=tops)
    (path,) = Path(scores).glob("*.parquet")
    table = pq.read_table(path)
    none = pa.array([[], [], None, [], None], pa.list_(pa.string()))  # the third has found no answer in its budget
    pq.write_table(table.set_column(table.schema.get_field_index("answer"), "answer", none), path)
    return scores


def test_sets_are_decided_by_top_answers(tmp_path: Path) -> None:
    scores = answers_table(tmp_path / "scores")
    table = pq.read_table(next(Path(scores).glob("*.parquet")), columns=list(COLUMNS))
    for how in ("map", "expected-f1"):
        out = tmp_path / f"{how}.parquet"
        done = invoke("apply", "--scores", scores, "--decide", how, "--out", str(out))
        assert done.exit_code == 0, done.output
        found = pq.read_table(out)
        flags = np.stack([found[f"flag_{code}"].fill_null(False).to_numpy(zero_copy_only=False) for code in CODES], 1)
        np.testing.assert_array_equal(flags, decide_batch(table, CODES, how))
        assert found["flagged"].to_pylist()[0] is True
        assert found["flagged"].to_pylist()[1] is False
        assert found["flag_S1"].to_pylist()[4] is None
        assert json.loads(found.schema.metadata[RULES_KEY])["decide"] == how
    assert done.output.count("no threshold") == 0
    plain = score_table(tmp_path / "plain", {"a": (0.5, 0.5, 0.5)})
    done = invoke("apply", "--scores", plain, "--decide", "map", "--out", str(tmp_path / "f.parquet"))
    assert done.exit_code == 2
    assert "has no column top_answers; it is written with scoring.top_answers" in done.output
    done = invoke("apply", "--scores", scores, "--decide", "map", "--threshold", "0.5", "--out", "f.parquet")
    assert done.exit_code == 2
    assert "--decide chooses whole sets; it goes without --model" in done.output


def test_the_command_says_how_many_were_flagged(tmp_path: Path) -> None:
    scores, probs = edge_table(tmp_path / "scores")
    out = tmp_path / "flags.parquet"
    done = invoke("apply", "--scores", scores, "--threshold", "S2=0.25", "--threshold", "0.9", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "201 rows, 1 of status error" in done.output
    assert f" {int((probs[:, 1] >= 0.25).sum())} " in done.output
    about = json.loads(pq.read_schema(out).metadata[RULES_KEY])
    assert about["thresholds"] == {"S1": NINE, "S2": 0.25, "S10": NINE}
    nothing = invoke("apply", "--scores", scores, "--out", str(out))
    assert nothing.exit_code == 2
    assert "there is no rule to flag by" in nothing.output


def test_a_score_that_is_no_number_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    scores = score_table(tmp_path / "scores", {"good": [0.9, 0.1, 0.1], "bad": [0.1, float("nan"), 0.2]})
    with pytest.raises(TableError, match="document 'bad' has a p_S2 that is NaN; score it again"):
        apply(scores, str(tmp_path / "flags.parquet"), RULES)
    assert [path.name for path in tmp_path.iterdir()] == ["scores"]


def test_a_link_to_the_score_table_is_seen_through(tmp_path: Path) -> None:
    scores = score_table(tmp_path / "scores", {"d": [0.9, 0.1, 0.1]})
    (tmp_path / "link").symlink_to(tmp_path / "scores")
    for one, other in ((scores, "link"), (str(tmp_path / "link"), "scores")):
        with pytest.raises(InputError, match="lies in the score table"):
            apply(one, str(tmp_path / other / "flags.parquet"), RULES)
