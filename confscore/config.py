"""The configuration file: one YAML document, validated before anything is read or loaded.

Unknown keys are refused with the path of the key; every key has a default except ``input.path``,
``output.path`` and ``model.source``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self

import yaml
from pydantic import (
    ByteSize,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from confscore.errors import ConfigError
from confscore.plain_yaml import NotYaml, load_yaml
from confscore.settings import Section, read_mapping, say_problems
from confscore.words import printable

Estimator = Literal[
    "marginal",
    "conditional",
    "joint",
    "greedy",
    "probability_uncertainty",
    "entropy_uncertainty",
    "logtoku",
]
Normalization = Literal["raw", "local", "global"]
InputFormat = Literal["parquet", "jsonl", "csv", "text"]
OutputFormat = Literal["parquet", "iceberg", "delta"]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Size = Annotated[ByteSize, Field(ge=1 << 20)]
"""Bytes, or text such as ``8GiB``. A number that small is one whose unit was forgotten."""


class InputConfig(Section):
    """Where the corpus is, and which columns hold ids and text.

    ``where`` takes the files of some partitions only: values by the keys in their paths, such as ``date: 2026-11-22``.
    """

    path: str
    format: InputFormat = "parquet"
    id_column: str | None = None
    text_column: str | None = None
    messages_column: str | None = None
    carry_columns: tuple[str, ...] = ()
    on_bad_file: Literal["fail", "skip"] = "fail"
    follow_links: bool = False
    where: dict[str, str] = Field(default_factory=dict)

    @field_validator("where", mode="before")
    @classmethod
    def _dates_are_text(cls, where: object) -> object:
        # YAML makes dates of them. Numbers are refused: 05 and 5 would be the same.
        if not isinstance(where, dict):
            return where
        return {key: value.isoformat() if type(value) is date else value for key, value in where.items()}

    @model_validator(mode="after")
    def _one_source_of_text(self) -> Self:
        if self.text_column is not None and self.messages_column is not None:
            raise ValueError("give either text_column or messages_column, not both")
        if self.format == "text":
            named = [self.id_column, self.text_column, self.messages_column, *self.carry_columns]
            if any(name is not None for name in named):
                raise ValueError("format text has no columns: one file is one document")
        elif self.text_column is None and self.messages_column is None:
            object.__setattr__(self, "text_column", "text")
        return self


class GuardConfig(Section):
    """A registered guard or the path of a guard YAML, and what to change of it."""

    name: str = "llama-guard-3"
    order: Literal["canonical", "any"] | None = None


RELIED_ON: Mapping[str, JsonValue] = MappingProxyType(
    {
        "enable_prefix_caching": True,
        "generation_config": "vllm",
        "logprobs_mode": "raw_logprobs",
        "skip_tokenizer_init": True,
    }
)
"""Arguments that vLLM is always given, because scores or their price rely on them."""
_ELSEWHERE = {
    "max_logprobs": "it follows from the guard's answers",
    "model": "set model.source instead",
    "revision": "set model.revision instead",
}


class ModelConfig(Section):
    """Which weights to run, and on which engine."""

    source: str
    revision: str | None = None
    engine: Literal["vllm", "transformers"] = "vllm"
    engine_args: dict[str, JsonValue] = Field(default_factory=dict)
    trust_remote_code: bool = False
    allow_pickle: bool = False

    @field_validator("engine_args")
    @classmethod
    def _leaves_the_rest_alone(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name, given in value.items():
            if name in RELIED_ON and given != RELIED_ON[name]:
                raise ValueError(f"leave out {name}: scores rely on {RELIED_ON[name]}, and vLLM is given that")
            if name in _ELSEWHERE:
                raise ValueError(f"leave out {name}: {_ELSEWHERE[name]}")
        return value


class PaperConfig(Section):
    """The stops of the published procedure, with its published values; see :mod:`confscore.paper`."""

    top_p: Fraction = 0.99
    eps: Annotated[float, Field(ge=0, lt=1)] = 0.01
    end_prob: Fraction = 0.7
    children_beside_end: Count = 3
    max_new_tokens: Count = 20


class ScoringConfig(Section):
    """What is computed for a document, and how far."""

    procedure: Literal["exact", "paper"] = "exact"
    paper: PaperConfig = PaperConfig()
    estimators: tuple[Estimator, ...] = ("marginal",)
    normalization: Normalization = "global"
    tolerance: Fraction = 0.01
    tolerance_of: Literal["absolute", "flagged"] = "absolute"
    max_requests_per_document: Count = 64
    long_documents: Literal["chunk", "truncate", "error"] = "chunk"
    chunk_overlap_tokens: Annotated[int, Field(ge=0)] = 64
    bounds: bool = False
    top_answers: Annotated[int, Field(ge=0, le=1000)] = 0
    error_fraction_allowed: Annotated[float, Field(ge=0, le=1)] = 0
    max_failed_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    error_messages: bool = False

    @model_validator(mode="after")
    def _paper_is_raw(self) -> Self:
        if self.procedure == "paper" and self.normalization != "raw":
            raise ValueError("procedure paper works on the model's own probabilities; set scoring.normalization to raw")
        return self

    @property
    def extra_estimators(self) -> tuple[Estimator, ...]:
        """Return the estimators that have columns of their own beside ``p_<code>``."""
        return tuple(name for name in self.estimators if name != "marginal")

    @field_validator("estimators")
    @classmethod
    def _estimators_named_once(cls, value: tuple[Estimator, ...]) -> tuple[Estimator, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("name at least one estimator, and each only once")
        return value


class ClusterConfig(Section):
    """How many actors run, and what each of them takes.

    A block is what a crash costs, and what an actor takes at once; ``blocks_in_flight`` of them keep its engine
    busy while others are read and written. ``memory_per_actor`` is what Ray sets aside of a node's memory for an
    actor and its engine, so that no more of them are put on a node than fit there; ``object_store_memory`` is what
    the blocks under way may take in the object stores of all nodes together.
    """

    address: str | None = None
    actors: Count | tuple[Count, Count] = (1, 8)
    gpus_per_actor: Annotated[float, Field(ge=0)] = 1
    cpus_per_actor: Annotated[float, Field(ge=0)] = 1
    memory_per_actor: Size | None = None
    object_store_memory: Size | None = None
    rows_per_block: Count = 512
    blocks_in_flight: Count = 4
    start_timeout_s: Annotated[float, Field(gt=0)] = 900
    request_timeout_s: Annotated[float, Field(gt=0)] = 600

    @model_validator(mode="after")
    def _range_ascends(self) -> Self:
        if isinstance(self.actors, tuple) and self.actors[0] > self.actors[1]:
            raise ValueError(f"actors: [{self.actors[0]}, {self.actors[1]}] must ascend")
        return self

    @property
    def actor_range(self) -> tuple[int, int]:
        """Return the smallest and the largest number of actors."""
        return (self.actors, self.actors) if isinstance(self.actors, int) else self.actors


class OutputConfig(Section):
    """Where the score table goes, and which readers find it there.

    ``catalog`` names a catalog of pyiceberg's own configuration, where its address and credentials are. With
    ``replace_changed`` a run over files that have changed takes the place of the runs that scored them before.
    """

    path: str
    partition_by: tuple[str, ...] = ()
    format: OutputFormat = "parquet"
    catalog: str | None = None
    table: str | None = None
    rows_per_file: Count = 1_000_000
    rows_per_group: Count = 122_880
    replace_changed: bool = False

    @model_validator(mode="after")
    def _iceberg_has_a_catalog(self) -> Self:
        given = [name for name, value in (("catalog", self.catalog), ("table", self.table)) if value is not None]
        if self.format != "iceberg" and given:
            raise ValueError(f"format {self.format} has no {given[0]}: leave it out, or set format to iceberg")
        if self.format == "iceberg" and len(given) < 2:
            raise ValueError(
                "format iceberg needs catalog, a name in pyiceberg's configuration, and table, such as lake.scores"
            )
        if self.replace_changed and self.format != "parquet":
            raise ValueError(f"replace_changed works on Parquet files, and format is {self.format}")
        if self.table is not None and ("." not in self.table or not all(self.table.split("."))):
            raise ValueError(f"table is a namespace and a name, such as lake.scores (got {self.table})")
        return self


class Config(Section):
    """A whole configuration file."""

    input: InputConfig
    guard: GuardConfig = GuardConfig()
    model: ModelConfig
    scoring: ScoringConfig = ScoringConfig()
    cluster: ClusterConfig = ClusterConfig()
    output: OutputConfig

    @field_validator("guard", mode="before")
    @classmethod
    def _guard_by_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file and apply ``section.key=value`` overrides.

    Parameters
    ----------
    path : str or Path
        A YAML file.
    overrides : sequence of str
        Each ``dotted.key=value``; the value is read as YAML, so ``scoring.tolerance=0.001`` is a number.

    Returns
    -------
    Config
        The validated configuration.

    Raises
    ------
    ConfigError
        The file cannot be read, is not YAML, or a key is unknown, missing or out of range.
    """
    tree = read_mapping(path, "configuration", "input, model and output")
    for override in overrides:
        _apply(tree, override)
    return parse(tree, str(path))


