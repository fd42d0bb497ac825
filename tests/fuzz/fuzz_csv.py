"""Any bytes as CSV: no row is lost, and what was written as CSV is read as it was written."""

from __future__ import annotations

import csv
import io
import json
import re

import harness
from hypothesis import strategies as st

SETTINGS: tuple[dict, ...] = (
    {},
    {"id_column": "id"},
    {"carry_columns": ("more",)},
    {"messages_column": "text", "id_column": "id"},
)


def check(data: bytes) -> None:
    """Read a file. The first byte says how.

    Where the rest begins with ``=`` it is JSON, rows of cells, from which a file is written first.
    """
    number = data[0] if data else 0
    settings, size, packed = SETTINGS[number % len(SETTINGS)], 1 + number // 8 % 3, number >= 128
    rest, expected = data[1:], None
    if rest[:1] == b"=":
        expected = as_cells(rest[1:])
        if expected is None:
            return
        rest = written(expected, ("\n", "\r\n", "\r")[number // 4 % 3])
    rows = harness.read_file(rest, "csv", packed, size, **settings)
    if rows is None:
        assert expected is None, "a good file is refused"
        return
    assert len({row["row_key"] for row in rows}) == len(rows)
    if b'"' not in rest:
        lines = re.split(rb"\r\n|\r|\n", rest.removeprefix(b"\xef\xbb\xbf"))
        assert len(rows) == sum(bool(line) for line in lines) - 1, "a row is lost, or there is one too many"
    if expected is not None:
        check_rows(expected, rows, settings)


def as_cells(data: bytes) -> list[list[str]] | None:
    """Return rows of three cells from JSON; ``None`` where it holds something else."""
    try:
        rows = json.loads(data.decode())
    except (ValueError, RecursionError):
        return None
    good = isinstance(rows, list) and all(isinstance(row, list) and len(row) == 3 for row in rows)
    try:
        return (
            rows
            if good and all(isinstance(cell, str) and cell.encode() for row in rows for cell in row if cell)
            else None
        )
    except UnicodeEncodeError:
        return None


def written(rows: list[list[str]], end: str) -> bytes:
    """Return rows of (id, text, more) as a CSV file."""
    text = io.StringIO(newline="")
    # Of the characters that end lines, this writer quotes only those that it ends them with itself.
    writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_MINIMAL if end == "\r\n" else csv.QUOTE_ALL)
    writer.writerow(["id", "text", "more"])
    writer.writerows(rows)
    return text.getvalue().encode()


def check_rows(expected: list[list[str]], rows: list[dict], settings: dict) -> None:
    assert len(rows) == len(expected), "a row is lost, or there is one too many"
    for number, ((doc_id, text, more), row) in enumerate(zip(expected, rows, strict=True)):
        assert row["row_key"] == number
        if "messages_column" in settings:
            continue
        good_id = "id_column" not in settings or bool(doc_id)
        assert row["content"] == (text if text.strip() and good_id else None)
        if good_id and "id_column" in settings:
            assert row["doc_id"] == doc_id
        if "carry_columns" in settings:
            assert row["more"] == more


cells = st.one_of(
    st.text(max_size=6),
    st.text(',"\n\r \tab\x0b\x1c\x85', max_size=6),
    st.sampled_from(["NA", "null", "=1", "[]", '[{"role": "user", "content": "x"}]', "\ufeff"]),
)
tables = st.lists(st.lists(cells, min_size=3, max_size=3), max_size=5)
# The csv module writes a zero character and reads it again; a record of one empty cell is a blank line.
from_cells = st.builds(lambda how, rows: bytes([how]) + b"=" + json.dumps(rows).encode(), st.integers(0, 255), tables)
scraps = st.sampled_from(
    [
        b"id,text,more\n",
        b"id,text,more\r",
        b"text",
        b",",
        b'"',
        b'""',
        b"\n",
        b"\r\n",
        b"\r",
        b"a",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b'"a"b',
        b"1,2,3\n",
    ]
)
soup = st.builds(
    lambda how, first, rest: bytes([how]) + first + b"".join(rest),
    st.integers(0, 255),
    st.sampled_from([b"id,text,more\n", b"", b"text\n", b"\xef\xbb\xbfid,text,more\r\n", b"id,id,text,more\n"]),
    st.lists(st.one_of(scraps, scraps, st.binary(max_size=3)), max_size=20),
).filter(lambda data: data[1:2] != b"=")
inputs = st.one_of(from_cells, soup)
