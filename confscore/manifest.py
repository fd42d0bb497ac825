"""Runs: what one is made of, and the record it leaves beside its scores.

Everything a run keeps to itself lies in ``<output.path>/_confscore/<run_id>/``: staged rows while it works,
then its manifest and its effective configuration. Names that start with ``_`` are no data to Hive-style readers
(Spark, Trino, pyarrow), and nothing in there ends in ``.parquet``, so that a glob does not catch it either. A
run's part of the table is the folder ``<output.path>/run=<run_id>/``. A run is committed when, and only when, its
``manifest.json`` exists.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs
from pydantic import BaseModel, ConfigDict, ValidationError

from confscore.corpus.files import CorpusFile, resolve
from confscore.errors import TableError

LEDGER = "_confscore"
MANIFEST = "manifest.json"
PREPARED = "prepared.json"
"""The manifest of a run whose files are finished and on their way into the table."""


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


class Manifest(_Record):
    """The record of one committed run. Times are UTC in ISO 8601; ``scoring_seconds`` leaves start-up out."""

    version: int = 1
    run_id: str
    started_at: str
    committed_at: str
    startup_seconds: float
    scoring_seconds: float
    counts: Counts
    provenance: Provenance
    versions: dict[str, str]
    input_path: str
    input_files: tuple[InputFile, ...]
    skipped_files: tuple[SkippedFile, ...]
    output_files: tuple[OutputFile, ...]
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


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run keeps what is its own.

    Attributes
    ----------
    output : str
        ``output.path``, local or a URI.
    run_id : str
        The run.
    """

    output: str
    run_id: str

    @property
    def filesystem(self) -> fs.FileSystem:
        """Return the filesystem of the output."""
        return resolve(self.output)[0]

    @property
    def table(self) -> str:
        """Return the score table's path on its filesystem."""
        return resolve(self.output)[1].rstrip("/")

    @property
    def path(self) -> str:
        """Return the run's folder."""
        return f"{self.table}/{LEDGER}/{self.run_id}"

    @property
    def locks(self) -> str:
        """Return where starts claim the table."""
        return f"{self.table}/{LEDGER}/claims"

    @property
    def work(self) -> str:
        """Return where a run keeps what is not finished: beside the table where that can be, else in its own folder.

        Ray Data's notes are Parquet files, and files that become visible by one rename have their final names before:
        below ``output.path`` a glob would catch both.
        """
        return f"{self.table}.{self.run_id}" if self._beside else f"{self.path}/work"

    @property
    def staging(self) -> str:
        """Return where scored rows wait for publication."""
        return f"{self.work}/staging"

    @property
    def checkpoints(self) -> str:
        """Return where Ray Data notes which rows are staged."""
        return f"{self.work}/checkpoints"

    @property
    def marks(self) -> str:
        """Return where actors mark what they are about to score."""
        return f"{self.work}/marks"

    @property
    def finished(self) -> str:
        """Return where finished files wait for publication."""
        return f"{self.work}/finished"

    @property
    def published(self) -> str:
        """Return the run's part of the table."""
        return f"{self.table}/run={self.run_id}"

    @property
    def renames(self) -> bool:
        """Say whether all files of a run can become visible by renaming their folder."""
        return self._beside and isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def _beside(self) -> bool:
        """Say whether there is room beside the table, on the same device."""
        if not isinstance(self.filesystem, fs.LocalFileSystem):
            return "/" in self.table  # else it is a whole bucket
        table = Path(self.table)
        if not os.access(table.parent, os.W_OK):
            return not table.parent.exists()
        return not table.exists() or table.stat().st_dev == table.parent.stat().st_dev

    def write(self, name: str, content: str) -> None:
        """Write a small file of the run so that it appears whole or not at all.

        Raises
        ------
        TableError
            The output cannot be written.
        """
        filesystem = self.filesystem
        try:
            filesystem.create_dir(self.path, recursive=True)
            with filesystem.open_output_stream(f"{self.path}/{name}.partial") as stream:
                stream.write(content.encode())
            filesystem.move(f"{self.path}/{name}.partial", f"{self.path}/{name}")
        except OSError as error:
            raise TableError(f"output.path {self.output}: cannot be written: {error}") from None

    def read_manifest(self, name: str) -> Manifest | None:
        """Return a manifest of the run, committed or prepared; ``None`` where there is none.

        Raises
        ------
        TableError
            It cannot be read.
        """
        path = f"{self.path}/{name}"
        return _read_manifest(self.filesystem, path) if self.filesystem.get_file_info(path).is_file else None

    def clear(self) -> None:
        """Remove what the run has staged, and what it left on the way to publication."""
        filesystem = self.filesystem
        if filesystem.get_file_info(self.work).type == fs.FileType.Directory:
            filesystem.delete_dir(self.work)
        if filesystem.get_file_info(f"{self.path}/{PREPARED}").is_file:
            filesystem.delete_file(f"{self.path}/{PREPARED}")


