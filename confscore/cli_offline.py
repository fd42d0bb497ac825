"""``confscore fit``, ``apply`` and ``sql``: from scores and labels to flags, on the table alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from confscore import console
from confscore.cli_common import (
    DebugOption,
    Exit,
    IdColumnOption,
    LabelColumnOption,
    LabelsOption,
    PiColumnOption,
    RunOption,
    ScoresOption,
    ThresholdOption,
    plain_errors,
)

if TYPE_CHECKING:
    from confscore.rules import Rule

ModelOption = Annotated[Optional[str], typer.Option(help="The JSON that confscore fit wrote.")]  # noqa: UP045


def fit(
    scores: ScoresOption,
    labels: LabelsOption,
    out: Annotated[str, typer.Option(help="Where the result goes, as JSON.")],
    policy: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A YAML file: how to calibrate, and by what rule to choose; by default the best F1."),
    ] = None,
    id_column: IdColumnOption = "doc_id",
    label_column: LabelColumnOption = None,
    pi_column: PiColumnOption = None,
    run: RunOption = None,
    figure: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Draw reliability diagrams, before and after, into this .svg, .png or .pdf."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the folds that calibration is measured on.")] = 0,
    debug: DebugOption = False,
) -> None:
    """Calibrate scores on labels, and choose a threshold for each category."""
    with plain_errors(debug):
        from confscore import fit_report, fitted, fitting, reliability  # noqa: PLC0415 - SciPy takes a second
        from confscore.policy import PolicyFile, load_policy  # noqa: PLC0415
        from confscore.score_table import open_table, provenance_of  # noqa: PLC0415

        codes = tuple(provenance_of(open_table(scores)).categories)
        rules = PolicyFile() if policy is None else load_policy(policy, codes)
        source = fitting.LabelFile(labels, id_column, label_column, pi_column)
        found = fitting.fit(scores, source, rules, run, seed)
        if figure is not None:
            reliability.draw(figure, codes, found.before, found.after, found.truth, found.weights)
        fitted.write_file(out, found.model.dump().encode())
        for line in fit_report.describe(found.model):
            console.say(line)
        console.console().print(fit_report.quality_table(found.model), fit_report.threshold_table(found.model))
        for line in [*fit_report.doubts(found.model, found.weights), *fit_report.warnings(found.model)]:
            console.say(line)
        console.say(f"Wrote {out}{'' if figure is None else f' and {figure}'}")
        if found.model.abstained:
            raise typer.Exit(Exit.DONE_WITH_FAILURES)


def apply(
    scores: ScoresOption,
    out: Annotated[str, typer.Option(help="Where the flags go, as Parquet; beside the score table, not in it.")],
    model: ModelOption = None,
    threshold: ThresholdOption = None,
    decide: Annotated[
        Optional[Literal["expected-f1", "map"]],  # noqa: UP045
        typer.Option(help="Flag by the sets in top_answers: the one with the largest expected F1, or the likeliest."),
    ] = None,
    run: RunOption = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write calibrated probabilities beside the flags.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Flag the documents of a score table, and write the flags beside it."""
    with plain_errors(debug):
        from confscore import fit_report  # noqa: PLC0415 - SciPy takes a second
        from confscore.apply import apply as write_flags  # noqa: PLC0415
        from confscore.errors import InputError  # noqa: PLC0415
        from confscore.rules import describe_rules, rules_for_sets  # noqa: PLC0415
        from confscore.score_table import open_table, provenance_of  # noqa: PLC0415

        if decide is None:
            rules = _rules(scores, model, threshold or [])
        elif model is None and not threshold and not probabilities:
            rules = rules_for_sets(tuple(provenance_of(open_table(scores)).categories))
        else:
            raise InputError("--decide chooses whole sets; it goes without --model, --threshold and --probabilities")
        about = describe_rules(rules, model, decide)
        flagged = write_flags(scores, out, rules, decide, run, probabilities, about)
        console.console().print(fit_report.flag_table(flagged))
        console.say(f"Wrote {out}")


def sql(
    scores: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The score table: the output.path of the runs that wrote it."),
    ] = None,
    model: ModelOption = None,
    threshold: ThresholdOption = None,
    dialect: Annotated[Literal["duckdb", "spark", "trino"], typer.Option(help="Of which engine.")] = "duckdb",
    table: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The score table's name in the engine, instead of its files."),
    ] = None,
    name: Annotated[str, typer.Option(help="The name of the view.")] = "flags",
    debug: DebugOption = False,
) -> None:
    """Print a view over a score table with calibrated probabilities and flags."""
    with plain_errors(debug):
        from confscore.score_table import open_table  # noqa: PLC0415
        from confscore.sql import make_view  # noqa: PLC0415 - only this command needs it

        rules = _rules(scores, model, threshold or [])
        known = () if scores is None else tuple(open_table(scores).schema.names)
        if scores is not None and table is None:
            _refuse_formats(scores)
        console.say(make_view(rules, name, dialect, table, scores, known))


def _refuse_formats(scores: str) -> None:
    """Refuse a view over the files of an Iceberg or Delta Lake table, whose maintenance leaves rows in two of them."""
    from confscore.errors import InputError  # noqa: PLC0415
    from confscore.manifest import PARQUET  # noqa: PLC0415
    from confscore.run_folder import read_manifests  # noqa: PLC0415

    kinds = {manifest.published_to.format for manifest in read_manifests(scores)} - {PARQUET.format}
    if kinds:
        raise InputError(
            f"{scores}: is a table of {' and '.join(sorted(kinds))}, and a view over its files may have rows twice; "
            "name the table as the engine knows it with --table"
        )


def _rules(scores: str | None, model: str | None, thresholds: Sequence[str]) -> tuple[Rule, ...]:
    """Return what flags a document; a fit of other scores is refused."""
    from confscore.fitted import load_model  # noqa: PLC0415
    from confscore.identity import identity_of, refuse_others  # noqa: PLC0415
    from confscore.rules import make_rules  # noqa: PLC0415
    from confscore.score_table import open_table, provenance_of  # noqa: PLC0415

    fitted = None if model is None else load_model(model)
    if scores is None:
        return make_rules(fitted, thresholds)
    identity = identity_of(provenance_of(open_table(scores)))
    if fitted is not None:
        refuse_others(f"{model}: was fitted", fitted.identity, scores, identity)
    return make_rules(fitted, thresholds, tuple(identity.categories))
