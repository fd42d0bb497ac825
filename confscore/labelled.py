"""Scores and labels of the same documents, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds

from confscore.errors import InputError, TableError
from confscore.identity import identity_of, refuse_others
from confscore.labels import read_labels
from confscore.population import row_batches
from confscore.rows import BoolArray, FloatArray
from confscore.score_table import open_table, provenance_of

MARGINAL = "marginal"
_NOT_ESTIMATORS = ("lower", "upper")


@dataclass(frozen=True, eq=False, slots=True)
class Labelled:
    """Scores and labels of the same n documents, in one order.

    Attributes
    ----------
    codes : tuple of str, length N
        Category codes, in the order of the taxonomy.
    truth : bool array, shape (n, N)
        ``truth[i, j]``: document i has category j.
    prefixes : dict of str to str
        Estimators, and the prefix of their columns; ``marginal`` is ``p``.
    table : pyarrow.Table, n rows
        ``doc_id`` and the estimators' columns.
    failed : int
        Rows of status ``error``, which are left out.
    unlabelled : int
        Scored documents without a label, which are left out.
    unscored : int
        Labels of documents that have no row in the score table, which are left out.
    weights : float array, shape (n,), or None
        How many documents each one stands for: one over its inclusion probability. ``None`` where all had the same.
    """

    codes: tuple[str, ...]
    truth: BoolArray
    prefixes: dict[str, str]
    table: pa.Table
    failed: int
    unlabelled: int
    unscored: int
    weights: FloatArray | None = None

    def scores(self, estimator: str) -> FloatArray:
        """Return an estimator's scores, shape (n, N): ``scores[i, j] = Pr(category j in the answer of i)``."""
        prefix = self.prefixes[estimator]
        columns = [self.table[f"{prefix}_{code}"].to_numpy() for code in self.codes]
        return np.stack(columns, axis=1, dtype=np.float64)


def label_scores(
    scores: str,
    labels: str,
    id_column: str = "doc_id",
    label_column: str | None = None,
    estimators: Sequence[str] = (),
    run: str | None = None,
    pi_column: str | None = None,
) -> Labelled:
    """Read a score table and a label file, and put the rows of the same documents together.

    Parameters
    ----------
    scores : str
        The score table: ``output.path`` of the runs that wrote it.
    labels, id_column, label_column, pi_column
        As in :func:`confscore.labels.read_labels`.
    estimators : sequence of str
        Names of :func:`find_estimators`; by default all that the table has.
    run : str, optional
        Take the rows of this run only.

    Raises
    ------
    TableError
        There is no such score table, estimator or run; a labelled document has several rows, or a scored row without
        a score; the labels are of a sample from other scores.
    InputError
        The label file is refused, or shares no document with the score table.
    """
    dataset = open_table(scores)
    provenance = provenance_of(dataset)
    codes = tuple(provenance.categories)
    known = find_estimators(dataset.schema, codes)
    missing = [name for name in estimators if name not in known]
    if missing or not known:
        what = f"estimator {missing[0]}" if missing else f"score of every category ({', '.join(codes)})"
        raise TableError(f"{scores}: has no {what}; its estimators are: {', '.join(known) or 'none'}")
    chosen = {name: known[name] for name in dict.fromkeys(estimators or known)}
    truth = read_labels(labels, codes, id_column, label_column, pi_column)
    if truth.drawn_from is not None:
        refuse_others(f"{labels}: was drawn", truth.drawn_from, scores, identity_of(provenance))
    columns = [f"{prefix}_{code}" for prefix in chosen.values() for code in codes]
    label_ids = pa.array(truth.ids, pa.string())
    table = _read_rows(scores, dataset, columns, run, label_ids)
    good = table.filter(pc.not_equal(table["status"], "error"))
    _check_scores(scores, good, columns)
    failed = _count(scores, dataset, run, pds.field("status") == "error")
    scored = _count(scores, dataset, run, pds.field("status") != "error")
    rows = pc.index_in(label_ids, value_set=good["doc_id"].combine_chunks())
    found = rows.is_valid().to_numpy(zero_copy_only=False)
    if not found.any():
        example = _example(dataset, run)
        raise InputError(
            f"{labels}: none of its ids in column {id_column} is of a scored document of {scores} "
            f"({truth.ids[0]!r} is labelled, {f'{example!r} is scored' if example else 'no document is scored'})"
        )
    return Labelled(
        codes=codes,
        truth=truth.truth[found],
        prefixes=chosen,
        table=good.select(["doc_id", *columns]).take(rows.drop_null()),
        failed=failed,
        unlabelled=scored - int(found.sum()),
        unscored=len(label_ids) - len(table),
        weights=None if truth.inclusion is None else _weights(labels, truth.inclusion[found], scored),
    )


