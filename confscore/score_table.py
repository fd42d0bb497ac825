"""Score tables: how their Parquet files are written, and how they are read back.

Inside each file rows are sorted by ``p_max``, largest first, so that a query for confident rows reads the first
row groups only; floats are BYTE_STREAM_SPLIT and zstd compressed, which keeps every bit and is smaller than a
dictionary (measured: a filter on one category reads 1 row group of 17).
"""

from __future__ import annotations

import json
import re
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.parquet as pq
from pyarrow import fs
from pydantic import ValidationError

from confscore.corpus.files import resolve
from confscore.errors import TableError
from confscore.manifest import PARQUET, Counts, Provenance
from confscore.run_folder import read_manifests

PROVENANCE_KEY = b"confscore.provenance"
STAGED = ".staged"
NOTED = ".parquet"

# What Arrow says of a file that it reached and that is not whole; it has no exception of its own for that.
_DAMAGED = re.compile(
    r"Couldn't deserialize thrift|Corrupt|Unexpected end of stream|decompression failed|checksum verification failed"
)


def is_damaged(error: Exception) -> bool:
    """Say whether a Parquet file was reached and is not whole, as after a power failure."""
    if isinstance(error, pa.ArrowInvalid):  # cut short
        return True
    # Pages that never came to the disk. A number would be the disk's own trouble, which may pass.
    return isinstance(error, OSError) and error.errno is None and _DAMAGED.search(str(error)) is not None


def writer_of(staged: str) -> str:
    """Return the name of the task that wrote a staged file, which is that of its note without :data:`NOTED`."""
    # parquet-<write>-<task>-<n>.staged, or the same with another ending while it is being written
    return staged.rpartition("/")[2].removesuffix(STAGED).rpartition("-")[0]


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


def open_table(path: str) -> pds.Dataset:
    """Open a score table for reading, hive partitions included.

    Where an Iceberg or Delta Lake table refers to its files, those of committed runs are read: the table's own
    maintenance may have written others.

    Parameters
    ----------
    path : str
        ``output.path`` of the runs that wrote it, or one of its files.

    Raises
    ------
    TableError
        There is no score table, or it has lost files.
    """
    filesystem, root = resolve(path)
    info = filesystem.get_file_info(root)
    if info.type == fs.FileType.NotFound:
        raise TableError(f"{path}: no such score table")
    manifests = read_manifests(path) if info.type == fs.FileType.Directory else []
    source: str | list[str] = root
    if any(manifest.published_to != PARQUET for manifest in manifests):
        source = [f"{root.rstrip('/')}/{file.path}" for manifest in manifests for file in manifest.output_files]
        _refuse_gone(filesystem, source)
    try:
        table = pds.dataset(
            source,
            filesystem=filesystem,
            format="parquet",
            partitioning="hive",
            partition_base_dir=root,
            exclude_invalid_files=False,
        )
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())}") from None
    if not table.files and manifests:
        raise TableError(f"{path}: its runs have scored no documents, so there is no file yet")
    if PROVENANCE_KEY not in (table.schema.metadata or {}):
        raise TableError(f"{path}: is not a score table (no file with the metadata {PROVENANCE_KEY.decode()})")
    return table


def _refuse_gone(filesystem: fs.FileSystem, files: list[str]) -> None:
    """Refuse a table whose files have been removed, as maintenance of Iceberg and Delta Lake tables may."""
    gone = [info.path for info in filesystem.get_file_info(files) if not info.is_file]
    if gone:
        raise TableError(
            f"{gone[0]}: a run has written it, and it is gone; if maintenance of the table has rewritten its files and "
            "removed the old ones, read it with a reader of its format"
        )


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
