"""The record that a run leaves beside its scores: what decided them, what was read, what came out."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence

from pyarrow import fs
from pydantic import BaseModel, ConfigDict, ValidationError

from confscore.config import OutputFormat
from confscore.corpus.files import CorpusFile
from confscore.errors import TableError


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Provenance(_Record):
    """What decides a score: two tables with equal provenance may be put together.

    Hashes are SHA-256 in hexadecimal, but for the ``model_hash`` of a hub model, which is its commit.
    ``prompt_hash`` is of the rendered prompt of an empty document.
    """

    model: str
    model_hash: str | None
    revision: str | None
    engine: str
    engine_args: dict[str, object]
    guard: str
    guard_hash: str
    categories: dict[str, str]
    prompt_hash: str
    tokenizer_hash: str
    procedure: str
    paper: dict[str, float] | None
    estimators: tuple[str, ...]
    normalization: str
    tolerance: float
    tolerance_of: str
    max_requests_per_document: int
    long_documents: str
    chunk_overlap_tokens: int


class Counts(_Record):
    """Documents of a run; ``read == scored + bounded + error``. Requests and tokens are sums over them."""

    read: int
    scored: int
    bounded: int
    error: int
    requests: int
    prompt_tokens: int


NOTHING = Counts(read=0, scored=0, bounded=0, error=0, requests=0, prompt_tokens=0)


def add_counts(parts: Iterable[Counts]) -> Counts:
    """Return the sum of counts."""
    return functools.reduce(_plus, parts, NOTHING)


def _plus(a: Counts, b: Counts) -> Counts:
    return Counts(**{name: getattr(a, name) + getattr(b, name) for name in Counts.model_fields})


class InputFile(_Record):
    """A corpus file as the run found it: ``path`` on its filesystem, ``name`` below ``input.path``."""

    name: str
    path: str
    size: int
    modified_ns: int


class SkippedFile(_Record):
    """A corpus file that could not be read and was left out, as ``input.on_bad_file: skip`` asks for."""

    path: str
    reason: str


class OutputFile(_Record):
    """A file of the score table, with its path below ``output.path``."""

    path: str
    rows: int
    bytes: int


class OutputTable(_Record):
    """Which table a run's files are in.

    An Iceberg table has a ``catalog``, known to pyiceberg by this name, and a ``name`` in it.
    """

    format: OutputFormat = "parquet"
    catalog: str | None = None
    name: str | None = None

    def __str__(self) -> str:
        """Return it in words, for messages."""
        return self.format if self.name is None else f"{self.format} ({self.name} of catalog {self.catalog})"


PARQUET = OutputTable()
"""The files are the table."""


class PeakMemory(_Record):
    """The largest memory in bytes; ``None`` where the system does not tell.

    ``driver`` is the resident memory of the driver's process, and ``actor`` that of the actor which took most, with its
    engine's processes; see :func:`confscore.memory.peak_memory`. ``object_store`` is the most that was seen in use in
    the object stores of all nodes together, other jobs' objects included, looked at about twice a second.
    """

    driver: int | None
    actor: int | None
    object_store: int | None = None


class Manifest(_Record):
    """The record of one committed run.

    Times are UTC in ISO 8601, and those of the last start: ``scoring_seconds`` leaves its start-up out, and ``resumed``
    rows had been scored by earlier ones. ``engine_seconds`` is for how long its actors held loaded engines, added up.
    ``replaces`` are the runs whose place this one takes.
    """

    version: int = 1
    run_id: str
    started_at: str
    committed_at: str
    startup_seconds: float
    scoring_seconds: float
    resumed: int
    engine_seconds: float | None = None
    peak_memory: PeakMemory
    counts: Counts
    provenance: Provenance
    versions: dict[str, str]
    input_path: str
    input_files: tuple[InputFile, ...]
    skipped_files: tuple[SkippedFile, ...]
    output_files: tuple[OutputFile, ...]
    published_to: OutputTable = PARQUET
    replaces: tuple[str, ...] = ()
    columns: tuple[str, ...]
    partition_by: tuple[str, ...]


def describe(files: Sequence[CorpusFile]) -> tuple[InputFile, ...]:
    """Return what a manifest keeps of corpus files."""
    return tuple(
        InputFile(name=file.name, path=file.path, size=file.size, modified_ns=file.modified_ns) for file in files
    )


def run_identity(provenance: Provenance, files: Sequence[InputFile], settings: object) -> str:
    """Return the id of a run: the same input, scored in the same way, is the same run.

    Parameters
    ----------
    provenance : Provenance
        How documents are scored.
    files : sequence of InputFile
        The files with their sizes and times, so that changed input is another run.
    settings : object
        Anything else that changes the table, as plain JSON values.

    Returns
    -------
    str
        ``run-`` and 16 hexadecimal digits.
    """
    content = [
        provenance.model_dump(mode="json"),
        [file.model_dump(mode="json") for file in files],
        settings,
    ]
    return "run-" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def read_manifest(filesystem: fs.FileSystem, path: str) -> Manifest:
    """Read a manifest.

    Raises
    ------
    TableError
        It is gone, or not in the form of this version.
    """
    try:
        with filesystem.open_input_stream(path) as stream:
            return Manifest.model_validate_json(stream.read())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise TableError(f"{path}: is not a readable manifest: {reason}") from None
