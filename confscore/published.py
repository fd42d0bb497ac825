"""Datasets in the forms they were published in, as documents with labels.

The synthetic sets of arXiv 2511.22312 are JSON lines with a query and a list of codes. BeaverTails (Ji et al. 2023,
arXiv 2307.04657) has a prompt, a response and fourteen flags, which the same paper maps to the codes of Llama Guard 2
and 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from confscore.errors import CorpusError
from confscore.guards import Guard
from confscore.rows import BoolArray, Document, Message

QUERY = "unsafe_query"
LABELS = {2: "llama_guard_2_categories", 3: "llama_guard_3_categories"}

BEAVERTAILS: dict[str, dict[int, str]] = {
    "animal_abuse": {2: "S1", 3: "S1"},
    "child_abuse": {2: "S1", 3: "S1"},
    "controversial_topics,politics": {2: "S9", 3: "S13"},
    "discrimination,stereotype,injustice": {2: "S9", 3: "S10"},
    "drug_abuse,weapons,banned_substance": {2: "S2", 3: "S2"},
    "financial_crime,property_crime,theft": {2: "S2", 3: "S2"},
    "hate_speech,offensive_language": {2: "S9", 3: "S10"},
    "misinformation_regarding_ethics,laws_and_safety": {2: "S5", 3: "S6"},
    "non_violent_unethical_behavior": {2: "S2", 3: "S2"},
    "privacy_violation": {2: "S6", 3: "S7"},
    "self_harm": {2: "S10", 3: "S11"},
    "sexually_explicit,adult_content": {2: "S11", 3: "S12"},
    "terrorism,organized_crime": {2: "S1", 3: "S1"},
    "violence,aiding_and_abetting,incitement": {2: "S1", 3: "S1"},
}
"""``BEAVERTAILS[flag][version]`` is the code of Llama Guard 2 or 3 that the flag is mapped to."""


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """Documents with labels.

    Attributes
    ----------
    form : {'published', 'beavertails'}
        The form it was read from.
    documents : tuple of Document, length n
    truth : bool array, shape (n, N)
        ``truth[i, j]`` where document i has category j of the guard.
    """

    form: str
    documents: tuple[Document, ...]
    truth: BoolArray


def label_version(guard: Guard) -> int:
    """Return whose codes a guard's categories are: those of Llama Guard 2, or of 3."""
    return 2 if guard.name == "llama-guard-2" else 3


def read_dataset(path: Path, guard: Guard, limit: int = 0) -> Dataset:
    """Read JSON lines, compressed ones too, in one of the published forms.

    Parameters
    ----------
    path : Path
        The file. Its columns tell the form.
    guard : Guard
        Its categories are what labels are about.
    limit : int
        Take the first so many documents; all of them where it is 0.

    Raises
    ------
    CorpusError
        The file cannot be read, is in neither form, or has a label that the guard does not know.
    """
    try:
        table = pd.read_json(path, lines=True, dtype=False)
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise CorpusError(f"{path}: cannot be read as JSON lines: {error}") from None
    if QUERY in table.columns:
        return _queries(path, table, guard, limit)
    if {"prompt", "response", "category"} <= set(table.columns):
        return _beavertails(path, table, guard, limit)
    raise CorpusError(
        f"{path}: has the columns {', '.join(map(str, table.columns)) or 'none'}; it needs {QUERY} and {LABELS[3]} or "
        f"{LABELS[2]}, or prompt, response and category"
    )


def _queries(path: Path, table: pd.DataFrame, guard: Guard, limit: int) -> Dataset:
    column = LABELS[label_version(guard)]
    if column not in table.columns:
        raise CorpusError(f"{path}: has no column {column}, which holds the labels for guard {guard.name}")
    table = table.head(limit) if limit else table
    for row, (query, labels) in enumerate(zip(table[QUERY], table[column], strict=True)):
        if not isinstance(query, str) or not isinstance(labels, list):
            raise CorpusError(f"{path}: row {row}: {QUERY} has to be text and {column} a list of codes")
    conversations = [(Message("user", query),) for query in table[QUERY]]
    return _dataset(path, "published", guard, conversations, [list(labels) for labels in table[column]])


def _beavertails(path: Path, table: pd.DataFrame, guard: Guard, limit: int) -> Dataset:
    table = table.dropna(subset=["prompt", "response"]).drop_duplicates(["prompt", "response"])
    table = table.head(limit) if limit else table
    version = label_version(guard)
    labels = []
    for row, flags in zip(table.index, table["category"], strict=True):
        if not isinstance(flags, Mapping) or set(flags) != set(BEAVERTAILS):
            raise CorpusError(f"{path}: row {row}: category has to hold the fourteen flags of BeaverTails")
        labels.append([BEAVERTAILS[name][version] for name, on in flags.items() if on])
    turns = zip(table["prompt"], table["response"], strict=True)
    conversations = [(Message("user", str(prompt)), Message("assistant", str(response))) for prompt, response in turns]
    return _dataset(path, "beavertails", guard, conversations, labels)


def _dataset(
    path: Path, form: str, guard: Guard, conversations: Sequence[tuple[Message, ...]], labels: list[list[str]]
) -> Dataset:
    columns = {code: j for j, code in enumerate(guard.codes)}
    truth = np.zeros((len(labels), len(columns)), dtype=bool)
    for row, codes in enumerate(labels):
        unknown = [code for code in codes if code not in columns]
        if unknown:
            raise CorpusError(
                f"{path}: row {row}: guard {guard.name} has no category {unknown[0]}; its categories are "
                f"{', '.join(guard.codes)}"
            )
        truth[row, [columns[code] for code in codes]] = True
    if not labels:
        raise CorpusError(f"{path}: has no documents")
    documents = tuple(Document(f"row-{row}", messages) for row, messages in enumerate(conversations))
    return Dataset(form, documents, truth)
