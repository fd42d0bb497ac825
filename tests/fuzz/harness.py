"""Random inputs against one property a target, for as long as one likes; what fails is kept and tried ever after.

A target is a function of bytes that raises where its property does not hold, and a strategy of inputs that are likely
to be interesting. What was found lies in ``corpus/<target>/``, one file an input, and is replayed by the default tests.
``make fuzz`` searches: ``FUZZ_SECONDS`` a target.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from confscore.config import InputConfig, InputFormat
from confscore.corpus import open_corpus
from confscore.errors import ConfscoreError

CORPUS = Path(__file__).parent / "corpus"
LONGEST_S = 30
"""An input that takes longer has hung."""
_EXAMPLES_AT_ONCE = 500


class Hung(BaseException):
    """An input took too long. Not an Exception, so that nothing on the way takes it for one of its own."""


def found(target: str) -> list[Path]:
    """Return the inputs that were found for a target."""
    return sorted(path for path in (CORPUS / target).glob("*") if path.is_file())


def search(target: str, check: Callable[[bytes], None], inputs: st.SearchStrategy[bytes]) -> None:
    """Try random inputs for ``FUZZ_SECONDS``, and keep the smallest one that fails.

    Raises
    ------
    BaseException
        Whatever the property raises on it.
    """
    end = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "10"))
    last: list[bytes] = []

    def attempt(data: bytes) -> None:
        try:
            with limited():
                check(data)
        except BaseException:
            last[:] = [data]
            raise

    number = int.from_bytes(os.urandom(4))
    tried = 0
    while time.monotonic() < end:
        number += 1
        once = seed(number)(settings(_SEARCHING)(given(data=inputs)(attempt)))
        try:
            once()
        except BaseException:
            for data in last:
                keep(target, data)
            raise
        tried += _EXAMPLES_AT_ONCE
    print(f"{target}: about {tried:,} inputs held")


_SEARCHING = settings(
    max_examples=_EXAMPLES_AT_ONCE,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    verbosity=Verbosity.quiet,
)


def keep(target: str, data: bytes) -> Path:
    """Write an input to the corpus, under a name that follows from it."""
    path = CORPUS / target / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@contextmanager
def limited(seconds: float = LONGEST_S) -> Iterator[None]:
    """Raise :class:`Hung` in what takes too long. Only where signals can be had: on the main thread."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hung(f"still at it after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read_file(data: bytes, kind: InputFormat, packed: bool, rows: int, **columns: object) -> list[dict] | None:
    """Read a file of a corpus, at most ``rows`` at a time; ``None`` where it is refused, in a sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a.{kind}.gz" if packed else f"a.{kind}")
        path.write_bytes(gzip.compress(data, 1) if packed else data)
        try:
            corpus = open_corpus(InputConfig(path=folder, format=kind, **columns))
            (part,) = corpus.parts
            read = [row for table in corpus.reader.tables(part, rows) for row in table.to_pylist()]
            assert len(read) == corpus.reader.count(part) == len(corpus.reader.id_hashes(part))
        except ConfscoreError as error:
            check_sentence(error)
            return None
    assert all((row["content"] is None) == (row["fault"] is not None) for row in read)
    assert all(row["fault"] is None or len(row["fault"].splitlines()) == 1 for row in read)
    return read


def check_sentence(error: ConfscoreError) -> None:
    """Make sure that an error is one line with something in it, and not one that nobody expected."""
    said = str(error)
    assert said.strip(), "an error says nothing"
    assert len(said.splitlines()) == 1, f"more than one line: {said!r}"
    assert len(said) < 5000, f"{len(said)} characters: {said[:200]!r}"
    assert not re.search(r"unexpected [A-Z]\w* in confscore/", said), said
