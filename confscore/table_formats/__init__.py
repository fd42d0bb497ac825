"""Table formats: the same Parquet files, and a table of Iceberg or Delta Lake that refers to them.

A run's files lie below ``output.path`` whatever the format is, so everything that reads score tables works on them.
A table format adds them to its table in one commit, which carries the run's id: who comes later sees by it that the
run is in the table. Its libraries are imported when they are needed, and no other module imports them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from confscore.config import OutputConfig, OutputFormat
from confscore.errors import ConfigError
from confscore.manifest import Manifest, OutputTable

RUN_ID = "confscore.run_id"
"""The key under which a commit carries its run's id, for people who read the table's history."""
_LIBRARIES: dict[OutputFormat, str] = {"iceberg": "pyiceberg", "delta": "deltalake"}


class TableFormat(Protocol):
    """A table that refers to the files of runs."""

    def check(self, schema: pa.Schema, partition_by: Sequence[str]) -> None:
        """Change nothing, and refuse a table that a run cannot be added to.

        Parameters
        ----------
        schema : pyarrow.Schema
            The schema of scored rows, partition columns included.
        partition_by : sequence of str
            Its partition columns.

        Raises
        ------
        TableError
            The table is not one of confscore, has other columns or partitions, or cannot be looked at.
        """

    def create(self, schema: pa.Schema, partition_by: Sequence[str]) -> None:
        """Make an empty table unless there is one, so that what keeps it from being made is known before scoring.

        Raises
        ------
        TableError
            It cannot be made.
        """

    def committed(self, run_id: str) -> bool:
        """Say whether a run has been added to the table.

        Raises
        ------
        JobError
            The table cannot be looked at.
        """

    def commit(self, manifest: Manifest) -> None:
        """Add a run's published files in one commit, or do nothing where the run has been added.

        When another writer commits in between, it is tried again.

        Raises
        ------
        JobError
            It could not be done; a later start may try again.
        """


def output_table(output: OutputConfig) -> OutputTable:
    """Return where an output is published, as manifests have it."""
    return OutputTable(format=output.format, catalog=output.catalog, name=output.table)


def refuse_output(output: OutputConfig) -> None:
    """Refuse a format whose library is not installed, or that cannot keep the address; nothing is imported.

    Raises
    ------
    ConfigError
        The library is not installed, or ``output.path`` has what a table's metadata cannot keep.
    """
    _require_library(output.format)
    if output.format != "parquet" and any(mark in output.path for mark in "?#"):
        raise ConfigError(
            f"output.path {output.path}: with output.format {output.format} the address is kept in the table and read "
            "by other programs, so it may have no ? or #; set the store up by the environment, such as "
            "AWS_ENDPOINT_URL and AWS_REGION"
        )


def open_format(path: str, table: OutputTable) -> TableFormat | None:
    """Return the table that score files are added to; ``None`` for format ``parquet``, where they are the table.

    Parameters
    ----------
    path : str
        ``output.path``.
    table : OutputTable
        Which format, and where.

    Raises
    ------
    ConfigError
        The format's library is not installed.
    """
    _require_library(table.format)
    if table.format == "delta":
        from confscore.table_formats.delta import DeltaLakeTable  # noqa: PLC0415 - an extra

        return DeltaLakeTable(path)
    if table.format == "iceberg":
        from confscore.table_formats.iceberg import IcebergTable  # noqa: PLC0415 - an extra

        assert table.catalog is not None, "OutputConfig refuses iceberg without one"
        assert table.name is not None, "OutputConfig refuses iceberg without one"
        return IcebergTable(path, table.catalog, table.name)
    return None


def _require_library(name: OutputFormat) -> None:
    library = _LIBRARIES.get(name)
    if library is not None and importlib.util.find_spec(library) is None:
        raise ConfigError(
            f"output.format {name}: needs {library}, which is not installed; run: pip install 'confscore[{name}]'"
        )
