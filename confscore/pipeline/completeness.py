"""Which rows of a corpus are still to be scored, and whether every one of them was, once."""

from __future__ import annotations

from collections.abc import Sequence

from confscore.corpus import Part
from confscore.errors import JobError
from confscore.pipeline.preflight import Preflight
from confscore.plan import Plan
from confscore.publication import Compacted
from confscore.row_keys import RowKeys

_AFTER_ALL = 1 << 63


def unfinished(found: Preflight, staged: RowKeys) -> list[Part]:
    """Return the parts that have rows which are not staged."""
    starts = [part.first_key for part in found.parts]
    # A part's keys lie between its first one and the next part's.
    ends = [*starts[1:], _AFTER_ALL]
    parts = zip(found.parts, found.rows, starts, ends, strict=True)
    return [part for part, rows, start, end in parts if staged.range_cardinality(start, end) < rows]


def check_complete(plan: Plan, found: Preflight, files: Sequence[Compacted]) -> None:
    """Make sure that every row of the corpus is in the finished files, once.

    Raises
    ------
    JobError
        One is not.
    """
    keys, again = RowKeys(), RowKeys()
    for each in files:
        again |= each.repeated | (keys & each.keys)
        keys |= each.keys
    advice = f"nothing was published; remove {plan.run.work} and start the job again"
    if again:
        (place,) = plan.corpus.reader.name_rows(plan.corpus.files, [again.min()])
        raise JobError(f"{len(again):,} rows were scored twice, the first of them {place}; {advice}")
    short = unfinished(found, keys)
    if short or len(keys) != sum(found.rows):
        where = f", the first of them in {short[0].file.path}" if short else ""
        raise JobError(f"{sum(found.rows):,} rows were read and {len(keys):,} scored{where}; {advice}")
