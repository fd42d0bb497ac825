"""Files of settings: read as YAML, closed to unknown keys, and one sentence for what is wrong with them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from confscore.errors import ConfigError
from confscore.plain_yaml import NotYaml, load_yaml
from confscore.words import printable

_SAID = 3


class Section(BaseModel):
    """A part of the settings: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_mapping(path: str | Path, what: str, keys: str) -> dict[str, object]:
    """Read a file of settings.

    Parameters
    ----------
    path : str or Path
        A YAML file.
    what : str
        What it is, in messages, such as ``configuration``.
    keys : str
        The keys that it has, in messages.

    Raises
    ------
    ConfigError
        The file cannot be read, is not YAML, or no mapping.
    """
    try:
        tree = load_yaml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {what} file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the {what} file cannot be read: {error}") from None
    except NotYaml as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the {what} file has to be a mapping with the keys {keys}")
    return tree


def say_problems(error: ValidationError, root: type[BaseModel]) -> str:
    """Say the first few problems as key: reason, with a near name for an unknown key."""
    problems = []
    for problem in error.errors()[:_SAID]:
        location = [part for part in problem["loc"] if part not in ("int", "tuple[constrained-int, constrained-int]")]
        key = ".".join(str(part) for part in location)
        if problem["type"] == "extra_forbidden":
            known = _known_keys(root, location[:-1])
            near = difflib.get_close_matches(str(location[-1]), known, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}"
            problems.append(f"{key} is not a known key{hint}")
        elif problem["type"] == "missing":
            problems.append(f"{key} is missing")
        else:
            reason = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "string_type" and isinstance(problem["input"], int | float | date):
                reason += ", so put it in quotes"
            got = f" (got {problem['input']!r:.80})" if location else ""
            problems.append(f"{f'{key}: ' if key else ''}{reason[:1].lower()}{reason[1:]}{got}")
    return printable("; ".join(problems))


def _known_keys(root: type[BaseModel], location: Sequence[object]) -> list[str]:
    model = root
    for part in location:
        if isinstance(part, int):  # a place in a list
            continue
        annotation = model.model_fields[str(part)].annotation
        models = [kind for kind in _kinds(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if len(models) != 1:
            return []
        model = models[0]
    return list(model.model_fields)


def _kinds(annotation: object) -> list[object]:
    """Return the types that an annotation is made of: those of lists, tuples and unions one by one."""
    parts = get_args(annotation)
    return [kind for part in parts for kind in _kinds(part)] if parts else [annotation]
