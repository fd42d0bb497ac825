"""Cells of a corpus become documents: what a good cell is, and what is said of a bad one.

A bad cell never stops a job. It becomes a *fault*, a sentence that ends up in the row's ``error`` column.
"""

from __future__ import annotations

import json
from typing import TypedDict

from confscore.rows import Document, Message

ROLES = ("user", "assistant")
_OTHER_ROLES = ("system", "developer", "tool", "function", "human", "gpt", "ai", "bot", "model", "agent", "ipython")
"""What others call roles. A fault repeats only these: anything else may be a piece of a document."""


class Turn(TypedDict):
    """One message as it is stored in Arrow."""

    role: str
    content: str


class Fault(Exception):
    """A cell cannot be used; the message says why. Never leaves this package."""


def document_id(cell: object, column: str) -> str:
    """Return a row's id as text.

    Raises
    ------
    Fault
        The cell is null, empty, or neither text nor a whole number.
    """
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    text = _utf8(cell, column)
    if not text:
        raise Fault(f"{column} is empty")
    return text


def text(cell: object, column: str) -> str:
    """Return a row's text.

    Raises
    ------
    Fault
        The cell is null, empty or only white space, not text, or not valid UTF-8.
    """
    found = _utf8(cell, column)
    if not found.strip():
        raise Fault(f"{column} is empty")
    return found


def messages(cell: object, column: str) -> list[Turn]:
    """Return a row's conversation.

    Parameters
    ----------
    cell : object
        A list of objects with ``role`` (user or assistant) and ``content``, or the same as JSON text.
    column : str
        The column's name.

    Raises
    ------
    Fault
        Anything else.
    """
    if isinstance(cell, str | bytes):
        try:
            cell = json.loads(_utf8(cell, column))
        except (ValueError, RecursionError):
            raise Fault(f"{column} is text, but not a JSON list of messages") from None
    if cell is None:
        raise Fault(f"{column} is null")
    if not isinstance(cell, list):
        raise Fault(f"{column} is {_kind(cell)}, not a list of messages")
    if not cell:
        raise Fault(f"{column} has no message")
    turns = [_turn(turn, f"{column}[{index}]") for index, turn in enumerate(cell)]
    if not turns[-1]["content"].strip():
        raise Fault(f"{column}: the last message is empty")
    return turns


def _turn(turn: object, place: str) -> Turn:
    if not isinstance(turn, dict):
        raise Fault(f"{place} is {_kind(turn)}, not an object with role and content")
    role = turn.get("role")
    if role not in ROLES:
        said = "null" if role is None else _kind(role)
        if isinstance(role, str):
            said = repr(role) if role.lower() in (*ROLES, *_OTHER_ROLES) else "a word of its own"
        raise Fault(f"{place}.role is {said}, not user or assistant")
    return Turn(role=role, content=_utf8(turn.get("content"), f"{place}.content"))


def as_document(doc_id: str, content: str | list[Turn] | None, fault: str | None) -> Document:
    """Return the document of a row; a bare text is one user message."""
    if fault is not None or content is None:
        return Document(doc_id, fault=fault or "there is nothing to score")
    if isinstance(content, str):
        return Document(doc_id, (Message("user", content),))
    return Document(doc_id, tuple(Message(turn["role"], turn["content"]) for turn in content))


def _utf8(cell: object, column: str) -> str:
    if cell is None:
        raise Fault(f"{column} is null")
    if isinstance(cell, bytes):
        try:
            return cell.decode()
        except UnicodeDecodeError as error:
            raise Fault(f"{column} is not valid UTF-8 (byte {error.start})") from None
    if not isinstance(cell, str):
        raise Fault(f"{column} is {_kind(cell)}, not text")
    try:
        cell.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise Fault(f"{column} is not valid Unicode (character {error.start})") from None
    return cell


def _kind(cell: object) -> str:
    """Name a cell's type in words that are not Python's."""
    names: list[tuple[type, str]] = [
        (bool, "true or false"),
        (int, "a number"),
        (float, "a number"),
        (str, "text"),
        (bytes, "text"),
        (list, "a list"),
        (dict, "an object"),
    ]
    return next((name for kind, name in names if isinstance(cell, kind)), f"of type {type(cell).__name__}")
