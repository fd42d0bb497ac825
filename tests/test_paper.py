"""The published search: its stops by hand, and that what it loses is what it reports."""

from __future__ import annotations

import asyncio

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import Toy, random_table, toy_guard, written_table

from confscore.confidence import GreedyAnswer, read_greedy
from confscore.config import PaperConfig
from confscore.errors import RowError
from confscore.paper import PaperSearch, paper_conditional, paper_joint

TOY = Toy(toy_guard("a", "b", "c"), ("s", "u", "a", "b", "c", ","))
UNSTOPPED = {"top_p": 1.0, "eps": 0.0, "end_prob": 1.0, "children_beside_end": 100, "max_new_tokens": 100}


def search(table: oracle.NextProbs, budget: int = 1000, **settings: object) -> PaperSearch:
    found = PaperSearch(TOY.automaton, PaperConfig.model_validate(settings), budget)
    engine = TOY.engine(table)
    while wanted := found.wanted():
        assert found.wanted() == []
        for prefix in wanted:
            rollout = asyncio.run(engine.rollout((), prefix))
            found.add(prefix, rollout.tokens, rollout.log_probs)
    return found


def on_grammar(seed: int) -> oracle.NextProbs:
    """Return random probabilities with which the model always gives an answer."""
    table, following = random_table(TOY, seed), oracle.continuations(TOY.answers)

    def next_probs(so_far: oracle.Tokens) -> np.ndarray:
        probs = np.zeros(TOY.size)
        allowed = following.get(so_far, list(range(TOY.size)))
        probs[allowed] = table(so_far)[allowed]
        return probs / probs.sum()

    return next_probs


ROWS = {
    "": {"u": 0.6, "s": 0.4},
    "s": {".": 1.0},
    "u": {"a": 0.5, "b": 0.3, "c": 0.2},
    "ua": {".": 0.8, ",": 0.2},
    "ua,": {"b": 1.0},
    "ua,b": {".": 1.0},
    "ub": {",": 0.6, ".": 0.4},
    "ub,": {"c": 1.0},
    "ub,c": {".": 1.0},
    "uc": {".": 1.0},
}


def values(**settings: object) -> tuple[list[float], list[float]]:
    bounds = search(written_table(TOY, ROWS), **(UNSTOPPED | settings)).bounds("raw")
    return bounds.value.tolist(), bounds.upper.tolist()


def test_without_stops_it_finds_everything() -> None:
    value, upper = values()
    assert value == pytest.approx([0.6, 0.3, 0.18 + 0.06, 0.12 + 0.108])
    assert upper == pytest.approx(value)


def test_a_sure_end_drops_the_siblings() -> None:
    value, upper = values(end_prob=0.7)
    assert value == pytest.approx([0.6, 0.3, 0.18, 0.12 + 0.108]), "b after a is lost: the end there has 0.8"
    assert np.subtract(upper, value) == pytest.approx([0, 0, 0.06, 0.06]), "and b or c may have come there"


def test_the_nucleus_keeps_the_token_that_crosses_and_no_more() -> None:
    value, upper = values(top_p=0.7)
    assert value == pytest.approx([0.6, 0.3, 0.18, 0.108])
    assert upper == pytest.approx([0.6 + 0, 0.3, 0.18 + 0.12 * 0 + 0.06, 0.108 + 0.12 + 0.06])


def test_improbable_prefixes_are_not_followed() -> None:
    value, _ = values(eps=0.15)
    assert value == pytest.approx([0.6, 0.3, 0.18, 0.12]), "0.18 is followed to a comma, 0.06, 0.12 and 0.108 are not"


def test_beside_an_end_the_last_child_counts_and_is_not_followed() -> None:
    value, upper = values(children_beside_end=2)
    # After "ub": the comma is the first child and is followed; after "ua" it is the second, and is not.
    assert value == pytest.approx([0.6, 0.3, 0.18, 0.12 + 0.108])
    assert np.subtract(upper, value) == pytest.approx([0, 0, 0.06, 0.06])


