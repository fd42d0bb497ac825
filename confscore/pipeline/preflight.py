"""What is looked at in every file before any document is scored: how many rows there are, and that ids are unique."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import ray

from confscore.corpus import Part, RowReader
from confscore.errors import CorpusError, JobError
from confscore.manifest import SkippedFile
from confscore.plan import Plan

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Preflight:
    """A corpus that has been looked through.

    Attributes
    ----------
    parts : tuple of Part
        What will be scored.
    rows : tuple of int
        ``rows[i]`` is the number of rows of ``parts[i]``.
    skipped : tuple of SkippedFile
        Files that cannot be read, with ``input.on_bad_file: skip``.
    """

    parts: tuple[Part, ...]
    rows: tuple[int, ...]
    skipped: tuple[SkippedFile, ...]


def look_through(plan: Plan) -> Preflight:
    """Count rows and refuse ids that are not unique.

    Each id costs 8 bytes here: only hashes come back, and those that occur twice are looked at again.

    Raises
    ------
    CorpusError
        A file cannot be read, unless such files are to be skipped, or an id occurs twice.
    JobError
        No file can be read.
    """
    reader = ray.put(plan.corpus.reader)
    with_ids = plan.config.input.id_column is not None
    task = ray.remote(num_cpus=1)(_look)
    looks = ray.get([task.remote(reader, part, with_ids) for part in plan.corpus.parts])
    bad = dict(plan.corpus.bad)
    for part, look in zip(plan.corpus.parts, looks, strict=True):
        if isinstance(look, str):
            bad.setdefault(part.file.path, look)
    if bad and plan.config.input.on_bad_file == "fail":
        raise CorpusError(next(iter(bad.values())))
    good = [
        (part, look)
        for part, look in zip(plan.corpus.parts, looks, strict=True)
        if part.file.path not in bad and not isinstance(look, str)
    ]
    if bad and not good:
        raise JobError(f"no file of {plan.config.input.path} can be read: {next(iter(bad.values()))}")
    if with_ids:
        _refuse_twins(plan, [part for part, _ in good], [look for _, look in good if not isinstance(look, int)])
    rows = tuple(look if isinstance(look, int) else len(look) for _, look in good)
    skipped = tuple(SkippedFile(path=path, reason=reason) for path, reason in bad.items())
    return Preflight(tuple(part for part, _ in good), rows, skipped)


def _look(reader: RowReader, part: Part, with_ids: bool) -> Hashes | int | str:
    """Return a hash of every id, or the number of rows; or why the part cannot be read."""
    try:
        return reader.id_hashes(part) if with_ids else reader.count(part)
    except CorpusError as error:
        return str(error)


def _refuse_twins(plan: Plan, parts: Sequence[Part], hashes: Sequence[Hashes]) -> None:
    together = np.sort(np.concatenate([np.empty(0, np.uint64), *hashes]))
    twice = np.unique(together[1:][together[1:] == together[:-1]])
    if not len(twice):
        return
    find = ray.remote(num_cpus=1)(RowReader.find_ids)
    reader = ray.put(plan.corpus.reader)
    places: dict[str, list[str]] = defaultdict(list)
    for found in ray.get([find.remote(reader, part, twice) for part in parts]):
        for doc_id, place in found:
            places[doc_id].append(place)
    for doc_id, where in places.items():
        if len(where) > 1:
            raise CorpusError(
                f"column {plan.config.input.id_column} (input.id_column): the id {doc_id!r} occurs twice, in "
                f"{where[0]} and in {where[1]}; ids have to be unique, or leave input.id_column out to have them "
                "derived from file and row"
            )
