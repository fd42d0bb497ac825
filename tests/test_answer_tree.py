"""The answer tree is held against brute force at every moment of every exploration."""

from __future__ import annotations

import asyncio
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Toy, explore, random_table, toy_guard, written_table

from confscore.answer_tree import AnswerTree, StoppingRule
from confscore.engines.base import Rollout
from confscore.errors import EngineError, RowError
from confscore.steps import Normalization

NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
SLACK = 1e-12

TOYS = {
    "prefix codes": Toy(toy_guard("1", "10", "2"), ("s", "u", "1", "0", "2", ",", "10", ",1", "u2", "x", "zz")),
    "any order": Toy(toy_guard("a", "b", "c", order="any"), ("s", "u", "a", "b", "c", ",", "x", ",b"), n_ends=2),
    "same bytes": Toy(toy_guard("a", "ab", "b", most=2), ("s", "s", "u", "a", "b", "ab", "ab", ",", "s"), n_ends=3),
    "with a lead": Toy(toy_guard("a", "b", lead="!!", before="!"), ("!", "!!", "s", "u", "a", "b", ",", "u!", "!!s")),
    "gaps": Toy(toy_guard("1", "2", "3"), ("s", "u", "u1", "u2", "u3", ",3", "2", "?")),
}
"""The last one cannot write ``u1,2``, and its ``u`` leads on to ``u2`` only through the token ``2``."""

rules = st.builds(
    StoppingRule,
    normalization=st.sampled_from(NORMALIZATIONS),
    tolerance=st.sampled_from([1e-9, 1e-3, 0.01, 0.05, 0.2, 0.5, 1.0]),
    relative=st.booleans(),
    budget=st.sampled_from([1, 2, 3, 5, 8, 13, 40, 1000]),
)
tables = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "peaked": st.sampled_from([0.02, 0.1, 0.3, 1.0]),
        "zeros": st.sampled_from([0.0, 0.0, 0.2, 0.7]),
    }
)


def run(toy: Toy, table: dict, rule: StoppingRule, max_tokens: int | None = None) -> AnswerTree:
    """Explore, checking everything that must hold at every moment and at the end."""
    next_probs = random_table(toy, **table)
    exact = toy.exact(next_probs)
    tree = AnswerTree(toy.automaton, rule)
    before: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def check() -> None:
        for normalization in NORMALIZATIONS:
            bounds, truth = tree.bounds(normalization), exact.marginals[normalization]
            assert (bounds.lower <= truth + SLACK).all(), normalization
            assert (truth <= bounds.upper + SLACK).all(), normalization
            assert (bounds.lower <= bounds.value).all()
            assert (bounds.value <= bounds.upper).all()
            lower, upper = before.get(normalization, (np.zeros_like(truth), np.ones_like(truth)))
            assert (lower <= bounds.lower + SLACK).all(), "what was certain stays certain"
            assert (bounds.upper <= upper + SLACK).all(), "what was certain stays certain"
            before[normalization] = bounds.lower, bounds.upper
        assert tree.off_grammar() <= 1 - exact.valid + SLACK
        for normalization in ("raw", "local"):
            for mask, prob in tree.answers(normalization):
                assert prob <= exact.sets[normalization][categories(mask)] + SLACK
        assert tree.requests <= rule.budget

    asked = asyncio.run(explore(tree, toy.engine(next_probs, max_tokens), check))
    assert len(set(asked)) == len(asked) == tree.requests
    beginnings = {tokens[:length] for tokens in toy.answers for length in range(len(tokens))}
    assert set(asked) <= beginnings, "only beginnings of answers are asked for"
    assert set(asked) <= set(tree.steps) <= beginnings
    bounds = tree.bounds(rule.normalization)
    narrow = bounds.width.max() <= rule.limit(bounds)
    nothing_left = not tree.masses(rule.normalization).frontier.any()
    assert narrow or nothing_left or tree.requests == rule.budget
    assert tree.within_tolerance() == bool(narrow or nothing_left)
    return tree


def categories(mask: int) -> frozenset[int]:
    return frozenset(j for j in range(mask.bit_length() - 1) if mask >> (j + 1) & 1)


@pytest.mark.parametrize("name", TOYS)
@settings(max_examples=60)
@given(table=tables, rule=rules)
def test_bounds_hold_at_every_moment(name: str, table: dict, rule: StoppingRule) -> None:
    run(TOYS[name], table, rule)


@pytest.mark.parametrize("name", TOYS)
@settings(max_examples=30)
@given(table=tables, rule=rules, max_tokens=st.integers(1, 5))
def test_bounds_hold_where_the_engine_stops_early(name: str, table: dict, rule: StoppingRule, max_tokens: int) -> None:
    run(TOYS[name], table, rule, max_tokens)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("name", TOYS)
