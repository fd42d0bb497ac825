"""Finding the row that ends its process.

A row may crash an engine, or make it take all memory. Whoever starts the engine again must not hand it the same row for
ever. So a group of rows is marked before it is scored and unmarked afterwards: a mark that is found at the start of a
group says that a process died over it. Such a group is cut into smaller ones, down to single rows, and a row over which
processes died when nothing else was in work becomes an ``error`` row.

A job that is ended as a whole takes its processes with it, whatever they were at. So marks say which start of the job
made them, and the last death of an earlier start counts for little.

Marks are files, because whatever is in memory dies with the process. They cost two small writes a block.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pyarrow import fs

from confscore.corpus.files import make_folder, resolve
from confscore.rows import Score

STRIKES = 2
"""So many processes have to die over a block before it is cut up, and over a single row before it is given up."""
STARTS_A_STRIKE = 5
"""So many starts that ended as a whole while a group was in work count as one process that died over it: a row can end
a whole machine, and then somebody has to start the job again and again."""
_CUTS = 16


@dataclass(frozen=True, slots=True)
class Marks:
    """Marks of one run.

    Attributes
    ----------
    output : str
        ``output.path``, which says on which filesystem they are.
    folder : str
        Where they are on it.
    start : str
        The start of the job that makes them: letters and digits.
    """

    output: str
    folder: str
    start: str

    def found(self, group: str) -> int:
        """Return how many processes died over a group, as far as the group can have been the cause."""
        filesystem, _ = resolve(self.output)
        place = f"{self.folder}/{group}"
        inside = filesystem.get_file_info(fs.FileSelector(place, allow_not_found=True, recursive=True))
        marks = [info.path.rpartition("/") for info in inside if info.type == fs.FileType.File]
        by_start = Counter(_start_of(name) for folder, _, name in marks if folder.endswith(f"/{group}"))
        ours = by_start.pop(self.start, 0)
        # What was in work when an earlier start ended is the group itself, unless it had been cut up by then.
        ended_inside = {_start_of(name) for folder, _, name in marks if not folder.endswith(f"/{group}")}
        ended_here = by_start.keys() - ended_inside
        return ours + by_start.total() - len(ended_here) + len(ended_here) // STARTS_A_STRIKE

    def begin(self, group: str) -> None:
        """Mark a group."""
        filesystem, _ = resolve(self.output)
        place = f"{self.folder}/{group}"
        make_folder(filesystem, place)
        with filesystem.open_output_stream(f"{place}/{self.start}-{uuid.uuid4().hex}"):
            pass

    def end(self, group: str) -> None:
        """Take all marks of a group away, and those of groups in it."""
        filesystem, _ = resolve(self.output)
        with suppress(FileNotFoundError):  # a process that was given up too early works on the same rows
            filesystem.delete_dir(f"{self.folder}/{group}")


@dataclass(slots=True)
class Turns:
    """Lets ordinary groups run side by side, and a suspicious one alone."""

    _changed: threading.Condition = field(default_factory=threading.Condition)
    _running: int = 0
    _alone: bool = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Run beside other ordinary groups."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run while nothing else does."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._changed.wait_for(lambda: self._running == 0)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


def score_marked(
    marks: Marks, turns: Turns, keys: Sequence[int], ids: Sequence[str], score: Callable[[int, int], list[Score]]
) -> list[Score]:
    """Score a block of rows, and give up rows that end their process.

    Parameters
    ----------
    marks : Marks
        The run's.
    turns : Turns
        The process's: shared by all blocks it works on.
    keys, ids : sequence, length n
        Row keys and document ids.
    score : callable
        ``score(start, end)`` scores the rows ``start:end`` side by side.

    Returns
    -------
    list of Score, length n
    """
    block = _name(keys, 0, len(keys))
    if marks.found(block) < STRIKES:
        with turns.shared():
            marks.begin(block)  # not before its turn: a process that ends meanwhile has not died over it
            scores = score(0, len(keys))
    else:
        with turns.alone():
            scores = _cut(marks, block, keys, ids, 0, len(keys), score)
    marks.end(block)
    return scores


def _cut(
    marks: Marks,
    block: str,
    keys: Sequence[int],
    ids: Sequence[str],
    start: int,
    end: int,
    score: Callable[[int, int], list[Score]],
) -> list[Score]:
    """Score rows in smaller groups, one after the other; one over which a process dies is cut again.

    What is known of bad groups is kept until the block is done: a death over another row of it must not make the next
    process find them out anew.
    """
    size = -(-(end - start) // _CUTS)
    scores: list[Score] = []
    for first in range(start, end, size):
        last = min(first + size, end)
        group = f"{block}/{_name(keys, first, last)}"
        single = last - first == 1
        if marks.found(group) < (STRIKES if single else 1):
            marks.begin(group)
            scores += score(first, last)
            marks.end(group)
        elif single:
            scores.append(_given_up(ids[first]))
        else:
            scores += _cut(marks, block, keys, ids, first, last, score)
    return scores


def _given_up(doc_id: str) -> Score:
    return Score(
        doc_id,
        "error",
        error=f"the engine's process ended {STRIKES} times while it scored this document and no other",
    )


def _start_of(name: str) -> str:
    return name.partition("-")[0]


def _name(keys: Sequence[int], start: int, end: int) -> str:
    return f"{keys[start]}-{keys[end - 1]}-{end - start}"
