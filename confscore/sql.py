"""A score table as a view with calibrated probabilities and flags, in plain SQL: no function has to be installed.

Thresholds are float32 constants, so they compare with the float32 scores as ``confscore apply`` does, to the last bit.
Every flag repeats its threshold for ``p_max``, which no score exceeds: files are sorted by it, so a reader skips the
row groups below, also where flags are joined by OR, which readers do not push down.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from sqlglot import exp
from sqlglot.errors import SqlglotError

from confscore.curves import Curve, Identity, Isotonic, Logistic
from confscore.errors import InputError
from confscore.rules import Rule
from confscore.words import printable

Dialect = Literal["duckdb", "spark", "trino"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)


def make_view(
    rules: Sequence[Rule],
    name: str,
    dialect: Dialect,
    table: str | None = None,
    path: str | None = None,
    known: Sequence[str] = (),
) -> str:
    """Return a statement that creates a view over a score table.

    The view has the table's columns, and for each rule ``calibrated_<code>``, where there was a fit, and
    ``flag_<code>``; then ``flagged``: any of them. All are null where a document has no scores, and the flags of a
    category without a threshold for want of labels are null, and count for nothing in ``flagged``.

    Parameters
    ----------
    rules : sequence of Rule
        What flags a document.
    name : str
        The view's name, with catalog and schema where that is wanted.
    dialect : {'duckdb', 'spark', 'trino'}
    table : str, optional
        The table's name in the engine.
    path : str, optional
        Where its files are, for engines that read files: a folder, or one file.
    known : sequence of str
        The table's columns, as far as they are known.

    Raises
    ------
    InputError
        A name cannot be understood, there is neither a table nor a path that the engine reads, or the table has a
        column with the name of one of the view's.
    """
    source = _source(table, path, dialect)
    columns: list[exp.Expr] = [exp.Star()]
    for rule in rules:
        if rule.curve is not None:
            columns.append(_named(_calibrated(rule.curve, _score(rule.code)), f"calibrated_{rule.code}"))
        columns.append(_named(_flag(rule), f"flag_{rule.code}"))
    columns.append(_named(_any_flag(rules), "flagged"))
    # DuckDB would give ours another name, and "WHERE flagged" would be about the corpus.
    taken = {each.lower() for each in known} & {each.alias.lower() for each in columns}
    if taken:
        raise InputError(
            f"the score table has a column {printable(min(taken))} of its own, which a view cannot have twice; leave "
            "it out of input.carry_columns, or write flags beside the table with confscore apply"
        )
    view = exp.Create(
        this=_table("--name", name, dialect),
        kind="VIEW",
        replace=True,
        expression=exp.select(*columns).from_(source),
    )
    return view.sql(dialect=dialect, identify=True, pretty=True, comments=False) + ";"


def _source(table: str | None, path: str | None, dialect: Dialect) -> exp.Expr:
    if table is not None:
        return _table("--table", table, dialect)
    if path is None or dialect == "trino":
        why = "Trino reads tables of a catalog" if dialect == "trino" else "there is nothing to read from"
        raise InputError(f"--dialect {dialect}: {why}; name the score table with --table")
    if dialect == "spark":
        if re.search(r"[*?\[\]{}]", path):
            raise InputError(f"{path}: Spark would take it for a pattern; name the score table with --table")
        return exp.Table(this=exp.to_identifier(path, quoted=True), db=exp.to_identifier("parquet"))
    # A name such as runs[1] is a pattern to DuckDB too, which other folders would match.
    name = re.sub(r"[*?\[]", r"[\g<0>]", path)
    glob = name if path.endswith(".parquet") else f"{name.rstrip('/')}/**/*.parquet"
    option = exp.EQ(this=exp.to_identifier("hive_partitioning"), expression=exp.true())
    return exp.Table(this=exp.Anonymous(this="read_parquet", expressions=[exp.Literal.string(glob), option]))


def _table(option: str, name: str, dialect: Dialect) -> exp.Table:
    try:
        found = exp.to_table(name, dialect=dialect)
    except (SqlglotError, ValueError):
        found = exp.Table()
    parts = {key for key, value in found.args.items() if value}
    if not found.name or not parts <= {"this", "db", "catalog"} or not isinstance(found.this, exp.Identifier):
        raise InputError(f"{option} {printable(name)}: is no name of a table in {dialect}")
    return found


def _score(code: str) -> exp.Expr:
    return exp.column(f"p_{code}", quoted=True)


def _named(value: exp.Expr, name: str) -> exp.Expr:
    return exp.alias_(value, name, quoted=True)


def _double(value: float) -> exp.Expr:
    """Return a constant that every dialect reads as a double, because it has an exponent, and as this very one."""
    digits = repr(abs(value))
    literal = exp.Literal.number(digits if "e" in digits else f"{digits}e0")
    return literal if value >= 0 else exp.Neg(this=literal)


def _real(value: float) -> exp.Expr:
    short = float(str(np.float32(value)))  # as few digits as tell it from other float32 numbers
    return exp.cast(_double(short if np.float32(short) == value else value), "float")


def _flag(rule: Rule) -> exp.Expr:
    if rule.outcome == "abstained":
        return exp.cast(exp.null(), "boolean")
    if rule.threshold is None:
        return _score(rule.code) > _real(1)  # false, and null where there is no score
    limit = _real(rule.threshold)
    return exp.and_(exp.column("p_max", quoted=True) >= limit, _score(rule.code) >= limit)


def _any_flag(rules: Sequence[Rule]) -> exp.Expr:
    limits = [rule.threshold for rule in rules if rule.outcome == "threshold" and rule.threshold is not None]
    if not limits:
        known = any(rule.outcome == "nothing" for rule in rules)
        return exp.column("p_max", quoted=True) > _real(1) if known else exp.cast(exp.null(), "boolean")
    each = [
        _score(rule.code) >= _real(rule.threshold)
        for rule in rules
        if rule.outcome == "threshold" and rule.threshold is not None
    ]
    return exp.and_(exp.column("p_max", quoted=True) >= _real(min(limits)), exp.or_(*each))


def _calibrated(curve: Curve, score: exp.Expr) -> exp.Expr:
    # LEAST and GREATEST would not do for clipping, as some engines skip a null in them.
    score = exp.cast(score, "double")
    match curve:
        case Identity():
            return _clipped(curve, score, score)
        case Logistic():
            odds = exp.func("ln", exp.paren(score / exp.paren(_double(1) - score)))
            predictor = _double(curve.intercept) + _double(curve.slope) * odds
            return _clipped(curve, score, _double(1) / exp.paren(_double(1) + exp.func("exp", -exp.paren(predictor))))
        case Isotonic():
            return _lines(curve, score)


def _clipped(curve: Identity | Logistic, score: exp.Expr, inside: exp.Expr) -> exp.Expr:
    """Return what is inside a curve's domain, and the curve's ends outside of it."""
    low, high = curve.domain
    ends = [_double(each) for each in curve.prob(np.array([low, high])).tolist()]
    return exp.Case().when(score < _double(low), ends[0]).when(score > _double(high), ends[1]).else_(inside)


def _lines(curve: Isotonic, score: exp.Expr) -> exp.Expr:
    knots = list(zip(curve.scores, curve.probs, strict=True))
    case = exp.Case().when(score.is_(exp.null()), exp.cast(exp.null(), "double"))
    case = case.when(score <= _double(knots[0][0]), _double(knots[0][1]))
    for (left, low), (right, high) in itertools.pairwise(knots):
        slope = (high - low) / (right - left)
        line = _double(low) + _double(slope) * exp.paren(score - _double(left)) if slope else _double(low)
        case = case.when(score < _double(right), line)
    return case.else_(_double(knots[-1][1]))