@settings(max_examples=15)
@given(table=tables, max_tokens=st.sampled_from([None, None, 2]))
def test_a_tiny_tolerance_converges_to_the_truth(
    name: str, normalization: Normalization, table: dict, max_tokens: int | None
) -> None:
    toy = TOYS[name]
    rule = StoppingRule(normalization, tolerance=1e-13, budget=100_000)
    tree = run(toy, table, rule, max_tokens)
    exact = toy.exact(random_table(toy, **table))
    bounds = tree.bounds(normalization)
    for values in (bounds.lower, bounds.value, bounds.upper):
        np.testing.assert_allclose(values, exact.marginals[normalization], atol=1e-9)
    assert tree.within_tolerance()
    if not tree.masses("raw").frontier.any():
        assert tree.off_grammar() == pytest.approx(1 - exact.valid, abs=1e-9)
    for each in NORMALIZATIONS:
        if not tree.masses(each).frontier.any():
            found = {categories(mask): prob for mask, prob in tree.answers(each)}
            expected = {named: pytest.approx(prob, abs=1e-9) for named, prob in exact.sets[each].items()}
            assert dict.fromkeys(expected, 0.0) | found == expected


# -- closed forms --------------------------------------------------------------------------------------------

LETTERS = Toy(toy_guard("a", "b"), ("s", "u", "a", "b", ",", "x"))
SPOKEN = {
    "": {"s": 0.7, "u": 0.2, "x": 0.1},
    "s": {".": 0.9, "x": 0.1},
    "u": {"a": 0.5, "b": 0.3, "x": 0.2},
    "ua": {",": 0.4, ".": 0.6},
    "ua,": {"b": 1.0},
    "ub": {".": 1.0},
    "ua,b": {".": 1.0},
}


def letters(normalization: Normalization = "raw", **rule: float) -> tuple[AnswerTree, list[tuple[int, ...]]]:
    tree = AnswerTree(LETTERS.automaton, StoppingRule(normalization, **{"tolerance": 1e-13, **rule}))
    asked = asyncio.run(explore(tree, LETTERS.engine(written_table(LETTERS, SPOKEN))))
    return tree, asked


CLOSED = {
    "raw": [0.16, 0.1, 0.2 * (0.5 * 0.4 + 0.3)],
    "global": [0.16 / 0.79, 0.1 / 0.79, 0.1 / 0.79],
    "local": [2 / 9, 2 / 9 * 5 / 8, 2 / 9 * (5 / 8 * 0.4 + 3 / 8)],
}


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_marginals_in_closed_form(normalization: Normalization) -> None:
    tree, _ = letters(normalization)
    np.testing.assert_allclose(tree.bounds(normalization).value, CLOSED[normalization], atol=1e-12)
    exact = LETTERS.exact(written_table(LETTERS, SPOKEN))
    np.testing.assert_allclose(exact.marginals[normalization], CLOSED[normalization], atol=1e-12)


def test_the_greedy_answer_comes_first() -> None:
    tree, asked = letters(budget=1)
    assert asked == [()]
    bounds = tree.bounds("raw")
    assert bounds.lower.tolist() == [0, 0, 0]
    np.testing.assert_allclose(bounds.upper, [0.2, 0.2, 0.2])
    bounds = tree.bounds("global")
    np.testing.assert_allclose(bounds.upper, np.full(3, 0.2 / 0.83))
    bounds = tree.bounds("local")
    np.testing.assert_allclose(bounds.lower, [2 / 9, 0, 0], err_msg="u must name a category")
    np.testing.assert_allclose(bounds.upper, [2 / 9] * 3)
    assert tree.off_grammar() == pytest.approx(1 - 0.63 - 0.2)


def test_answers_and_off_grammar_in_closed_form() -> None:
    tree, _ = letters("global")
    raw = {categories(mask): prob for mask, prob in tree.answers("raw")}
    assert raw == pytest.approx(
        {frozenset(): 0.63, frozenset({0}): 0.06, frozenset({1}): 0.06, frozenset({0, 1}): 0.04}
    )
    shares = [prob for _, prob in tree.answers("global")]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert tree.off_grammar() == pytest.approx(0.21)


def test_the_tolerance_decides_how_far_it_goes() -> None:
    assert letters(tolerance=0.2)[0].requests == 1
    assert letters(tolerance=0.1)[0].requests == 2
    assert letters(tolerance=1e-9)[0].requests == 4


