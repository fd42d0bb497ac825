"""Delta Lake: ``output.path`` is the table's root, and its log refers to the files of runs.

A commit carries the transaction (application ``run_id``, version 1). The protocol lets a writer ask for it, and a
commit fails when another one with the same application id came in between, so a run is never added twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction
from pyarrow import fs

from confscore.corpus.files import resolve
from confscore.errors import JobError, TableError
from confscore.manifest import Manifest, OutputFile
from confscore.table_formats import RUN_ID
from confscore.table_formats.schemas import described, different_partitions, first_difference

OURS = "confscore.table"
"""The table property that marks a table of confscore."""
_VERSION = 1
_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class DeltaLakeTable:
    """The table at ``output``; see :class:`confscore.table_formats.TableFormat`."""

    output: str

    def check(self, schema: pa.Schema, partition_by: Sequence[str]) -> None:
        """Refuse a table of others, and one with other columns or partitions."""
        with self._plain_errors(TableError):
            table = self._open()
            if table is None:
                return
            settings, partitions = table.metadata().configuration, table.metadata().partition_columns
            theirs = pa.schema(table.schema())
        if OURS not in settings:
            raise TableError(
                f"output.path {self.output}: is a Delta table that confscore has not made; choose another output.path"
            )
        difference = first_difference(schema, theirs) or different_partitions(partition_by, partitions)
        if difference is not None:
            raise TableError(f"output.path {self.output}: its Delta table {difference}; choose another output.path")

    def create(self, schema: pa.Schema, partition_by: Sequence[str]) -> None:
        """Make an empty table unless there is one."""
        with self._plain_errors(TableError):
            DeltaTable.create(
                self._address,
                Schema.from_arrow(described(schema, "comment")),
                mode="ignore",
                partition_by=list(partition_by),
                description="A score table of confscore: one row for each document of the corpus.",
                configuration={OURS: "scores"},
                storage_options=self._options,
                raise_if_key_not_exists=False,  # OURS is not one of Delta's own
            )

    def committed(self, run_id: str) -> bool:
        """Say whether the table has the run's transaction."""
        with self._plain_errors(JobError):
            table = self._open()
            return table is not None and table.transaction_version(run_id) is not None

    def commit(self, manifest: Manifest) -> None:
        """Add a run's files in one transaction; the library tries again after commits of others."""
        with self._plain_errors(JobError):
            with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
                made = pool.map(lambda file: self._action(file, manifest.partition_by), manifest.output_files)
                actions: list[AddAction | RemoveAction] = list(made)
            table = DeltaTable(self._address, storage_options=self._options)
            if table.transaction_version(manifest.run_id) is not None:
                return
            try:
                table.create_write_transaction(
                    actions,
                    mode="append",
                    schema=table.schema(),
                    partition_by=list(manifest.partition_by),
                    commit_properties=CommitProperties(
                        custom_metadata={RUN_ID: manifest.run_id},
                        app_transactions=[Transaction(manifest.run_id, _VERSION)],
                    ),
                )
            except CommitFailedError:
                if not self.committed(manifest.run_id):  # else by a start that was taken for dead
                    raise

    def _open(self) -> DeltaTable | None:
        try:
            return DeltaTable(self._address, storage_options=self._options)
        except TableNotFoundError:
            return None

    def _action(self, file: OutputFile, partition_by: Sequence[str]) -> AddAction:
        filesystem, root = resolve(self.output)
        place = f"{root.rstrip('/')}/{file.path}"
        with filesystem.open_input_file(place) as stream:
            parquet = pq.ParquetFile(stream)
            first = parquet.read_row_group(0, columns=list(partition_by)).slice(0, 1)
            stats = file_statistics(parquet.metadata, parquet.schema_arrow)
        values = {name: partition_value(first[name][0].as_py()) for name in partition_by}
        modified = filesystem.get_file_info(place).mtime_ns or 0
        return AddAction(file.path, file.bytes, values, modified // 1_000_000, True, json.dumps(stats))

    @property
    def _address(self) -> str:
        filesystem, root = resolve(self.output)
        return root if isinstance(filesystem, fs.LocalFileSystem) else self.output.rstrip("/")

    @property
    def _options(self) -> dict[str, str]:
        """Return what the library does not find out by itself: it knows credentials from the environment."""
        filesystem = resolve(self.output)[0]
        if not isinstance(filesystem, fs.S3FileSystem):
            return {}
        options = {"AWS_REGION": filesystem.region} if filesystem.region else {}
        server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if server is not None:
            options |= {"AWS_ENDPOINT_URL": server, "AWS_ALLOW_HTTP": str(server.startswith("http://")).lower()}
        return options

    @contextmanager
    def _plain_errors(self, kind: type[TableError] | type[JobError]) -> Iterator[None]:
        try:
            yield
        except (DeltaError, OSError) as error:
            words = " ".join(str(error).split())
            raise kind(
                f"output.path {self.output}: Delta Lake says: {words}; mend it and start the job again"
            ) from error


def partition_value(value: object) -> str | None:
    """Return text, a whole number, a date or a boolean as the Delta protocol's "Partition Value Serialization"."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def file_statistics(footer: pq.FileMetaData, schema: pa.Schema) -> dict[str, object]:
    """Return a file's statistics as the Delta protocol writes them ("Per-file Statistics"); readers skip files by them.

    Extremes are given of columns with a unit only: those are scores and counts, which are finite. Parquet's extremes
    leave NaN out, and a carried column may have it.
    """
    lows: dict[str, float] = {}
    highs: dict[str, float] = {}
    nulls: dict[str, int] = {}
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    for place in range(footer.num_columns):
        name = groups[0].column(place).path_in_schema
        if name not in schema.names or b"unit" not in (schema.field(name).metadata or {}):
            continue
        found = [group.column(place).statistics for group in groups]
        nulls[name] = sum(each.null_count for each in found)
        extremes = [(each.min, each.max) for each in found if each.has_min_max]
        if extremes:
            lows[name], highs[name] = min(low for low, _ in extremes), max(high for _, high in extremes)
    return {"numRecords": footer.num_rows, "minValues": lows, "maxValues": highs, "nullCount": nulls}
