"""Publication: staged rows become finished files, and all of them come into the table at once.

A run is committed by its manifest, which is written last. A table of Iceberg or Delta Lake is told of the files just
before: it keeps the run's id, so that a start which finds no manifest does not tell it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq
from pyarrow import fs

from confscore.corpus import ROW_KEY
from confscore.corpus.files import make_folder
from confscore.errors import JobError, TableError
from confscore.manifest import Counts, Manifest, OutputFile, Provenance
from confscore.row_keys import RowKeys, repeated, row_keys
from confscore.run_folder import MANIFEST, PREPARED, RunFolder
from confscore.score_table import NOTED, PROVENANCE_KEY, STAGED, count_rows, is_damaged, write_parquet, writer_of
from confscore.table_formats import TableFormat

_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Compaction:
    """Staged files that become one file of the table.

    Attributes
    ----------
    sources : tuple of str
        Paths of staged files.
    folder : str
        Their hive partition folders; empty where there are none.
    target : str
        The file's path below ``output.path``.
    """

    sources: tuple[str, ...]
    folder: str
    target: str


@dataclass(frozen=True, slots=True)
class Compacted:
    """A file that is ready to be published, and what is in it.

    Attributes
    ----------
    file, counts : OutputFile, Counts
        The file and what is counted in it.
    keys : RowKeys
        Of its rows.
    repeated : RowKeys
        Those that more than one of its rows has.
    """

    file: OutputFile
    counts: Counts
    keys: RowKeys
    repeated: RowKeys


def plan_compactions(run: RunFolder, rows_per_file: int, *, partition_folders: bool = True) -> list[Compaction]:
    """Group staged files by partition into files of at most ``rows_per_file`` rows, as far as blocks allow.

    What an earlier start has finished is removed: it may have lacked rows.

    Parameters
    ----------
    run : RunFolder
        Where staged files are.
    rows_per_file : int
        Of a published file.
    partition_folders : bool
        Say in a published file's path, too, which partition it is of.

    Raises
    ------
    JobError
        Staged files are not whole, as after a power failure. The next start scores their rows again.
    """
    filesystem = run.filesystem
    if filesystem.get_file_info(run.finished).type == fs.FileType.Directory:
        filesystem.delete_dir(run.finished)
    selector = fs.FileSelector(run.staging, recursive=True, allow_not_found=True)
    paths = sorted(info.path for info in filesystem.get_file_info(selector) if info.path.endswith(STAGED))
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        found = list(pool.map(lambda path: _count(filesystem, path), paths))
    rows = [count for count in found if count is not None]
    if len(rows) < len(paths):
        raise _forgotten(run, [path for path, count in zip(paths, found, strict=True) if count is None])
    folders: dict[str, list[tuple[str, int]]] = {}
    for path, count in zip(paths, rows, strict=True):
        folder = path[len(run.staging) + 1 :].rpartition("/")[0]
        folders.setdefault(folder, []).append((path, count))
    plan: list[Compaction] = []
    for folder, files in sorted(folders.items()):
        for sources in _groups(files, rows_per_file):
            name = f"part-{len(plan):05d}.parquet"
            inside = f"{folder}/" if folder and partition_folders else ""
            plan.append(Compaction(tuple(sources), folder, f"run={run.run_id}/{inside}{name}"))
    return plan


def _count(filesystem: fs.FileSystem, path: str) -> int | None:
    try:
        with filesystem.open_input_file(path) as file:
            return int(pq.read_metadata(file).num_rows)
    except (OSError, pa.ArrowInvalid) as error:
        if is_damaged(error):
            return None
        raise


def _read(run: RunFolder, path: str) -> pa.Table:
    try:
        with run.filesystem.open_input_file(path) as file:
            return pq.ParquetFile(file, page_checksum_verification=True).read()
    except (OSError, pa.ArrowInvalid) as error:
        if is_damaged(error):
            raise _forgotten(run, [path]) from error
        raise


def _forgotten(run: RunFolder, torn: Sequence[str]) -> JobError:
    """Remove the notes of files that are not whole: a start relies on no data without one."""
    for name in sorted({writer_of(path) for path in torn}):
        note = f"{run.checkpoints}/{name}{NOTED}"
        if run.filesystem.get_file_info(note).type == fs.FileType.File:
            run.filesystem.delete_file(note)
    others = f" and {len(torn) - 1:,} other staged files are" if len(torn) > 1 else " is"
    return JobError(
        f"{torn[0]}{others} not whole, as after a power failure; start the job again: it scores their rows anew"
    )


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
        The schema of the file. Partition columns are not in staged files; those in the schema are taken from their
        folders.
    provenance : Provenance
        Stored in the file's key-value metadata.
    rows_per_group : int
        Rows of a row group.

    Raises
    ------
    JobError
        A staged file is not whole. The next start scores its rows again.
    """
    filesystem = run.filesystem
    pieces = [_read(run, path) for path in job.sources]
    keyed = pa.concat_tables(piece.select([ROW_KEY]) for piece in pieces)
    partition = _partition(job, pa.schema([field for field in schema if field.name not in pieces[0].column_names]))
    table = pa.concat_tables(_with(piece, partition).select(schema.names).cast(schema) for piece in pieces)
    table = table.sort_by([("p_max", "descending"), ("doc_id", "ascending")])
    known = {PROVENANCE_KEY: provenance.model_dump_json().encode()}
    target = f"{run.finished}/{_inside(run, job.target)}{'' if run.renames else STAGED}"
    make_folder(filesystem, target.rpartition("/")[0])
    write_parquet(table.replace_schema_metadata(known), filesystem, target, rows_per_group)
    size = filesystem.get_file_info(target).size
    file = OutputFile(path=job.target, rows=table.num_rows, bytes=size)
    return Compacted(file, count_rows(table), row_keys(keyed), repeated(keyed))


