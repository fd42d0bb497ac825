"""Set decisions: which categories a document gets, from the model's own distribution over answers.

A threshold on each category judges categories one by one. ``top_answers`` of a score table holds more: the sets of
categories that the model may answer, with their probabilities. From it a whole set is chosen,

- ``map``: the most probable one, or
- ``expected-f1``: the set h with the largest expected F1, ``E[2 |S ∩ h| / (|S| + |h|)]`` over the model's answer S,
  where F1 is 1 if both are empty (Dembczynski, Waegeman, Cheng and Hüllermeier 2011, "An exact algorithm for F-measure
  maximization", NIPS 24).

What is not listed
------------------
``top_answers`` is cut after ``scoring.top_answers`` sets, and answers that were never explored are in none of them.
The mass that a document's list lacks, ``1 - Σ prob``, is taken to be spread over sets as the listed mass is; then it
changes no decision. Whatever it really is, the decision loses at most ``loss_bound`` against the one that knows it all:
see :func:`most_probable` and :func:`largest_expected_f1`. Under ``scoring.normalization: raw`` that mass has what is no
answer in it, so the bound is wider than need be. Under ``global``, listed probabilities are shares of the answers that
were explored, so the bound is about those; answers that were not explored have no share, and no bound from this column.

For a document that was scored in windows, ``top_answers`` is of the window that most likely names a category.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from confscore.errors import TableError
from confscore.rows import BoolArray, FloatArray, IntArray

How = Literal["expected-f1", "map"]
HOWS: tuple[How, ...] = get_args(How)
COLUMNS = ("doc_id", "answer", "top_answers")
"""The columns of a score table that :func:`decide_batch` looks at."""

_CELLS_AT_ONCE = 1 << 21
_ROUNDING = 1e-3
"""By so much the float32 probabilities of a list may exceed 1 together."""


@dataclass(frozen=True, eq=False, slots=True)
class Answers:
    """The listed answers of n documents, all in one array.

    Attributes
    ----------
    documents : int
        n.
    document : int array, shape (A,)
        Which document each answer belongs to, ascending.
    member : bool array, shape (A, N)
        ``member[a, j]``: answer a names category j.
    prob : float array, shape (A,)
        Probabilities; those of one document sum to at most 1.
    """

    documents: int
    document: IntArray
    member: BoolArray
    prob: FloatArray

    def missing(self) -> FloatArray:
        """Return the probability that each document's list lacks, shape (n,)."""
        listed = np.bincount(self.document, self.prob, self.documents)
        missing: FloatArray = np.maximum(0.0, 1.0 - listed)
        return missing


@dataclass(frozen=True, eq=False, slots=True)
class Decisions:
    """One set for each document.

    Attributes
    ----------
    sets : bool array, shape (n, N)
        ``sets[i, j]``: document i gets category j.
    value : float array, shape (n,)
        What the listed answers alone give: the expected F1, or the probability, of the chosen set. A lower bound.
    loss_bound : float array, shape (n,)
        By so much the best set can be better at most, wherever the mass that is not listed lies.
    """

    sets: BoolArray
    value: FloatArray
    loss_bound: FloatArray