def test_as_many_are_asked_at_once_as_are_needed_in_any_case() -> None:
    toy = Toy(toy_guard("a", "b", "c"), ("s", "u", "a", "b", "c", "ua", "ub", "uc", ","))
    spoken = {"": {"s": 0.4, "ua": 0.2, "ub": 0.2, "uc": 0.2}} | {said: {".": 1.0} for said in ("s", "ua", "ub", "uc")}
    engine = toy.engine(written_table(toy, spoken))
    greedy = asyncio.run(engine.rollout((), ()))
    # Leaves of 0.2 each.
    for tolerance, needed in ((0.65, 0), (0.45, 1), (0.25, 2), (0.05, 3)):
        tree = AnswerTree(toy.automaton, StoppingRule("raw", tolerance=tolerance))
        assert tree.wanted() == [()]
        tree.add((), greedy.tokens, greedy.log_probs)
        assert len(tree.wanted()) == needed


def test_a_relative_tolerance_is_of_what_is_flagged() -> None:
    # After the greedy answers of "" and "u", p_any lies in [0.06, 0.16].
    tree, _ = letters(tolerance=0.5, relative=True)
    bounds = tree.bounds("raw")
    assert bounds.width.max() <= 0.5 * bounds.lower[0]
    assert tree.requests > letters(tolerance=0.5)[0].requests


def test_a_spent_budget_is_not_within_tolerance() -> None:
    tree, _ = letters(budget=2)
    assert tree.requests == 2
    assert not tree.within_tolerance()
    assert letters(budget=4)[0].within_tolerance()


def test_both_end_tokens_count() -> None:
    toy = Toy(toy_guard("a"), ("s", "u", "a"), n_ends=2)
    first, second = toy.ends

    def next_probs(so_far: tuple[int, ...]) -> np.ndarray:
        probs = np.zeros(toy.size)
        if so_far:
            probs[[first, second]] = 0.25, 0.5
        else:
            probs[0] = 1.0
        return probs

    tree = AnswerTree(toy.automaton, StoppingRule("raw", 1e-9))
    asyncio.run(explore(tree, toy.engine(next_probs)))
    assert tree.answers("raw") == [(0, pytest.approx(0.75))]


def test_an_engine_that_leaves_the_grammar_wastes_only_its_own_steps() -> None:
    # Greedy: "u" then ",", which no answer has there; what "u" leads on to is still found.
    rows = {"": {"u": 0.6, "s": 0.4}, "u": {",": 0.8, "a": 0.2}, "ua": {".": 1.0}, "s": {".": 1.0}, "u,": {"a": 1.0}}
    tree = AnswerTree(LETTERS.automaton, StoppingRule("raw", 1e-9))
    asyncio.run(explore(tree, LETTERS.engine(written_table(LETTERS, rows | {"u,a": {".": 1.0}}))))
    np.testing.assert_allclose(tree.bounds("raw").value, [0.12, 0.12, 0.0])
    assert all(LETTERS.words[token] != "," for prefix in tree.steps for token in prefix)


def test_an_end_token_where_no_answer_ends_is_off_the_grammar() -> None:
    rows = {"": {"s": 0.5, "u": 0.5}, "u": {".": 0.9, "a": 0.1}, "s": {".": 1.0}, "ua": {".": 1.0}}
    tree = AnswerTree(LETTERS.automaton, StoppingRule("global", 1e-9))
    asyncio.run(explore(tree, LETTERS.engine(written_table(LETTERS, rows))))
    np.testing.assert_allclose(tree.bounds("global").value, [0.05 / 0.55, 0.05 / 0.55, 0.0])
    assert tree.off_grammar() == pytest.approx(0.45)


def test_a_model_without_any_answer_is_hopeless() -> None:
    tree = AnswerTree(LETTERS.automaton, StoppingRule("local", 1e-9))
    assert not tree.hopeless()
    asyncio.run(explore(tree, LETTERS.engine(written_table(LETTERS, {"": {"x": 1.0}}))))
    assert tree.hopeless()
    assert tree.off_grammar() == 1.0


# -- refusals ------------------------------------------------------------------------------------------------


def asked_tree() -> AnswerTree:
    tree = AnswerTree(LETTERS.automaton, StoppingRule())
    assert tree.wanted() == [()]
    return tree


def test_nan_is_refused() -> None:
    log_probs = np.log(np.full((1, len(LETTERS.automaton.alphabet)), 0.1))
    log_probs[0, 1] = np.nan
    with pytest.raises(RowError, match="NaN"):
        asked_tree().add((), [0], log_probs)


@pytest.mark.parametrize(
    "rollout",
    [Rollout([], np.zeros((0, 6))), Rollout([0, 1], np.zeros((1, 6))), Rollout([0], np.zeros((1, 5)))],
    ids=["no step", "a step is missing", "a column is missing"],
)
def test_a_rollout_of_the_wrong_shape_is_refused(rollout: Rollout) -> None:
    assert len(LETTERS.automaton.alphabet) == 6
    with pytest.raises(EngineError, match="the engine returned"):
        asked_tree().add((), rollout.tokens, rollout.log_probs)
