"""The table of arXiv 2511.22312 for a dataset and a model, with exact marginals beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from confscore.baselines import choose_one_or_two, entropy_uncertainty, logtoku, probability_uncertainty
from confscore.config import ModelConfig, ScoringConfig
from confscore.errors import InputError, RowError
from confscore.guards import Guard
from confscore.guards.answers import VerdictAnswer
from confscore.loading import Loaded, load
from confscore.metrics import evaluate
from confscore.prompt import Prompter
from confscore.published import Dataset, read_dataset
from confscore.rivals import Rivals, find_rivals
from confscore.rows import BoolArray, Document, FloatArray, Score
from confscore.scorer import Scorer

AT_ONCE = 256
"""Documents in flight."""

SCORED = {
    "conditional": ("paper", "conditional"),
    "joint": ("paper", "joint"),
    "marginal": ("paper", "marginal"),
    "exact marginal, local": ("local", "marginal"),
    "exact marginal, global": ("global", "marginal"),
}
UNCERTAINTIES: dict[str, Callable[[FloatArray], float]] = {
    "probability uncertainty": probability_uncertainty,
    "entropy uncertainty": entropy_uncertainty,
    "LogTokU": lambda logits: _quotient(*reversed(logtoku(logits))),
}
_REPORT_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Answers:
    """Everything that was computed for one document."""

    paper: Score
    local: Score
    global_: Score
    rivals: Rivals


@dataclass(frozen=True, eq=False, slots=True)
class Reproduction:
    """A finished table.

    Attributes
    ----------
    table : DataFrame
        A row a method.
    notes : tuple of str
        What a reader has to know of it.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]

    def write(self, folder: Path) -> list[Path]:
        """Write ``table.csv`` and ``table.md``, and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        csv, markdown = folder / "table.csv", folder / "table.md"
        self.table.to_csv(csv, index=False)
        markdown.write_text(self.markdown(), encoding="utf-8")
        return [csv, markdown]

    def markdown(self) -> str:
        """Return the table and its notes as Markdown."""
        rows = [list(self.table.columns), ["---"] + ["---:"] * (len(self.table.columns) - 1)]
        rows += [[_cell(value) for value in row] for row in self.table.itertuples(index=False)]
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes), ""])


def reproduce(
    path: Path,
    guard: Guard,
    model: ModelConfig,
    *,
    limit: int = 0,
    threshold: float = 0.2,
    tolerance: float = 0.01,
    say: Callable[[str], None] = print,
) -> Reproduction:
    """Score a dataset with every method of the paper and with exact marginals.

    Parameters
    ----------
    path : Path
        A dataset in a published form, see :mod:`confscore.published`.
    guard : Guard
        One whose answers list categories.
    model : ModelConfig
        The model.
    limit : int
        Take the first so many documents; all of them where it is 0.
    threshold : float
        A score of at least this is a prediction, in every row; the published one is 0.2.
    tolerance : float
        Widest bound of the exact marginals.
    say : callable
        Told of the progress.

    Returns
    -------
    Reproduction
        See the notes for what each row and column is.

    Raises
    ------
    InputError
        The guard's answers list no categories, or the dataset and the guard do not fit.
    """
    if not isinstance(guard.answer, VerdictAnswer):
        raise InputError(f"--guard {guard.name}: the paper's methods need answers that list categories")
    dataset = read_dataset(path, guard, limit)
    say(f"{len(dataset.documents):,} documents ({dataset.form} form) from {path}; loading {model.source}…")
    loaded = load(guard, model)
    found = asyncio.run(_answer_all(loaded, dataset.documents, tolerance, say))
    kept = [(i, answers) for i, answers in enumerate(found) if not isinstance(answers, str)]
    failed = [answers for answers in found if isinstance(answers, str)]
    if not kept:
        raise InputError(f"{path}: no document could be scored: {failed[0]}")
    truth = dataset.truth[[i for i, _ in kept]]
    answers = [each for _, each in kept]
    table = _table(answers, truth, threshold, gated=dataset.form == "beavertails")
    return Reproduction(table, tuple(_notes(dataset, guard, model, answers, failed, threshold, tolerance)))


def scorings(tolerance: float) -> dict[str, ScoringConfig]:
    """Return the three ways in which every document is scored."""
    exact = {"estimators": ["marginal"], "tolerance": tolerance, "max_requests_per_document": 1000}
    paper = {"procedure": "paper", "estimators": ["marginal", "conditional", "joint", "greedy"]}
    trees = {
        "paper": {**exact, **paper, "normalization": "raw"},
        "local": {**exact, "normalization": "local"},
        "global": {**exact, "normalization": "global"},
    }
    return {name: ScoringConfig.model_validate(tree) for name, tree in trees.items()}


async def _answer_all(
    loaded: Loaded, documents: Sequence[Document], tolerance: float, say: Callable[[str], None]
) -> list[Answers | str]:
    """Answer documents side by side; one that cannot be scored becomes the reason."""
    scorers = {name: loaded.scorer(scoring) for name, scoring in scorings(tolerance).items()}
    prompter = loaded.prompter(ScoringConfig())
    turn = asyncio.Semaphore(AT_ONCE)
    done, last = 0, time.monotonic()

    async def one(document: Document) -> Answers | str:
        nonlocal done, last
        async with turn:
            found = await _answer(loaded, scorers, prompter, document)
        done += 1
        if time.monotonic() - last > _REPORT_EVERY_S:
            last = time.monotonic()
            say(f"  {done:,} of {len(documents):,} documents")
        return found

    try:
        await loaded.engine.warm_up()
        return list(await asyncio.gather(*(one(document) for document in documents)))
    finally:
        await loaded.engine.close()


async def _answer(loaded: Loaded, scorers: dict[str, Scorer], prompter: Prompter, document: Document) -> Answers | str:
    scores = {name: await scorer.score(document) for name, scorer in scorers.items()}
    for score in scores.values():
        if score.error is not None:
            return score.error
    try:
        prompt = prompter.prompts(document).token_ids[0]
        rivals = await find_rivals(loaded, prompt)
    except RowError as error:
        return str(error)
    return Answers(scores["paper"], scores["local"], scores["global"], rivals)


def _table(answers: Sequence[Answers], truth: BoolArray, threshold: float, *, gated: bool) -> pd.DataFrame:
    rows = []
    greedy = np.array([each.paper.estimates["greedy"] for each in answers])
    rows.append({"method": "greedy", **_decided(greedy > 0, truth), "calls_per_document": 1.0})
    first, second = (np.array([getattr(each.rivals, name) for each in answers]) for name in ("first", "second"))
    asked = float(np.mean([each.rivals.requests for each in answers]))
    silent = np.array([gated and not each.rivals.flagged for each in answers])
    for name, measure in UNCERTAINTIES.items():
        uncertainty = np.array([measure(each.rivals.logits) for each in answers])
        predicted = choose_one_or_two(first, second, uncertainty, truth)
        predicted[silent] = False
        rows.append({"method": name, **_decided(predicted, truth), "calls_per_document": asked})
    for name, (which, estimator) in SCORED.items():
        scores = [getattr(each, "global_" if which == "global" else which) for each in answers]
        rows.append({"method": name, **_ranked(scores, estimator, truth, threshold)})
    return pd.DataFrame(rows)


def _decided(predicted: BoolArray, truth: BoolArray) -> dict[str, float]:
    """Return the figures of a method that decides and does not rank."""
    found = evaluate(predicted.astype(np.float64), truth, 0.5)
    return {"f1": found.micro_f1, "hamming_loss": found.hamming_loss, "micro_auc": np.nan}


def _ranked(scores: Sequence[Score], estimator: str, truth: BoolArray, threshold: float) -> dict[str, float]:
    values = np.array([score.probs if estimator == "marginal" else score.estimates[estimator] for score in scores])
    found = evaluate(values, truth, threshold)
    tuned = evaluate(values, truth, found.best_micro_threshold)
    marginal = estimator == "marginal"
    return {
        "f1": found.micro_f1,
        "hamming_loss": found.hamming_loss,
        "micro_auc": found.micro_auc,
        "threshold": threshold,
        "tuned_threshold": found.best_micro_threshold,
        "tuned_f1": found.best_micro_f1,
        "tuned_hamming_loss": tuned.hamming_loss,
        "mean_residual": float(np.mean([score.residual for score in scores])) if marginal else np.nan,
        "calls_per_document": float(np.mean([score.requests for score in scores])) if marginal else 1.0,
    }


def _notes(
    dataset: Dataset,
    guard: Guard,
    model: ModelConfig,
    answers: Sequence[Answers],
    failed: Sequence[str],
    threshold: float,
    tolerance: float,
) -> list[str]:
    lacking = [code for j, code in enumerate(guard.codes) if not dataset.truth[:, j].any()]
    notes = [
        f"{len(answers):,} documents of {dataset.form} form, guard {guard.name}, model {model.source} ({model.engine})",
        "F1 and AUC are micro averages over all pairs of a document and a category.",
        f"Rows conditional, joint and marginal follow the published procedure; a score of at least {threshold:g} is a "
        f"prediction. Exact marginals have certified bounds of at most {tolerance:g}.",
        "Tuned thresholds, and the choice between one label and two in the three rows of uncertainties, are fitted on "
        "these labels themselves, as published; such figures flatter.",
        "Residual: of the exact marginals the widest bound, of the published one what its stops cut off; means over "
        "documents. Calls: engine requests a document, each a whole answer with a cache, not one a token.",
    ]
    if not all(each.rivals.own_logits for each in answers):
        notes.append(
            "This engine tells no logits: LogTokU uses log-probabilities plus the logarithm of the vocabulary's size. "
            "The transformers engine tells logits."
        )
    if lacking:
        notes.append(f"Categories without a positive label: {', '.join(lacking)}; micro averages include them.")
    if failed:
        notes.append(f"{len(failed):,} documents could not be scored and are left out; the first because {failed[0]}.")
    return notes


def _quotient(epistemic: float, aleatoric: float) -> float:
    return epistemic / aleatoric if aleatoric > 0 else np.inf


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.4f}"
    return str(value)
