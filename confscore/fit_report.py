"""What people are shown of a fit and of flags."""

from __future__ import annotations

from rich.table import Table

from confscore.apply import Flagged
from confscore.fitted import BeforeAfter, FittedCategory, FittedModel, Interval
from confscore.rows import FloatArray
from confscore.weights import documents_of
from confscore.words import printable


def describe(model: FittedModel) -> list[str]:
    """Return what a reader has to know of a fit: what it rests on."""
    labels = model.labels
    weighted = f", weighted, as good as {labels.effective_documents:,.0f} of equal weight" if labels.weighted else ""
    lines = [
        f"{labels.documents:,} labelled documents{weighted}; {model.scores.documents:,} scored documents of "
        f"{len(model.scores.runs):,} {'run' if len(model.scores.runs) == 1 else 'runs'}."
    ]
    scales = model.scales
    spread = "" if scales is None else f"; categories differ by {scales['intercept']:g} and {scales['slope']:g}"
    return [*lines, f"Calibration: {model.calibration}{spread}."]


def quality_table(model: FittedModel) -> Table:
    """Return a table of how good probabilities are, before and after; after is of curves that saw other labels."""
    table = Table(title="before → after, out of fold", title_justify="left")
    table.add_column("category")
    for name in ("positives", "log loss", "Brier", "miscalibration", "discrimination", "ECE"):
        table.add_column(name, justify="right")
    positives = sum(each.positives for each in model.categories)
    table.add_row("all", f"{positives:,}", *_changes(model.quality))
    for each in model.categories:
        table.add_row(printable(each.code), f"{each.positives:,}", *_changes(each.quality))
    return table


def threshold_table(model: FittedModel) -> Table:
    """Return a table of the thresholds, a line a category."""
    table = Table(title="thresholds; precision and recall of the labels, with 95% intervals", title_justify="left")
    for name in ("category", "policy", "threshold", "probability", "precision", "recall", "flagged", "rests on"):
        table.add_column(name, justify="left" if name in ("category", "policy", "rests on") else "right")
    for each in model.categories:
        table.add_row(
            printable(each.code),
            _policy(each),
            *("" if value is None else f"{value:.4g}" for value in (each.threshold, each.probability)),
            _interval(each.precision),
            _interval(each.recall),
            _share(each.flagged_at_most, model.scores.documents),
            _basis(each),
        )
    return table


def warnings(model: FittedModel) -> list[str]:
    """Return a line for each category without a threshold, with what would help."""
    lines = []
    for each in model.categories:
        if each.outcome == "nothing":
            lines.append(f"{each.code}: nothing is flagged, as {each.reason}")
        elif each.outcome == "abstained":
            more = "" if each.more_positives is None else f"; about {each.more_positives:,} more would suffice"
            lines.append(f"{each.code}: no threshold, {each.positives:,} positive labels: {each.reason}{more}")
    return lines


def doubts(model: FittedModel, weights: FloatArray | None) -> list[str]:
    """Return a line where a weighted sample does not stand for the score table, as ``evaluate`` refuses it then.

    Parameters
    ----------
    model : FittedModel
    weights : float array, shape (n,), or None
        How many documents each labelled one stands for.
    """
    if weights is None:
        return []
    value, low, high = documents_of(weights)
    if low <= model.scores.documents <= high:
        return []
    return [
        f"By their inclusion probabilities the labelled documents stand for {value:,.0f} documents, and the score "
        f"table has {model.scores.documents:,}. Label all documents of the sample, and choose the run it was drawn "
        "from with --run; nothing is guaranteed for the others."
    ]


def flag_table(flagged: Flagged) -> Table:
    """Return a table of what was flagged, a line a category."""
    title = f"{flagged.rows:,} rows, {flagged.failed:,} of status error"
    table = Table(title=title, title_justify="left")
    for name in ("category", "flagged", "share"):
        table.add_column(name, justify="left" if name == "category" else "right")
    scored = flagged.rows - flagged.failed
    for code, count in [*flagged.categories.items(), ("any", flagged.any)]:
        shown = "no threshold" if count is None else f"{count:,}"
        table.add_row(printable(code), shown, _share(count, scored))
    return table


def _changes(pair: BeforeAfter) -> list[str]:
    names = ("log_loss", "brier", "miscalibration", "discrimination", "ece")
    return [f"{getattr(pair.before, name):.4f} → {getattr(pair.after, name):.4f}" for name in names]


def _policy(category: FittedCategory) -> str:
    numbers = {key: value for key, value in category.policy.items() if key != "min_positives"}
    settings = [f"{value:g}" for value in numbers.values() if isinstance(value, int | float)]
    return f"{category.policy['policy']} {', '.join(settings)}".rstrip()


def _interval(found: Interval | None) -> str:
    return "" if found is None else f"{found.value:.3f} ({found.low:.3f}–{found.high:.3f})"


def _share(count: int | None, documents: int) -> str:
    return "" if count is None or not documents else f"{count / documents:.2%}"


def _basis(category: FittedCategory) -> str:
    match category.outcome:
        case "abstained":
            return "too few labels"
        case "nothing":
            return "no score is high enough"
        case "threshold":
            return category.guarantee or ""