def test_depth_is_limited() -> None:
    value, upper = values(max_new_tokens=1)
    assert value == pytest.approx([0.6, 0.3, 0.18, 0.12]), "labels at depth 1 count and are not followed"
    assert upper == pytest.approx([0.6, 0.3, 0.18 + 0.3, 0.12 + 0.3 + 0.18])


@given(
    seed=st.integers(0, 10_000),
    top_p=st.sampled_from([0.5, 0.9, 1.0]),
    eps=st.sampled_from([0.0, 0.01, 0.2]),
    end_prob=st.sampled_from([0.3, 0.7, 1.0]),
    children=st.integers(1, 4),
    depth=st.integers(1, 8),
)
def test_the_truth_lies_between_what_is_found_and_what_was_cut_off(
    seed: int, top_p: float, eps: float, end_prob: float, children: int, depth: int
) -> None:
    table = on_grammar(seed)
    found = search(table, top_p=top_p, eps=eps, end_prob=end_prob, children_beside_end=children, max_new_tokens=depth)
    bounds, exact = found.bounds("raw"), TOY.exact(table).marginals["raw"]
    assert (bounds.lower <= exact + 1e-9).all()
    assert (exact <= bounds.upper + 1e-9).all()
    assert found.off_grammar() == pytest.approx(0.0, abs=1e-9)
    assert found.within_tolerance()


@given(seed=st.integers(0, 10_000))
def test_without_stops_it_is_the_exact_marginal(seed: int) -> None:
    table = on_grammar(seed)
    found = search(table, **UNSTOPPED)
    np.testing.assert_allclose(found.bounds("raw").value, TOY.exact(table).marginals["raw"], atol=1e-9)
    sets = {TOY.automaton.unpack(mask)[1:].nonzero()[0].tolist().__str__(): p for mask, p in found.answers("raw")}
    for named, prob in TOY.exact(table).sets["raw"].items():
        assert sets[str(sorted(named))] == pytest.approx(prob, abs=1e-9)


def test_mass_outside_the_grammar_is_reported() -> None:
    found = search(written_table(TOY, ROWS | {"": {"u": 0.6, "a": 0.3, "s": 0.1}}), **UNSTOPPED)
    assert found.off_grammar() == pytest.approx(0.3)


def test_a_spent_budget_is_told() -> None:
    found = search(written_table(TOY, ROWS), budget=1, **UNSTOPPED)
    assert found.requests == 1
    assert not found.within_tolerance()
    assert found.bounds("raw").width.max() > 0.1


def test_probabilities_that_are_no_numbers_are_refused() -> None:
    found = PaperSearch(TOY.automaton, PaperConfig(), 10)
    (prefix,) = found.wanted()
    with pytest.raises(RowError, match="NaN"):
        found.add(prefix, [TOY.ends[0]], np.full((1, len(TOY.automaton.alphabet)), np.nan))


def greedy(rows: dict[str, dict[str, float]]) -> GreedyAnswer:
    answer = read_greedy(TOY.automaton, search(written_table(TOY, rows)).steps, "raw", 0.0)
    assert answer is not None
    return answer


def test_conditional_and_place_fixed_joint_by_hand() -> None:
    rows = ROWS | {"ua": {",": 0.9, ".": 0.1}, "ua,": {"c": 0.7, "b": 0.3}, "ua,c": {".": 1.0}}
    answer = greedy(rows)
    assert paper_conditional(answer) == pytest.approx([0.5, 0.0, 0.7])
    assert paper_joint(answer) == pytest.approx([0.6 * 0.5, 0.0, 0.6 * 0.5 * 0.7]), "the comma's 0.9 is left out"


def test_a_safe_answer_scores_0() -> None:
    answer = greedy({"": {"s": 0.9, "u": 0.1}, "s": {".": 1.0}, "u": {"a": 1.0}, "ua": {".": 1.0}})
    assert paper_conditional(answer).tolist() == paper_joint(answer).tolist() == [0.0, 0.0, 0.0]
