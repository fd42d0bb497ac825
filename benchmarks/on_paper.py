"""A job of 10⁹ documents on 512 GPUs, on paper: what is read, written, asked, kept, and paid, and what breaks first.

Measured numbers are those of RESULTS.md; assumed ones are named as such, and options change them. Nothing is timed.
``python benchmarks/on_paper.py``
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields

GIB = 1 << 30


@dataclass(frozen=True)
class Measured:
    """What was measured on two CPU cores, see RESULTS.md."""

    rollouts_per_document: float = 1.12  # production-like world, tolerance 0.05
    steps_per_document: float = 3.70
    rows_per_s_of_two_cores: float = 50_450  # the whole pipeline with a free engine
    driver_bytes: float = 0.63e9
    driver_bytes_per_block: float = 34_000  # what Ray Data keeps until the job ends
    bytes_per_id: float = 8  # hashes, while ids are compared
    score_bytes_per_row: float = 76  # the demo's table, without bounds and further estimators


@dataclass(frozen=True)
class Assumed:
    """What was not: the cluster, the model and the prices."""

    documents: float = 1e9
    gpus: float = 512
    gpus_per_node: float = 8
    parameters: float = 8e9
    peak_flops: float = 989e12  # H100 SXM, bfloat16, dense
    share_of_peak: float = 0.5  # prefill of a busy vLLM; 0.56 on the one H200 that was measured, counted so
    unshared_tokens: float = 400
    policy_tokens: float = 600  # shared, and in the prefix cache
    text_bytes_per_document: float = 900  # compressed
    block_tokens: float = 16  # only whole blocks of a prompt are cached
    rows_per_block: float = 8192
    rows_per_file: float = 1e6
    footers_per_s: float = 500  # 16 at a time, 30 ms each
    dollars_per_gpu_hour: float = 2.5
    dollars_per_million_writes: float = 5.0
    dollars_per_million_reads: float = 0.4
    driver_memory: float = 16 * GIB


def table(measured: Measured, assumed: Assumed) -> list[tuple[str, str, str]]:
    """Return rows: what, how much, and what it follows from."""
    a, m = assumed, measured
    # A later rollout finds its prompt in the cache, but for half a block, and decodes again.
    again = (m.rollouts_per_document - 1) * a.block_tokens / 2
    tokens = a.unshared_tokens + again + m.steps_per_document
    tokens_per_s = a.share_of_peak * a.peak_flops / (2 * a.parameters)
    rate = tokens_per_s / tokens
    whole_rate = a.gpus * rate
    hours = a.documents / whole_rate / 3600
    staged = a.documents / a.rows_per_block
    writes = (
        2 * staged + 2 * a.documents / a.rows_per_file
    )  # a block and its note; a finished file is copied into place
    reads = 2 * staged + a.documents / a.rows_per_file
    driver = m.driver_bytes + staged * m.driver_bytes_per_block
    most_rows = (a.driver_memory - m.driver_bytes) / m.driver_bytes_per_block * a.rows_per_block
    ids = a.documents * m.bytes_per_id / (a.gpus / a.gpus_per_node)
    in_flight = a.gpus_per_node * 8 * a.rows_per_block * a.text_bytes_per_document * 3
    cores = 2 * whole_rate / m.rows_per_s_of_two_cores
    dollars = a.gpus * hours * a.dollars_per_gpu_hour
    store = writes * a.dollars_per_million_writes / 1e6 + reads * a.dollars_per_million_reads / 1e6
    return [
        ("read", f"{a.documents * a.text_bytes_per_document / 1e12:.2f} TB", "compressed text"),
        ("written", f"{2 * a.documents * m.score_bytes_per_row / 1e12:.2f} TB", "staged, and then compacted"),
        ("documents a second, one GPU", f"{rate:.0f}", f"{tokens_per_s:,.0f} tokens/s over {tokens:.0f} tokens"),
        ("documents a second, all", f"{whole_rate:,.0f}", f"{a.gpus:.0f} GPUs"),
        ("requests a second, all", f"{whole_rate * m.rollouts_per_document:,.0f}", "rollouts"),
        ("time", f"{hours:.1f} h", "start-up and compaction left out"),
        ("CPU cores for the pipeline", f"{cores:.1f}", "of the cluster's, beside the engines' own"),
        ("object store of a node", f"{in_flight / GIB:.1f} GiB", "8 blocks an actor: 4 in it, 4 on the way"),
        ("staged files, and as many notes", f"{staged:,.0f}", f"blocks of {a.rows_per_block:,.0f} rows"),
        ("footers before compaction", f"{staged / a.footers_per_s / 60:.0f} min", f"{a.footers_per_s:.0f} a second"),
        ("files of the table", f"{a.documents / a.rows_per_file:,.0f}", f"{a.rows_per_file:,.0f} rows each"),
        ("ids compared, on a node", f"{ids / GIB:.2f} GiB", f"{m.bytes_per_id:.0f} bytes a row, on all nodes"),
        ("driver's memory", f"{driver / GIB:.1f} GiB", f"{m.driver_bytes_per_block / 1000:.0f} kB a block"),
        ("rows of one run on a driver", f"{most_rows / 1e9:.1f} billion", f"with {a.driver_memory / GIB:.0f} GiB"),
        ("GPUs", f"{dollars:,.0f} dollars", f"{a.dollars_per_gpu_hour} dollars an hour"),
        ("requests to the store", f"{store:,.0f} dollars", f"{writes / 1e6:.2f} million writes"),
    ]


def markdown(rows: list[tuple[str, str, str]]) -> str:
    """Return the table as Markdown."""
    lines = ["| | | from |", "|---|---|---|", *(f"| {what} | {much} | {why} |" for what, much, why in rows)]
    return "\n".join(lines)


def main() -> None:
    """Print the table for the numbers that are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in (Measured, Assumed):
        for each in fields(kind):
            parser.add_argument(f"--{each.name.replace('_', '-')}", type=float, default=each.default)
    given = vars(parser.parse_args())
    measured, assumed = (kind(**{each.name: given[each.name] for each in fields(kind)}) for kind in (Measured, Assumed))
    print(markdown(table(measured, assumed)))


if __name__ == "__main__":
    main()
