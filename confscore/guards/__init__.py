"""Guards by name, and from a user's own YAML file."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from confscore.errors import GuardError
from confscore.guards.llama_guard import LLAMA_GUARD_3
from confscore.guards.spec import Guard

__all__ = ["REGISTRY", "Guard", "resolve"]

REGISTRY: dict[str, Guard] = {guard.name: guard for guard in (LLAMA_GUARD_3,)}


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
    answer = guard.answer.model_copy(update={"order": order})
    return guard.model_copy(update={"answer": answer})


def _read(path: Path) -> Guard:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GuardError(f"{path}: no such guard file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise GuardError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise GuardError(f"{path}: a guard is a mapping with the keys name, categories, answer and end_tokens")
    try:
        return Guard.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the guard"
        unknown = first["type"] == "extra_forbidden"
        reason = "is not a known key" if unknown else first["msg"].removeprefix("Value error, ")
        raise GuardError(f"{path}: {key}: {reason}") from None
