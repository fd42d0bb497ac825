"""The paper's table: its parts by hand, and the whole on the shipped guard."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, hamming_loss, roc_auc_score
from toys import Toy, toy_guard, written_table

from confscore.baselines import choose_one_or_two
from confscore.config import ModelConfig
from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.demo.published import write_beavertails, write_queries
from confscore.errors import InputError
from confscore.guards import resolve
from confscore.guards.answers import QuestionAnswer
from confscore.loading import Loaded
from confscore.published import read_dataset
from confscore.reproduce import reproduce
from confscore.rivals import Rivals, find_rivals

ROOT = Path(__file__).parents[1]
MODEL = ModelConfig(source=str(GUARD_FOLDER), engine="transformers")
METHODS = [
    *("greedy", "probability uncertainty", "entropy uncertainty", "LogTokU"),
    *("conditional", "joint", "marginal", "exact marginal, local", "exact marginal, global"),
]
TOY = Toy(toy_guard("a", "b", "c"), ("s", "u", "a", "b", "c", ","))
SAFE = {
    "": {"s": 0.9, "u": 0.1},
    "s": {".": 1.0},
    "u": {"b": 0.5, "c": 0.3, "a": 0.2},
    "ub": {",": 0.9, ".": 0.1},
    "ub,": {"c": 1.0},
    "ub,c": {".": 1.0},
    "uc": {".": 1.0},
}


def rivals(rows: dict[str, dict[str, float]]) -> Rivals:
    tokenizer = range(TOY.size)  # only its length matters here
    loaded = Loaded(TOY.guard, tokenizer, TOY.automaton, TOY.engine(written_table(TOY, rows)))  # type: ignore[arg-type]
    return asyncio.run(find_rivals(loaded, ()))


def test_rivals_are_the_two_best_first_labels_even_of_a_safe_answer() -> None:
    found = rivals(SAFE)
    assert (found.first, found.second, found.flagged) == (1, 2, False)
    assert sorted(np.exp(found.logits - math.log(TOY.size))) == pytest.approx([0.2, 0.3, 0.5])
    assert found.requests == 3, "the safe answer, the flagged one, and the one with the second label"
    assert not found.own_logits


def test_rivals_of_a_flagged_answer_need_one_rollout_less() -> None:
    found = rivals(SAFE | {"": {"s": 0.1, "u": 0.9}})
    assert (found.first, found.second, found.flagged, found.requests) == (1, 2, True, 2)


def test_one_label_or_two_by_hand() -> None:
    truth = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]], dtype=bool)
    first, second = np.zeros(5, dtype=int), np.array([1, 1, 1, 1, -1])
    uncertainty = np.array([0.1, 0.2, 0.3, 0.4, 0.0])
    # Running gains in the order of uncertainty: 0 (no second label), 1, 2, 1, 0. Two labels up to 0.2.
    predicted = choose_one_or_two(first, second, uncertainty, truth)
    assert predicted.tolist() == [
        *([True, True, False], [True, True, False], [True, False, False], [True, False, False], [True, False, False])
    ]


def test_where_second_labels_only_harm_the_least_uncertain_document_still_gets_one() -> None:
    """As published: the limit is an uncertainty that occurs."""
    truth = np.array([[1, 0], [1, 0]], dtype=bool)
    predicted = choose_one_or_two(np.array([0, 0]), np.array([1, 1]), np.array([0.2, 0.1]), truth)
    assert predicted.tolist() == [[True, False], [True, True]]


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "queries.jsonl"
    write_queries(path, 25, seed=11)
    return path


def test_the_job_writes_the_table(queries: Path, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "jobs" / "reproduce_paper.py", "--dataset", queries, "--model", GUARD_FOLDER]
    command += ["--guard", GUARD_YAML, "--engine", "transformers", "--limit", "12", "--out", tmp_path / "out"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "table.csv").set_index("method")
    assert list(table.index) == METHODS
    assert table["f1"].between(0.5, 1).all()
    assert table.loc["greedy":"LogTokU", "micro_auc"].isna().all()
    exact = table.loc[["exact marginal, local", "exact marginal, global"]]
    assert (exact["mean_residual"] <= 0.01).all()
    assert (exact["micro_auc"] > table.loc["conditional", "micro_auc"]).all()
    assert (table["calls_per_document"] >= 1).all()
    assert (table["tuned_f1"].dropna() >= table["f1"][table["tuned_f1"].notna()]).all()
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.count("\n| ") == len(METHODS) + 1
    assert "12 documents of published form" in text
    assert "tells no logits" not in text


def test_figures_are_those_of_scikit_learn(queries: Path) -> None:
    found = reproduce(queries, resolve(str(GUARD_YAML)), MODEL, limit=8, threshold=0.3, say=lambda _: None)
    from confscore.loading import load
    from confscore.reproduce import scorings

    dataset = read_dataset(queries, resolve(str(GUARD_YAML)), 8)
    scorer = load(resolve(str(GUARD_YAML)), MODEL).scorer(scorings(0.01)["global"])
    values = np.array([score.probs for score in asyncio.run(scorer.score_all(dataset.documents))])
    row = found.table.set_index("method").loc["exact marginal, global"]
    assert row["f1"] == pytest.approx(f1_score(dataset.truth, values >= 0.3, average="micro"))
    assert row["hamming_loss"] == pytest.approx(hamming_loss(dataset.truth, values >= 0.3))
    assert row["micro_auc"] == pytest.approx(roc_auc_score(dataset.truth, values, average="micro"))


def test_beavertails_predicts_nothing_where_the_answer_is_safe(tmp_path: Path) -> None:
    write_beavertails(tmp_path / "b.jsonl.gz", 10, seed=2)
    found = reproduce(tmp_path / "b.jsonl.gz", resolve(str(GUARD_YAML)), MODEL, say=lambda _: None)
    table = found.table.set_index("method")
    assert table.loc["LogTokU", "hamming_loss"] < 0.15, "without the gate every document has a label"
    assert any("beavertails form" in note for note in found.notes)
    assert any(note.startswith("Categories without a positive label: ") for note in found.notes)


def test_a_guard_that_lists_no_categories_is_refused(queries: Path) -> None:
    guard = resolve(str(GUARD_YAML)).model_copy(update={"answer": QuestionAnswer(form="question")})
    with pytest.raises(InputError, match="need answers that list categories"):
        reproduce(queries, guard, MODEL)
