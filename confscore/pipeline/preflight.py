"""What is looked at in every file before any document is scored: how many rows there are, and that ids are unique.

Ids are compared by their hashes, 8 bytes each, in processes of their own that share them out among themselves: the
driver's memory does not grow with the corpus.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.exceptions import RayActorError

from confscore.corpus import Part, RowReader
from confscore.errors import CorpusError, JobError
from confscore.manifest import SkippedFile
from confscore.plan import Plan

Hashes = npt.NDArray[np.uint64]
_BYTES_A_SHARE = 4 << 30
"""Of the corpus' files: for so many, one process compares ids."""
_MOST_TWINS = 1000
"""So many ids that a process finds twice are looked up, since one is reported; two ids with one hash are rare."""
_STRIPE_BITS = 6
_TRIES = 3


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


class Share:
    """A share of all ids' hashes, and which of them occur twice."""

    def __init__(self) -> None:
        self._hashes: dict[int, Hashes] = {}

    def add(self, part: int, hashes: Hashes) -> None:
        """Take in a part's hashes, which ascend; a part that is told again, by a task that is done again, counts once.

        They are copied: what Ray hands over is a view of its object store, and would stay there.
        """
        self._hashes[part] = hashes.copy()

    def twice(self, parts: Sequence[int]) -> Hashes:
        """Return the hashes that occur more than once in these parts, or some of them if there are many."""
        found: list[Hashes] = []
        edges = np.arange(1 << _STRIPE_BITS, dtype=np.uint64) << np.uint64(64 - _STRIPE_BITS)
        kept = [self._hashes[part] for part in parts if part in self._hashes]
        cuts = [[*np.searchsorted(hashes, edges), len(hashes)] for hashes in kept]
        for stripe in range(len(edges)):  # one after the other, so that no second copy of all is made
            pieces = [hashes[cut[stripe] : cut[stripe + 1]] for hashes, cut in zip(kept, cuts, strict=True)]
            together = np.sort(np.concatenate([np.empty(0, np.uint64), *pieces]))
            found.append(np.unique(together[1:][together[1:] == together[:-1]]))
        return np.concatenate(found)[:_MOST_TWINS]


def look_through(plan: Plan) -> Preflight:
    """Count rows and refuse ids that are not unique.

    Raises
    ------
    CorpusError
        A file cannot be read, unless such files are to be skipped, or an id occurs twice.
    JobError
        No file can be read, or the processes that compare ids are lost again and again.
    """
    for _ in range(_TRIES):
        try:
            return _look_through(plan)
        except RayActorError as error:  # its node may have gone
            lost = error
    raise JobError(
        f"ids could not be compared: a process that holds them, 8 bytes each, was lost {_TRIES} times: killed from "
        "outside, or for want of memory; nothing was scored, run the same command again"
    ) from lost


def _look_through(plan: Plan) -> Preflight:
    reader = ray.put(plan.corpus.reader)
    shares = _shares(plan) if plan.config.input.id_column is not None else []
    task = ray.remote(num_cpus=1)(_look)
    parts = plan.corpus.parts
    looks = ray.get([task.remote(reader, part, number, shares) for number, part in enumerate(parts)])
    bad = dict(plan.corpus.bad)
    for part, look in zip(parts, looks, strict=True):
        if isinstance(look, str):
            bad.setdefault(part.file.path, look)
    if bad and plan.config.input.on_bad_file == "fail":
        raise CorpusError(next(iter(bad.values())))
    good = {
        number: look
        for number, look in enumerate(looks)
        if parts[number].file.path not in bad and not isinstance(look, str)
    }
    if bad and not good:
        raise JobError(f"no file of {plan.config.input.path} can be read: {next(iter(bad.values()))}")
    twice = ray.get([share.twice.remote(list(good)) for share in shares])
    if sum(map(len, twice)):
        _refuse_twins(plan, [parts[number] for number in good], np.concatenate(twice))
    skipped = tuple(SkippedFile(path=path, reason=reason) for path, reason in bad.items())
    return Preflight(tuple(parts[number] for number in good), tuple(good.values()), skipped)


def _shares(plan: Plan) -> list[Any]:
    """Start the processes that compare ids, as many as the corpus needs, on different nodes while there are some."""
    size = sum(file.size for file in plan.corpus.files)
    nodes = sum(node["Alive"] for node in ray.nodes())
    actor = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(Share)
    return [actor.remote() for _ in range(min(nodes, 1 + size // _BYTES_A_SHARE))]


def _look(reader: RowReader, part: Part, number: int, shares: Sequence[Any]) -> int | str:
    """Return the number of rows, or why the part cannot be read; give each share its hashes of ids."""
    try:
        if not shares:
            return reader.count(part)
        hashes = np.sort(reader.id_hashes(part))
    except CorpusError as error:
        return str(error)
    owner = hashes % np.uint64(len(shares))
    ray.get([share.add.remote(number, hashes[owner == index]) for index, share in enumerate(shares)])
    return len(hashes)


def _refuse_twins(plan: Plan, parts: Sequence[Part], twice: Hashes) -> None:
    """Look up the ids of hashes that occur more than once, and refuse one that is there twice."""
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
