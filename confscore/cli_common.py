"""What the commands have in common: exit statuses, one sentence for every error, and options of one meaning."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Annotated, Optional

import typer

from confscore import supervise
from confscore.corpus.stores import failed_store
from confscore.errors import ConfscoreError
from confscore.run_log import LogFormat, say_failed
from confscore.words import unexpected

ScoresOption = Annotated[str, typer.Option(help="A score table: the output.path of the runs that wrote it.")]
LabelsOption = Annotated[str, typer.Option(help="A Parquet, CSV or JSONL file with a row for each labelled document.")]
IdColumnOption = Annotated[str, typer.Option(help="The label file's column of document ids.")]
LabelColumnOption = Annotated[
    Optional[str],  # noqa: UP045 - typer reads this form on every version
    typer.Option(help="Its column of lists of category codes; without it, one 0/1 column for each code."),
]
PiColumnOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Its column of inclusion probabilities; by default inclusion_probability, if it is there."),
]
RunOption = Annotated[Optional[str], typer.Option(help="Take the rows of this run only.")]  # noqa: UP045
ThresholdOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(metavar="[CODE=]P", help="Flag where the score is at least P, whatever a fit says; may be repeated."),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


class Exit(IntEnum):
    """What an exit code says to a scheduler."""

    DONE = 0
    DONE_WITH_FAILURES = 1
    BAD_INPUT = 2
    FAILED = 3


@contextmanager
def plain_errors(debug: bool, log_format: LogFormat = "text", status: int | None = None) -> Iterator[None]:
    """Turn errors into one sentence and an exit status; ``status``, where a command has one for all of them."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except (Exception, KeyboardInterrupt) as error:
        sentence, meant = said_of(error)
        status = meant if status is None else status
        if debug:
            traceback.print_exc()
        say_failed(log_format, sentence, status)
        raise typer.Exit(status) from None


def said_of(error: BaseException) -> tuple[str, int]:
    """Return an error in one sentence, and the exit status that it means."""
    error = failed_store(error) or error
    match error:
        case ConfscoreError():
            return str(error), error.exit_code
        case KeyboardInterrupt():
            return supervise.INTERRUPTED, Exit.FAILED
        case _:  # a scheduler must not take a fault of ours for "done with failed rows"
            return f"{unexpected(error)}; --debug shows more", Exit.FAILED
