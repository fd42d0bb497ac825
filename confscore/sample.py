"""A sample of a score table for human labels: drawn in two passes over the table, with memory for the sample only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds

from confscore.designs import FLOOR_SHARE, DesignName, survey
from confscore.errors import InputError, TableError
from confscore.fitted import FittedModel
from confscore.identity import identity_of, refuse_others
from confscore.manifest import Provenance
from confscore.population import Tally, Totals, count_failed, read_scored
from confscore.rows import BoolArray, FloatArray
from confscore.rules import Rule, make_rules
from confscore.sampling import HashArray, ObjectArray, PoissonDraw, hash_ids, permanent_numbers
from confscore.score_table import open_table, provenance_of

THRESHOLD = "0.5"
_IDS_COMPARED = 1 << 18


@dataclass(frozen=True, eq=False, slots=True)
class Request:
    """What is to be drawn.

    Attributes
    ----------
    scores : str
        The score table: ``output.path`` of the runs that wrote it.
    budget : int
        Documents that are to be drawn, on average.
    design : {'f1', 'uniform', 'top'}
        See :mod:`confscore.designs`.
    floor_share : float
        The share of the budget that is spread evenly over all documents, in (0, 1].
    seed : int
        At least 0. Equal seeds draw equal documents from equal tables.
    run : str, optional
        From the rows of this run only.
    """

    scores: str
    budget: int
    design: DesignName = "f1"
    floor_share: float = FLOOR_SHARE
    seed: int = 0
    run: str | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """A sample of n documents of M.

    Attributes
    ----------
    doc_ids, run_ids : tuple of str, length n
        In an order that tells nothing of scores.
    inclusion : float array, shape (n,)
        ``inclusion[i] = Pr(document i is drawn)``, as it was when it was drawn.
    rules : tuple of Rule, length N
        What flags a document.
    totals : Totals
        Of the M documents.
    failed : int
        Rows of status ``error``, of which none can be drawn.
    multiplier : float
        c of the design.
    provenance : Provenance
        Of the scores.
    """

    doc_ids: tuple[str, ...]
    run_ids: tuple[str, ...]
    inclusion: FloatArray
    rules: tuple[Rule, ...]
    totals: Totals
    failed: int
    multiplier: float
    provenance: Provenance


def draw_sample(
    request: Request,
    thresholds: Sequence[str] = (),
    model: FittedModel | None = None,
    table: pds.Dataset | None = None,
) -> Sample:
    """Draw a sample of a score table's documents.

    Parameters
    ----------
    request : Request
    thresholds : sequence of str
        Each ``CODE=P`` for one category, or ``P`` for all others: a document is flagged where its score is at least P.
        Without a model 0.5 is for all that are not named.
    model : FittedModel, optional
        A fit: scores go through its curves before they count as probabilities, and its thresholds are for categories
        that have no other. Where it abstained, nothing is taken to be flagged.
    table : pyarrow.dataset.Dataset, optional
        Some files of the score table, opened: the sample is drawn from their documents. By default all of them.

    Raises
    ------
    TableError
        The table cannot be read, has no document with scores, or a document twice, or the model is of other scores.
    InputError
        The request is out of range.
    """
    _check(request)
    table = open_table(request.scores) if table is None else table
    provenance = provenance_of(table)
    codes = tuple(provenance.categories)
    if model is not None:
        refuse_others("the model was fitted to labels", model.identity, request.scores, identity_of(provenance))
    elif not any("=" not in each for each in thresholds):
        thresholds = [*thresholds, THRESHOLD]
    rules = make_rules(model, thresholds, codes)
    looked, tally = survey(request.design, request.budget, request.floor_share, len(codes)), Tally(len(codes))
    for _, probs, flags in _read(table, request, rules):
        looked.add(probs, flags)
        tally.add(probs, flags)
    totals, failed = tally.totals(), count_failed(table, request.run)
    if not totals.documents:
        of_run = f" of run {request.run}" if request.run else ""
        raise TableError(f"{request.scores}: has no document{of_run} with scores ({failed:,} rows of status error)")
    design = looked.design(totals)
    draw, ids = PoissonDraw(design, request.budget), _Ids(request.scores)
    for batch, probs, flags in _read(table, request, rules):
        keys = np.column_stack([batch.column(name).to_numpy(zero_copy_only=False) for name in ("doc_id", "run_id")])
        hashes = hash_ids(keys[:, 0], request.seed)
        ids.add(keys, hashes)
        draw.add(keys, design.sizes(probs, flags), permanent_numbers(hashes))
    drawn = draw.finish()
    return Sample(
        doc_ids=tuple(drawn.keys[:, 0]),
        run_ids=tuple(drawn.keys[:, 1]),
        inclusion=drawn.inclusion,
        rules=rules,
        totals=totals,
        failed=failed,
        multiplier=drawn.multiplier,
        provenance=provenance,
    )


def _check(request: Request) -> None:
    if request.budget < 1:
        raise InputError(f"--budget {request.budget}: has to be at least 1")
    if not 0 < request.floor_share <= 1:
        raise InputError(f"--floor {request.floor_share:g}: has to be above 0 and at most 1")
    if not 0 <= request.seed < 1 << 64:
        raise InputError(f"--seed {request.seed}: has to be at least 0 and below 2**64")


def _read(
    table: pds.Dataset, request: Request, rules: Sequence[Rule]
) -> Iterator[tuple[pa.RecordBatch, FloatArray, BoolArray]]:
    """Yield batches with probabilities and flags, shape (n, N) each."""
    codes = [rule.code for rule in rules]
    limits = np.array([np.inf if rule.threshold is None else rule.threshold for rule in rules])
    for batch, scores in read_scored(request.scores, table, codes, request.run, ("doc_id", "run_id")):
        outside = np.argwhere((scores < 0) | (scores > 1))
        if len(outside):
            row, j = outside[0].tolist()
            doc_id = batch.column("doc_id")[row].as_py()
            raise TableError(
                f"{request.scores}: document {doc_id!r} has p_{codes[j]} {scores[row, j]:g}, outside [0, 1]"
            )
        curves = (scores[:, j] if rule.curve is None else rule.curve.prob(scores[:, j]) for j, rule in enumerate(rules))
        yield batch, np.column_stack(list(curves)), scores >= limits


class _Ids:
    """Notices documents that a table has twice, with memory for a part of the ids.

    Equal ids have equal hashes, and only those with the smallest hashes are compared. Every document has the same
    chance to be among them, with all its rows. In a small table that is every one; two runs over one large corpus share
    so many that some are met.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._hashes: HashArray = np.zeros(0, dtype=np.uint64)
        self._runs: ObjectArray = np.zeros(0, dtype=object)
        self._below = np.uint64(2**64 - 1)

    def add(self, keys: ObjectArray, hashes: HashArray) -> None:
        """Take in n documents: ids and runs, shape (n, 2), and hashes of ids, shape (n,)."""
        small = np.flatnonzero(hashes <= self._below)
        known = len(self._hashes)
        every = np.concatenate([self._hashes, hashes[small]])
        runs = np.concatenate([self._runs, keys[small, 1]])
        order = np.argsort(every, kind="stable")
        twice = np.flatnonzero(every[order][1:] == every[order][:-1])
        if twice.size:
            first, second = order[twice[0]], order[twice[0] + 1]
            doc_id = keys[small[second - known], 0]
            if runs[first] == runs[second]:
                raise TableError(
                    f"{self._path}: document {doc_id!r} has several rows of {runs[first]}, so its score is not known"
                )
            both = ", ".join(sorted([runs[first], runs[second]]))
            raise TableError(
                f"{self._path}: document {doc_id!r} was scored by more than one run ({both}); choose one with --run"
            )
        kept = order[:_IDS_COMPARED]
        if len(order) > len(kept):
            self._below = every[kept[-1]]
        self._hashes, self._runs = every[kept], runs[kept]
