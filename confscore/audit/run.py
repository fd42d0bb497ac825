"""The audit: new nights are scored, counted, sampled, judged and published, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from confscore.audit import scoring
from confscore.audit.build import exit_status, worst
from confscore.audit.labels_in import find_label_files
from confscore.audit.lake import Lake
from confscore.audit.night import Desk, audit_night, flag_rules
from confscore.audit.nights import (
    CorpusNight,
    TableNight,
    corpus_nights,
    night_without_documents,
    nights_between,
    refuse_none,
    table_nights,
)
from confscore.audit.page import render_index
from confscore.audit.record import NightRecord, Verdict
from confscore.audit.settings import AuditConfig, load_job, read_rules
from confscore.config import Config
from confscore.corpus.files import resolve
from confscore.errors import ConfigError
from confscore.fitted import digest, load_model, read_file
from confscore.lock import locked
from confscore.manifest import Provenance
from confscore.run_folder import read_manifests

_CLAIMS = "_claims"


@dataclass(frozen=True, slots=True)
class Span:
    """Which nights are wanted.

    Attributes
    ----------
    first, last : date or None
        With one of them, nights from the first to the last are audited, and again where anything that their reports
        rest on has changed. Without both, those that are new or whose files have changed.
    today : date
        With nothing new, the day by which the newest night is old.
    """

    first: date | None
    last: date | None
    today: date

    @property
    def asked(self) -> bool:
        """Say whether a range was asked for."""
        return self.first is not None or self.last is not None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an audit came to.

    Attributes
    ----------
    records : tuple of NightRecord
        Nights that were audited now, oldest first.
    verdict : {'ok', 'warn', 'fail'}
        The worst of theirs; with nothing to audit, that of the newest night, or ``warn`` where it is too old.
    line : str
        It in one line, for people and logs.
    last : NightRecord or None
        The newest audited night of all.
    """

    records: tuple[NightRecord, ...]
    verdict: Verdict
    line: str
    last: NightRecord | None

    @property
    def status(self) -> int:
        """Return the exit status: 0 ok, 1 warn, 2 fail."""
        return exit_status(self.verdict)


