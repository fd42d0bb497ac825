"""Texts of a night's documents, for excerpts and for labellers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from confscore.audit.excerpts import excerpt
from confscore.audit.nights import TableNight
from confscore.audit.record import Notice
from confscore.audit.settings import AuditConfig, load_job
from confscore.audit.tally import NightCounts
from confscore.config import InputConfig
from confscore.errors import InputError
from confscore.sample_text import input_of_run, read_texts


def find_excerpts(
    config: AuditConfig, scores: TableNight, counts: NightCounts
) -> tuple[Mapping[str, str | None], list[Notice]]:
    """Return excerpts of the top documents by id, or none and a notice."""
    how = config.excerpts
    wanted = sorted({top.doc_id for top in chain(*counts.tops)})
    if how == "none" or not wanted:
        return {}, []
    texts, notices = find_texts(config, scores, wanted)
    return {doc_id: excerpt(text, how) for doc_id, text in texts.items()}, notices


def find_texts(config: AuditConfig, scores: TableNight, doc_ids: Sequence[str]) -> tuple[dict[str, str], list[Notice]]:
    """Return texts by id, or none and a notice: a report does not wait for them."""
    try:
        source = _corpus_of(config, scores)
        return dict(zip(doc_ids, read_texts(doc_ids, source), strict=True)), []
    except InputError as error:
        return {}, [Notice(severity="info", text=f"texts could not be read: {error}")]


def _corpus_of(config: AuditConfig, scores: TableNight) -> InputConfig:
    if config.corpus is not None:
        source = config.corpus
    else:
        job = load_job(config)
        source = job.input if job is not None else input_of_run(scores.path, scores.runs[-1] if scores.runs else "")
    if source.where or (config.score is None and config.corpus is None):
        return source
    return source.model_copy(update={"where": scores.where})
