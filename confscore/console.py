"""What the command line prints. Numbers come from manifests and score tables; nothing is computed twice."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.dataset as pds
import yaml
from rich.console import Console
from rich.table import Table

from confscore.guards import Guard
from confscore.rows import IntArray
from confscore.run_folder import read_manifests
from confscore.score_table import open_table, provenance_of
from confscore.words import printable

if TYPE_CHECKING:
    from confscore.check import Checked

MOST_OFF_GRAMMAR = 0.05
"""How much probability outside the grammar a checked model may have: what scores can be trusted with."""
_CUTS = (0.5, 0.9)
_BARS = " ▁▂▃▄▅▆▇█"
_BIN_EDGES = np.array([0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0])


def console() -> Console:
    """Return a console on today's standard output; in a log, lines are not wrapped."""
    # What is shown comes from files: brackets in it are no markup, and words between colons no emoji.
    width = None if sys.stdout.isatty() else 160
    return Console(width=width, highlight=width is None, markup=False, emoji=False)


def say(line: str) -> None:
    """Print one line, or several, whatever they contain; where nobody reads any more, a job goes on without."""
    try:
        print("\n".join(printable(each) for each in line.split("\n")), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_table(path: str) -> None:
    """Print runs, provenance, schema, counts and histograms of a score table."""
    table = open_table(path)
    provenance = provenance_of(table)
    out = console()
    runs = Table(title="runs", title_justify="left")
    for name in ("run", "committed at", "documents", "scored", "bounded", "failed", "requests", "files"):
        runs.add_column(name, justify="left" if name in ("run", "committed at") else "right")
    manifests = read_manifests(path)
    for manifest in manifests:
        counts = manifest.counts
        figures = (
            counts.read,
            counts.scored,
            counts.bounded,
            counts.error,
            counts.requests,
            len(manifest.output_files),
        )
        runs.add_row(
            printable(manifest.run_id), printable(manifest.committed_at), *(f"{figure:,}" for figure in figures)
        )
    out.print(runs)
    if manifests:
        out.print(f"format: {printable(str(manifests[-1].published_to))}")
    out.print("provenance", style="bold")
    shown = yaml.safe_dump(provenance.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    out.print("\n".join(printable(line) for line in shown.split("\n")))
    schema = Table(title="schema", title_justify="left")
    for name in ("column", "type", "unit or meaning"):
        schema.add_column(name)
    for field in table.schema:
        about = field.metadata or {}
        words = [about[key].decode(errors="replace") for key in (b"meaning", b"unit") if key in about]
        schema.add_row(printable(field.name), printable(str(field.type)), printable("; ".join(words)))
    out.print(schema)
    _show_distributions(out, table, ["p_any", "p_max", *(f"p_{code}" for code in provenance.categories), "residual"])


def _show_distributions(out: Console, table: pds.Dataset, names: Sequence[str]) -> None:
    """Print a line a probability column, from one pass over the table in batches."""
    counts = {name: np.zeros(len(_BIN_EDGES) - 1, dtype=np.int64) for name in names}
    sums = dict.fromkeys(names, 0.0)
    for batch in table.to_batches(columns=names):
        for name in names:
            values = batch.column(name).drop_null().to_numpy(zero_copy_only=False).astype(np.float64)
            counts[name] += np.histogram(np.clip(values, 0, 1), _BIN_EDGES)[0]
            sums[name] += float(values.sum())
    edges = ", ".join(f"{edge:g}" for edge in _BIN_EDGES)
    figure = Table(title=f"probabilities; bins with the edges {edges}", title_justify="left")
    for heading in ("column", "rows", "mean", *(f">= {cut:g}" for cut in _CUTS), "histogram (log scale)"):
        figure.add_column(heading, justify="left" if heading[0] in "ch" else "right")
    for name in names:
        rows = int(counts[name].sum())
        mean = f"{sums[name] / rows:.4f}" if rows else "-"
        above = (f"{int(counts[name][_BIN_EDGES[:-1] >= cut].sum()):,}" for cut in _CUTS)
        figure.add_row(printable(name), f"{rows:,}", mean, *above, bars(counts[name]))
    out.print(figure)


def bars(counts: IntArray) -> str:
    """Return a line of bars, one a bin, with heights on a log scale so that tails show.

    Parameters
    ----------
    counts : int array, shape (n,)
        Values in each bin.
    """
    heights = np.log1p(counts) / max(float(np.log1p(counts).max()), 1e-9)
    return "".join(_BARS[int(np.ceil(height * (len(_BARS) - 1)))] for height in heights)


def list_guards(guards: Sequence[Guard]) -> None:
    """Print one line a guard."""
    table = Table()
    for name in ("guard", "categories", "models", "source"):
        table.add_column(name, overflow="fold")
    for guard in guards:
        table.add_row(guard.name, str(len(guard.categories)), "\n".join(guard.models), guard.source)
    console().print(table)


def show_check(guard: Guard, model: str, found: Sequence[Checked]) -> bool:
    """Print what a model says to the samples, and say whether it answers as the guard's grammar has it.

    Returns
    -------
    bool
        Every sample has at most ``MOST_OFF_GRAMMAR`` probability outside the grammar.
    """
    table = Table()
    for name in ("sample", "asked", "said", "an answer?", "off grammar", "not explored"):
        table.add_column(name, overflow="fold", justify="right" if name in ("off grammar", "not explored") else "left")
    for one in found:
        verdict = "yes" if one.is_answer else "no"
        table.add_row(one.document, one.asked, repr(one.said), verdict, f"{one.off_grammar:.4f}", f"{one.unknown:.4f}")
    console().print(table)
    worst = max(found, key=lambda one: one.off_grammar)
    agrees = worst.off_grammar <= MOST_OFF_GRAMMAR
    fits = "answers" if agrees else "does not answer"
    say(
        f"{model} {fits} in the grammar of guard {guard.name}: at most {worst.off_grammar:.2%} of the probability is "
        f"outside of it, {MOST_OFF_GRAMMAR:.0%} is accepted."
    )
    if not agrees:
        say(f"Compare what it said with the answer of guard {guard.name}, and write a guard file that extends it.")
    return agrees


def show_guard(guard: Guard) -> None:
    """Print a guard as the YAML that would define it."""
    say(f"# {guard.digest()}")
    say(yaml.safe_dump(guard.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True))
