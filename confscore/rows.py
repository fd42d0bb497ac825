"""Record types that travel through the job, and the Arrow schema of a score table.

Everything right of the corpus speaks in these records: a :class:`Document` goes into the scorer, a
:class:`Score` comes out, and a score table is a sequence of scores in the schema of :func:`score_schema`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

FloatArray = npt.NDArray[np.float64]
FloatArray32 = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Status = Literal["scored", "bounded", "error"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. ``role`` is ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Document:
    """One corpus row, ready to be prompted.

    ``fault`` is the reason why the row cannot be scored (empty text, bad UTF-8, …); it is ``None`` for a
    good row, and then ``messages`` holds at least one message.
    """

    doc_id: str
    messages: tuple[Message, ...] = ()
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class TopAnswer:
    """A category set the model may answer, with its probability under the configured normalization."""

    categories: tuple[str, ...]
    prob: float


@dataclass(frozen=True, slots=True)
class Score:
    """One row of a score table.

    Arrays have one entry per category of the taxonomy, in its order:
    ``probs[j] = Pr(category j in the answer | document)``, and ``lower[j] <= probs[j] <= upper[j]``.
    ``estimates`` holds one such array for each further estimator. Arrays are ``None``, or missing, where ``status`` is
    ``error`` or where the column was not asked for.
    """

    doc_id: str
    status: Status
    error: str | None = None
    chunks: int = 0
    truncated: bool = False
    answer: tuple[str, ...] | None = None
    p_any: float | None = None
    probs: FloatArray | None = None
    residual: float | None = None
    off_grammar: float | None = None
    requests: int = 0
    prompt_tokens: int = 0
    lower: FloatArray | None = None
    upper: FloatArray | None = None
    estimates: Mapping[str, FloatArray] = field(default_factory=dict)
    top_answers: tuple[TopAnswer, ...] | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns a score table has beyond the fixed ones."""

    codes: tuple[str, ...]
    bounds: bool = False
    estimators: tuple[str, ...] = ()
    top_answers: bool = False
    carried: tuple[pa.Field, ...] = field(default=())

    def vectors(self) -> list[str]:
        """Return the prefixes of the per-category columns that were asked for, besides ``p``."""
        return [*(["lower", "upper"] if self.bounds else []), *self.estimators]


TOP_ANSWERS = pa.list_(pa.struct([("categories", pa.list_(pa.string())), ("prob", pa.float32())]))

_MEANING = {
    "doc_id": "id of the corpus row, unique within a run",
    "status": "scored | bounded (request budget spent before the tolerance was met) | error",
    "error": "reason, where status is error",
    "chunks": "windows the document was cut into; probabilities are the largest over windows",
    "truncated": "some of the text was never shown to the model",
    "answer": "category codes of the most probable answer",
    "p_any": "probability that the answer names at least one category",
    "p_max": "largest p_<code> of the row",
    "residual": "widest upper - lower bound over the row's probabilities",
    "off_grammar": "probability that the model says something that is not an answer",
    "requests": "engine requests spent",
    "prompt_tokens": "tokens of all prompts of the row, answers not counted",
    "run_id": "the run that wrote the row",
    "scored_at": "UTC time the row was scored",
}


_UNITS = dict.fromkeys(("greedy", "probability_uncertainty", "entropy_uncertainty", "logtoku"), "score in [0, 1]")


def _field(name: str, kind: pa.DataType, *, unit: str = "", nullable: bool = True) -> pa.Field:
    metadata = {"meaning": _MEANING[name]} if name in _MEANING else {}
    if unit:
        metadata["unit"] = unit
    return pa.field(name, kind, nullable=nullable, metadata=metadata or None)


