"""``confscore sample``: draw documents for human labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from confscore import console
from confscore.cli_common import DebugOption, RunOption, ScoresOption, ThresholdOption, plain_errors
from confscore.designs import FLOOR_SHARE, DesignName

if TYPE_CHECKING:
    from confscore.sample import Sample


def sample(
    scores: ScoresOption,
    out: Annotated[str, typer.Option(help="The sample's file; its ending says .parquet, .csv or .jsonl.")],
    budget: Annotated[int, typer.Option(help="How many documents to draw, on average.")] = 1000,
    design: Annotated[
        DesignName, typer.Option(help="What tells most about F1, any document alike, or the largest scores.")
    ] = "f1",
    floor: Annotated[
        float, typer.Option(help="Share of the budget that is spread evenly over all documents.")
    ] = FLOOR_SHARE,
    seed: Annotated[int, typer.Option(help="Equal seeds draw equal documents.")] = 0,
    model: Annotated[
        Optional[str],  # noqa: UP045 - typer reads this form on every version
        typer.Option("--model", "--fit", help="A fit: its calibration, and its thresholds."),
    ] = None,
    threshold: ThresholdOption = None,
    run: RunOption = None,
    text: Annotated[
        bool, typer.Option("--text", help="Add texts, from the corpus in the configuration that the run left.")
    ] = False,
    corpus: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="CONFIG", help="Add texts, from the corpus of this configuration file."),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Draw documents of a score table for human labels, each with a known probability."""
    with plain_errors(debug):
        from confscore.fitted import digest, load_model, read_file  # noqa: PLC0415 - few commands need SciPy
        from confscore.sample import Request, draw_sample  # noqa: PLC0415
        from confscore.sample_file import check_target, describe_draw, write_sample  # noqa: PLC0415

        check_target(out)
        request = Request(scores, budget, design, floor, seed, run)
        drawn = draw_sample(request, threshold or [], None if model is None else load_model(model))
        fit = None if model is None else digest(read_file(model))
        texts = _texts(scores, drawn, corpus) if text or corpus is not None else None
        written = write_sample(out, drawn, texts, describe_draw(request, drawn, fit))
        for line in describe(drawn):
            console.say(line)
        console.say(f"Wrote {', '.join(written)}")


def describe(drawn: Sample) -> list[str]:
    """Return what a reader has to know of a sample."""
    totals, codes = drawn.totals, tuple(drawn.provenance.categories)
    certain = int((drawn.inclusion == 1).sum())
    lines = [
        f"{len(drawn.doc_ids):,} of {totals.documents:,} documents, {certain:,} of them for certain; the smallest "
        f"inclusion probability is {drawn.inclusion.min():.3g}."
        if drawn.doc_ids
        else f"None of {totals.documents:,} documents was drawn; a larger --budget would draw some.",
        f"Left out: {drawn.failed:,} rows of status error.",
    ]
    silent = [code for code, flagged in zip(codes, totals.flagged.tolist(), strict=True) if not flagged]
    return [*lines, f"Flagged nowhere: {', '.join(silent)}"] if silent else lines


def _texts(scores: str, drawn: Sample, corpus: Path | None) -> list[str]:
    from confscore.sample_text import input_of_file, input_of_run, read_texts  # noqa: PLC0415

    if corpus is not None:
        return read_texts(drawn.doc_ids, input_of_file(corpus))
    texts: dict[str, str] = {}
    for run_id in sorted(set(drawn.run_ids)):
        ids = [doc_id for doc_id, own in zip(drawn.doc_ids, drawn.run_ids, strict=True) if own == run_id]
        texts |= zip(ids, read_texts(ids, input_of_run(scores, run_id)), strict=True)
    return [texts[doc_id] for doc_id in drawn.doc_ids]
