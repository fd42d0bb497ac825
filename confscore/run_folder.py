"""Where a run keeps its files, and which runs a score table has.

Everything a run keeps to itself lies in ``<output.path>/_confscore/<run_id>/``, and beside the table while it works.
Names that start with ``_`` are no data to Hive-style readers (Spark, Trino, pyarrow), and nothing in there ends in
``.parquet``, so that a glob does not catch it either; but for Ray's notes of a run that has no room beside the table
and is not published yet. A run's part of the table is the folder ``<output.path>/run=<run_id>/``. A run is committed
when, and only when, its ``manifest.json`` exists.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from confscore.corpus.files import make_folder, resolve
from confscore.corpus.stores import in_words
from confscore.errors import TableError
from confscore.manifest import PARQUET, InputFile, Manifest, OutputTable, Provenance, read_manifest

LEDGER = "_confscore"
MANIFEST = "manifest.json"
PREPARED = "prepared.json"
"""The manifest of a run whose files are finished and on their way into the table."""


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
        return f"{self.table}.{self.run_id}" if self._beside else f"{self.path}/unfinished"

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
            make_folder(filesystem, self.path)
            # In a store too, where objects appear whole: an interrupted stream is closed with what it has.
            with filesystem.open_output_stream(f"{self.path}/{name}.partial") as stream:
                stream.write(content.encode())
            filesystem.move(f"{self.path}/{name}.partial", f"{self.path}/{name}")
        except OSError as error:
            raise TableError(f"output.path {self.output}: cannot be written: {in_words(error)}") from None

    def read_manifest(self, name: str) -> Manifest | None:
        """Return a manifest of the run, committed or prepared; ``None`` where there is none.

        Raises
        ------
        TableError
            It cannot be read.
        """
        path = f"{self.path}/{name}"
        return read_manifest(self.filesystem, path) if self.filesystem.get_file_info(path).is_file else None

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
            found.append(read_manifest(filesystem, info.path))
    return sorted(found, key=lambda manifest: manifest.committed_at)


def committed_before(
    run: RunFolder,
    provenance: Provenance,
    files: Sequence[InputFile],
    columns: Sequence[str],
    partition_by: Sequence[str],
    published_to: OutputTable = PARQUET,
    replaces: Sequence[str] = (),
) -> Manifest | None:
    """Return the manifest of this very run if it is committed already; it may share files with those it replaces.

    Raises
    ------
    TableError
        The table holds scores of another kind, scores of some of the same input files, or files of no run.
    """
    output, run_id = run.output, run.run_id
    paths = {file.path for file in files}
    manifests = read_manifests(output)
    if published_to == PARQUET or not manifests:
        _refuse_foreign(run, manifests)  # other formats' tables say themselves which files are in them
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
            ("output.format", [str(manifest.published_to)], [str(published_to)]),
            ("columns", set(manifest.columns), set(columns)),
            ("output.partition_by", list(manifest.partition_by), list(partition_by)),
        ):
            if old != new:
                raise TableError(
                    f"output.path {output}: {manifest.run_id} has other {what} ({', '.join(map(str, old))}); one table "
                    "has one schema, so choose another output.path"
                )
        again = paths & {file.path for file in manifest.input_files}
        if again and manifest.run_id not in replaces:
            raise TableError(
                f"output.path {output}: {manifest.run_id} has scored {min(again)} already, and the input or the "
                "configuration have changed since; choose another output.path, take other files only (input.where), or "
                "set output.replace_changed to true, and this run takes the place of that one"
            )
    return None


def superseded(run: RunFolder, files: Sequence[InputFile]) -> tuple[str, ...]:
    """Return the committed runs that scored some of a run's files before; it takes their place.

    Raises
    ------
    TableError
        One of them scored a file, too, that still exists and is not among the run's: its documents would be lost.
    """
    paths = {file.path for file in files}
    found = []
    for manifest in read_manifests(run.output):
        before = {file.path for file in manifest.input_files}
        if manifest.run_id == run.run_id or not before & paths:
            continue
        store = resolve(manifest.input_path)[0]
        kept = [info.path for info in store.get_file_info(sorted(before - paths)) if info.is_file]
        if kept:
            raise TableError(
                f"output.path {run.output}: {manifest.run_id} has scored {min(before & paths)}, and {kept[0]} as well, "
                "which is not in this run's input, so it cannot take that run's place (output.replace_changed); give "
                "it all of that run's files, or choose another output.path"
            )
        found.append(manifest.run_id)
    return tuple(found)


def _refuse_foreign(run: RunFolder, manifests: Sequence[Manifest]) -> None:
    """Refuse to publish among Parquet files that no committed run has written; an attempt at this run may have."""
    known = {LEDGER, "_delta_log", f"run={run.run_id}", *(f"run={manifest.run_id}" for manifest in manifests)}
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
