"""Score tables: Parquet files that are published at once, and read back.

Inside each file rows are sorted by ``p_max``, largest first, so that a query for confident rows reads the first
row groups only; floats are BYTE_STREAM_SPLIT and zstd compressed, which keeps every bit and is smaller than a
dictionary (measured: a filter on one category reads 1 row group of 17).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.parquet as pq
from pyarrow import fs
from pydantic import ValidationError

from confscore.corpus import ROW_KEY
from confscore.corpus.files import resolve
from confscore.errors import TableError
from confscore.manifest import Counts, Manifest, OutputFile, Provenance
from confscore.rows import IntArray
from confscore.run_folder import MANIFEST, PREPARED, RunFolder, read_manifests

PROVENANCE_KEY = b"confscore.provenance"
STAGED = ".staged"
_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Compaction:
    """Staged files that become one file of the table.

    Attributes
    ----------
    sources : tuple of str
        Paths of staged files.
    target : str
        The file's path below ``output.path``, its partition folders included.
    """

    sources: tuple[str, ...]
    target: str


@dataclass(frozen=True, slots=True)
class Compacted:
    """A file that is ready to be published, and what is in it.

    ``keys[i]`` is the row key of its i-th row in ascending order.
    """

    file: OutputFile
    counts: Counts
    keys: IntArray


def plan_compactions(run: RunFolder, rows_per_file: int) -> list[Compaction]:
    """Group staged files by partition into files of at most ``rows_per_file`` rows, as far as blocks allow.

    What an earlier start has finished is removed: it may have lacked rows.
    """
    filesystem = run.filesystem
    if filesystem.get_file_info(run.finished).type == fs.FileType.Directory:
        filesystem.delete_dir(run.finished)
    selector = fs.FileSelector(run.staging, recursive=True, allow_not_found=True)
    paths = sorted(info.path for info in filesystem.get_file_info(selector) if info.path.endswith(STAGED))
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        rows = list(pool.map(lambda path: pq.read_metadata(filesystem.open_input_file(path)).num_rows, paths))
    folders: dict[str, list[tuple[str, int]]] = {}
    for path, count in zip(paths, rows, strict=True):
        folder = path[len(run.staging) + 1 :].rpartition("/")[0]
        folders.setdefault(folder, []).append((path, count))
    plan: list[Compaction] = []
    for folder, files in sorted(folders.items()):
        for sources in _groups(files, rows_per_file):
            name = f"part-{len(plan):05d}.parquet"
            folders_in_run = f"run={run.run_id}/{folder}" if folder else f"run={run.run_id}"
            plan.append(Compaction(tuple(sources), f"{folders_in_run}/{name}"))
    return plan


def compact(
    run: RunFolder, job: Compaction, schema: pa.Schema, provenance: Provenance, rows_per_group: int
) -> Compacted:
    """Write one file of the table where readers do not see it yet.

    Parameters
    ----------
    run : RunFolder
        Where staged files are.
    job : Compaction
        Which of them, and the name they get.
    schema : pyarrow.Schema
        The score table's schema without partition columns.
    provenance : Provenance
        Stored in the file's key-value metadata.
    rows_per_group : int
        Rows of a row group.
    """
    filesystem = run.filesystem
    pieces = [pq.ParquetFile(filesystem.open_input_file(path)).read() for path in job.sources]
    keys = np.sort(np.concatenate([piece[ROW_KEY].to_numpy() for piece in pieces]))
    table = pa.concat_tables(piece.select(schema.names).cast(schema) for piece in pieces)
    table = table.sort_by([("p_max", "descending"), ("doc_id", "ascending")])
    known = {PROVENANCE_KEY: provenance.model_dump_json().encode()}
    target = f"{run.finished}/{_inside(run, job.target)}{'' if run.renames else STAGED}"
    filesystem.create_dir(target.rpartition("/")[0], recursive=True)
    write_parquet(table.replace_schema_metadata(known), filesystem, target, rows_per_group)
    size = filesystem.get_file_info(target).size
    return Compacted(OutputFile(path=job.target, rows=table.num_rows, bytes=size), count_rows(table), keys)


def write_parquet(table: pa.Table, filesystem: fs.FileSystem, path: str, rows_per_group: int) -> None:
    """Write a table in the encodings of a score table."""
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    few_values = [name for name in ("status", "run_id", "scored_at", "error") if name in table.column_names]
    order = [pq.SortingColumn(table.schema.get_field_index("p_max"), descending=True)]
    with filesystem.open_output_stream(path) as stream:
        pq.write_table(
            table,
            stream,
            row_group_size=rows_per_group,
            compression="zstd",
            use_dictionary=few_values,
            use_byte_stream_split=floats,
            sorting_columns=order,
        )


def publish(run: RunFolder, manifest: Manifest, still_ours: Callable[[], None]) -> None:
    """Put finished files into the table, commit the run by its manifest, then remove what was staged.

    On a local disk all of them become visible by one rename; in an object store one after the other. A start that dies
    in between leaves the manifest as ``prepared.json``, and :func:`finish` goes on from there.

    Parameters
    ----------
    run : RunFolder
        The run.
    manifest : Manifest
        Its record; its output files are all finished.
    still_ours : callable
        Raises unless this start still holds the table's lock.
    """
    still_ours()
    run.write(PREPARED, manifest.model_dump_json(indent=2))
    finish(run, manifest)


def finish(run: RunFolder, manifest: Manifest) -> None:
    """Make the files of a prepared run visible and commit it. Doing it again changes nothing.

    Raises
    ------
    TableError
        A finished file is gone.
    """
    filesystem = run.filesystem
    if run.renames and filesystem.get_file_info(run.finished).type == fs.FileType.Directory:
        filesystem.create_dir(run.table, recursive=True)
        filesystem.move(run.finished, run.published)
    for each in manifest.output_files:
        target = f"{run.table}/{each.path}"
        source = f"{run.finished}/{_inside(run, each.path)}{STAGED}"
        if filesystem.get_file_info(source).is_file:
            filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            filesystem.move(source, target)
        if filesystem.get_file_info(target).size != each.bytes:
            raise TableError(
                f"{target}: had {each.bytes} bytes when it was finished and is gone; remove {run.path} and "
                f"{run.published}, and start the job again"
            )
    run.write(MANIFEST, manifest.model_dump_json(indent=2))
    run.clear()


def _inside(run: RunFolder, path: str) -> str:
    """Return a file's path below the run's part of the table."""
    return path[len(f"run={run.run_id}/") :]


def open_table(path: str) -> pds.Dataset:
    """Open a score table for reading, hive partitions included.

    Parameters
    ----------
    path : str
        ``output.path`` of the runs that wrote it, or one of its files.

    Raises
    ------
    TableError
        There is no score table.
    """
    filesystem, root = resolve(path)
    info = filesystem.get_file_info(root)
    if info.type == fs.FileType.NotFound:
        raise TableError(f"{path}: no such score table")
    try:
        table = pds.dataset(
            root, filesystem=filesystem, format="parquet", partitioning="hive", exclude_invalid_files=False
        )
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())}") from None
    if not table.files and read_manifests(path):
        raise TableError(f"{path}: its runs have scored no documents, so there is no file yet")
    if PROVENANCE_KEY not in (table.schema.metadata or {}):
        raise TableError(f"{path}: is not a score table (no file with the metadata {PROVENANCE_KEY.decode()})")
    return table


def provenance_of(table: pds.Dataset) -> Provenance:
    """Return the provenance stored in a table's files.

    Raises
    ------
    TableError
        It is not in the form of this version.
    """
    try:
        return Provenance(**json.loads(table.schema.metadata[PROVENANCE_KEY]))
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise TableError(
            f"{table.files[0]}: its provenance lacks or does not allow {key}; it was written by another version of "
            "confscore, so score the corpus again"
        ) from None


def _groups(files: Sequence[tuple[str, int]], most: int) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for path, rows in files:
        if group and size + rows > most:
            yield group
            group, size = [], 0
        group.append(path)
        size += rows
    if group:
        yield group


def count_rows(table: pa.Table) -> Counts:
    """Return the counts of rows, from the columns ``status``, ``requests`` and ``prompt_tokens``."""
    status = Counter(table["status"].to_pylist())
    return Counts(
        read=table.num_rows,
        scored=status["scored"],
        bounded=status["bounded"],
        error=status["error"],
        requests=pc.sum(table["requests"]).as_py() or 0,
        prompt_tokens=pc.sum(table["prompt_tokens"]).as_py() or 0,
    )
