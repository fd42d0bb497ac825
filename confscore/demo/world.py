"""A small world of mild documents in which the probability of every category is known.

A text is drawn first, sentence by sentence. Then it decides by itself how probable each category is: every
sentence i is a cue that names category c with a known probability ``q[i, c]`` (0 for most), independently of
the others, and a base rate b covers what no cue explains (noisy-or):

    P(c | text) = 1 - (1 - b) · Π_i (1 - q[i, c])

Given the text, categories are independent, so a set of categories s has the probability

    P(s | text) = Π_{c in s} P(c | text) · Π_{c not in s} (1 - P(c | text))

Labels are drawn from this distribution. So calibration, the best ranking anybody could reach and the error of a
score are known exactly, not estimated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from confscore.demo.filler import NEUTRAL, SLOTS
from confscore.demo.phrases import CUES, PAIRS
from confscore.rows import BoolArray, FloatArray

CODES: tuple[str, ...] = tuple(CUES)
"""Category codes in canonical order; N of them."""

BASE_RATE = 0.0005
"""b: how probable a category is in a text without any cue for it."""

DATES = ("2026-11-22", "2026-11-23")
SOURCES = ("forum", "mail", "review")

_CHOICE = re.compile(r"\[([^\]]+)\]|\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class WorldDocument:
    """A text, and everything there is to know about it.

    Attributes
    ----------
    doc_id : str
        Unique within one call of :func:`generate`.
    text : str
        A few sentences.
    probs : float array, shape (N,)
        ``probs[j] = P(category j | text)``.
    labels : bool array, shape (N,)
        One draw from that distribution.
    """

    doc_id: str
    text: str
    probs: FloatArray
    labels: BoolArray


@dataclass(frozen=True, slots=True)
class Mix:
    """What documents are made of.

    Attributes
    ----------
    strong, ambiguous : float
        Shares of documents with strong cues, and with ambiguous ones only. The rest is quiet: neutral
        sentences and hard negatives.
    sentences : tuple of int
        The least and the most neutral sentences in a document.
    """

    strong: float = 0.125
    ambiguous: float = 0.10
    sentences: tuple[int, int] = (3, 5)


@dataclass(frozen=True, eq=False, slots=True)
class Sentence:
    """A template: ``parts[k]`` are the texts its k-th piece chooses from; ``probs[j] = q[j]``, shape (N,)."""

    parts: tuple[tuple[str, ...], ...]
    probs: FloatArray

    def render(self, rng: np.random.Generator) -> str:
        """Return the sentence with every choice made."""
        return "".join(part[0] if len(part) == 1 else part[rng.integers(len(part))] for part in self.parts)


def noisy_or(cues: FloatArray, base_rate: float = BASE_RATE) -> FloatArray:
    """Return P(category | text) of a text's cues.

    Parameters
    ----------
    cues : float array, shape (n, N)
        ``cues[i, j] = q[i, j]``, the probability with which cue i names category j.
    base_rate : float
        b.

    Returns
    -------
    float array, shape (N,)
    """
    silent: FloatArray = np.prod(1 - cues, axis=0)
    return 1 - (1 - base_rate) * silent


def answer_probability(probs: FloatArray, mask: BoolArray) -> FloatArray:
    """Return the probability that exactly the categories of ``mask`` are named.

    Parameters
    ----------
    probs : float array, shape (..., N)
        ``P(category | text)``.
    mask : bool array, shape (..., N)
        The set of categories.

    Returns
    -------
    float array, shape (...)
    """
    chosen: FloatArray = np.prod(np.where(mask, probs, 1 - probs), axis=-1)
    return chosen


def generate(n: int, seed: int, mix: Mix | None = None) -> list[WorldDocument]:
    """Draw documents; the first ones are the same whatever ``n`` is.

    Parameters
    ----------
    n : int
        How many.
    seed : int
        Equal seeds and mixes give equal documents.
    mix : Mix, optional
        What they are made of. By default about 80 % of the documents name no category.

    Returns
    -------
    list of WorldDocument, length n
    """
    mix = mix or Mix()
    # Labels have their own stream: a text never depends on a label.
    for_texts, for_labels = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    documents = []
    for number in range(n):
        text, probs = _text(for_texts, mix)
        labels = for_labels.random(len(CODES)) < probs
        documents.append(WorldDocument(f"doc-{number:06d}", text, probs, labels))
    return documents


def write_corpus(
    folder: Path, n: int, seed: int, labels: Path | None = None, files_per_date: int = 2, mix: Mix | None = None
) -> Path:
    """Write documents as a Hive-partitioned Parquet corpus, and their labels beside it.

    Parameters
    ----------
    folder : Path
        Gets ``date=<date>/part-<number>.parquet`` with the columns ``doc_id``, ``text`` and ``source``.
    n, seed, mix
        As in :func:`generate`.
    labels : Path, optional
        Gets ``doc_id``, ``labels`` (list of codes) and the truth as ``prob_<code>``. It must not lie in the
        corpus; by default it is ``labels.parquet`` beside ``folder``.
    files_per_date : int
        Files in each of the two partitions.

    Returns
    -------
    Path
        Where the labels are.
    """
    labels = labels or folder.parent / "labels.parquet"
    if labels.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{labels}: the labels must not lie in the corpus folder {folder}")
    documents = generate(n, seed, mix)
    parts = np.array_split(np.arange(n), len(DATES) * files_per_date)
    for number, rows in enumerate(parts):
        path = folder / f"date={DATES[number // files_per_date]}" / f"part-{number % files_per_date:04d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_corpus_table(documents, rows.tolist()), path)
    labels.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(_labels_table(documents), labels)
    return labels


def _corpus_table(documents: Sequence[WorldDocument], rows: Sequence[int]) -> pa.Table:
    return pa.table(
        {
            "doc_id": pa.array([documents[i].doc_id for i in rows], pa.string()),
            "text": pa.array([documents[i].text for i in rows], pa.string()),
            "source": pa.array([SOURCES[i % len(SOURCES)] for i in rows], pa.string()),
        }
    )


def _labels_table(documents: Sequence[WorldDocument]) -> pa.Table:
    named = [[code for code, on in zip(CODES, doc.labels, strict=True) if on] for doc in documents]
    truth = np.array([doc.probs for doc in documents]).reshape(-1, len(CODES))
    return pa.table(
        {
            "doc_id": pa.array([doc.doc_id for doc in documents], pa.string()),
            "labels": pa.array(named, pa.list_(pa.string())),
            **{f"prob_{code}": pa.array(truth[:, j], pa.float64()) for j, code in enumerate(CODES)},
        }
    )


def _text(rng: np.random.Generator, mix: Mix) -> tuple[str, FloatArray]:
    """Return a text and its ``P(category | text)``."""
    kind = rng.random()
    if kind < mix.strong:
        counts = (int(rng.choice(4, p=(0, 0.3, 0.4, 0.3))), int(rng.choice(2)), int(rng.choice(2)))
    elif kind < mix.strong + mix.ambiguous:
        counts = (0, int(rng.integers(1, 3)), int(rng.choice(2)))
    else:
        counts = (0, 0, int(rng.choice(3, p=(0.5, 0.35, 0.15))))
    # A text with many cues has fewer neutral sentences, so lengths tell little.
    least, most = mix.sentences
    neutral = max(1, int(rng.integers(least, most + 1)) - sum(counts) // 2)
    sentences = [
        bank[i]
        for bank, count in zip((STRONG, AMBIGUOUS, HARD_NEGATIVE, _NEUTRAL), (*counts, neutral), strict=True)
        for i in rng.choice(len(bank), count, replace=False)
    ]
    order = rng.permutation(len(sentences))
    text = " ".join(sentences[i].render(rng) for i in order)
    return text, noisy_or(np.array([sentence.probs for sentence in sentences]))


def _sentence(template: str, named: dict[str, float]) -> Sentence:
    parts: list[tuple[str, ...]] = []
    start = 0
    for match in _CHOICE.finditer(template):
        parts.append((template[start : match.start()],))
        parts.append(tuple(match[1].split("|")) if match[1] else SLOTS[match[2]])
        start = match.end()
    parts.append((template[start:],))
    return Sentence(tuple(parts), np.array([named.get(code, 0.0) for code in CODES]))


_ALONE = [(prob, _sentence(template, {code: prob})) for code, cues in CUES.items() for prob, template in cues]
_NEUTRAL = tuple(_sentence(template, {}) for template in NEUTRAL)
STRONG = tuple(sentence for prob, sentence in _ALONE if prob >= 0.95)
HARD_NEGATIVE = tuple(sentence for prob, sentence in _ALONE if prob <= 0.03)
AMBIGUOUS = (
    *(sentence for prob, sentence in _ALONE if 0.03 < prob < 0.95),
    *(_sentence(template, named) for named, template in PAIRS),
)