def largest_expected_f1(answers: Answers) -> Decisions:
    """Choose the sets with the largest expected F1, exactly and without looking at 2^N sets.

    With ``P[j, s] = Pr(j in S and |S| = s)``, a set of k categories has the expected F1 ``Σ_{j in h} Δ[j, k]``,
    ``Δ[j, k] = Σ_s P[j, s] · 2 / (s + k)``. So for each k the best set is that of the k largest ``Δ[·, k]``, and the
    best of all is the best of these N and of the empty set, whose expected F1 is ``Pr(S empty)`` (Dembczynski et al.
    2011, algorithm 1). Ties go to the smaller set, then to the earlier category.

    The loss is at most the mass r that is not listed: with L(h) from the listed answers and U(h) from the others, the
    chosen set has the largest L, and ``0 <= U(h) <= r`` for every h, as F1 is at most 1.
    """
    n, categories = answers.documents, answers.member.shape[1]
    sets = np.zeros((n, categories), dtype=np.bool_)
    value = np.zeros(n)
    step = max(1, _CELLS_AT_ONCE // categories**2)
    for first in range(0, n, step):
        rows = slice(first, min(first + step, n))
        here = slice(*np.searchsorted(answers.document, [rows.start, rows.stop]))
        part = Answers(rows.stop - rows.start, answers.document[here] - first, answers.member[here], answers.prob[here])
        sets[rows], value[rows] = _largest_expected_f1(part)
    return Decisions(sets, value, answers.missing())


def most_probable(answers: Answers) -> Decisions:
    """Choose the most probable sets; answers with the same set are added up. Ties go to the set that is listed first.

    With the probabilities a >= b of the two most probable listed sets and r what is not listed, the chosen set has at
    least a, any other at most b + r, and so the loss is at most ``max(0, b + r - a)``. Where that is 0 the decision is
    certain.
    """
    n = answers.documents
    packed = np.packbits(answers.member, axis=1)
    keys = np.column_stack([answers.document.astype(">i8").view(np.uint8).reshape(-1, 8), packed])
    _, place, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    prob = np.bincount(group.ravel(), answers.prob, len(place))
    document = answers.document[place]
    order = np.lexsort((place, -prob, document))
    document, prob, place = document[order], prob[order], place[order]
    first = np.flatnonzero(np.diff(document, prepend=-1))
    found = document[first]
    sets = np.zeros((n, answers.member.shape[1]), dtype=np.bool_)
    sets[found] = answers.member[place[first]]
    best, second = np.zeros(n), np.zeros(n)
    best[found] = prob[first]
    several = np.flatnonzero(np.append(np.diff(first), len(document) - first[-1:]) > 1)
    second[found[several]] = prob[first[several] + 1]
    return Decisions(sets, best, np.maximum(0.0, second + answers.missing() - best))


def read_answers(column: pa.Array | pa.ChunkedArray, codes: Sequence[str]) -> Answers:
    """Return the answers in a ``top_answers`` column; a row that is null or empty has none.

    Raises
    ------
    TableError
        The column is of another type, names an unknown category, or its probabilities are none.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if not (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)) or {"categories", "prob"} - {
        field.name for field in kind.value_type
    }:
        raise TableError(f"column top_answers is {kind}, not a list of category sets with their probabilities")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    document = np.repeat(np.arange(len(column)), lengths)
    listed = column.flatten()
    named, prob = pc.struct_field(listed, "categories"), pc.struct_field(listed, "prob")
    sizes = pc.fill_null(pc.list_value_length(named), 0).to_numpy(zero_copy_only=False)
    words = named.flatten()
    places = pc.index_in(words, value_set=pa.array(codes, words.type))
    if places.null_count:
        unknown = words.filter(places.is_null())[0].as_py()
        raise TableError(f"column top_answers names {unknown!r}, which is no category; they are {', '.join(codes)}")
    member = np.zeros((len(document), len(codes)), dtype=np.bool_)
    member[np.repeat(np.arange(len(document)), sizes), places.to_numpy(zero_copy_only=False)] = True
    probs = prob.cast(pa.float64()).to_numpy(zero_copy_only=False)  # a missing one becomes nan
    total = np.bincount(document, np.where(probs >= 0, probs, np.inf), len(column))
    wrong = np.flatnonzero(total > 1 + _ROUNDING)
    if wrong.size:
        raise TableError(
            f"column top_answers row {wrong[0]}: its probabilities are no distribution, as they are negative, missing "
            "or sum to more than 1; it was not written by confscore score"
        )
    return Answers(len(column), document, member, probs)


def decide(column: pa.Array | pa.ChunkedArray, codes: Sequence[str], how: How) -> Decisions:
    """Choose a set of categories for each row of a ``top_answers`` column.

    Parameters
    ----------
    column : pyarrow.Array
        n lists of category sets with their probabilities. A row that is null or empty gets the empty set, with the
        value 0 and the loss bound 1: nothing is known of it.
    codes : sequence of str, length N
        Category codes, in the order of the taxonomy.
    how : {'expected-f1', 'map'}
        What the set is to be best at.

    Raises
    ------
    TableError
        The column does not hold such lists.
    """
    answers = read_answers(column, codes)
    return largest_expected_f1(answers) if how == "expected-f1" else most_probable(answers)


def decide_batch(batch: pa.RecordBatch | pa.Table, codes: Sequence[str], how: How) -> BoolArray:
    """Choose a set for each row of a score table's batch; rows do not look at each other, so any batching will do.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        n rows with the columns :data:`COLUMNS`.
    codes, how
        As in :func:`decide`.

    Returns
    -------
    bool array, shape (n, N)
        Rows of status ``error``, and those of which no answer was found within their budget, are all false.

    Raises
    ------
    TableError
        There is no such column, it does not hold answers, or the guard asks one question about each category, so that
        the model has no distribution over sets.
    """
    for name in COLUMNS:
        if name not in batch.schema.names:
            hint = "; it is written with scoring.top_answers" if name == "top_answers" else ""
            raise TableError(f"the score table has no column {name}{hint}")
    none_listed = pc.equal(pc.list_value_length(batch.column("top_answers")), 0)
    answered = pc.and_(pc.fill_null(none_listed, False), pc.is_valid(batch.column("answer")))
    if pc.any(answered).as_py():
        doc_id = batch.column("doc_id").filter(answered)[0].as_py()
        raise TableError(
            f"document {doc_id!r} has an answer and an empty top_answers, as with guards that ask about each category "
            "by itself; there is no distribution over sets, so use thresholds"
        )
    return decide(batch.column("top_answers"), codes, how).sets


def _largest_expected_f1(answers: Answers) -> tuple[BoolArray, FloatArray]:
    n, categories = answers.documents, answers.member.shape[1]
    sizes = answers.member.sum(axis=1)
    where, category = np.nonzero(answers.member)
    cells = (answers.document[where] * categories + category) * categories + sizes[where] - 1
    joint = np.bincount(cells, answers.prob[where], n * categories**2).reshape(n, categories, categories)
    counts = np.arange(1, categories + 1)
    gains = joint @ (2 / (counts[:, None] + counts))  # gains[i, j, k - 1] = Δ[j, k] of document i
    order = np.argsort(-gains, axis=1, kind="stable")
    sums = np.cumsum(np.take_along_axis(gains, order, axis=1), axis=1)
    empty = np.bincount(answers.document, answers.prob * (sizes == 0), n)
    values = np.column_stack([empty, np.diagonal(sums, axis1=1, axis2=2)])
    size = np.argmax(values, axis=1)
    rows = np.arange(n)
    chosen = order[rows, :, np.maximum(size, 1) - 1]  # categories, the best of them first
    sets = np.zeros((n, categories), dtype=np.bool_)
    np.put_along_axis(sets, chosen, counts <= size[:, None], axis=1)
    return sets, values[rows, size]
