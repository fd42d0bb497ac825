"""The command line: thin, and one clear sentence for every error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from confscore import console, supervise
from confscore.cli_audit import AuditCommand, audit
from confscore.cli_common import (
    DebugOption,
    Exit,
    IdColumnOption,
    LabelColumnOption,
    LabelsOption,
    PiColumnOption,
    RunOption,
    ScoresOption,
    plain_errors,
)
from confscore.cli_offline import apply, fit, sql
from confscore.cli_sample import sample
from confscore.config import Config, ModelConfig, dump, load, read_model
from confscore.errors import ConfigError
from confscore.guards import REGISTRY, resolve
from confscore.run_log import LogFormat, RunLog, open_log
from confscore.verify import verify as verify_table

app = typer.Typer(
    help="Calibrated per-category probabilities from generative guard models, at corpus scale.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The job's YAML file.", show_default=False)]
SetOption = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads this form on every version
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, such as scoring.tolerance=0.001."),
]


@app.command()
def score(
    config: ConfigOption,
    set_: SetOption = None,
    log_format: Annotated[LogFormat, typer.Option(help="Sentences, or one JSON object a line.")] = "text",
    debug: DebugOption = False,
) -> None:
    """Score a corpus on a Ray cluster and publish its score table."""
    verdict = supervise.verdict_of_child()
    if verdict is None:
        again = [*(f"--set={each}" for each in set_ or []), *(["--debug"] if debug else [])]
        status = supervise.run_as_child(["score", f"--config={config}", f"--log-format={log_format}", *again])
        raise typer.Exit(Exit.FAILED if status is None else status)
    try:
        with plain_errors(debug, log_format):
            code = run_score(load(config, set_ or []), open_log(log_format))
    except typer.Exit as end:
        code = Exit(end.exit_code)
    supervise.tell_verdict(verdict, code)
    raise typer.Exit(code)


@app.command()
def inspect(
    table: Annotated[str, typer.Argument(help="A score table: the output.path of the runs that wrote it.")],
    run: Annotated[Optional[str], typer.Argument(help="With --verify: this run only.")] = None,  # noqa: UP045
    verify: Annotated[
        bool, typer.Option("--verify", help="Count everything again from the files, and say what does not agree.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Show what a score table holds: runs, provenance, schema, counts and histograms."""
    problems: list[str] = []
    with plain_errors(debug):
        if verify:
            problems = verify_table(table, run)
            for problem in problems:
                console.say(problem)
            console.say(f"{table}: {len(problems) or 'nothing'} to complain of")
        else:
            console.show_table(table)
    raise typer.Exit(Exit.DONE_WITH_FAILURES if problems else Exit.DONE)


@app.command()
def guards(
    name: Annotated[Optional[str], typer.Argument(help="A registered guard, or a guard's .yaml file.")] = None,  # noqa: UP045
    check: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="MODEL", help="Load this model, and see whether it answers as the guard says."),
    ] = None,
    engine: Annotated[str, typer.Option(help="With --check: vllm or transformers.")] = "vllm",
    engine_arg: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="KEY=VALUE", help="With --check: an argument of the engine, as model.engine_args."),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """List the guards, or show one; with --check, verify one against a model."""
    code = Exit.DONE
    with plain_errors(debug):
        if name is None and check is not None:
            raise ConfigError("--check: name the guard that the model is held against, as in guards NAME --check MODEL")
        if name is None:
            console.list_guards(list(REGISTRY.values()))
        elif check is None:
            console.show_guard(resolve(name))
        else:
            code = _check_guard(name, read_model(check, engine, engine_arg or []))
    raise typer.Exit(code)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the corpus, the configuration and the scores go.")] = Path(
        "demo-run"
    ),
    documents: Annotated[int, typer.Option(min=100, help="How many documents to generate.")] = 5000,
    debug: DebugOption = False,
) -> None:
    """Generate a corpus, score it with the small guard of this package, show the scores, and audit two nights."""
    with plain_errors(debug):
        import confscore.demo.run as demo_run  # noqa: PLC0415 - its libraries are not needed elsewhere
        from confscore.demo import nightly  # noqa: PLC0415

        written = demo_run.prepare(out, documents)
        console.say(f"Wrote {documents} documents to {written.corpus} and their labels to {written.labels}.")
        console.say(f"$ confscore score --config {written.config}")
        code = run_score(load(written.config), open_log("text"))
        demo_run.show(written)
        nightly.audit_two_nights(written)
    raise typer.Exit(code)


