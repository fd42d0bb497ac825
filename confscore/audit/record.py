"""What an audit says of one night: the numbers of its page, and what later nights need of it.

``report.json`` is a :class:`Report`. Its version changes when a name changes its meaning or goes away; names may be
added within a version. ``<night>.json`` is a :class:`NightRecord`: with it a night is audited.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from confscore.identity import Identity

FORMAT = "confscore.audit"
VERSION = 1
Verdict = Literal["ok", "warn", "fail"]
Excerpts = Literal["none", "redacted", "full"]

OVERALL_METRICS = {
    "documents": "documents of the night",
    "gap_days": "days since the last audited night of the same kind of scores before it",
    "error_rate": "share of documents without scores, status error",
    "bounded_rate": "share of documents whose request budget was spent before the tolerance was met",
    "truncated_rate": "share of documents of which some text was never shown to the model",
    "wide_rate": "share of scored documents with a residual (widest upper - lower bound) above 0.1",
    "off_grammar": "mean probability that the model says something that is no answer",
    "tokens_per_document": "mean prompt tokens, all requests of a document together",
    "requests_per_document": "mean engine requests",
    "flag_rate": "share of scored documents that are flagged with any category",
    "prevalence": "mean probability over documents and categories",
    "psi": "population stability index of the largest score of a document against the baseline, in nats",
    "wasserstein": "distance of the same from the baseline, in its standard deviations",
    "precision": "micro average, estimated from the probabilities",
    "recall": "micro average, estimated from the probabilities",
    "f1": "micro average, estimated from the probabilities",
    "audited_precision": "micro average, of the last labelled sample",
    "audited_recall": "micro average, of the last labelled sample",
    "audited_f1": "micro average, of the last labelled sample",
    "documents_per_second": "scored documents over the seconds of scoring",
    "actor_hours": "hours for which engines were held",
}
"""Metrics of all documents, and what they are. Rates and probabilities are in [0, 1]."""

CATEGORY_METRICS = {
    "flagged": "documents flagged with the category",
    "flag_rate": "the same, as a share of scored documents",
    "expected": "documents that the probabilities expect to have the category, Σp",
    "prevalence": "the same, as a share of scored documents",
    "psi": "population stability index of the scores against the baseline, in nats",
    "wasserstein": "distance of the scores from the baseline, in its standard deviations",
    "precision": "estimated from the probabilities",
    "recall": "estimated from the probabilities",
    "f1": "estimated from the probabilities",
    "audited_prevalence": "of the last labelled sample",
    "audited_precision": "of the last labelled sample",
    "audited_recall": "of the last labelled sample",
    "audited_f1": "of the last labelled sample",
}
"""Metrics of a category."""


class _Record(BaseModel):
    # Names may be added within a version, so a record of a later one is still read.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Interval(_Record):
    """Ends of an interval; ``Report.interval_says`` has its confidence."""

    low: float
    high: float


class TopDocument(_Record):
    """A document with one of the largest scores of a category; ``excerpt`` is None where there is none to show."""

    doc_id: str
    score: float
    prob: float
    flagged: bool | None
    excerpt: str | None


class Numbers(_Record):
    """Metrics by name, None where one is not known, and intervals of those that have one.

    Attributes
    ----------
    bands : dict of str to float
        What a metric exceeds by chance on one night of ``1 / band_alpha``, from the nights before; of those metrics
        that have a band tonight.
    histogram : tuple of int, length confscore.audit.drift.BINS
        Scored documents by the log-odds of their score; of all categories together that of the largest score.
    baseline_histogram : tuple of int or None
        The same of the baseline's nights together.
    """

    metrics: dict[str, float | None]
    intervals: dict[str, Interval]
    bands: dict[str, float] = {}
    histogram: tuple[int, ...]
    baseline_histogram: tuple[int, ...] | None = None


class CategoryReport(Numbers):
    """What is said of one category.

    ``threshold`` is on the score; with ``outcome`` nothing or abstained there is none, see
    :class:`confscore.rules.Rule`.
    """

    code: str
    name: str
    outcome: Literal["threshold", "nothing", "abstained"]
    threshold: float | None
    top: tuple[TopDocument, ...]


class AlertRecord(_Record):
    """A rule and what it said tonight; ``fired`` is None where a number in it is not known."""

    rule: str
    scope: str
    severity: Literal["warn", "fail"]
    fired: bool | None
    values: dict[str, float | None]


class Notice(_Record):
    """Something that no rule asks about and a reader has to know; ``info`` does not change the verdict."""

    severity: Literal["info", "warn"]
    text: str


class Baseline(_Record):
    """What scores are compared with: the first nights of one kind of scores.

    ``began`` is the first night of the kind, and ``reason`` why it began then.
    """

    began: str
    reason: str
    nights: tuple[str, ...]


class SampleDrawn(_Record):
    """Tonight's sample for human labels; ``path`` is below the audit's output."""

    path: str
    design: str
    budget: int
    drawn: int


class LabelsIn(_Record):
    """The last night of which enough sampled documents have labels.

    ``labelled`` of ``sampled`` documents; where some lack labels, those that have them stand for all, as if they were
    missing at random.
    """

    night: str
    sampled: int
    labelled: int
    files: tuple[str, ...]


class Cost(_Record):
    """What scoring took. ``actor_hours`` is None where the run's record does not say."""

    runs: tuple[str, ...]
    requests: int
    prompt_tokens: int
    startup_seconds: float | None
    scoring_seconds: float | None
    actor_hours: float | None
    documents_per_second: float | None


