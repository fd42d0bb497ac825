"""How large a model's weights are, from the headers of its files, before any of it is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path

_INDEX = "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
_MOST_OF_A_HEADER = 100_000_000
"""The format's own limit."""


def find_folder(source: str, revision: str | None, cache: str | None = None) -> Path | None:
    """Return the folder of a model on this machine: its own, or that of the hub's cache; nothing is downloaded.

    Parameters
    ----------
    source : str
        A folder or a hub id.
    revision : str or None
        Revision of a hub model.
    cache : str, optional
        The cache's folder, where it is not the usual one.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - offline commands never need it
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        found = try_to_load_from_cache(source, "config.json", cache_dir=cache, revision=revision)
    except HFValidationError:  # neither a folder nor a name; the engine will say so
        return None
    return Path(found).parent if isinstance(found, str) else None


def least_bytes(folder: Path, *, full_floats: bool) -> int:
    """Return how many bytes a model's safetensors take at least once they are loaded.

    Engines compute in 16 bits where a file has floating point numbers of 32, unless they are told otherwise, so that a
    file's size may be twice what is loaded.

    Parameters
    ----------
    folder : Path
        Of the model. What cannot be read of it counts nothing.
    full_floats : bool
        Whether they are loaded as 32 bits.
    """
    each = 4 if full_floats else 2
    total = 0
    for path in _files(folder):
        for kind, shape, size in _tensors(path):
            total += each * prod(shape) if kind in _FLOATS else size
    return total


def _files(folder: Path) -> list[Path]:
    """Return the files that are loaded: some models are there twice, in the form of their makers as well."""
    found = sorted(folder.glob("*.safetensors"))
    found = [path for path in found if not path.name.startswith("consolidated")] or found
    try:
        named = set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return found
    return [path for path in found if path.name in named]


def _tensors(path: Path) -> Iterator[tuple[str, list[int], int]]:
    """Yield the kind of numbers, the shape and the bytes of each tensor of a file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= _MOST_OF_A_HEADER else {}
        for name, tensor in header.items():
            if name != "__metadata__":
                start, end = tensor["data_offsets"]
                yield tensor["dtype"], tensor["shape"], end - start
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # not in this format; the engine will say so
