"""What the repository of a model may do to this machine: be read, and nothing else unless a configuration asks for it.

Two things in such a repository are programs: its Python files, and weights that are pickled, which name functions to
call while they are loaded. Weights in the safetensors format are numbers and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue

from confscore.config import ModelConfig
from confscore.errors import ConfigError

SAFE_FORMATS = (
    "safetensors",
    "fastsafetensors",
    "instanttensor",
    "mistral",
    "runai_streamer",
    "runai_streamer_sharded",
    "sharded_state",
    "gguf",
    "dummy",
)
"""Values of vLLM's ``load_format`` that read no pickle. Its own default ``auto`` falls back to ``.bin`` files."""

_SAFE_FILES = ("model.safetensors", "model.safetensors.index.json", "consolidated.safetensors")
_PICKLE_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def check_trust(model: ModelConfig) -> None:
    """Refuse a model that could be loaded only by trusting its repository more than the configuration does.

    Raises
    ------
    ConfigError
        ``model.engine_args`` go around ``model.trust_remote_code`` or ``model.allow_pickle``, or the model has pickled
        weights and no others.
    """
    for key, value in _leaves("model.engine_args", dict(model.engine_args)):
        name = key.rpartition(".")[2]
        if name == "trust_remote_code":
            raise ConfigError(f"{key}: is no argument of an engine here; set model.trust_remote_code instead")
        if name == "load_format" and not model.allow_pickle and str(value).lower() not in SAFE_FORMATS:
            raise ConfigError(
                f"{key}: {value} may read pickled weights, which can run code; choose one of "
                f"{', '.join(SAFE_FORMATS)}, or set model.allow_pickle to true if you trust the model's repository"
            )
    if model.allow_pickle:
        return
    pickled = _only_pickle(model)
    if pickled is not None:
        raise ConfigError(
            f"model.source {model.source}: its weights are pickled ({pickled}), which can run code when they are "
            "loaded; convert them to safetensors, or set model.allow_pickle to true if you trust them"
        )


def _leaves(key: str, value: JsonValue) -> Iterator[tuple[str, JsonValue]]:
    """Yield every key below a value with its dotted path; ``trust-remote-code`` is the same key as with ``_``."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        path = f"{key}.{str(name).replace('-', '_')}"
        yield path, inner
        yield from _leaves(path, inner)


def _only_pickle(model: ModelConfig) -> str | None:
    """Return the name of a file of pickled weights, where the model has no others as far as can be seen."""
    folder = Path(model.source).expanduser()
    if not folder.is_dir():
        return None if folder.exists() else _only_pickle_on_hub(model)
    named = _weights_of_config(folder / "config.json")
    if named is not None and named.endswith(_PICKLE_SUFFIXES):
        return named
    names = sorted(path.name for path in folder.iterdir())
    if any(name.endswith((".safetensors", ".gguf")) for name in names):
        return None
    return next((name for name in names if name.endswith(_PICKLE_SUFFIXES)), None)


def _weights_of_config(path: Path) -> str | None:
    """Return the file of weights that a model's own configuration names; hardly any does."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # whoever loads the model will say what is wrong with it
    named = tree.get("transformers_weights") if isinstance(tree, dict) else None
    return named if isinstance(named, str) else None


def _only_pickle_on_hub(model: ModelConfig) -> str | None:
    from transformers.utils import has_file  # noqa: PLC0415 - heavy, and offline commands never need it

    try:
        if any(has_file(model.source, name, revision=model.revision) for name in _SAFE_FILES):
            return None
        return next((name for name in _PICKLE_FILES if has_file(model.source, name, revision=model.revision)), None)
    except (OSError, ValueError):
        return None  # the repository cannot be asked: loading will say why, and reads safetensors only
