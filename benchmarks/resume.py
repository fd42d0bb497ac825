"""What it takes to go on with a job of many documents, most of which an earlier start has staged.

Writes a corpus and, for all but its last block, the staged rows and the notes that Ray Data would have left. A job with
a table engine then goes on: it looks through all ids, restores the keys, scores what is missing, compacts, compares
every key with the corpus, and publishes. Prints the driver's peak memory.

``python benchmarks/resume.py --rows 10000000``
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from confscore.actor import staged_schema
from confscore.config import load
from confscore.corpus import ROW_KEY
from confscore.corpus.formats import ROW_BITS
from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.plan import Plan, make_plan
from confscore.run_folder import read_manifests
from confscore.score_table import STAGED, write_parquet

ROWS_PER_FILE = 250_000
JOB = Path(__file__).parents[1] / "tests" / "ray" / "table_job.py"


def write_corpus(folder: Path, rows: int) -> None:
    """Write documents with ids of 32 hexadecimal digits."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
        count = min(ROWS_PER_FILE, rows - start)
        ids = [row.tobytes().hex() for row in numbers.integers(0, 256, (count, 16), dtype=np.uint8)]
        table = pa.table({"doc_id": ids, "text": pa.array(["a quiet evening"] * count)})
        pq.write_table(table, folder / f"part-{number:05d}.parquet")


def stage(plan: Plan, missing: int) -> int:
    """Write what an earlier start would have staged: all rows but the last ``missing`` ones of the last file."""
    schema = staged_schema(plan.columns)
    Path(plan.run.staging).mkdir(parents=True)
    Path(plan.run.checkpoints).mkdir(parents=True)
    numbers = np.random.default_rng(1)
    staged = 0
    for file in plan.corpus.files:
        ids = pq.read_table(file.path, columns=["doc_id"])["doc_id"].combine_chunks()
        ids = ids[: len(ids) - missing] if file is plan.corpus.files[-1] else ids
        name = f"parquet-earlier-{file.number:012d}"
        table = staged_rows(schema, ids, file.number << ROW_BITS, plan.run.run_id, numbers)
        write_parquet(table, plan.run.filesystem, f"{plan.run.staging}/{name}-0{STAGED}", 122_880)
        pq.write_table(table.select([ROW_KEY]), f"{plan.run.checkpoints}/{name}.parquet")
        staged += len(ids)
    return staged


def staged_rows(schema: pa.Schema, ids: pa.Array, first: int, run_id: str, numbers: np.random.Generator) -> pa.Table:
    """Return scored rows with random probabilities."""
    count = len(ids)
    columns = []
    for field in schema:
        match field.name:
            case "doc_id":
                values = ids
            case "status":
                values = pa.repeat("scored", count)
            case "run_id":
                values = pa.repeat(run_id, count)
            case name if name == ROW_KEY:
                values = pa.array(np.arange(first, first + count))
            case _ if pa.types.is_floating(field.type):
                values = pa.array(numbers.random(count, dtype=np.float32))
            case _ if pa.types.is_integer(field.type) or pa.types.is_timestamp(field.type):
                values = pa.repeat(1, count)
            case _ if pa.types.is_boolean(field.type):
                values = pa.repeat(False, count)
            case _:
                values = pa.nulls(count, field.type)
        columns.append(values.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema.remove_metadata())


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--missing", type=int, default=500)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_corpus(root / "corpus", given.rows)
        settings = {
            "input": {"path": str(root / "corpus"), "id_column": "doc_id"},
            "guard": str(GUARD_YAML),
            "model": {"source": str(GUARD_FOLDER), "engine": "transformers"},
            "scoring": {"tolerance": 0.3, "max_requests_per_document": 2},
            "cluster": {"actors": 1, "gpus_per_actor": 0},
            "output": {"path": str(root / "scores")},
        }
        config = root / "score.yaml"
        config.write_text(yaml.safe_dump(settings))
        staged = stage(make_plan(load(config)), given.missing)
        began = time.monotonic()
        job = subprocess.run([sys.executable, JOB, config], capture_output=True, text=True, check=False)
        if job.returncode:
            sys.exit(job.stderr[-4000:])
        (manifest,) = read_manifests(str(root / "scores"))
        peak = manifest.peak_memory.driver or 0
        found = {
            "rows": manifest.counts.read,
            "staged_before": staged,
            "resumed": manifest.resumed,
            "seconds": round(time.monotonic() - began, 1),
            "driver_peak_bytes": peak,
        }
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
