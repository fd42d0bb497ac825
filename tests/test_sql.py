"""Views: DuckDB runs them and agrees with the flags that are written; the other dialects are parsed."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
from lake import BOTH, Lake
from pyarrow import fs
from scipy.special import expit
from sqlglot import exp
from test_apply import NINE, RULES, edge_table, invoke
from test_fitted import VERSION_1
from test_labels import CODES, score_table

from confscore.apply import apply
from confscore.curves import Curve, Identity, Isotonic, Logistic
from confscore.errors import InputError
from confscore.rules import Rule
from confscore.score_table import open_table, write_parquet
from confscore.sql import DIALECTS, Dialect, make_view

CURVES: tuple[Curve, ...] = (
    Identity(),
    Logistic(intercept=-0.7, slope=0.66),
    Logistic(intercept=3, slope=9),
    Logistic(intercept=-2.5, slope=0),
    Isotonic(scores=(0.0, 0.25, 0.2500001, 0.9, 1.0), probs=(1e-3, 1e-3, 0.4, 0.4, 0.97)),
    Isotonic(scores=(0.5,), probs=(0.25,)),
)
POINTS = np.array([0.0, 1.0, 2**-149, 2**-26, 2**-25, 1 - 2**-24, 0.25, 0.2500001, 0.9, NINE, 0.5], dtype=np.float32)


def test_the_view_agrees_with_the_flags_on_every_row(tmp_path: Path) -> None:
    scores, _ = edge_table(tmp_path / "scores", 2000)
    for number, rules in enumerate((RULES, RULES[1:2], RULES[2:], tuple(_with_curves()))):
        flags = tmp_path / f"flags-{number}.parquet"
        apply(scores, str(flags), rules, probabilities=True)
        connection = duckdb.connect()
        connection.execute(make_view(rules, "flags", "duckdb", path=scores))
        names = [name for name in pq.read_schema(flags).names if name not in ("doc_id", "run_id")]
        view = connection.sql(f"SELECT {', '.join(names)} FROM flags ORDER BY doc_id").to_arrow_table()
        written = pq.read_table(flags).sort_by("doc_id")
        assert view.num_rows == 2001
        for name in names:
            if name.startswith("calibrated"):
                left, right = (each[name].to_numpy(zero_copy_only=False) for each in (view, written))
                np.testing.assert_allclose(left, right, rtol=1e-12)
            else:
                assert view[name].to_pylist() == written[name].to_pylist(), name


def _with_curves() -> list[Rule]:
    return [
        Rule(code, "threshold", limit, curve)
        for code, limit, curve in zip(CODES, (0.0, 1.0, 2.0**-149), (CURVES[4], CURVES[2], CURVES[3]), strict=True)
    ]


@pytest.mark.parametrize("curve", CURVES, ids=str)
def test_every_curve_is_the_same_in_sql(curve: Curve) -> None:
    rng = np.random.default_rng(0)
    drawn = expit(rng.normal(0, 12, 5000)).astype(np.float32)
    column = pa.array([*POINTS.tolist(), *drawn.tolist(), None], pa.float32())
    scores = pa.table({"p_S1": column, "p_max": column})
    connection = duckdb.connect()
    connection.register("scores", scores)
    connection.execute(make_view([Rule("S1", "threshold", NINE, curve)], "v", "duckdb", table="scores"))
    found = connection.sql("SELECT p_S1, calibrated_S1, flag_S1 FROM v WHERE p_S1 IS NOT NULL").fetchnumpy()
    np.testing.assert_allclose(found["calibrated_S1"], curve.prob(found["p_S1"].astype(np.float64)), rtol=1e-12)
    np.testing.assert_array_equal(found["flag_S1"], found["p_S1"] >= np.float32(NINE))
    assert connection.sql("SELECT calibrated_S1, flag_S1, flagged FROM v WHERE p_S1 IS NULL").fetchall() == [
        (None, None, None)
    ]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_says_the_same(dialect: Dialect) -> None:
    rules = [*RULES, *_with_curves()]
    view = make_view(rules, "lake.audit.flags", dialect, table="lake.audit.scores")
    (parsed,) = sqlglot.parse(view, read=dialect)
    assert isinstance(parsed, exp.Create)
    assert parsed.this.sql() == exp.to_table("lake.audit.flags").sql(identify=True)
    same = sqlglot.parse_one(make_view(rules, "lake.audit.flags", "duckdb", table="lake.audit.scores"), read="duckdb")
    literals, columns = (
        [sorted(each.name for each in tree.find_all(kind)) for tree in (parsed, same)]
        for kind in (exp.Literal, exp.Column)
    )
    assert literals[0] == literals[1]
    assert columns[0] == columns[1]
    assert all("e" in each.name for each in parsed.find_all(exp.Literal))  # a number without an exponent is a decimal
    assert not list(parsed.find_all(exp.Anonymous))
    known = {"case", "cast", "trycast", "if", "ln", "exp", "and", "or"}
    assert {each.key for each in parsed.find_all(exp.Func)} <= known


def test_files_are_read_where_an_engine_reads_files() -> None:
    assert "READ_PARQUET('/lake/scores/**/*.parquet'" in make_view(RULES, "v", "duckdb", path="/lake/scores/")
    assert "READ_PARQUET('s3://b/x''y/a.parquet'" in make_view(RULES, "v", "duckdb", path="s3://b/x'y/a.parquet")
    assert "FROM `parquet`.`/lake/scores`" in make_view(RULES, "v", "spark", path="/lake/scores")
    with pytest.raises(InputError, match="Trino reads tables of a catalog; name the score table with --table"):
        make_view(RULES, "v", "trino", path="/lake/scores")
    with pytest.raises(InputError, match="there is nothing to read from; name the score table with --table"):
        make_view(RULES, "v", "duckdb")
    for name in ("a(b)", "", "a.b.c.d"):
        with pytest.raises(InputError, match="is no name of a table"):
            make_view(RULES, name, "duckdb", table="scores")


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?", "a]{1}"])
def test_a_path_is_a_name_and_no_pattern(tmp_path: Path, name: str) -> None:
    for folder, doc_id in ((name, "own"), ("a1", "other")):  # which most of these patterns match
        score_table(tmp_path / folder, {doc_id: (0.95, 0.1, 0.1)})
    path = str(tmp_path / name)
    for source in (path, f"{path}/run-1-00000.parquet"):
        connection = duckdb.connect()
        connection.execute(make_view(RULES, "v", "duckdb", path=source))
        assert connection.sql("SELECT doc_id FROM v").fetchall() == [("own",)]
    with pytest.raises(InputError, match="Spark would take it for a pattern; name the score table with --table"):
        make_view(RULES, "v", "spark", path=path)


@pytest.mark.parametrize("column", ["flagged", "Flag_S1"])
def test_a_column_of_the_corpus_is_not_taken_for_a_flag(tmp_path: Path, column: str) -> None:
    carried = {column: pa.array([False])}
    scores = score_table(tmp_path / "scores", {"a": (0.95, 0.1, 0.1)}, extra=carried)
    done = invoke("sql", "--scores", scores, "--threshold", "0.9")
    assert done.exit_code == 2
    assert f"has a column {column.lower()} of its own, which a view cannot have twice" in done.output
    assert invoke("sql", "--scores", scores, "--threshold", "S2=0.9").exit_code == (2 if column == "flagged" else 0)


@BOTH
def test_a_view_of_a_table_of_another_format_asks_for_its_name(tmp_path: Path, kind: str) -> None:
    lake = Lake(tmp_path, kind)
    lake.publish(0)
    done = invoke("sql", "--scores", lake.output, "--threshold", "0.2")
    assert done.exit_code == 2
    assert f"is a table of {kind}, and a view over its files may have rows twice; name the table" in done.output
    done = invoke("sql", "--scores", lake.output, "--threshold", "0.2", "--table", "lake.scores")
    assert done.exit_code == 0, done.output
    assert 'FROM "lake"."scores"' in done.output


def test_codes_of_any_spelling_are_columns(tmp_path: Path) -> None:
    codes = ('a"b', "c d;--", "é'")
    scores = score_table(tmp_path / "scores", {"x": (0.95, 0.1, 0.1), "y": (0.1, 0.1, 0.95)}, codes=codes)
    rules = [Rule(code, "threshold", NINE, Identity()) for code in codes]
    connection = duckdb.connect()
    connection.execute(make_view(rules, "v", "duckdb", path=scores))
    rows = connection.sql('SELECT doc_id, flagged, "flag_a""b", "flag_é\'" FROM v ORDER BY doc_id').fetchall()
    assert rows == [("x", True, True, False), ("y", True, False, True)]
    for dialect in DIALECTS:
        sqlglot.parse(make_view(rules, "v", dialect, table="t"), read=dialect)


def test_row_groups_below_every_threshold_are_not_read(tmp_path: Path) -> None:
    scores, _ = edge_table(tmp_path / "scores", 4000)
    (path,) = Path(scores).glob("*.parquet")
    table = open_table(scores).to_table().slice(0, 4000).sort_by([("p_max", "descending")])
    write_parquet(table, fs.LocalFileSystem(), str(path), 500)
    rules = [Rule(code, "threshold", float(np.float32(0.98))) for code in CODES]
    connection = duckdb.connect()
    connection.execute(make_view(rules, "v", "duckdb", path=scores))
    plan = connection.sql("EXPLAIN SELECT doc_id FROM v WHERE flagged").fetchall()[0][1]
    assert "p_max >= 0.98" in " ".join(plan.split())
    plan = connection.sql("EXPLAIN SELECT doc_id FROM v WHERE flag_S2").fetchall()[0][1]
    assert "p_S2 >= 0.98" in " ".join(plan.split())
    file = pq.ParquetFile(path)
    leaf = [file.schema.column(i).path for i in range(len(file.schema))].index("p_max")
    largest = [file.metadata.row_group(i).column(leaf).statistics.max for i in range(file.num_row_groups)]
    assert sum(value >= np.float32(0.98) for value in largest) < len(largest) / 2


def test_the_command_needs_no_fit_and_no_file(tmp_path: Path) -> None:
    done = invoke("sql", "--threshold", "S3=0.9", "--table", "lake.scores", "--dialect", "trino")
    assert done.exit_code == 0, done.output
    assert '"p_max" >= CAST(0.9e0 AS REAL) AND "p_S3" >= CAST(0.9e0 AS REAL) AS "flag_S3"' in done.output
    scores, _ = edge_table(tmp_path / "scores")
    done = invoke("sql", "--scores", scores, "--threshold", "S3=0.9")
    assert done.exit_code == 2
    assert "--threshold S3: is no category of the scores; they are S1, S2, S10" in done.output
    done = invoke("sql", "--scores", scores, "--threshold", "S10=0.9", "--name", "v")
    connection = duckdb.connect()
    connection.execute(done.output)
    assert connection.sql("SELECT count(*) FROM v WHERE flagged").fetchall()[0][0] > 0
    (tmp_path / "model.json").write_text(VERSION_1)
    done = invoke("sql", "--model", str(tmp_path / "model.json"), "--table", "t")
    assert done.exit_code == 0, done.output
    assert "calibrated_S2" in done.output
    assert "CAST(NULL AS BOOLEAN)" in done.output