def audit(
    config: AuditConfig,
    span: Span,
    say: Callable[[str], None],
    jobs: scoring.Jobs | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Outcome:
    """Audit the nights of a corpus that are new or have changed, or those of a range.

    Parameters
    ----------
    config : AuditConfig
    span : Span
    say : callable
        Told which night is begun, and how it ended.
    jobs : Jobs, optional
        What scores new nights; a configuration with ``score`` needs it.
    now : callable
        The clock.

    Raises
    ------
    ConfscoreError
        The audit failed. Nights that it had committed before stay; the same command goes on from there.
    """
    lake = Lake(config.output)
    source: _Scored | _Existing = _Existing(config, lake) if config.score is None else _Scored(config, lake, jobs)
    records = lake.read_records()
    done: list[NightRecord] = []
    if not source.pending(records, span):
        _refresh_index(lake, records)  # a start that was killed may have left it behind its records
    else:
        with _alone(lake) as still_ours:
            records = lake.read_records()
            desk = _desk(config, lake, now)
            for night in source.pending(records, span):
                say(f"Auditing {night} …")
                record = audit_night(desk, source.scores_of(night), source.signature(night), records, span.asked)
                still_ours()
                if record is not None:
                    lake.commit(record)
                    records = [*(old for old in records if old.night != record.night), record]
                    done.append(record)
                    say(record.summary)
                _refresh_index(lake, records)
    return _outcome(config, span, source.newest(), done, sorted(records, key=lambda record: record.night))


def keep_nights(lake: Lake, most: int, fresh: Sequence[NightRecord] = ()) -> list[str]:
    """Remove what is kept of all but the last nights, see :meth:`Lake.keep_nights`.

    Parameters
    ----------
    lake : Lake
    most : int
        So many nights keep their pages.
    fresh : sequence of NightRecord
        Nights that were audited just now keep them too, however old they are: somebody is about to be told.

    Returns
    -------
    list of str
        The nights whose pages, samples and flags were removed.
    """
    with _alone(lake):
        records = lake.read_records()
        removed = lake.keep_nights(records, most, {record.night for record in fresh})
        if removed:
            _refresh_index(lake, records)
    return removed


def _alone(lake: Lake) -> AbstractContextManager[Callable[[], None]]:
    return locked(lake.filesystem, f"{lake.root}/{_CLAIMS}", lake.output, "an audit")


def _refresh_index(lake: Lake, records: Sequence[NightRecord]) -> None:
    """Write the list of nights, if it is not the one that is there."""
    if records:
        gone = [record.night for record in records if not lake.has_page(record)]
        lake.refresh_index(render_index(f"Audits of {lake.output}", records, gone).encode())


def _desk(config: AuditConfig, lake: Lake, now: Callable[[], datetime]) -> Desk:
    model = None if config.fit is None else load_model(config.fit)
    model_hash = None if config.fit is None else digest(read_file(config.fit))
    return Desk(config, lake, model, model_hash, find_label_files(config.labels), now)


def _outcome(
    config: AuditConfig, span: Span, newest: date, done: Sequence[NightRecord], records: Sequence[NightRecord]
) -> Outcome:
    last = records[-1] if records else None
    if done:
        return Outcome(tuple(done), worst([record.verdict for record in done]), _said_of(done), last)
    if span.asked:
        found = worst([record.verdict for record in records if _within(date.fromisoformat(record.night), span)])
        return Outcome((), found, f"{found.upper()}: nothing in this range is new or has changed", last)
    old = config.max_age_days is not None and span.today - newest > timedelta(days=config.max_age_days)
    said: list[Verdict] = [last.verdict] if last else []
    verdict = worst([*said, "warn"] if old else said)
    line = f"{verdict.upper()}: nothing new; the newest night is {newest}"
    if old:
        line += f", {(span.today - newest).days} days old (max_age_days {config.max_age_days})"
    return Outcome((), verdict, line if last is None else f"{line}; audited before: {last.summary}", last)


def _within(night: date, span: Span) -> bool:
    return (span.first is None or night >= span.first) and (span.last is None or night <= span.last)


def _said_of(records: Sequence[NightRecord]) -> str:
    """Return what nights came to in one line: of several, how many, and the first of the worst."""
    if len(records) == 1:
        return records[0].summary
    verdict = worst([record.verdict for record in records])
    loud = [record for record in records if record.verdict == verdict]
    span = f"{verdict.upper()}: {len(records)} nights audited, {records[0].night} to {records[-1].night}"
    return span if verdict == "ok" else f"{span}, {len(loud)} of them {verdict}, first {loud[0].summary}"


class _Existing:
    """Nights of a score table that somebody else fills."""

    def __init__(self, config: AuditConfig, lake: Lake) -> None:
        assert config.scores is not None
        self._config = config
        _refuse_inside(config.scores, "score table", lake)
        self._nights = table_nights(config.scores, config.night_columns)
        refuse_none(config.scores, self._nights)

    def pending(self, records: Sequence[NightRecord], span: Span) -> list[date]:
        return _pending(self._config, {night: each.signature for night, each in self._nights.items()}, records, span)

    def signature(self, night: date) -> str:
        return self._nights[night].signature

    def scores_of(self, night: date) -> TableNight:
        return self._nights[night]

    def newest(self) -> date:
        return max(self._nights)


class _Scored:
    """Nights of a corpus, which are scored here."""

    def __init__(self, config: AuditConfig, lake: Lake, jobs: scoring.Jobs | None) -> None:
        job = load_job(config)
        assert job is not None
        assert jobs is not None
        self._config, self._lake, self._jobs = config, lake, jobs
        self._job: Config = job
        self._nights: dict[date, CorpusNight] = corpus_nights(job.input, config.night_columns)
        _refuse_inside(job.input.path, "corpus", lake)
        self._provenance: Provenance | None = None

    def pending(self, records: Sequence[NightRecord], span: Span) -> list[date]:
        return _pending(self._config, {night: each.signature for night, each in self._nights.items()}, records, span)

    def signature(self, night: date) -> str:
        return self._nights[night].signature

    def scores_of(self, night: date) -> TableNight:
        if self._provenance is None:
            provenance = self._jobs.find_provenance(self._job)
            codes = tuple(provenance.categories)  # what they do not allow is refused before hours of scoring
            read_rules(self._config, codes)
            flag_rules(self._config, None, codes)
            self._provenance = provenance
        table = scoring.table_of(self._lake, scoring.provenance_hash(self._provenance))
        scoring.score_night(self._job, table, self._nights[night], self._jobs.run)
        filled = any(manifest.output_files for manifest in read_manifests(table))
        scored = table_nights(table, self._config.night_columns) if filled else {}
        if night not in scored:  # the run is committed, so it has found no document
            return night_without_documents(table, self._nights[night], self._provenance)
        return scored[night]

    def newest(self) -> date:
        return max(self._nights)


def _pending(
    config: AuditConfig, signatures: Mapping[date, str], records: Sequence[NightRecord], span: Span
) -> list[date]:
    """Return the nights to look at, oldest first."""
    if span.asked:
        found = nights_between(signatures, span.first, span.last)
        if not found:
            ends = " to ".join(str(end or "…") for end in (span.first, span.last))
            raise ConfigError(
                f"--from, --to: there is no night in {ends}; there are nights from {min(signatures)} to "
                f"{max(signatures)}"
            )
        return found
    audited = {record.night: record.signature for record in records}
    wanted = nights_between(signatures, config.first_night, None)
    return [night for night in wanted if audited.get(str(night)) != signatures[night]]


def _refuse_inside(path: str, what: str, lake: Lake) -> None:
    folder = resolve(path)[1].rstrip("/")
    if f"{lake.root}/".startswith(f"{folder}/"):
        raise ConfigError(f"output {lake.output}: lies in the {what} {path}; put it beside")
