"""What a changed threshold costs: DuckDB on the view of ``confscore sql``, and ``confscore apply`` on a large table.

Writes score tables with random scores, then asks DuckDB for all flags of the smaller one under changing thresholds, and
flags every row of the larger one in a process of its own, whose peak memory is printed.

``python benchmarks/thresholds.py --rows 2000000 --apply-rows 10000000``
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from pyarrow import fs

from confscore.manifest import Provenance
from confscore.rows import Columns, score_schema
from confscore.rules import make_rules
from confscore.score_table import PROVENANCE_KEY, write_parquet
from confscore.sql import make_view

CODES = tuple(f"S{number}" for number in range(1, 15))
COMMAND = """
import sys
from confscore.cli import app
from confscore.memory import peak_memory
app(sys.argv[1:], standalone_mode=False)
print(peak_memory(descendants=False))
"""
ROWS_PER_FILE = 1_000_000
ROWS_PER_GROUP = 122_880
PROVENANCE = Provenance(
    model="random",
    model_hash="0",
    revision=None,
    engine="vllm",
    engine_args={},
    guard="random",
    guard_hash="0",
    categories={code: code for code in CODES},
    prompt_hash="0",
    tokenizer_hash="0",
    procedure="exact",
    paper=None,
    estimators=("marginal",),
    normalization="global",
    tolerance=0.01,
    tolerance_of="absolute",
    max_requests_per_document=64,
    long_documents="chunk",
    chunk_overlap_tokens=64,
)


def write_table(folder: Path, rows: int) -> None:
    """Write a score table: log-odds are normal, so that one document in ten has a category above 0.5."""
    numbers = np.random.default_rng(0)
    schema = score_schema(Columns(CODES))
    folder.mkdir(parents=True)
    for part, start in enumerate(range(0, rows, ROWS_PER_FILE)):
        count = min(ROWS_PER_FILE, rows - start)
        probs = 1 / (1 + np.exp(-numbers.normal(-8, 3, (count, len(CODES))).astype(np.float32)))
        columns = {f"p_{code}": pa.array(probs[:, j]) for j, code in enumerate(CODES)}
        columns["doc_id"] = pa.array([f"{number:032x}" for number in range(start, start + count)])
        columns["status"], columns["run_id"] = pa.repeat("scored", count), pa.repeat("run-0", count)
        columns["p_max"] = columns["p_any"] = pa.array(probs.max(axis=1))
        for field in schema:
            if field.name not in columns:
                zeros = np.zeros(count, dtype=np.int64)
                nested = pa.types.is_list(field.type) or pa.types.is_string(field.type)
                columns[field.name] = pa.nulls(count, field.type) if nested else pa.array(zeros).cast(field.type)
        table = pa.table([columns[name] for name in schema.names], schema=schema)
        table = table.sort_by([("p_max", "descending"), ("doc_id", "ascending")])
        known = {PROVENANCE_KEY: PROVENANCE.model_dump_json().encode()}
        path = str(folder / f"part-{part:05d}.parquet")
        write_parquet(table.replace_schema_metadata(known), fs.LocalFileSystem(), path, ROWS_PER_GROUP)


def time_queries(folder: Path, rounds: int) -> None:
    """Print how long DuckDB takes under thresholds that change from round to round."""
    queries = {
        "count every flag of every row": f"SELECT {', '.join(f'count(*) FILTER (flag_{c})' for c in CODES)} FROM flags",
        "documents with any flag": "SELECT count(*), sum(length(doc_id)) FROM flags WHERE flagged",
        "documents with one flag": "SELECT count(*), sum(length(doc_id)) FROM flags WHERE flag_S3",
        "any flag, without p_max": "SELECT count(*), sum(length(doc_id)) FROM flags WHERE ("
        + " OR ".join(f"p_{code} >= CAST({{limit}} AS REAL)" for code in CODES)
        + ")",
    }
    connection = duckdb.connect()
    for name, query in queries.items():
        times = []
        for number in range(rounds + 1):
            limit = 0.9 + 0.005 * number
            view = make_view(make_rules(None, [f"{limit}"], CODES), "flags", "duckdb", path=str(folder))
            start = time.perf_counter()
            connection.execute(view)
            found = connection.execute(query.format(limit=limit)).fetchall()[0]
            times.append(time.perf_counter() - start)
        print(f"{name}: {np.median(times[1:]) * 1000:.0f} ms (first time {times[0] * 1000:.0f} ms); {found[:2]}")


def time_apply(folder: Path, out: Path) -> None:
    """Print how long ``confscore apply`` takes, and the peak memory of its process."""
    words = ["apply", "--scores", str(folder), "--threshold", "0.9", "--out", str(out)]
    start = time.perf_counter()
    # The process asks for its own peak: what its parent is told includes the parent's memory at the fork.
    done = subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, check=True)
    taken, peak = time.perf_counter() - start, int(done.stdout.split()[-1])
    print(f"apply: {taken:.0f} s, peak {peak / 2**20:.0f} MiB, {out.stat().st_size / 2**20:.0f} MiB written")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--apply-rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        write_table(Path(root) / "scores", options.rows)
        print(f"DuckDB {duckdb.__version__}, {options.rows:,} rows × {len(CODES)} categories")
        time_queries(Path(root) / "scores", options.rounds)
        write_table(Path(root) / "more", options.apply_rows)
        print(f"{options.apply_rows:,} rows")
        time_apply(Path(root) / "more", Path(root) / "flags.parquet")


if __name__ == "__main__":
    main()
