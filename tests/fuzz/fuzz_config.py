"""Any file as a configuration: read, or refused in one line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import harness
import yaml
from hypothesis import strategies as st

from confscore.config import Config, dump, load, parse
from confscore.errors import ConfscoreError


def check(data: bytes) -> None:
    """Read a configuration; what follows a zero byte are overrides."""
    text, *overrides = data.split(b"\0")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "job.yaml")
        path.write_bytes(text)
        try:
            config = load(path, [override.decode("utf-8", "replace") for override in overrides])
        except ConfscoreError as error:
            harness.check_sentence(error)
            return
    assert isinstance(config, Config)
    assert parse(yaml.safe_load(dump(config)), "dumped") == config


def keys(model: type = Config, before: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        found.append(before + name)
        if hasattr(field.annotation, "model_fields"):
            found += keys(field.annotation, f"{before}{name}.")
    return found


KEYS = keys()
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10**20),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.datetimes(),
    st.binary(max_size=4),
    st.sampled_from(
        ["parquet", "csv", "text", "global", "raw", "paper", "marginal", "any", "vllm", "s3://a/b", "", "~"]
    ),
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain | st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(sorted({part for key in KEYS for part in key.split(".")})) | st.text(max_size=5)


@st.composite
def trees(draw: st.DrawFn) -> bytes:
    """Return a small valid configuration with some keys set to anything."""
    tree: dict = {"input": {"path": "a"}, "model": {"source": "b"}, "output": {"path": "c"}}
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=4)):
        node = tree
        *parents, leaf = key.split(".")
        for part in parents:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        node[leaf] = draw(values)
    if draw(st.booleans()):
        section = draw(st.sampled_from(sorted(tree, key=str)))
        if isinstance(tree[section], dict):
            tree[section][draw(plain)] = draw(values)
    return yaml.safe_dump(tree, allow_unicode=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def overrides(draw: st.DrawFn) -> bytes:
    pieces = [draw(trees())]
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(KEYS) | st.lists(names, max_size=4).map(".".join))
        value = draw(
            st.sampled_from(["1", "[", "{a: b}", "null", "", "!!python/name:os.system", "&a *a", "1e999", "0x"])
            | st.text(max_size=5)
        )
        pieces.append(f"{key}{draw(st.sampled_from(['=', '', '==']))}{value}".encode("utf-8", "surrogatepass"))
    return b"\0".join(pieces)


marks = st.sampled_from([*b"{}[]:,-?!&*#|>'\"%@`\n\t \0\xff\x85"]).map(lambda byte: bytes([byte]))
scraps = st.sampled_from(
    [
        b"input: ",
        b"path: a\n",
        b"<<: *a\n",
        b"&a ",
        b"!!binary ",
        b"!!set ",
        b"!!timestamp ",
        b"2026-13-45",
        b"1_000",
        b"0o7",
        b".nan",
        b"? ",
    ]
)
soup = st.lists(st.one_of(marks, scraps, st.binary(max_size=3)), max_size=30).map(b"".join)
inputs = st.one_of(trees(), overrides(), soup)
