"""Make the table of arXiv 2511.22312: ``python jobs/reproduce_paper.py --dataset FILE --model MODEL --out DIR``.

The dataset is in the paper's form (JSON lines with ``unsafe_query`` and ``llama_guard_3_categories`` or
``llama_guard_2_categories``), or in that of BeaverTails. Writes ``table.csv`` and ``table.md``.
"""

from pathlib import Path
from typing import Annotated, Optional

import typer

from confscore.cli_common import plain_errors
from confscore.config import read_model
from confscore.guards import resolve
from confscore.reproduce import reproduce


def main(
    dataset: Annotated[Path, typer.Option(help="JSON lines in the paper's form or in that of BeaverTails.")],
    model: Annotated[str, typer.Option(help="A hub id or a folder.")],
    out: Annotated[Path, typer.Option(help="Where table.csv and table.md go.")],
    guard: Annotated[str, typer.Option(help="A registered guard, or a guard's .yaml file.")] = "llama-guard-3",
    limit: Annotated[int, typer.Option(min=0, help="Take the first so many documents; 0 for all.")] = 0,
    engine: Annotated[str, typer.Option(help="vllm or transformers.")] = "vllm",
    engine_arg: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads this form on every version
        typer.Option(metavar="KEY=VALUE", help="An argument of the engine, as model.engine_args."),
    ] = None,
    threshold: Annotated[float, typer.Option(help="A score of at least this is a prediction.")] = 0.2,
    tolerance: Annotated[float, typer.Option(help="Widest bound of the exact marginals.")] = 0.01,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Score a dataset with every method of the paper and with exact marginals, and compare them."""
    with plain_errors(debug):
        source = read_model(model, engine, engine_arg or [])
        found = reproduce(dataset, resolve(guard), source, limit=limit, threshold=threshold, tolerance=tolerance)
        paths = found.write(out)
        print(found.markdown())
        print(f"Wrote {paths[0]} and {paths[1]}")


if __name__ == "__main__":
    typer.run(main)
