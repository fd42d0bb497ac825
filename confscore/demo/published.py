"""Documents of the small world in the forms in which other datasets were published.

``python -m confscore.demo.published --out DIR`` writes ``queries.jsonl`` and ``beavertails.jsonl.gz``, for trying
``jobs/reproduce_paper.py`` without the datasets themselves.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from confscore.demo.world import CODES, WorldDocument, generate
from confscore.published import BEAVERTAILS, LABELS, QUERY

_AT_ONCE = 1000
_VERSION = 3  # the small guard's codes are in the manner of Llama Guard 3
_LEAST_LABELS = 2


def write_queries(path: Path, n: int, seed: int) -> None:
    """Write ``n`` documents with two labels or more, as the synthetic sets of arXiv 2511.22312 have them."""
    rows = []
    for document in _endless(seed):
        named = _codes(document)
        if len(named) >= _LEAST_LABELS:
            rows.append({LABELS[_VERSION]: named, QUERY: document.text})
        if len(rows) == n:
            break
    pd.DataFrame(rows).to_json(path, orient="records", lines=True)


def write_beavertails(path: Path, n: int, seed: int) -> None:
    """Write ``n`` exchanges in the form of BeaverTails; the flags are about the responses.

    A flag stands for the code it is mapped to; where several are mapped to one code, the first does. Codes that no flag
    is mapped to are lost, as they are in BeaverTails.
    """
    flag_of = {codes[_VERSION]: flag for flag, codes in reversed(BEAVERTAILS.items())}
    asked, said = _endless(seed), _endless(seed + 1)
    rows = []
    for _ in range(n):
        response = next(said)
        flags = {flag_of[code] for code in _codes(response) if code in flag_of}
        category = {flag: flag in flags for flag in BEAVERTAILS}
        row = {"prompt": next(asked).text, "response": response.text, "category": category, "is_safe": not flags}
        rows.append(row)
    pd.DataFrame(rows).to_json(path, orient="records", lines=True)


def _endless(seed: int) -> Iterator[WorldDocument]:
    number = 0
    while True:
        yield from generate(_AT_ONCE, seed * 10_007 + number)
        number += 1


def _codes(document: WorldDocument) -> list[str]:
    return [code for code, on in zip(CODES, document.labels, strict=True) if on]


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--seed", type=int, default=20261122)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    write_queries(given.out / "queries.jsonl", given.documents, given.seed)
    write_beavertails(given.out / "beavertails.jsonl.gz", given.documents, given.seed)


if __name__ == "__main__":
    main()
