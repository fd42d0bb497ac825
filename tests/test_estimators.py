"""Estimators and procedures through the scorer, and the check of a guard against a model."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
from test_scorer import TABLES, TOY, ToyEngine, score, toy_document
from toys import written_table
from typer.testing import CliRunner

from confscore.answer_tree import AnswerTree, StoppingRule
from confscore.baselines import entropy_score, greedy_score, logtoku_score, probability_score
from confscore.check import check
from confscore.cli import app
from confscore.confidence import GreedyAnswer, conditional, joint, read_greedy
from confscore.config import ModelConfig, parse
from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.errors import ConfigError
from confscore.guards import resolve

ALL = ["marginal", "conditional", "joint", "greedy", "probability_uncertainty", "entropy_uncertainty", "logtoku"]


def read(seed: int, normalization: str) -> GreedyAnswer:
    tree = AnswerTree(TOY.automaton, StoppingRule(greedy=True, marginals=False))
    while wanted := tree.wanted():
        for prefix in wanted:
            rollout = asyncio.run(TOY.engine(TABLES[seed]).rollout((), prefix))
            tree.add(prefix, rollout.tokens, rollout.log_probs)
    answer = read_greedy(TOY.automaton, tree.steps, normalization, 0.0)
    assert answer is not None
    return answer


@pytest.mark.parametrize("normalization", ["raw", "local", "global"])
def test_all_estimators_come_from_the_same_rollouts(normalization: str) -> None:
    (result,) = score(toy_document(1), normalization=normalization, estimators=ALL)
    (alone,) = score(toy_document(1), normalization=normalization)
    assert result.requests <= alone.requests + 1, "one more only where the greedy answer was not explored"
    np.testing.assert_allclose(result.probs, alone.probs, atol=1e-8)
    answer = read(1, normalization)
    functions = dict(
        zip(ALL[1:], [conditional, joint, greedy_score, probability_score, entropy_score, logtoku_score], strict=True)
    )
    assert list(result.estimates) == ALL[1:]
    for name, function in functions.items():
        np.testing.assert_allclose(result.estimates[name], function(answer), atol=1e-12)


def test_without_the_marginal_nothing_is_spent_on_narrowing() -> None:
    engine = ToyEngine(TABLES)
    (result,) = score(toy_document(1), engine=engine, estimators=["joint"])
    exact = TOY.exact(TABLES[1]).marginals["global"]
    assert result.requests == len(engine.asked) <= 2
    assert result.status == "bounded"
    assert abs(result.p_any - exact[0]) <= result.residual
    assert "marginal" not in result.estimates


def test_estimates_of_windows_are_the_largest() -> None:
    (result,) = score(toy_document(0, 1, 2), estimators=["marginal", "joint"])
    each = [score(toy_document(seed), estimators=["marginal", "joint"])[0] for seed in range(3)]
    np.testing.assert_allclose(result.estimates["joint"], np.max([one.estimates["joint"] for one in each], axis=0))


def test_a_greedy_answer_that_the_budget_cuts_short_has_no_estimates() -> None:
    rows = {"": {"u": 0.9, "s": 0.1}, "u": {"s": 0.6, "a": 0.4}, "ua": {".": 1.0}, "s": {".": 1.0}}
    engine = ToyEngine({0: written_table(TOY, rows)})
    (cut,) = score(toy_document(0), engine=engine, estimators=["joint"], max_requests_per_document=1)
    assert (cut.estimates, cut.status) == ({}, "bounded")
    (whole,) = score(toy_document(0), engine=engine, estimators=["joint"], max_requests_per_document=2)
    assert whole.estimates["joint"][0] == pytest.approx(0.9 * 1.0)


def test_the_published_procedure_through_the_scorer() -> None:
    rows = {"": {"u": 0.7, "s": 0.3}, "u": {"a": 0.6, "b": 0.4}, "ua": {",": 0.3, ".": 0.7}}
    rows |= {"ua,": {"b": 1.0}, "s": {".": 1.0}, "ub": {".": 1.0}, "ua,b": {".": 1.0}}
    engine = ToyEngine({0: written_table(TOY, rows)})
    paper = {"procedure": "paper", "normalization": "raw", "bounds": True}
    (result,) = score(toy_document(0), engine=engine, estimators=["marginal", "conditional", "joint"], **paper)
    a, b = 0.7 * 0.6, 0.7 * 0.4
    assert result.probs[:2] == pytest.approx([a, b]), "the end after a has 0.7, so b after it is dropped"
    assert result.upper[:2] == pytest.approx([a, b + a * 0.3]), "and is reported"
    assert result.residual == pytest.approx(a * 0.3)
    assert result.estimates["conditional"][:2] == pytest.approx([0.6, 0.0])
    assert result.estimates["joint"][:2] == pytest.approx([0.7 * 0.6, 0.0])
    assert (result.status, result.answer) == ("scored", ()), "0.3 for safe, 0.294 for a alone, 0.28 for b"
    (exact,) = score(toy_document(0), engine=engine, normalization="raw")
    assert exact.probs[:2] == pytest.approx([a, b + a * 0.3])


def test_the_published_procedure_has_a_normalization_of_its_own() -> None:
    tree = {"input": {"path": "a"}, "output": {"path": "b"}, "model": {"source": "m"}}
    with pytest.raises(ConfigError, match=r"scoring: procedure paper works on .* set scoring\.normalization to raw"):
        parse(tree | {"scoring": {"procedure": "paper"}}, "job.yaml")
    config = parse(tree | {"scoring": {"procedure": "paper", "normalization": "raw", "paper": {"eps": 0}}}, "job.yaml")
    assert config.scoring.paper.eps == 0
    assert config.scoring.paper.top_p == 0.99


# -- guards --check ------------------------------------------------------------------------------------------


def test_the_shipped_guard_answers_in_its_grammar() -> None:
    found = check(resolve(str(GUARD_YAML)), ModelConfig(source=str(GUARD_FOLDER), engine="transformers"))
    assert len(found) == 4
    assert all(one.is_answer and re.fullmatch(r"\n\n(safe|unsafe\nS[\dS,]+)<\|eot_id\|>", one.said) for one in found)
    assert max(one.off_grammar for one in found) < 0.01
    assert {one.asked for one in found} == {""}


def guards_command(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["guards", *map(str, arguments)])
    return done.exit_code, done.output


def test_the_check_on_the_command_line() -> None:
    code, said = guards_command(GUARD_YAML, "--check", GUARD_FOLDER, "--engine", "transformers")
    assert code == 0, said
    assert "answers in the grammar of guard demo-guard" in said


def test_a_model_that_answers_otherwise_is_found_out(tmp_path: Path) -> None:
    text = GUARD_YAML.read_text().replace('answer: {lead: "\\n\\n"}', 'answer: {lead: "Verdict: "}')
    (tmp_path / "guard.yaml").write_text(text)
    code, said = guards_command(tmp_path / "guard.yaml", "--check", GUARD_FOLDER, "--engine", "transformers")
    assert code == 1, said
    assert "does not answer in the grammar" in said
    assert r"'\n\nunsafe" in said, "it shows what the model said instead"


def test_a_check_needs_a_guard_and_a_known_engine() -> None:
    code, said = guards_command("--check", GUARD_FOLDER)
    assert code == 2
    assert "name the guard" in said
    code, said = guards_command(GUARD_YAML, "--check", GUARD_FOLDER, "--engine", "llamafile")
    assert code == 2
    assert "model.engine" in said
    code, said = guards_command(GUARD_YAML, "--check", GUARD_FOLDER, "--engine-arg", "dtype")
    assert code == 2
    assert "--engine-arg dtype: write it as key=value" in said
