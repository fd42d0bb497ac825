"""Everything that can be refused is refused here, before a cluster is asked for and a model is loaded."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace

import pyarrow as pa
from pyarrow import fs

from confscore.config import Config
from confscore.corpus import Corpus, open_corpus
from confscore.corpus import resolve as resolve_path
from confscore.corpus.stores import knock
from confscore.errors import ConfigError
from confscore.gpus import check_gpus
from confscore.guards import Guard, resolve
from confscore.manifest import InputFile, Manifest, Provenance, describe, run_identity
from confscore.partitions import refuse_names
from confscore.prompt import Prompter
from confscore.rows import Columns, score_schema
from confscore.run_folder import RunFolder, committed_before, superseded
from confscore.table_formats import TableFormat, open_format, output_table, refuse_output
from confscore.table_formats.schemas import refuse_columns
from confscore.trust import check_trust
from confscore.vocabulary import build_automaton, load_tokenizer, model_digest, tokenizer_digest

_NO_LIMIT = 1 << 30  # the engine's own limit is not known before it is loaded


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that has been checked as far as it can be without a model.

    Attributes
    ----------
    config : Config
        The effective configuration.
    guard : Guard
        The resolved guard.
    corpus : Corpus
        What will be read.
    columns : Columns
        What will be written.
    provenance : Provenance
        What decides the scores.
    run : RunFolder
        Where the run keeps its own files; its id follows from all of the above.
    input_files : tuple of InputFile
        The corpus as it was found.
    done : Manifest or None
        The run's manifest, where it has been committed before.
    replaces : tuple of str
        Committed runs over earlier forms of the same files, whose place it takes.
    """

    config: Config
    guard: Guard
    corpus: Corpus
    columns: Columns
    provenance: Provenance
    run: RunFolder
    input_files: tuple[InputFile, ...]
    done: Manifest | None
    replaces: tuple[str, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        """Return the schema of scored rows, partition columns included."""
        return score_schema(self.columns)

    @property
    def table_format(self) -> TableFormat | None:
        """Return the table that the run's files are added to; ``None`` where the files are the table."""
        return open_format(self.config.output.path, output_table(self.config.output))


def make_plan(config: Config) -> Plan:
    """Check a configuration against its guard, tokenizer, corpus and output.

    Raises
    ------
    InputError
        Something does not fit; the message names the key, path or column.
    """
    refuse_output(config.output)
    check_gpus(config)
    guard = resolve(config.guard.name, config.guard.order)
    knock("input.path", config.input.path)
    knock("output.path", config.output.path)
    _keep_apart(config)
    refuse_names(config.output.partition_by)
    partition_by = config.output.partition_by
    corpus = open_corpus(config.input, partition_by)
    columns = _columns(config, guard, corpus.reader.carried)
    provenance = find_provenance(config, guard)
    files = describe(corpus.files)
    settings = [
        {**config.input.model_dump(mode="json"), "path": ""},
        {**config.output.model_dump(mode="json"), "path": "", "replace_changed": False},
        [config.scoring.bounds, config.scoring.top_answers],
    ]
    run = RunFolder(config.output.path, run_identity(provenance, files, settings))
    schema, published_to = score_schema(columns), output_table(config.output)
    replaces = superseded(run, files) if config.output.replace_changed else ()
    done = committed_before(run, provenance, files, schema.names, partition_by, published_to, replaces)
    plan = Plan(config, guard, corpus, columns, provenance, run, files, done, replaces)
    if plan.table_format is not None and done is None:
        refuse_columns(schema, partition_by, published_to.format)
        plan.table_format.check(schema, partition_by)
    return plan


def _keep_apart(config: Config) -> None:
    """Refuse an output that the next run would read as its corpus."""
    paths = (config.input.path, config.output.path)
    stores = [resolve_path(path) for path in paths]
    local = all(isinstance(store, fs.LocalFileSystem) for store, _ in stores)
    if not local and paths[0].partition("://")[:2] != paths[1].partition("://")[:2]:
        return
    # On a disk, a link can make two names of one folder.
    corpus, table = ((os.path.realpath(path) if local else path).rstrip("/") for _, path in stores)
    inside = table[len(corpus) + 1 :] if f"{table}/".startswith(f"{corpus}/") else None
    if inside is not None and not any(part[:1] in ("_", ".") for part in inside.split("/") if part):
        raise ConfigError(
            f"output.path {config.output.path}: lies in input.path {config.input.path}, so that the next run would "
            "read scores as documents; choose a folder outside of it"
        )


def _columns(config: Config, guard: Guard, carried: pa.Schema) -> Columns:
    scoring = config.scoring
    if guard.asks_each and scoring.top_answers:
        raise ConfigError(
            f"scoring.top_answers: guard {guard.name} asks a question about each category, so no answer names several; "
            "leave it out"
        )
    estimators = scoring.extra_estimators
    columns = Columns(guard.codes, bounds=scoring.bounds, estimators=estimators, top_answers=scoring.top_answers > 0)
    taken = {name.lower() for name in score_schema(columns).names}
    for name in carried.names:
        if name.lower() in taken:
            key = "output.partition_by" if name in config.output.partition_by else "input.carry_columns"
            raise ConfigError(f"{key}: {name} is a column of the score table already; rename it in the corpus")
    nested = [field.name for field in carried if pa.types.is_nested(field.type)]
    for name in config.output.partition_by:
        if name in nested:
            raise ConfigError(
                f"output.partition_by: column {name} is {carried.field(name).type}, and has to be a plain value"
            )
    missing = set(config.output.partition_by) - set(carried.names)
    if missing:
        raise ConfigError(f"output.partition_by: the corpus has no column or path part {sorted(missing)[0]}")
    return replace(columns, carried=tuple(carried))


def find_provenance(config: Config, guard: Guard) -> Provenance:
    """Return what decides the scores of a configuration; loads the tokenizer, and looks at the model's files."""
    model, scoring = config.model, config.scoring
    check_trust(model)
    tokenizer = load_tokenizer(model.source, model.revision, trust_remote_code=model.trust_remote_code)
    build_automaton(guard, tokenizer)  # refuses a guard that this tokenizer cannot spell
    prompter = Prompter(guard, tokenizer, max_tokens=_NO_LIMIT)
    return Provenance(
        model=model.source,
        model_hash=model_digest(model.source, model.revision),
        revision=model.revision,
        engine=model.engine,
        engine_args=dict(model.engine_args),
        guard=guard.name,
        guard_hash=guard.digest(),
        categories={category.code: category.name for category in guard.categories},
        prompt_hash=hashlib.sha256(prompter.template_text().encode()).hexdigest(),
        tokenizer_hash=tokenizer_digest(tokenizer),
        procedure=scoring.procedure,
        paper=scoring.paper.model_dump() if scoring.procedure == "paper" else None,
        estimators=scoring.estimators,
        normalization=scoring.normalization,
        tolerance=scoring.tolerance,
        tolerance_of=scoring.tolerance_of,
        max_requests_per_document=scoring.max_requests_per_document,
        long_documents=scoring.long_documents,
        chunk_overlap_tokens=scoring.chunk_overlap_tokens,
    )
