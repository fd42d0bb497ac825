"""``confscore audit``: one command a night."""

from __future__ import annotations

from datetime import UTC, date, datetime
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from typer.core import TyperCommand

from confscore import console, supervise
from confscore.cli_common import DebugOption, plain_errors, said_of

if TYPE_CHECKING:
    from confscore.config import Config
    from confscore.manifest import Provenance


class AuditExit(IntEnum):
    """What the exit code of an audit says: the worst verdict, or that there is none."""

    OK = 0
    WARN = 1
    FAIL = 2
    AUDIT_FAILED = 3


class AuditCommand(TyperCommand):
    """A command line that cannot be understood is no verdict: it ends with 3, and not with 2, which says fail."""

    def make_context(self, *words: Any, **settings: Any) -> Any:
        """Read the command line."""
        try:
            return super().make_context(*words, **settings)
        except Exception as error:
            if isinstance(error, typer.BadParameter.__bases__):  # all such errors; typer has no name for their class
                error.exit_code = AuditExit.AUDIT_FAILED  # type: ignore[attr-defined]
            raise


def audit(
    config: Annotated[Path, typer.Option("--config", "-c", help="The audit's YAML file.", show_default=False)],
    from_: Annotated[
        Optional[datetime],  # noqa: UP045 - typer reads this form on every version
        typer.Option("--from", formats=["%Y-%m-%d"], help="Audit the nights from this one on, also again."),
    ] = None,
    to: Annotated[
        Optional[datetime],  # noqa: UP045
        typer.Option("--to", formats=["%Y-%m-%d"], help="Audit the nights up to this one, also again."),
    ] = None,
    today: Annotated[
        Optional[datetime],  # noqa: UP045
        typer.Option(formats=["%Y-%m-%d"], help="The day by which the newest night is old; by default today in UTC."),
    ] = None,
    webhook: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="URL", envvar="CONFSCORE_WEBHOOK", help="Post the summary there, as JSON."),
    ] = None,
    keep_nights: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Remove pages, samples and flags of all but the last nights; never scores."),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Audit a corpus: score what is new, and report what it holds and what has changed.

    Exit status: 0 ok, 1 warn, 2 fail, 3 the audit itself failed.
    """
    with plain_errors(debug, status=AuditExit.AUDIT_FAILED), supervise.stoppable():
        from confscore.audit import notify  # noqa: PLC0415 - SciPy and Jinja take a second
        from confscore.audit import run as auditing  # noqa: PLC0415
        from confscore.audit.lake import Lake  # noqa: PLC0415
        from confscore.audit.scoring import Jobs, run_score  # noqa: PLC0415
        from confscore.audit.settings import load_audit  # noqa: PLC0415

        settings = load_audit(config)
        span = auditing.Span(_day(from_), _day(to), _day(today) or datetime.now(UTC).date())
        lake = Lake(settings.output)
        try:
            outcome = auditing.audit(settings, span, _log, Jobs(_provenance, run_score))
        except (Exception, KeyboardInterrupt) as error:
            if webhook:
                _log(notify.post(webhook, notify.failure(said_of(error)[0], AuditExit.AUDIT_FAILED, lake)) or "")
            raise
        if webhook and (outcome.records or outcome.verdict != "ok"):
            _log(notify.post(webhook, notify.message_of(outcome, lake)) or "")
        page = f"; page: {lake.place(f'{outcome.last.folder}/report.html')}" if outcome.last else ""
        console.say(f"{outcome.line}{page}")
        # Last: a verdict must not be lost where something cannot be removed.
        removed = auditing.keep_nights(lake, keep_nights, outcome.records) if keep_nights is not None else []
        if removed:
            _log(f"Removed the pages, samples and flags of {len(removed)} nights: {', '.join(removed)}")
        raise typer.Exit(outcome.status)


def _provenance(job: Config) -> Provenance:
    from confscore.guards import resolve  # noqa: PLC0415 - transformers takes seconds to import
    from confscore.plan import find_provenance  # noqa: PLC0415

    return find_provenance(job, resolve(job.guard.name, job.guard.order))


def _log(sentence: str) -> None:
    """Say what happens: on standard error, because standard output has one line."""
    supervise.raise_if_stopped()
    if sentence:
        typer.echo(sentence, err=True)


def _day(moment: datetime | None) -> date | None:
    return None if moment is None else moment.date()