def _partition(job: Compaction, fields: pa.Schema) -> dict[str, pa.Scalar]:
    """Return the values of partition columns, as the folders have them."""
    values = pds.get_partition_keys(pds.HivePartitioning(fields).parse(f"/{job.folder}/"))
    return {field.name: pa.scalar(values[field.name], field.type) for field in fields}


def _with(table: pa.Table, partition: dict[str, pa.Scalar]) -> pa.Table:
    for name, value in partition.items():
        table = table.append_column(name, pa.repeat(value, table.num_rows))
    return table


def publish(
    run: RunFolder, manifest: Manifest, still_ours: Callable[[], None], table_format: TableFormat | None = None
) -> None:
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
    table_format : TableFormat, optional
        What else the files are added to; it has been created.
    """
    still_ours()
    run.write(PREPARED, manifest.model_dump_json(indent=2))
    finish(run, manifest, table_format)


def finish(run: RunFolder, manifest: Manifest, table_format: TableFormat | None = None) -> None:
    """Make the files of a prepared run visible and commit it. Doing it again changes nothing.

    Raises
    ------
    TableError
        A finished file is gone.
    JobError
        The table of another format does not take the files.
    """
    filesystem = run.filesystem
    if run.renames and filesystem.get_file_info(run.finished).type == fs.FileType.Directory:
        filesystem.create_dir(run.table, recursive=True)
        filesystem.move(run.finished, run.published)
    for each in manifest.output_files:
        target = f"{run.table}/{each.path}"
        source = f"{run.finished}/{_inside(run, each.path)}{STAGED}"
        if filesystem.get_file_info(source).is_file:
            make_folder(filesystem, target.rpartition("/")[0])
            filesystem.move(source, target)
        if filesystem.get_file_info(target).size != each.bytes:
            raise TableError(
                f"{target}: had {each.bytes} bytes when it was finished and is gone; remove {run.path} and "
                f"{run.published}, and start the job again"
            )
    if table_format is not None:
        table_format.commit(manifest)
    run.write(MANIFEST, manifest.model_dump_json(indent=2))
    run.clear()


def retire(run: RunFolder, replaced: Sequence[str]) -> None:
    """Remove runs whose place a committed one has taken. Doing it again changes nothing.

    Their files go first: a manifest that is left says what to remove when it is done again.
    """
    for run_id in replaced:
        old = RunFolder(run.output, run_id)
        for folder in (old.published, old.path):
            if run.filesystem.get_file_info(folder).type == fs.FileType.Directory:
                run.filesystem.delete_dir(folder)


def _inside(run: RunFolder, path: str) -> str:
    """Return a file's path below the run's part of the table."""
    return path[len(f"run={run.run_id}/") :]


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
