"""The audit's configuration: one YAML file, refused as a whole before anything is read or scored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from confscore.audit.alerts import Rule, read_rule
from confscore.audit.record import CATEGORY_METRICS, OVERALL_METRICS, Excerpts
from confscore.config import Config, InputConfig, load
from confscore.designs import FLOOR_SHARE, DesignName
from confscore.errors import ConfigError
from confscore.settings import Section, read_mapping, say_problems

Count = Annotated[int, Field(ge=1)]


class LabelSettings(Section):
    """Where labels arrive: a folder of label files, or one file, in the form that ``confscore evaluate`` reads."""

    path: str
    id_column: str = "doc_id"
    label_column: str | None = None
    least_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9


class SampleSettings(Section):
    """How many documents are drawn for labels each night, and how; ``text`` joins their texts from the corpus."""

    budget: Count = 200
    design: DesignName = "f1"
    floor_share: Annotated[float, Field(gt=0, le=1)] = FLOOR_SHARE
    text: bool = False


class RuleSettings(Section):
    """An alert rule, see :mod:`confscore.audit.alerts`."""

    when: str
    severity: Literal["warn", "fail"] = "warn"


DEFAULT_RULES = (
    RuleSettings(when="overall.error_rate > 0.05", severity="fail"),
    RuleSettings(when="overall.documents < 0.5 * trailing_median"),
    RuleSettings(when="overall.gap_days > 1"),
    RuleSettings(when="overall.psi > band"),
    RuleSettings(
        when="each.flag_rate > band(each.flag_rate) and each.flag_rate > 1.25 * trailing_median(each.flag_rate)"
    ),
    RuleSettings(when="each.psi > band"),
)
"""What is asked where the configuration has no ``alerts``."""


class AuditConfig(Section):
    """A whole audit.

    Attributes
    ----------
    score : str or None
        The job's configuration, as of ``confscore score``: new partitions of its corpus are scored. Its
        ``output.path`` and ``output.replace_changed`` are the audit's to say, and the night is among its partitions.
    scores : str or None
        Instead of it: a score table whose nights somebody else scores.
    corpus : InputConfig or None
        With ``scores``: where texts are for excerpts and samples; by default what the table's runs have read.
    output : str
        The folder that the audit keeps, local or an address; see :mod:`confscore.audit.lake`.
    night_column : str or tuple of str
        The partition key of a night, ``YYYY-MM-DD`` or ``YYYYMMDD``, or the keys of year, month and day.
    first_night : date or None
        Earlier partitions are left alone, unless they are asked for.
    fit : str or None
        What ``confscore fit`` wrote.
    thresholds : tuple of str
        ``CODE=P`` or ``P``, as of ``confscore apply``; they come before those of the fit. Without both, 0.5.
    alerts : tuple of RuleSettings
    baseline_nights, trailing_nights : int
        Scores are compared with the first so many nights of their kind, and metrics with the last so many days.
    band_alpha : float
        How often ``band(…)`` is exceeded by chance on a night.
    max_age_days : int or None
        With nothing new to audit, a newest partition that is older is a warning.
    excerpts : {'none', 'redacted', 'full'}
        What the page shows of the top documents' texts.
    top_documents : int
        Of each category.
    """

    score: str | None = None
    scores: str | None = None
    corpus: InputConfig | None = None
    output: str
    night_column: str | tuple[str, str, str] = "date"
    first_night: date | None = None
    fit: str | None = None
    thresholds: tuple[str, ...] = ()
    labels: LabelSettings | None = None
    sample: SampleSettings | None = SampleSettings()
    alerts: tuple[RuleSettings, ...] = DEFAULT_RULES
    baseline_nights: Count = 7
    trailing_nights: Count = 28
    band_alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.0005
    max_age_days: Annotated[int, Field(ge=0)] | None = 2
    excerpts: Excerpts = "redacted"
    top_documents: Annotated[int, Field(ge=0, le=100)] = 5

    @field_validator("alerts", mode="before")
    @classmethod
    def _rules_by_text(cls, value: object) -> object:
        return [{"when": one} if isinstance(one, str) else one for one in value] if isinstance(value, list) else value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.score is None) == (self.scores is None):
            raise ValueError("give either score, the configuration of a job, or scores, an existing score table")
        if self.score is not None and self.corpus is not None:
            raise ValueError("corpus is for scores; with score the corpus is the job's input")
        return self

    @property
    def night_columns(self) -> tuple[str, ...]:
        """Return the partition keys of a night."""
        return (self.night_column,) if isinstance(self.night_column, str) else self.night_column


def load_audit(path: str | Path) -> AuditConfig:
    """Read an audit's configuration.

    Raises
    ------
    ConfigError
        The file cannot be read, is not YAML, or a key is unknown, missing or out of range.
    """
    tree = read_mapping(path, "audit", "score or scores, and output")
    try:
        return AuditConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path}: {say_problems(error, AuditConfig)}") from None


def load_job(config: AuditConfig) -> Config | None:
    """Return the job that scores new nights, where there is one; what the audit decides is refused in it.

    Raises
    ------
    ConfigError
        It cannot be read, or its output is not Parquet.
    """
    if config.score is None:
        return None
    job = load(config.score)
    if job.output.format != "parquet":
        raise ConfigError(
            f"{config.score}: output.format {job.output.format}: the audit keeps its scores as Parquet; leave it "
            "out, or score by a job of its own and name its table under scores"
        )
    return job


def read_rules(config: AuditConfig, codes: Sequence[str]) -> list[Rule]:
    """Return the alert rules, for the categories of a taxonomy.

    Raises
    ------
    ConfigError
        One is no rule, or names what does not exist.
    """
    metrics = {"overall": tuple(OVERALL_METRICS), "category": tuple(CATEGORY_METRICS)}
    return [
        read_rule(rule.when, rule.severity, metrics, codes, f"alerts[{place}]")
        for place, rule in enumerate(config.alerts)
    ]
