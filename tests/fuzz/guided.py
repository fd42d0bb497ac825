"""The same targets, searched by coverage: ``python tests/fuzz/guided.py csv 300``, where atheris is installed.

It changes bytes so that they reach lines that none has reached before, which random inputs of a strategy may never do.
What fails is kept in ``corpus/<target>/`` and ends the search.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

import atheris
import harness

INSTRUMENTED = ["confscore", "yaml", "json", "csv"]


def main(target: str, seconds: str) -> None:
    """Search one target for so many seconds."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with atheris.instrument_imports(include=INSTRUMENTED):
        check = importlib.import_module(f"fuzz_{target}").check

    def attempt(data: bytes) -> None:
        try:
            check(data)
        except BaseException:
            print(f"kept as {harness.keep(target, data)}", flush=True)
            raise

    with tempfile.TemporaryDirectory() as folder:
        for path in harness.found(target):
            (Path(folder) / path.name).write_bytes(path.read_bytes())
        options = [
            f"-max_total_time={seconds}",
            f"-timeout={harness.LONGEST_S}",
            f"-artifact_prefix={folder}/",
            "-max_len=400",
        ]
        atheris.Setup([sys.argv[0], folder, *options], attempt)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
