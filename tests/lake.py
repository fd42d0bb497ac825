"""A lake with one score table in a table format, and runs that are committed to it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import table_catalog
from test_score_table import CODES, PROVENANCE, manifest, scored, stage

from confscore.manifest import PARQUET, InputFile, Manifest, OutputTable, add_counts
from confscore.publication import compact, plan_compactions, publish
from confscore.rows import Columns, score_schema
from confscore.run_folder import RunFolder
from confscore.table_formats import TableFormat, open_format

table_catalog.configure()  # before pyiceberg is imported, which reads its configuration then

DATE = pa.field("date", pa.date32())
DAYS = (datetime.date(2026, 11, 22), datetime.date(2026, 11, 23))
BOTH = pytest.mark.parametrize("kind", ["iceberg", "delta"])
RUNS = tuple(f"run-{digit * 16}" for digit in "0123456789")


class Lake:
    """One table of a format, and the runs that are published to it."""

    def __init__(self, root: Path, kind: str, *, carried: Sequence[pa.Field] = (DATE,), partitioned: bool = True):
        self.output = str(root / "scores")
        name = f"{root.name.replace('-', '_')}.scores"
        iceberg = kind == "iceberg"
        catalog = table_catalog.CATALOG if iceberg else None
        self.where = OutputTable.model_validate({"format": kind, "catalog": catalog, "name": name if iceberg else None})
        self.columns = Columns(CODES, bounds=True, carried=tuple(carried))
        self.schema = score_schema(self.columns)
        self.partition_by = tuple(field.name for field in carried) if partitioned else ()

    @property
    def table(self) -> TableFormat:
        found = open_format(self.output, self.where)
        assert found is not None
        return found

    def run(self, number: int) -> RunFolder:
        return RunFolder(self.output, RUNS[number])

    def finished(self, number: int, folders: Sequence[str] = ("date=2026-11-22", "date=2026-11-23")) -> Manifest:
        """Stage and compact a run with twenty documents a folder."""
        run = self.run(number)
        rng = np.random.default_rng(number)
        for place, folder in enumerate(folders):
            probs = rng.random((20, 2)).astype(np.float32) ** 8  # tails are where rounding would show
            stage(run, f"{folder}/a", [scored(f"{number}-{place}-{i}", probs[i].tolist()) for i in range(20)])
        as_folders = self.where == PARQUET
        inside = [field for field in self.schema if not as_folders or field.name not in self.partition_by]
        jobs = plan_compactions(run, 1000, partition_folders=as_folders)
        files = [compact(run, job, pa.schema(inside), PROVENANCE, 7) for job in jobs]
        return manifest(
            run,
            add_counts(each.counts for each in files),
            output_files=tuple(each.file for each in files),
            columns=tuple(self.schema.names),
            partition_by=self.partition_by,
            input_files=(InputFile(name=f"{number}", path=f"/c/{number}.parquet", size=1, modified_ns=2),),
            published_to=self.where,
        )

    def publish(self, number: int, folders: Sequence[str] = ("date=2026-11-22", "date=2026-11-23")) -> Manifest:
        record = self.finished(number, folders)
        if self.where == PARQUET:
            publish(self.run(number), record, lambda: None)
            return record
        self.table.check(self.schema, self.partition_by)
        self.table.create(self.schema, self.partition_by)
        publish(self.run(number), record, lambda: None, self.table)
        return record

    def delta(self, options: dict[str, str] | None = None):
        from deltalake import DeltaTable

        return DeltaTable(self.output, storage_options=options)

    def iceberg(self):
        from pyiceberg.catalog import load_catalog

        return load_catalog(table_catalog.CATALOG).load_table(self.where.name)

    def read(self) -> pa.Table:
        """Return all rows as the format's own reader sees them, in order of their ids."""
        if self.where.format == "delta":
            return self.delta().to_pyarrow_table().sort_by("doc_id")
        return self.iceberg().scan().to_arrow().sort_by("doc_id")

    def commits(self) -> list[str]:
        """Return the ids of runs in the table's history, in order."""
        if self.where.format == "delta":
            said = [entry.get("confscore.run_id") for entry in reversed(self.delta().history())]
            return [run_id for run_id in said if run_id is not None]
        return [snapshot.summary.additional_properties["confscore.run_id"] for snapshot in self.iceberg().snapshots()]
