"""Guards by name, and from a user's own YAML file."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from pydantic import ValidationError

from confscore.errors import GuardError
from confscore.guards.aegis_1 import AEGIS_1
from confscore.guards.answers import VerdictAnswer
from confscore.guards.granite_guardian import GRANITE_GUARDIAN_3, GRANITE_GUARDIAN_3_3, GRANITE_GUARDIAN_4
from confscore.guards.instruct import INSTRUCT, INSTRUCT_LABELS
from confscore.guards.llama_guard import (
    LLAMA_GUARD_1,
    LLAMA_GUARD_2,
    LLAMA_GUARD_3,
    LLAMA_GUARD_3_1B,
    LLAMA_GUARD_4,
)
from confscore.guards.nemotron_safety_guard import NEMOTRON_SAFETY_GUARD_3
from confscore.guards.qwen3guard import QWEN3GUARD_GEN
from confscore.guards.shieldgemma import SHIELDGEMMA
from confscore.guards.spec import Guard
from confscore.guards.wildguard import WILDGUARD
from confscore.plain_yaml import NotYaml, PlainLoader, load_yaml
from confscore.words import one_line

__all__ = ["REGISTRY", "Guard", "resolve"]

REGISTRY: dict[str, Guard] = {
    guard.name: guard
    for guard in (
        LLAMA_GUARD_1,
        LLAMA_GUARD_2,
        LLAMA_GUARD_3,
        LLAMA_GUARD_3_1B,
        LLAMA_GUARD_4,
        SHIELDGEMMA,
        GRANITE_GUARDIAN_3,
        GRANITE_GUARDIAN_3_3,
        GRANITE_GUARDIAN_4,
        WILDGUARD,
        AEGIS_1,
        NEMOTRON_SAFETY_GUARD_3,
        QWEN3GUARD_GEN,
        INSTRUCT,
        INSTRUCT_LABELS,
    )
}


def resolve(name: str, order: str | None = None) -> Guard:
    """Return a registered guard, or read one from a YAML file.

    Parameters
    ----------
    name : str
        A name of ``REGISTRY``, or a path that ends in ``.yaml`` or ``.yml``.
    order : {'canonical', 'any'}, optional
        Overrides the order in which answers list categories.

    Returns
    -------
    Guard
        The contract; equal inputs give equal ``digest()``.

    Raises
    ------
    GuardError
        No such guard, or the file is not a valid one.
    """
    guard = _read(Path(name)) if name.endswith((".yaml", ".yml")) else REGISTRY.get(name)
    if guard is None:
        known = ", ".join(sorted(REGISTRY))
        raise GuardError(f"no guard is called {name!r}; known: {known}, or the path of a guard's .yaml file")
    if order is None:
        return guard
    if not isinstance(guard.answer, VerdictAnswer):
        raise GuardError(
            f"guard.order: answers of guard {name} list no categories, so they have no order; leave it out"
        )
    answer = guard.answer.model_copy(update={"order": order})
    return guard.model_copy(update={"answer": answer})


class _Loader(PlainLoader):
    """Reads ``yes``, ``no``, ``on`` and ``off`` as words, as YAML 1.2 does: here they are keys and answers."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != _BOOL]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))

_OTHER_WAYS = {"text": ("message", "system", "closing"), "message": ("text", "closing")}
"""A prompt is written in one way: what a guard gives takes the place of what the one it extends has."""

_TRIED = {"verdict", "fields", "question", "str", "tuple"}


def _extended(path: Path, tree: dict[str, object]) -> dict[str, object]:
    """Put a guard's own keys over those of the registered guard that it extends."""
    if "extends" not in tree:
        return tree
    base = REGISTRY.get(str(tree["extends"]))
    if base is None:
        known = ", ".join(sorted(REGISTRY))
        raise GuardError(f"{path}: extends: no guard is called {tree['extends']!r}; known: {known}")
    own_words = {"name", "models", "source", "notes"}
    merged: dict[str, object] = base.model_dump(mode="json", exclude_defaults=True, exclude=own_words)
    for key, value in tree.items():
        old = merged.get(key)
        if (
            isinstance(old, dict)
            and isinstance(value, dict)
            and value.get("form", base.answer.form) == base.answer.form
        ):
            merged[key] = {k: v for k, v in old.items() if k not in _OTHER_WAYS.get(_way(value), ())} | value
        elif key != "extends":
            merged[key] = value
    return merged


def _way(part: dict[str, object]) -> str:
    return next((way for way in _OTHER_WAYS if way in part), "")


def _read(path: Path) -> Guard:
    try:
        tree = load_yaml(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise GuardError(f"{path}: no such guard file") from None
    except (OSError, UnicodeDecodeError, NotYaml) as error:
        raise GuardError(f"{path}: cannot be read as YAML: {one_line(str(error))}") from None
    if not isinstance(tree, dict):
        raise GuardError(f"{path}: a guard is a mapping with the keys name, categories, answer and end_tokens")
    tree = _extended(path, tree)
    try:
        return Guard.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        # Parts that only say which of several forms pydantic tried are no keys.
        parts = [part for part in map(str, first["loc"]) if part.isidentifier() or part.isdigit()]
        key = ".".join(part for part in parts if part not in _TRIED) or "the guard"
        unknown = first["type"] == "extra_forbidden"
        reason = "is not a known key" if unknown else first["msg"].removeprefix("Value error, ")
        raise GuardError(f"{path}: {key}: {reason}") from None