class TrendPoint(_Record):
    """One earlier night, or this one, for lines over time: metrics by scope and name."""

    night: str
    verdict: Verdict
    metrics: dict[str, dict[str, float | None]]


class Artefact(_Record):
    """Something that the numbers rest on; ``sha256`` may be cut to its first digits."""

    name: str
    path: str
    sha256: str | None


class Report(_Record):
    """The numbers of one audited night.

    Attributes
    ----------
    audit_id : str
        ``audit-`` and 16 hexadecimal digits: a digest of all that the report rests on.
    night : str
        ISO date of the partition.
    calibrated : bool
        Whether probabilities went through a fit; else scores stand in for them.
    tolerance : float
        Of the scores.
    cooccurrence : tuple of tuple of int
        ``cooccurrence[j][k]``: documents flagged with categories j and k; on the diagonal, those flagged with j.
    trend : tuple of TrendPoint
        Nights of the same kind of scores, oldest first, this one last.
    interval_says : dict of str to str
        What the interval of a metric is, in words.
    """

    format: Literal["confscore.audit"] = "confscore.audit"
    version: Literal[1] = 1
    audit_id: str
    night: str
    created_at: str
    verdict: Verdict
    summary: str
    kind: str
    identity: Identity
    calibrated: bool
    tolerance: float
    baseline: Baseline
    overall: Numbers
    categories: tuple[CategoryReport, ...]
    cooccurrence: tuple[tuple[int, ...], ...]
    alerts: tuple[AlertRecord, ...]
    notices: tuple[Notice, ...]
    sample: SampleDrawn | None
    labels: LabelsIn | None
    cost: Cost | None
    excerpts: Excerpts
    errors: dict[str, int] = {}
    trend: tuple[TrendPoint, ...]
    artefacts: tuple[Artefact, ...]
    settings: dict[str, JsonValue]
    versions: dict[str, str]
    interval_says: dict[str, str]
    metrics_say: dict[str, dict[str, str]]


class NightRecord(_Record):
    """What makes a night audited, and what later nights need of it.

    Attributes
    ----------
    signature : str
        Digest of the night's files, so that changed ones are seen.
    provenance_hash : str
        Digest of the whole provenance of its scores.
    folder : str
        Where its page is, below the audit's output.
    histograms : dict of str to tuple of int
        By scope, as in :class:`Numbers`.
    replaces : str or None
        The audit that this one took the place of.
    """

    format: Literal["confscore.audit.night"] = "confscore.audit.night"
    version: Literal[1] = 1
    night: str
    audit_id: str
    signature: str
    kind: str
    identity: Identity
    provenance_hash: str
    verdict: Verdict
    summary: str
    folder: str
    sample: SampleDrawn | None
    metrics: dict[str, dict[str, float | None]]
    histograms: dict[str, tuple[int, ...]]
    replaces: str | None
    created_at: str
