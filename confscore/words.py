"""What is said to people: one line, safe to show, and without the text of documents.

Names, ids and messages of libraries come from files that anybody may have written. On a terminal their control
characters would be commands, and in a log a line break would begin a line of its own.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

_PACKAGE = Path(__file__).parent
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LONGEST_NAME = 64
_MOST_NAMES = 30
_NO_TEXT = (OSError, ImportError, MemoryError)
"""What is said by these is about files, modules and memory, and not about what a document contains."""


def printable(text: str) -> str:
    """Return a text with everything escaped that is no printable character: control codes, line breaks, bidi marks."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def one_line(text: str) -> str:
    """Return a text as one printable line; white space becomes single spaces."""
    return printable(" ".join(text.split()))


def name_list(names: Sequence[str]) -> str:
    """Return column names for a sentence, as far as they can be names.

    Of a file without a header the first row is taken for one, and its cells are documents.
    """
    shown = [printable(name) if len(name) <= _LONGEST_NAME else f"({len(name):,} characters)" for name in names]
    more = [f"and {len(names) - _MOST_NAMES:,} more"] if len(names) > _MOST_NAMES else []
    return ", ".join([*shown[:_MOST_NAMES], *more])


def csv_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def unexpected(error: BaseException, *, in_full: bool = False) -> str:
    """Say what an error is that nobody expected, and where it came from.

    Its own message may repeat what a document contains, so it is left out.

    Parameters
    ----------
    error : BaseException
        The error.
    in_full : bool
        Whether to say its message as well.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    where = ""
    if ours:
        where = f" in {Path(ours[-1].filename).relative_to(_PACKAGE.parent).as_posix()} line {ours[-1].lineno}"
    what = f"unexpected {type(error).__name__}{where}"
    message = one_line(str(error)) if in_full or isinstance(error, _NO_TEXT) else ""
    return f"{what}: {message}" if message else what
