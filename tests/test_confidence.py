"""Conditional and joint confidence, against a table one can multiply by hand and against enumeration."""

from __future__ import annotations

import asyncio

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import Toy, explore, random_table, toy_guard, written_table

from confscore.answer_tree import AnswerTree, StoppingRule
from confscore.confidence import GreedyAnswer, conditional, joint, read_greedy
from confscore.steps import walk_greedily

# S1 is a prefix of S10, and digits are tokens: after "S", "1" it is not certain which of the two it is.
TOY = Toy(toy_guard("S1", "S10", "S2"), ("s", "u", "S", "1", "0", "2", ","))
ROWS = {
    "": {"u": 0.8, "s": 0.2},
    "u": {"S": 0.9, "0": 0.1},
    "uS": {"1": 0.7, "2": 0.3},
    "uS1": {",": 0.5, ".": 0.2, "0": 0.3},
    "uS1,": {"S": 1.0},
    "uS1,S": {"1": 0.4, "2": 0.6},
    "uS1,S2": {".": 1.0},
}
GREEDY_ONLY = StoppingRule(greedy=True, marginals=False)
LOG_SIZE = 5.0


def read(toy: Toy, table: oracle.NextProbs, normalization: str = "raw") -> GreedyAnswer:
    tree = AnswerTree(toy.automaton, GREEDY_ONLY)
    asyncio.run(explore(tree, toy.engine(table)))
    answer = read_greedy(toy.automaton, tree.steps, normalization, LOG_SIZE)
    assert answer is not None
    return answer


def test_a_label_of_several_tokens_that_begins_another_one_by_hand() -> None:
    answer = read(TOY, written_table(TOY, ROWS))
    assert answer.starts.tolist() == [1, -1, 4], "the tokens S, none, S"
    assert answer.named.tolist() == [3, -1, 5], "S1 is certain by the comma, S2 by its digit"
    one = 0.9 * 0.7 * (0.5 + 0.2)
    assert conditional(answer) == pytest.approx([one, 0.0, 1.0 * 0.6])
    assert joint(answer) == pytest.approx([0.8 * one, 0.0, 0.8 * 0.9 * 0.7 * 0.5 * 1.0 * 0.6])


@pytest.mark.parametrize("normalization", ["local", "global"])
def test_constrained_probabilities_by_hand(normalization: str) -> None:
    answer = read(TOY, written_table(TOY, ROWS), normalization)
    assert conditional(answer) == pytest.approx([0.7 * 0.7, 0.0, 0.6])
    assert joint(answer) == pytest.approx([0.8 * 0.7 * 0.7, 0.0, 0.8 * 0.7 * 0.5 * 0.6])


def test_the_logits_at_a_categorys_place_are_those_where_there_was_a_choice() -> None:
    answer = read(TOY, written_table(TOY, ROWS))
    assert set(answer.rivals) == {0, 2}
    assert sorted(answer.rivals[0]) == pytest.approx(sorted(np.log([0.7, 0.3]) + LOG_SIZE)), "1 or 2 after S"
    assert sorted(answer.rivals[2]) == pytest.approx(sorted(np.log([0.4, 0.6]) + LOG_SIZE))


def test_logits_are_the_engines_own_where_it_tells_them() -> None:
    tree = AnswerTree(TOY.automaton, GREEDY_ONLY)
    (prefix,) = tree.wanted()
    rollout = asyncio.run(TOY.engine(written_table(TOY, ROWS)).rollout((), prefix))
    tree.add(prefix, rollout.tokens, rollout.log_probs, np.arange(len(rollout.tokens), dtype=float))
    answer = read_greedy(TOY.automaton, tree.steps, "raw", LOG_SIZE)
    assert answer is not None
    assert answer.rivals[0].max() == pytest.approx(np.log(0.7) + 2), "the choice is at step 2"


def test_a_safe_answer_has_no_confidence_in_any_category() -> None:
    answer = read(TOY, written_table(TOY, {"": {"s": 0.9, "u": 0.1}, "s": {".": 1.0}}))
    assert conditional(answer).tolist() == joint(answer).tolist() == [0.0, 0.0, 0.0]
    assert answer.rivals == {}


def test_the_greedy_answer_goes_on_where_the_engine_left_the_grammar() -> None:
    rows = ROWS | {"uS1,": {"0": 0.6, "S": 0.4}}
    tree = AnswerTree(TOY.automaton, GREEDY_ONLY)
    asked = asyncio.run(explore(tree, TOY.engine(written_table(TOY, rows))))
    words = ["".join(TOY.words[token] for token in prefix) for prefix in asked]
    assert words == ["", "uS1,S"]
    answer = read_greedy(TOY.automaton, tree.steps, "raw", LOG_SIZE)
    assert answer is not None
    assert conditional(answer)[2] == pytest.approx(0.4 * 0.6)


def test_an_answer_that_the_budget_cuts_short_is_not_read() -> None:
    rows = ROWS | {"uS1,": {"0": 0.6, "S": 0.4}}
    tree = AnswerTree(TOY.automaton, StoppingRule(greedy=True, budget=1))
    asyncio.run(explore(tree, TOY.engine(written_table(TOY, rows))))
    assert read_greedy(TOY.automaton, tree.steps, "raw", LOG_SIZE) is None
    assert walk_greedily(TOY.automaton, tree.steps).missing is not None


def test_without_marginals_one_rollout_is_enough() -> None:
    tree = AnswerTree(TOY.automaton, GREEDY_ONLY)
    assert len(asyncio.run(explore(tree, TOY.engine(written_table(TOY, ROWS))))) == 1


@given(seed=st.integers(0, 10_000))
def test_against_enumeration(seed: int) -> None:
    """The joint confidence is the mass of all answers that share the greedy tokens up to where a label ends."""
    table = random_table(TOY, seed)
    answer = read(TOY, table, "local")
    found = TOY.answers
    following = oracle.continuations(found)
    local: dict[oracle.Tokens, float] = {}
    for tokens in found:
        prob = 1.0
        for length, token in enumerate(tokens):
            prob *= table(tokens[:length])[token] / table(tokens[:length])[following[tokens[:length]]].sum()
        local[tokens] = prob
    greedy: oracle.Tokens = ()
    while greedy not in found:
        greedy = (*greedy, max(following[greedy], key=table(greedy).__getitem__))
    text = "".join(TOY.words[token] for token in greedy[:-1])
    expected = np.zeros(3)
    for j in found[greedy]:
        code = TOY.guard.codes[j]
        starts = text.index(f"{code},") if f"{code}," in text else text.index(code)
        up_to = greedy[: starts + len(code)]  # every token of this vocabulary is one character
        expected[j] = sum(p for tokens, p in local.items() if tokens[: len(up_to)] == up_to and j in found[tokens])
    np.testing.assert_allclose(joint(answer), expected, atol=1e-12)


@given(seed=st.integers(0, 10_000))
def test_joint_is_at_most_conditional_and_at_most_the_marginal(seed: int) -> None:
    table = random_table(TOY, seed)
    answer = read(TOY, table, "local")
    marginal = TOY.exact(table).marginals["local"][1:]
    assert (joint(answer) <= conditional(answer) + 1e-12).all()
    assert (joint(answer) <= marginal + 1e-12).all()