def read_manifests(output: str) -> list[Manifest]:
    """Return the manifests of all committed runs of a score table, oldest first.

    Raises
    ------
    TableError
        A manifest cannot be read.
    """
    filesystem, root = resolve(output)
    selector = fs.FileSelector(f"{root.rstrip('/')}/{LEDGER}", allow_not_found=True, recursive=True)
    found = []
    for info in filesystem.get_file_info(selector):
        if info.base_name == MANIFEST:
            found.append(_read_manifest(filesystem, info.path))
    return sorted(found, key=lambda manifest: manifest.committed_at)


def _read_manifest(filesystem: fs.FileSystem, path: str) -> Manifest:
    try:
        with filesystem.open_input_stream(path) as stream:
            return Manifest.model_validate_json(stream.read())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise TableError(f"{path}: is not a readable manifest: {reason}") from None


def committed_before(
    run: RunFolder,
    provenance: Provenance,
    files: Sequence[InputFile],
    columns: Sequence[str],
    partition_by: Sequence[str],
) -> Manifest | None:
    """Return the manifest of this very run if it is committed already.

    Raises
    ------
    TableError
        The table holds scores of another kind, scores of some of the same input files, or files of no run.
    """
    output, run_id = run.output, run.run_id
    paths = {file.path for file in files}
    manifests = read_manifests(output)
    _refuse_foreign(run, manifests)
    for manifest in manifests:
        if manifest.run_id == run_id:
            return manifest
        if manifest.provenance != provenance:
            key = _first_difference(manifest.provenance, provenance)
            raise TableError(
                f"output.path {output}: holds scores of {manifest.run_id} with another {key} "
                f"({getattr(manifest.provenance, key)!r}, not {getattr(provenance, key)!r}); scores of two kinds are "
                "never mixed, so choose another output.path"
            )
        for what, old, new in (
            ("columns", set(manifest.columns), set(columns)),
            ("output.partition_by", list(manifest.partition_by), list(partition_by)),
        ):
            if old != new:
                raise TableError(
                    f"output.path {output}: {manifest.run_id} has other {what} ({', '.join(map(str, old))}); one table "
                    "has one schema, so choose another output.path"
                )
        again = paths & {file.path for file in manifest.input_files}
        if again:
            raise TableError(
                f"output.path {output}: {manifest.run_id} has scored {min(again)} already, and the input or the "
                "configuration have changed since; choose another output.path"
            )
    return None


def _refuse_foreign(run: RunFolder, manifests: Sequence[Manifest]) -> None:
    """Refuse to publish among Parquet files that no committed run has written; an attempt at this run may have."""
    known = {f"run={manifest.run_id}" for manifest in manifests} | {f"run={run.run_id}"}
    selector = fs.FileSelector(run.table, allow_not_found=True, recursive=True)
    for info in run.filesystem.get_file_info(selector):
        folder = info.path[len(run.table) + 1 :].partition("/")[0]
        if info.is_file and info.base_name.endswith(".parquet") and folder not in known:
            raise TableError(
                f"output.path {run.output}: holds a Parquet file that no committed run has written ({info.path}); "
                "remove it, run the job that it is of again, or choose another folder"
            )


def _first_difference(old: Provenance, new: Provenance) -> str:
    return next(name for name in Provenance.model_fields if getattr(old, name) != getattr(new, name))
