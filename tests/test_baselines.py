"""Baselines against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confscore.baselines import (
    entropy_score,
    entropy_uncertainty,
    greedy_score,
    logtoku,
    logtoku_score,
    probability_score,
    probability_uncertainty,
    reliability,
)
from confscore.confidence import GreedyAnswer

LOGITS = np.log(np.array([0.7, 0.3]))
EULER = 0.5772156649015329


def answer(rivals: dict[int, np.ndarray]) -> GreedyAnswer:
    """Return an answer that names the categories of ``rivals`` out of three; only their logits matter here."""
    named = np.array([0 if j in rivals else -1 for j in range(3)])
    return GreedyAnswer(np.zeros(1), named, named, np.where(named < 0, -np.inf, 0.0), named, rivals)


def test_probability_uncertainty_by_hand() -> None:
    assert probability_uncertainty(LOGITS) == pytest.approx(1 / 1.7)
    assert probability_uncertainty(np.array([3.0])) == pytest.approx(0.5), "nothing else was possible"


def test_entropy_uncertainty_by_hand() -> None:
    assert entropy_uncertainty(LOGITS) == pytest.approx(-(0.7 * np.log(0.7) + 0.3 * np.log(0.3)))
    assert entropy_uncertainty(np.zeros(8)) == pytest.approx(np.log(8))
    assert entropy_uncertainty(np.array([0.0, -np.inf])) == 0.0


def test_logtoku_by_hand() -> None:
    # digamma(2) = 1 - EULER, digamma(3) = 3/2 - EULER, digamma(4) = 11/6 - EULER
    aleatoric, epistemic = logtoku(np.array([1.0, 2.0]))
    expected = -(2 / 3 * ((3 / 2 - EULER) - (11 / 6 - EULER)) + 1 / 3 * ((1 - EULER) - (11 / 6 - EULER)))
    assert expected == pytest.approx(0.5)
    assert aleatoric == pytest.approx(expected)
    assert epistemic == pytest.approx(2 / (1 + 2 + 2))
    assert reliability(np.array([1.0, 2.0])) == pytest.approx(-0.5 * 0.4)


@pytest.mark.parametrize(
    ("logits", "aleatoric", "epistemic"),
    [
        ([20.0, 18.0], 0.6787773, 0.05),
        ([20.0, 5.0], 0.4810998, 2 / 27),
        ([5.0, 20.0, -7.0, 4.9], 0.4810998, 2 / 27),
        ([20.0, -3.0], 0.0, 2 / 22),
        ([-1.0, -2.0], 0.0, 1.0),
        ([20.0], 0.0, 2 / 22),
    ],
)
def test_logtoku_takes_the_two_largest_and_negative_ones_are_no_evidence(
    logits: list[float], aleatoric: float, epistemic: float
) -> None:
    assert logtoku(np.array(logits)) == pytest.approx((aleatoric, epistemic), abs=1e-7)


def test_more_evidence_is_taken_where_asked_for() -> None:
    assert logtoku(np.array([3.0, 2.0, 1.0]), k=3)[1] == pytest.approx(3 / 9)


def test_scores_are_0_where_the_greedy_answer_does_not_name_the_category() -> None:
    given_answer = answer({1: LOGITS})
    for score in (greedy_score, probability_score, entropy_score, logtoku_score):
        assert score(given_answer)[[0, 2]].tolist() == [0.0, 0.0]
    assert greedy_score(given_answer)[1] == 1.0
    assert probability_score(given_answer)[1] == pytest.approx(1 - 1 / 1.7)
    entropy = -(0.7 * np.log(0.7) + 0.3 * np.log(0.3))
    assert entropy_score(given_answer)[1] == pytest.approx(1 - entropy / np.log(2))


def test_the_logtoku_score_by_hand() -> None:
    assert logtoku_score(answer({0: np.array([1.0, 2.0])}))[0] == pytest.approx(1 / 1.2)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=20), st.floats(-20, 20))
def test_scores_stay_in_range_and_two_of_them_do_not_see_a_constant(logits: list[float], shift: float) -> None:
    some = np.array(logits)
    for score in (probability_score, entropy_score, logtoku_score):
        assert 0 <= score(answer({2: some}))[2] <= 1
    assert probability_uncertainty(some) == pytest.approx(probability_uncertainty(some + shift))
    assert entropy_uncertainty(some) == pytest.approx(entropy_uncertainty(some + shift), abs=1e-9)


@given(st.floats(0.01, 0.49), st.floats(0.01, 0.49))
def test_a_surer_model_scores_higher(one: float, other: float) -> None:
    less, more = (np.log([1 - p, p]) + 10 for p in sorted((one, other), reverse=True))
    for score in (probability_score, entropy_score):
        assert score(answer({0: less}))[0] <= score(answer({0: more}))[0] + 1e-12
