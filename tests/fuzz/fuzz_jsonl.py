"""Any bytes as JSON lines: every line that is not blank is a row, and a good one says what the line says."""

from __future__ import annotations

import json

import harness
from hypothesis import strategies as st

SETTINGS: tuple[dict, ...] = (
    {},
    {"id_column": "id"},
    {"messages_column": "text"},
    {"id_column": "id", "carry_columns": ("id", "more")},
    {"messages_column": "text", "id_column": "id", "carry_columns": ("more",)},
)


def check(data: bytes) -> None:
    """Read a file. The first byte says how: which columns, how many rows at a time, and whether it is compressed."""
    how, lines = data[:1], data[1:]
    number = how[0] if how else 0
    settings, size, packed = SETTINGS[number % len(SETTINGS)], 1 + number // 8 % 3, number >= 128
    rows = harness.read_file(lines, "jsonl", packed, size, **settings)
    if rows is None:
        return
    filled = [(i, line) for i, line in enumerate(lines.split(b"\n")) if line.strip()]
    assert len(rows) == len(filled), "a row is lost, or there is one too many"
    for (place, line), row in zip(filled, rows, strict=True):
        assert row["row_key"] == place
        assert row["doc_id"]
        check_row(line, row, settings, f"{'a.jsonl.gz' if packed else 'a.jsonl'}#{place}")


def check_row(line: bytes, row: dict, settings: dict, derived: str) -> None:
    """Hold a row against the line, read by itself."""
    try:
        record = json.loads(line.decode("utf-8-sig", "surrogatepass"))
        known = record if isinstance(record, dict) else {}
        text = known.get("text")
        text = text if isinstance(text, str) and text.encode() else None
    except (ValueError, RecursionError):
        known, text = {}, None
    if not known:
        assert row["fault"] is not None
    if "id_column" not in settings:
        assert row["doc_id"] == derived
    elif row["fault"] is None:
        assert row["doc_id"] == str(known["id"])
    if row["fault"] is None and "messages_column" not in settings:
        assert row["content"] == text
    if row["fault"] is None and "more" in row and isinstance(known.get("more"), str):
        assert row["more"] == known["more"].encode("utf-8", "replace").decode()
    if text is not None and text.strip() and "id_column" not in settings and "messages_column" not in settings:
        assert row["fault"] is None


cells = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=6),
        st.text(st.characters(categories=["Cs", "Cc", "Zs"]), max_size=3),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(["role", "content"]), inner, max_size=3)
    ),
    max_leaves=5,
)
turns = st.lists(
    st.fixed_dictionaries(
        {}, optional={"role": st.sampled_from(["user", "assistant", "system"]) | cells, "content": cells}
    ),
    max_size=3,
)
records = st.fixed_dictionaries(
    {}, optional={"text": cells | turns | turns.map(json.dumps), "id": st.integers(0, 9) | cells, "more": cells}
)
good = st.fixed_dictionaries(
    {
        "text": st.text(min_size=1, max_size=5) | turns,
        "id": st.integers() | st.text(min_size=1, max_size=4),
        "more": cells,
    }
)
lines = st.one_of(
    good.map(json.dumps).map(str.encode),
    records.map(lambda record: json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    cells.map(json.dumps).map(str.encode),
    st.binary(max_size=6),
    st.sampled_from(
        [
            b"",
            b" ",
            b"\r",
            b"\x0b",
            b"\x1c",
            b"\x85",
            b"\xc2\xa0",
            b"\xef\xbb\xbf",
            b"[" * 3000,
            b'{"text": 1e999}',
            b'{"text":"a","text":"b"}',
            b"NaN",
        ]
    ),
    st.integers(4000, 5000).map(lambda size: b'{"text": "a", "id": ' + b"1" * size + b"}"),
)
inputs = st.builds(
    lambda how, first, rest, end: bytes([how]) + b"\n".join([first, *rest]) + end,
    st.integers(0, 255),
    lines | st.just(b"\xef\xbb\xbf").flatmap(lambda mark: lines.map(lambda line: mark + line)),
    st.lists(lines, max_size=6),
    st.sampled_from([b"", b"\n", b"\r\n", b"\n\n"]),
)
