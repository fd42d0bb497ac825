"""One pass over a night's scores: everything that its report counts, in memory that does not grow with the night."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds

from confscore.audit.drift import BINS, count_bins
from confscore.audit.expected import ExpectedCounts
from confscore.errors import TableError
from confscore.population import Tally, Totals, read_scored, row_batches
from confscore.rows import BoolArray, FloatArray, IntArray
from confscore.rules import Rule
from confscore.words import one_line

WIDE = 0.1
"""A residual above it is worth a look: the score is not known to better than that."""
MOST_REASONS = 20
_COLUMNS = ("doc_id", "run_id", "status", "truncated", "residual", "off_grammar", "requests", "prompt_tokens")
_OTHER = "other reasons"


@dataclass(frozen=True, order=True, slots=True)
class Top:
    """A document with its score and probability; ordered by score, so that the smallest can be dropped."""

    score: float
    doc_id: str
    prob: float = field(compare=False)
    flagged: bool | None = field(compare=False)


@dataclass(eq=False, slots=True)
class NightCounts:
    """What was counted in a night of M scored documents and N categories.

    Attributes
    ----------
    scored, failed, bounded, truncated, wide, flagged_any : int
        Documents: with scores (M), without, and of those with: by what the names of metrics say.
    requests, prompt_tokens : int
        Of all rows.
    off_grammar : float
        Sum over scored documents.
    totals : Totals
        See :class:`confscore.population.Totals`.
    variance, variance_flagged : float array, shape (N,)
        ``Σ p (1 - p)`` over all documents, and over flagged ones.
    histograms : int array, shape (N, BINS)
        Documents by the log-odds of their scores.
    largest : int array, shape (BINS,)
        The same of the largest score of each document.
    together : int array, shape (N, N)
        ``together[j, k]``: documents flagged with both.
    errors : dict of str to int
        Rows of status ``error`` by reason, the most frequent ones.
    tops : tuple of tuple of Top
        For each category, largest scores first.
    runs : tuple of str
        That wrote the rows.
    """

    scored: int
    failed: int
    bounded: int
    truncated: int
    wide: int
    flagged_any: int
    requests: int
    prompt_tokens: int
    off_grammar: float
    totals: Totals
    variance: FloatArray
    variance_flagged: FloatArray
    histograms: IntArray
    largest: IntArray
    together: IntArray
    errors: dict[str, int]
    tops: tuple[tuple[Top, ...], ...]
    runs: tuple[str, ...]

    def expected(self, which: Sequence[int]) -> ExpectedCounts:
        """Return the expected counts of some categories together."""
        chosen = list(which)
        true = float(self.totals.expected_flagged[chosen].sum())
        var_true = float(self.variance_flagged[chosen].sum())
        return ExpectedCounts(
            documents=self.scored * len(chosen),
            flagged=int(self.totals.flagged[chosen].sum()),
            true=true,
            missed=max(float(self.totals.expected[chosen].sum()) - true, 0.0),
            var_true=var_true,
            var_missed=max(float(self.variance[chosen].sum()) - var_true, 0.0),
        )


def probabilities(scores: FloatArray, rules: Sequence[Rule]) -> FloatArray:
    """Return calibrated probabilities, shape (n, N), of scores of that shape; a rule without a curve leaves them."""
    columns = [scores[:, j] if rule.curve is None else rule.curve.prob(scores[:, j]) for j, rule in enumerate(rules)]
    return np.column_stack(columns)


def flags_of(scores: FloatArray, rules: Sequence[Rule]) -> BoolArray:
    """Return flags, shape (n, N); a rule that abstains flags nothing."""
    limits = np.array([np.inf if rule.threshold is None else rule.threshold for rule in rules])
    return scores >= limits


def count_night(path: str, table: pds.Dataset, rules: Sequence[Rule], top: int) -> NightCounts:
    """Count a night.

    Parameters
    ----------
    path : str
        The score table's name in messages.
    table : pyarrow.dataset.Dataset
        The night's rows.
    rules : sequence of Rule, length N
        What flags a document, in the order of the taxonomy.
    top : int
        So many documents are kept of each category.

    Raises
    ------
    TableError
        The table cannot be read, or has a score that is no probability.
    """
    codes = [rule.code for rule in rules]
    size = len(codes)
    tally, tops, runs = Tally(size), [_Largest(top) for _ in codes], set[str]()
    sums: Counter[str] = Counter()
    off_grammar = 0.0
    variance, variance_flagged = np.zeros((2, size))
    histograms, largest = np.zeros((size, BINS), np.int64), np.zeros(BINS, np.int64)
    together = np.zeros((size, size), np.int64)
    for batch, scores in read_scored(path, table, codes, None, _COLUMNS):
        _refuse_others(path, batch, scores, codes)
        probs, flags = probabilities(scores, rules), flags_of(scores, rules)
        tally.add(probs, flags)
        spread = probs * (1 - probs)
        variance += spread.sum(axis=0)
        variance_flagged += (spread * flags).sum(axis=0)
        histograms += np.stack([count_bins(scores[:, j]) for j in range(size)])
        largest += count_bins(scores.max(axis=1))
        whole = flags.astype(np.int64)
        together += whole.T @ whole
        sums.update(_sums(batch, flags))
        off_grammar += float(pc.sum(batch.column("off_grammar")).as_py() or 0.0)
        runs.update(batch.column("run_id").unique().to_pylist())
        ids = batch.column("doc_id")
        for j, rule in enumerate(rules):
            tops[j].add(ids, scores[:, j], probs[:, j], None if rule.outcome == "abstained" else flags[:, j])
    errors = _errors(path, table, sums, runs)
    return NightCounts(
        scored=sums["scored"],
        failed=sum(errors.values()),
        bounded=sums["bounded"],
        truncated=sums["truncated"],
        wide=sums["wide"],
        flagged_any=sums["flagged_any"],
        requests=sums["requests"],
        prompt_tokens=sums["prompt_tokens"],
        off_grammar=off_grammar,
        totals=tally.totals(),
        variance=variance,
        variance_flagged=variance_flagged,
        histograms=histograms,
        largest=largest,
        together=together,
        errors=errors,
        tops=tuple(each.sorted() for each in tops),
        runs=tuple(sorted(runs)),
    )


def _sums(batch: pa.RecordBatch, flags: BoolArray) -> dict[str, int]:
    def total(values: pa.Array) -> int:
        return int(pc.sum(values).as_py() or 0)

    return {
        "scored": batch.num_rows,
        "bounded": total(pc.equal(batch.column("status"), "bounded")),
        "truncated": total(batch.column("truncated")),
        "wide": total(pc.greater(batch.column("residual"), WIDE)),
        "flagged_any": int(flags.any(axis=1).sum()),
        "requests": total(batch.column("requests")),
        "prompt_tokens": total(batch.column("prompt_tokens")),
    }


def _errors(path: str, table: pds.Dataset, sums: Counter[str], runs: set[str]) -> dict[str, int]:
    """Return the reasons of rows without scores, and add what they took to the sums."""
    reasons: Counter[str] = Counter()
    columns = ["error", "requests", "prompt_tokens", "run_id"]
    try:
        for batch in row_batches(table, columns, pds.field("status") == "error"):
            counted = batch.column("error").value_counts()
            reasons.update({one_line(str(each["values"])): each["counts"] for each in counted.to_pylist()})
            for name in ("requests", "prompt_tokens"):
                sums[name] += int(pc.sum(batch.column(name)).as_py() or 0)
            runs.update(batch.column("run_id").unique().to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: cannot be read: {one_line(str(error))}") from None
    kept = dict(reasons.most_common(MOST_REASONS))
    others = sum(reasons.values()) - sum(kept.values())
    return {**kept, _OTHER: others} if others else kept


def _refuse_others(path: str, batch: pa.RecordBatch, scores: FloatArray, codes: Sequence[str]) -> None:
    outside = np.argwhere((scores < 0) | (scores > 1))
    if len(outside):
        row, j = outside[0].tolist()
        doc_id = batch.column("doc_id")[row].as_py()
        raise TableError(f"{path}: document {doc_id!r} has p_{codes[j]} {scores[row, j]:g}, outside [0, 1]")


class _Largest:
    """The documents with the largest scores; equal scores in the order of their ids, whatever order they come in."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[Top] = []

    def add(self, ids: pa.Array, scores: FloatArray, probs: FloatArray, flags: BoolArray | None) -> None:
        if not self._most:
            return
        count = min(self._most, len(scores))
        floor = np.partition(scores, len(scores) - count)[len(scores) - count]  # with all that tie
        if len(self._kept) == self._most:
            floor = max(floor, min(self._kept).score)
        found = [
            Top(float(scores[i]), ids[int(i)].as_py(), float(probs[i]), None if flags is None else bool(flags[i]))
            for i in np.flatnonzero(scores >= floor)
        ]
        self._kept = heapq.nsmallest(self._most, [*self._kept, *found], key=_place)

    def sorted(self) -> tuple[Top, ...]:
        return tuple(sorted(self._kept, key=_place))


def _place(top: Top) -> tuple[float, str]:
    return (-top.score, top.doc_id)
