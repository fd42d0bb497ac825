"""A score table as a population: its documents in batches, and its totals, in memory that does not grow with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds

from confscore.errors import TableError
from confscore.rows import BoolArray, FloatArray, IntArray

ROWS_AT_ONCE = 1 << 16
_GRID = 1 << 40
"""Sums are of whole multiples of ``1 / _GRID``, so that they do not depend on the order of the rows."""


@dataclass(frozen=True, eq=False, slots=True)
class Totals:
    """What is known of all M documents without a label.

    Attributes
    ----------
    documents : int
        M: the documents that have scores.
    expected : float array, shape (N,)
        ``Σ_i p_ij``, the positives that the scores expect.
    flagged : int array, shape (N,)
        ``Σ_i z_ij``, where ``z_ij`` is 1 if document i is flagged with category j.
    expected_flagged : float array, shape (N,)
        ``Σ_i z_ij p_ij``, the positives that the scores expect among flagged documents.
    """

    documents: int
    expected: FloatArray
    flagged: IntArray
    expected_flagged: FloatArray


class Tally:
    """Adds up the totals of a population, batch by batch; equal populations give equal numbers in any order.

    Parameters
    ----------
    categories : int
        N.
    """

    def __init__(self, categories: int) -> None:
        self._documents = 0
        self._expected = [0] * categories
        self._flagged = [0] * categories
        self._expected_flagged = [0] * categories

    def add(self, probs: FloatArray, flags: BoolArray) -> None:
        """Take in n documents: their probabilities and flags, shape (n, N) each, n at most 2^22."""
        units = np.rint(probs * _GRID).astype(np.int64)
        self._documents += len(probs)
        for j in range(len(self._expected)):
            self._expected[j] += int(units[:, j].sum())
            self._flagged[j] += int(flags[:, j].sum())
            self._expected_flagged[j] += int(units[flags[:, j], j].sum())

    def totals(self) -> Totals:
        """Return the totals so far."""
        return Totals(
            self._documents,
            np.array(self._expected, dtype=np.float64) / _GRID,
            np.array(self._flagged, dtype=np.int64),
            np.array(self._expected_flagged, dtype=np.float64) / _GRID,
        )


def read_scored(
    path: str,
    table: pds.Dataset,
    codes: Sequence[str],
    run: str | None = None,
    columns: Sequence[str] = ("doc_id",),
    prefix: str = "p",
) -> Iterator[tuple[pa.RecordBatch, FloatArray]]:
    """Yield the rows of a score table that have scores, in batches.

    Parameters
    ----------
    path : str
        The table's name in messages.
    table : pyarrow.dataset.Dataset
        The score table.
    codes : sequence of str, length N
        Category codes.
    run : str, optional
        The rows of this run only.
    columns : sequence of str
        What is read beside the scores; ``doc_id`` is always.
    prefix : str
        Scores are in ``<prefix>_<code>``.

    Yields
    ------
    batch : pyarrow.RecordBatch, n rows
        The columns.
    scores : float array, shape (n, N)

    Raises
    ------
    TableError
        The table cannot be read, or a scored row has no score.
    """
    names = [f"{prefix}_{code}" for code in codes]
    wanted = list(dict.fromkeys(["doc_id", *columns]))
    chosen = pds.field("status") != "error"
    if run is not None:
        chosen &= pds.field("run_id") == run
    try:
        for batch in row_batches(table, [*wanted, *names], chosen):
            # A null becomes nan.
            scores = np.column_stack([batch.column(name).to_numpy(zero_copy_only=False) for name in names])
            scores = scores.astype(np.float64)
            _check(path, batch, scores, names)
            yield batch.select(wanted), scores
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None


def row_batches(table: pds.Dataset, columns: Sequence[str], chosen: pds.Expression) -> Iterator[pa.RecordBatch]:
    """Yield rows, one row group in memory at a time: a scanner of the whole table reads ahead of a slow consumer."""
    for fragment in table.get_fragments(filter=chosen):
        for group in fragment.split_by_row_group(filter=chosen, schema=table.schema):
            rows = group.to_table(schema=table.schema, columns=columns, filter=chosen).combine_chunks()
            yield from rows.to_batches(max_chunksize=ROWS_AT_ONCE)


def count_failed(table: pds.Dataset, run: str | None = None) -> int:
    """Return how many rows have the status ``error``."""
    chosen = pds.field("status") == "error"
    if run is not None:
        chosen &= pds.field("run_id") == run
    return int(table.count_rows(filter=chosen))


def _check(path: str, batch: pa.RecordBatch, scores: FloatArray, names: Sequence[str]) -> None:
    missing = np.argwhere(np.isnan(scores))
    if len(missing):
        row, j = missing[0]
        doc_id = batch.column("doc_id")[int(row)].as_py()
        raise TableError(f"{path}: document {doc_id!r} is scored, and its {names[j]} is null or NaN")
