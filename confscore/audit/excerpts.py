"""Excerpts of documents for a page that many people may open."""

from __future__ import annotations

import re

from confscore.audit.record import Excerpts

LONGEST = 160
"""Characters of an excerpt."""
_MARKS = (
    (re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+"), "[mail]"),
    (re.compile(r"\b(?:https?://|www\.)\S+", re.IGNORECASE), "[link]"),
    (re.compile(r"(?<!\w)@\w+"), "[name]"),
    # Telephone, card and account numbers, addresses of machines, dates: four digits or more, whatever parts them.
    (re.compile(r"\+?\d(?:[\d().:/ -]?\d){3,}"), "[number]"),
)
_LONG_WORD = re.compile(r"\S{41,}")


def excerpt(text: str, how: Excerpts) -> str | None:
    """Return the start of a text in one line, or ``None``.

    Parameters
    ----------
    text : str
        A document.
    how : {'none', 'redacted', 'full'}
        Redacted: mail addresses, links, names that start with @, numbers of four digits or more, and words of more than
        40 characters (keys, encoded data) are replaced by marks. Names of people and places stay: this keeps what is
        found by pattern from being copied on, and makes nobody anonymous.
    """
    if how == "none":
        return None
    start = text[: 8 * LONGEST]
    words = start.split()
    if len(start) < len(text) and words and not start[-1].isspace():
        words.pop()  # what is cut in two is not known by its pattern any more
    line = " ".join(words)
    if how == "redacted":
        for pattern, mark in _MARKS:
            line = pattern.sub(mark, line)
        line = _LONG_WORD.sub("[…]", line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