def _weights(path: str, inclusion: FloatArray, scored: int) -> FloatArray | None:
    """Return one over the inclusion probabilities; ``None`` where all documents are labelled for certain."""
    if (inclusion < 1).any():
        return 1 / inclusion
    if len(inclusion) < scored:
        raise InputError(
            f"{path}: {len(inclusion):,} of {scored:,} scored documents are labelled, each with an inclusion "
            "probability of 1, which says that all have to be; label the others, choose the run they were drawn from "
            "with --run, or leave the column out if each had the same chance"
        )
    return None


def find_estimators(schema: pa.Schema, codes: Sequence[str]) -> dict[str, str]:
    """Return the estimators of a score table by their names, with the prefix of their columns.

    An estimator is a prefix X for which X_<code> is a column of floats for every code. The bounds ``lower`` and
    ``upper`` are none. ``p`` is called ``marginal``; other names are the prefixes.
    """
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    end = f"_{codes[0]}"
    prefixes = [name.removesuffix(end) for name in floats if name.endswith(end)]
    whole = [x for x in prefixes if x not in _NOT_ESTIMATORS and {f"{x}_{code}" for code in codes} <= set(floats)]
    return {MARGINAL if x == "p" else x: x for x in whole if x != MARGINAL or "p" not in whole}


def _of_run(run: str | None) -> pc.Expression:
    return pc.scalar(True) if run is None else pds.field("run_id") == run


def _read_rows(path: str, dataset: pds.Dataset, columns: list[str], run: str | None, ids: pa.Array) -> pa.Table:
    """Return the rows of these documents, one each, or say whose rows are too many."""
    try:
        labelled = _of_run(run) & pds.field("doc_id").isin(ids)
        names = ["doc_id", "status", "run_id", *columns]
        pieces = list(row_batches(dataset, names, labelled))
        empty = pa.schema([dataset.schema.field(name) for name in names]).empty_table()
        table = pa.Table.from_batches(pieces) if pieces else empty
        if run is not None and not len(table) and not dataset.count_rows(filter=_of_run(run)):
            runs = sorted(dataset.to_table(columns=["run_id"])["run_id"].unique().to_pylist())
            raise TableError(f"{path}: has no run {run}; its runs are {', '.join(runs)}")
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    counts = table["doc_id"].combine_chunks().value_counts()
    if len(counts) == len(table):
        return table
    (twice,) = (item["values"] for item in counts.filter(pc.greater(counts.field("counts"), 1))[:1].to_pylist())
    runs = sorted(set(table.filter(pc.equal(table["doc_id"], twice))["run_id"].to_pylist()))
    if len(runs) == 1:
        raise TableError(f"{path}: document {twice!r} has several rows of {runs[0]}, so its score is not known")
    raise TableError(
        f"{path}: document {twice!r} was scored by {len(runs)} runs ({', '.join(runs)}); choose one with --run"
    )


def _count(path: str, dataset: pds.Dataset, run: str | None, which: pc.Expression) -> int:
    try:
        return int(dataset.count_rows(filter=_of_run(run) & which))
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None


def _example(dataset: pds.Dataset, run: str | None) -> str | None:
    """Return the id of some scored document; ``None`` where there is none."""
    first = dataset.head(1, columns=["doc_id"], filter=_of_run(run) & (pds.field("status") != "error"))
    return str(first["doc_id"][0].as_py()) if len(first) else None


def _check_scores(path: str, table: pa.Table, columns: list[str]) -> None:
    for name in columns:
        missing = pc.is_null(table[name], nan_is_null=True)
        if pc.any(missing).as_py():
            doc_id = table.filter(missing)["doc_id"][0].as_py()
            raise TableError(
                f"{path}: document {doc_id!r} is scored, and its {name} is null or NaN; choose other estimators with "
                "--estimator"
            )
