"""The texts of sampled documents, from the corpus they were scored from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from confscore.config import InputConfig, load, parse
from confscore.corpus import Corpus, Part, open_corpus
from confscore.corpus.cells import Turn
from confscore.errors import ConfigError, CorpusError
from confscore.plain_yaml import NotYaml, load_yaml
from confscore.run_folder import RunFolder

_ROWS_AT_ONCE = 1024


def read_texts(doc_ids: Sequence[str], config: InputConfig) -> list[str]:
    """Return the texts of documents of a corpus, in the order of their ids.

    A conversation becomes one text, with each turn under its role in brackets.

    Parameters
    ----------
    doc_ids : sequence of str, length n
        All different.
    config : InputConfig
        Where the corpus is, and which columns it has.

    Raises
    ------
    CorpusError
        The corpus cannot be read, or a document is not in it, or has no text any more.
    """
    corpus = open_corpus(config.model_copy(update={"carry_columns": ()}))
    wanted = pa.array(doc_ids, pa.string())
    texts: dict[str, str] = {}
    for part in _parts_with(corpus, doc_ids):
        for table in corpus.reader.tables(part, _ROWS_AT_ONCE):
            found = table.filter(pc.is_in(table["doc_id"], wanted)).select(["doc_id", "content", "fault"])
            for doc_id, content, fault in zip(*(column.to_pylist() for column in found.columns), strict=True):
                if content is None:
                    raise CorpusError(f"{part.file.path}: document {doc_id!r} was scored, and is faulty now: {fault}")
                texts[doc_id] = _as_text(content)
        if len(texts) == len(doc_ids):
            break
    missing = [doc_id for doc_id in doc_ids if doc_id not in texts]
    if missing:
        raise CorpusError(
            f"input.path {config.path}: {len(missing):,} of {len(doc_ids):,} sampled documents, such as "
            f"{missing[0]!r}, are not in this corpus; name the configuration of theirs with --corpus"
        )
    return [texts[doc_id] for doc_id in doc_ids]


def input_of_run(scores: str, run_id: str) -> InputConfig:
    """Return where a run of a score table found its corpus, from the configuration it left behind.

    Raises
    ------
    ConfigError
        There is none that can be read.
    """
    run = RunFolder(scores, run_id)
    place = f"{run.path}/config.yaml"
    try:
        with run.filesystem.open_input_stream(place) as stream:
            tree = load_yaml(stream.read().decode())
    except (OSError, NotYaml, UnicodeDecodeError):
        tree = None
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{place}: the configuration of {run_id} cannot be read; name the one of the corpus with --corpus"
        )
    # Only where its corpus is: other keys may be refused by now that were not when it ran.
    here = {name: part for name, part in tree.items() if name == "input"}
    return parse({**here, "model": {"source": "."}, "output": {"path": "."}}, place).input


def input_of_file(path: Path) -> InputConfig:
    """Return where the corpus of a configuration file is; errors as of :func:`confscore.config.load`."""
    return load(path).input


def _parts_with(corpus: Corpus, doc_ids: Sequence[str]) -> list[Part]:
    """Return the parts of a corpus that may hold documents, as far as that is cheaper to know than to read them."""
    config = corpus.reader.config
    if config.id_column is None:  # ids are made of file names
        named = {doc_id if config.format == "text" else doc_id.rpartition("#")[0] for doc_id in doc_ids}
        return [part for part in corpus.parts if part.file.name in named]
    if config.format != "parquet":
        return list(corpus.parts)
    hashes = pd.util.hash_array(np.array(doc_ids, dtype=object), categorize=False)  # as those of the reader
    return [part for part in corpus.parts if np.isin(corpus.reader.id_hashes(part), hashes).any()]


def _as_text(content: str | list[Turn]) -> str:
    if isinstance(content, str):
        return content
    return "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in content)
