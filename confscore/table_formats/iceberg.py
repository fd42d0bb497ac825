"""Iceberg: a table in a catalog that pyiceberg knows by name, with the files of runs below ``output.path``.

A run's commit adds its files and notes its id among the table's properties, which outlive snapshots; the snapshot's
summary has it too, for people. A commit names the snapshot it follows, and the catalog refuses it when there is a newer
one; every try starts from a fresh look, so a run is never added twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import CommitFailedException, NoSuchNamespaceError, NoSuchTableError
from pyiceberg.table import Table, TableProperties
from pyiceberg.transforms import IdentityTransform

from confscore.corpus.files import resolve
from confscore.errors import ConfscoreError, JobError, TableError
from confscore.manifest import Manifest
from confscore.table_formats import RUN_ID
from confscore.table_formats.schemas import described, different_partitions, first_difference

OUTPUT = "confscore.output"
"""The table property that names the ``output.path`` whose runs a table holds."""
_TRIES = 10
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class IcebergTable:
    """The table ``name`` of a catalog; see :class:`confscore.table_formats.TableFormat`."""

    output: str
    catalog: str
    name: str

    def check(self, schema: pa.Schema, partition_by: Sequence[str]) -> None:
        """Refuse a table of others, and one with other columns or partitions."""
        with self._opened(TableError) as catalog:
            table = self._load(catalog)
            if table is None:
                return
            owner, theirs = table.properties.get(OUTPUT), table.schema().as_arrow()
            partitions = _partitions(table)
        if owner != self._address:
            whose = f"holds the scores of output.path {owner}, not of {self._address}"
            raise TableError(
                f"{self._where}: {whose if owner else 'was not made by confscore'}; choose another output.table"
            )
        difference = first_difference(schema, theirs) or different_partitions(partition_by, partitions)
        if difference is not None:
            raise TableError(f"{self._where}: {difference}; choose another output.table and another output.path")

    def create(self, schema: pa.Schema, partition_by: Sequence[str]) -> None:
        """Make an empty table unless there is one."""
        with self._opened(TableError) as catalog:
            if self._load(catalog) is not None:
                return
            catalog.create_namespace_if_not_exists(self.name.rpartition(".")[0])
            properties = {OUTPUT: self._address}
            with (
                catalog.create_table_transaction(self.name, described(schema, "doc"), properties=properties) as change,
                change.update_spec() as spec,
            ):
                for name in partition_by:
                    spec.add_identity(name)

    def committed(self, run_id: str) -> bool:
        """Say whether a run is noted among the table's properties."""
        with self._opened(JobError) as catalog:
            table = self._load(catalog)
            return table is not None and _note(run_id) in table.properties

    def commit(self, manifest: Manifest) -> None:
        """Add a run's files in one snapshot."""
        run_id = manifest.run_id
        with self._opened(JobError) as catalog:
            for attempt in range(_TRIES):
                table = catalog.load_table(self.name)
                if _note(run_id) in table.properties:
                    return
                _without_retries(table)
                try:
                    with table.transaction() as change:
                        change.set_properties({_note(run_id): manifest.committed_at})
                        paths = [f"{self._address}/{file.path}" for file in manifest.output_files]
                        change.add_files(paths, snapshot_properties={RUN_ID: run_id})
                except CommitFailedException:
                    if attempt == _TRIES - 1:
                        raise
                    time.sleep(min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S) * random.uniform(0.5, 1))
                else:
                    return

    def _load(self, catalog: Catalog) -> Table | None:
        try:
            return catalog.load_table(self.name)
        except (NoSuchTableError, NoSuchNamespaceError):
            return None

    @property
    def _address(self) -> str:
        """Return the address of ``output.path`` as table metadata has it: always with its scheme."""
        filesystem, root = resolve(self.output)
        return f"file://{root}".rstrip("/") if isinstance(filesystem, fs.LocalFileSystem) else self.output.rstrip("/")

    @property
    def _where(self) -> str:
        return f"output.table {self.name} of output.catalog {self.catalog}"

    @contextmanager
    def _opened(self, kind: type[TableError] | type[JobError]) -> Iterator[Catalog]:
        """Open the catalog, and say what it says when it refuses: each kind of catalog has exceptions of its own."""
        try:
            with closing(load_catalog(self.catalog)) as catalog:
                yield catalog
        except ConfscoreError:
            raise
        except Exception as error:
            words = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise kind(
                f"{self._where}: pyiceberg says: {words}; mend it, or the catalog's settings, and start the job again"
            ) from error


def _note(run_id: str) -> str:
    return f"confscore.{run_id}"


def _partitions(table: Table) -> list[str]:
    """Return the partition columns of a table; those that are not taken as they are have their transform with them."""
    found = []
    for field in table.spec().fields:
        name = table.schema().find_column_name(field.source_id) or "?"
        found.append(name if isinstance(field.transform, IdentityTransform) else f"{field.transform}({name})")
    return found


def _without_retries(table: Table) -> None:
    """Keep the library from trying again by itself, without looking whether the run has been added meanwhile.

    Only this copy of the table's metadata is changed; what is committed are the changes of a transaction.
    """
    once = {**table.metadata.properties, TableProperties.COMMIT_NUM_RETRIES: "0"}
    table.metadata = table.metadata.model_copy(update={"properties": once})