def parse(tree: dict[str, object], origin: str) -> Config:
    """Validate a configuration tree; ``origin`` names its source in error messages."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {say_problems(error, Config)}") from None


def dump(config: Config) -> str:
    """Return the effective configuration as YAML; :func:`parse` reads it back to an equal one."""
    # Escaped, because YAML reads some unescaped characters, such as U+0085, back as others.
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def read_model(source: str, engine: str, engine_args: Sequence[str] = ()) -> ModelConfig:
    """Return the model that a command line names; ``engine_args`` are ``key=value``, the value read as YAML.

    Raises
    ------
    ConfigError
        The engine is not known, or an argument is no ``key=value``.
    """
    tree: dict[str, object] = {"model": {"source": source, "engine": engine}, "input": {"path": "."}}
    tree["output"] = {"path": "."}
    for argument in engine_args:
        if "=" not in argument:
            raise ConfigError(f"--engine-arg {printable(argument)}: write it as key=value")
        _apply(tree, f"model.engine_args.{argument}")
    return parse(tree, "command line").model


def _apply(tree: dict[str, object], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {printable(override)}: write it as section.key=value")
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if isinstance(child, str) and parent == "guard":
            child = node[parent] = {"name": child}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {printable(override)}: {printable(parent)} is a value, not a section")
        node = child
    try:
        node[leaf] = load_yaml(value)
    except NotYaml:
        raise ConfigError(f"--set {printable(override)}: {value!r} is not a YAML value") from None
