"""Flags of a whole score table, as a narrow table beside it; in memory that does not grow with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.parquet as pq
from pyarrow import fs
from rich.console import Console
from rich.progress import track

from confscore import decisions
from confscore.corpus.files import resolve
from confscore.decisions import How, decide_batch
from confscore.errors import InputError, TableError
from confscore.population import row_batches
from confscore.rows import BoolArray, FloatArray
from confscore.rules import Rule
from confscore.score_table import PROVENANCE_KEY, open_table, provenance_of
from confscore.words import one_line

RULES_KEY = b"confscore.rules"
_ROWS_A_GROUP = 1 << 18


@dataclass(frozen=True, slots=True)
class Flagged:
    """What was flagged: rows of the score table, those of status ``error``, documents with any flag, and by category.

    A category that nobody can decide has ``None``.
    """

    rows: int
    failed: int
    any: int
    categories: dict[str, int | None]


def apply(
    scores: str,
    out: str,
    rules: Sequence[Rule],
    how: How | None = None,
    run: str | None = None,
    probabilities: bool = False,
    about: str = "",
    table: pds.Dataset | None = None,
) -> Flagged:
    """Write the flags of a score table.

    The file has one row for each row of the table, in its order: ``doc_id``, ``run_id``, for each rule ``flag_<code>``
    and, where asked for, ``calibrated_<code>``, and ``flagged``: any of the flags. Rows of status ``error`` have nulls.
    It appears whole or not at all, and replaces one that was there.

    Parameters
    ----------
    scores : str
        The score table.
    out : str
        A Parquet file, local or an address, outside of the score table.
    rules : sequence of Rule
        What flags a document.
    how : {'expected-f1', 'map'}, optional
        Flag by the sets of ``top_answers`` instead of by the rules, which then say only which categories there are.
    run : str, optional
        The rows of this run only.
    probabilities : bool
        Add the calibrated probabilities of rules with a curve.
    about : str
        What decided, as JSON; kept in the file under the key ``confscore.rules``.
    table : pyarrow.dataset.Dataset, optional
        Some files of the score table, opened; by default all of them.

    Raises
    ------
    InputError
        The file cannot be written, or would be among the files of the score table.
    TableError
        The table cannot be read, or has no such run.
    """
    _check_target(scores, out)
    table = open_table(scores) if table is None else table
    filesystem, target = resolve(out)
    metadata = {RULES_KEY: about.encode(), PROVENANCE_KEY: provenance_of(table).model_dump_json().encode()}
    schema = _schema(rules, probabilities).with_metadata(metadata)
    undecided = [] if how else [rule.code for rule in rules if rule.outcome == "abstained"]
    tally = _Tally(undecided, [rule.code for rule in rules])
    try:
        with (
            filesystem.open_output_stream(f"{target}.partial") as stream,
            pq.ParquetWriter(stream, schema, compression="zstd") as writer,
        ):
            for batch in _batches(table, scores, rules, how, run):
                flags = _by_answers(batch, rules, how) if how else _by_rules(batch, rules)
                piece = _piece(batch, rules, flags, probabilities, schema)
                tally.add(batch, piece)
                writer.write_table(pa.Table.from_batches([piece]), row_group_size=_ROWS_A_GROUP)
        if not tally.rows:
            raise TableError(f"{scores}: has no row{'' if run is None else f' of run {run}'}, so there are no flags")
        filesystem.move(f"{target}.partial", target)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written to: {one_line(str(error))}") from None
    finally:
        _remove(filesystem, f"{target}.partial")
    return tally.flagged()


def _remove(filesystem: fs.FileSystem, path: str) -> None:
    """Remove what a refusal has left half-written."""
    with suppress(OSError):
        if filesystem.get_file_info(path).is_file:
            filesystem.delete_file(path)


def _check_target(scores: str, out: str) -> None:
    (_, table), (filesystem, target) = resolve(scores), resolve(out)
    if not target.lower().endswith(".parquet"):
        raise InputError(f"--out {out}: has to end in .parquet")
    if isinstance(filesystem, fs.LocalFileSystem):  # a link can make two names of one folder
        table, target = os.path.realpath(table), os.path.realpath(target)
    if f"{target}/".startswith(f"{table.rstrip('/')}/"):
        raise InputError(f"--out {out}: lies in the score table, whose readers would take it for scores; put it beside")


def _schema(rules: Sequence[Rule], probabilities: bool) -> pa.Schema:
    fields = [pa.field("doc_id", pa.string(), nullable=False), pa.field("run_id", pa.string(), nullable=False)]
    for rule in rules:
        if probabilities and rule.curve is not None:
            fields.append(pa.field(f"calibrated_{rule.code}", pa.float64()))
        fields.append(pa.field(f"flag_{rule.code}", pa.bool_()))
    return pa.schema([*fields, pa.field("flagged", pa.bool_())])


def _batches(
    table: pds.Dataset, scores: str, rules: Sequence[Rule], how: How | None, run: str | None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table with what decides about them."""
    wanted = decisions.COLUMNS if how else tuple(f"p_{rule.code}" for rule in rules)
    columns = list(dict.fromkeys(["doc_id", "run_id", "status", *wanted]))
    missing = [name for name in columns if name not in table.schema.names]
    if missing:
        hint = "; it is written with scoring.top_answers" if missing[0] == "top_answers" else ""
        raise TableError(f"{scores}: has no column {missing[0]}{hint}")
    chosen = pc.scalar(True) if run is None else pds.field("run_id") == run
    quiet = not sys.stderr.isatty()
    try:
        batches = row_batches(table, columns, chosen)
        for batch in track(batches, "flagging", console=Console(stderr=True), transient=True, disable=quiet):
            _refuse_nan(scores, batch, [name for name in wanted if name.startswith("p_")])
            yield batch
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{scores}: cannot be read: {one_line(str(error))}") from None