def score_schema(columns: Columns) -> pa.Schema:
    """Return the Arrow schema of a score table.

    Parameters
    ----------
    columns : Columns
        Category codes, the extras asked for, and the corpus columns carried through.

    Returns
    -------
    pyarrow.Schema
        Each field's metadata holds its ``meaning`` or its ``unit``. Probabilities are float32: tails are the
        point of a score table, so they are never float16 and never rounded.
    """
    prob = "probability"
    fields = [
        _field("doc_id", pa.string(), nullable=False),
        _field("status", pa.string(), nullable=False),
        _field("error", pa.string()),
        _field("chunks", pa.int32(), nullable=False),
        _field("truncated", pa.bool_(), nullable=False),
        _field("answer", pa.list_(pa.string())),
        _field("p_any", pa.float32(), unit=prob),
        _field("p_max", pa.float32(), unit=prob),
        *(_field(f"p_{code}", pa.float32(), unit=prob) for code in columns.codes),
        _field("residual", pa.float32(), unit=prob),
        _field("off_grammar", pa.float32(), unit=prob),
        _field("requests", pa.int32(), unit="engine requests", nullable=False),
        _field("prompt_tokens", pa.int32(), unit="tokens", nullable=False),
    ]
    for name in columns.vectors():
        unit = _UNITS.get(name, prob)
        fields += [_field(f"{name}_{code}", pa.float32(), unit=unit) for code in columns.codes]
    if columns.top_answers:
        fields.append(_field("top_answers", TOP_ANSWERS))
    fields += columns.carried
    fields += [
        _field("run_id", pa.string(), nullable=False),
        _field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
    return pa.schema(fields)


def scores_to_arrays(scores: Sequence[Score], columns: Columns) -> dict[str, pa.Array]:
    """Turn scores into the Arrow arrays of :func:`score_schema`, carried and run columns left out.

    Parameters
    ----------
    scores : sequence of Score
        One per output row.
    columns : Columns
        The columns of the table.

    Returns
    -------
    dict of str to pyarrow.Array
        Each array has ``len(scores)`` entries.
    """

    def plain(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([getattr(score, name) for score in scores], type=kind)

    def table(name: str) -> tuple[FloatArray32, BoolArray]:
        """Return values with one row a category and one column a score, and which scores have none."""
        own = name in ("probs", "lower", "upper")
        rows = [getattr(score, name) if own else score.estimates.get(name) for score in scores]
        blank = np.zeros(len(columns.codes))
        values = np.array([blank if row is None else row for row in rows], dtype=np.float32)
        missing = np.array([row is None for row in rows], dtype=bool)
        return np.ascontiguousarray(values.reshape(len(rows), len(columns.codes)).T), missing

    def vector(name: str, values: FloatArray32, missing: BoolArray) -> dict[str, pa.Array]:
        named = zip(columns.codes, values, strict=True)
        return {f"{name}_{code}": pa.array(of_code, mask=missing) for code, of_code in named}

    probs, no_probs = table("probs")
    out: dict[str, pa.Array] = {
        "doc_id": plain("doc_id", pa.string()),
        "status": plain("status", pa.string()),
        "error": plain("error", pa.string()),
        "chunks": plain("chunks", pa.int32()),
        "truncated": plain("truncated", pa.bool_()),
        "answer": plain("answer", pa.list_(pa.string())),
        "p_any": plain("p_any", pa.float32()),
        "p_max": pa.array(probs.max(axis=0), mask=no_probs),
        **vector("p", probs, no_probs),
        "residual": plain("residual", pa.float32()),
        "off_grammar": plain("off_grammar", pa.float32()),
        "requests": plain("requests", pa.int32()),
        "prompt_tokens": plain("prompt_tokens", pa.int32()),
    }
    for name in columns.vectors():
        out |= vector(name, *table(name))
    if columns.top_answers:
        out["top_answers"] = pa.array(
            [
                None
                if score.top_answers is None
                else [{"categories": list(top.categories), "prob": top.prob} for top in score.top_answers]
                for score in scores
            ],
            type=TOP_ANSWERS,
        )
    return out