@app.command()
def evaluate(
    scores: ScoresOption,
    labels: LabelsOption,
    id_column: IdColumnOption = "doc_id",
    label_column: LabelColumnOption = None,
    estimator: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Evaluate only this estimator, such as marginal; may be repeated."),
    ] = None,
    pi_column: PiColumnOption = None,
    run: RunOption = None,
    threshold: Annotated[float, typer.Option(help="A score of at least this is a prediction.")] = 0.5,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples for the intervals; 0 for no intervals.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
    out: Annotated[Optional[Path], typer.Option(help="Folder for two CSV files and a figure.")] = None,  # noqa: UP045
    debug: DebugOption = False,
) -> None:
    """Hold a score table against labels: F1, ranking and calibration of every estimator."""
    with plain_errors(debug):
        from confscore import evaluate as evaluation  # noqa: PLC0415 - no other command needs SciPy
        from confscore import weighted  # noqa: PLC0415
        from confscore.labelled import label_scores  # noqa: PLC0415

        labelled = label_scores(scores, labels, id_column, label_column, estimator or [], run, pi_column)
        drawn = pi_column is not None or labelled.weights is not None
        estimated = weighted.evaluate_weighted(scores, labelled, threshold, run) if drawn else []
        for line in [*evaluation.describe(labelled), *map(weighted.describe_weights, estimated[:1])]:
            console.say(line)
        evaluated = evaluation.evaluate_all(labelled, threshold, bootstrap, seed)
        console.console().print(evaluation.summary_table(evaluated), evaluation.category_table(evaluated[0]))
        if estimated:
            console.console().print(weighted.average_table(estimated), weighted.quality_table(estimated[0]))
        if out is not None:
            written = [*evaluation.write(evaluated, out), *([weighted.write_weighted(estimated, out)] if drawn else [])]
            console.say(f"Wrote {', '.join(str(path) for path in written)}")


for command in (fit, apply, sql, sample):
    app.command()(command)
app.command(cls=AuditCommand)(audit)


def run_score(config: Config, log: RunLog) -> Exit:
    """Run one job and say how it went."""
    from confscore.plan import make_plan  # noqa: PLC0415 - transformers and Ray take seconds to import
    from confscore.publication import retire  # noqa: PLC0415

    plan = make_plan(config)
    if plan.done is not None:
        retire(plan.run, plan.replaces)  # a start that died between its commit and this has left them
        log.done_before(plan.done)
        return _verdict(config, plan.done.counts.error, plan.done.counts.read)
    plan.run.write("config.yaml", dump(config))  # before anything is loaded: it shows that the output can be written
    from confscore.pipeline import run_plan  # noqa: PLC0415

    log.planned(plan)
    with log.following(plan.corpus.rows) as update:
        manifest = run_plan(plan, update, on_wait=log.waiting)
    log.committed(manifest, config.output.path)
    return _verdict(config, manifest.counts.error, manifest.counts.read)


def _check_guard(name: str, model: ModelConfig) -> Exit:
    from confscore.check import check  # noqa: PLC0415 - loads an engine

    guard = resolve(name)
    found = check(guard, model)
    agrees = console.show_check(guard, model.source, found)
    return Exit.DONE if agrees else Exit.DONE_WITH_FAILURES


def main() -> None:
    """Run the command line."""
    app()


def _verdict(config: Config, errors: int, read: int) -> Exit:
    too_many = errors > config.scoring.error_fraction_allowed * read
    return Exit.DONE_WITH_FAILURES if too_many else Exit.DONE