def _refuse_nan(scores: str, batch: pa.RecordBatch, names: Sequence[str]) -> None:
    """Refuse what is no number, and no null: some readers take it for larger than every threshold."""
    for name in names:
        lost = pc.indices_nonzero(pc.fill_null(pc.is_nan(batch.column(name)), False))
        if len(lost):
            doc_id = batch.column("doc_id")[lost[0].as_py()].as_py()
            raise TableError(f"{scores}: document {doc_id!r} has a {name} that is NaN; score it again")


def _scores(batch: pa.RecordBatch, code: str) -> FloatArray:
    """Return a category's scores, shape (n,); nan where there is none."""
    values: FloatArray = batch.column(f"p_{code}").to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def _by_rules(batch: pa.RecordBatch, rules: Sequence[Rule]) -> list[pa.Array]:
    return [_flags(_scores(batch, rule.code), rule) for rule in rules]


def _flags(scores: FloatArray, rule: Rule) -> pa.Array:
    if rule.outcome == "abstained":
        return pa.nulls(len(scores))
    limit = np.inf if rule.threshold is None else rule.threshold
    return pa.array(scores >= limit, mask=np.isnan(scores))


def _by_answers(batch: pa.RecordBatch, rules: Sequence[Rule], how: How) -> list[pa.Array]:
    sets: BoolArray = decide_batch(batch, [rule.code for rule in rules], how)
    failed = pc.equal(batch.column("status"), "error").to_numpy(zero_copy_only=False)
    return [pa.array(sets[:, j], mask=failed) for j in range(len(rules))]


def _piece(
    batch: pa.RecordBatch, rules: Sequence[Rule], flags: Sequence[pa.Array], probabilities: bool, schema: pa.Schema
) -> pa.RecordBatch:
    columns = [batch.column("doc_id").cast(pa.string()), batch.column("run_id").cast(pa.string())]
    failed = pc.equal(batch.column("status"), "error").to_numpy(zero_copy_only=False)
    some = np.zeros(batch.num_rows, dtype=np.bool_)
    for rule, own in zip(rules, flags, strict=True):
        if probabilities and rule.curve is not None:
            scores = _scores(batch, rule.code)
            columns.append(pa.array(rule.curve.prob(scores), mask=np.isnan(scores)))
        columns.append(own.cast(pa.bool_()))
        some |= pc.fill_null(columns[-1], False).to_numpy(zero_copy_only=False)
    nobody_knows = all(own.type == pa.null() for own in flags)
    columns.append(pa.array(some, mask=failed | nobody_knows))
    return pa.record_batch(columns, schema=schema)


class _Tally:
    def __init__(self, undecided: Sequence[str], codes: Sequence[str]) -> None:
        self.rows = self._failed = self._any = 0
        self._by_code: dict[str, int | None] = {code: None if code in undecided else 0 for code in codes}

    def add(self, batch: pa.RecordBatch, piece: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        self._failed += int(pc.sum(pc.equal(batch.column("status"), "error")).as_py() or 0)
        self._any += piece.column("flagged").true_count
        for code, count in self._by_code.items():
            if count is not None:
                self._by_code[code] = count + piece.column(f"flag_{code}").true_count

    def flagged(self) -> Flagged:
        return Flagged(self.rows, self._failed, self._any, self._by_code)
