"""Calibration: curves, their limits, weights; and that pooling helps where labels are few and hurts nowhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit, xlogy
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression

from confscore.calibration import Calibrator, Method, Scales, fit, predict, predict_out_of_fold
from confscore.curves import EPS, Identity, Isotonic, Logistic, log_odds, score_at
from confscore.reliability import bins, quality
from confscore.reliability import draw as draw_figure
from confscore.rows import BoolArray, FloatArray
from confscore.weights import effective_size

METHODS: tuple[Method, ...] = ("hierarchical_platt", "sigmoid", "isotonic", "none")
POSITIVES = np.array([5, 8, 12, 20, 29, 60, 200, 1000])
FEW = POSITIVES < 30


def world(
    rng: np.random.Generator, n: int, positives: Sequence[float], intercept: FloatArray, slope: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return float32 scores and true probabilities, shape (n, N), with so many positives expected among 5,000."""
    grid = np.random.default_rng(0).normal(0, 3, 4000)
    centers = []
    for target, a, b in zip(positives, intercept, slope, strict=True):
        low, high = -40.0, 20.0
        for _ in range(40):
            middle = (low + high) / 2
            rate = expit(a + b * np.clip(middle + grid, -17, 17)).mean()
            low, high = (low, middle) if rate * 5000 > target else (middle, high)
        centers.append(low)
    x = rng.normal(centers, 3, (n, len(centers)))
    scores = expit(x).astype(np.float32).astype(np.float64)
    return scores, expit(intercept + slope * log_odds(scores))


def excess(probs: FloatArray, truth: FloatArray) -> FloatArray:
    """Return the log loss above the smallest one that anybody could have, shape (N,)."""
    loss: FloatArray = (xlogy(truth, truth / probs) + xlogy(1 - truth, (1 - truth) / (1 - probs))).mean(axis=0)
    return loss


def simulate(draws: int, spread: tuple[float, float], center: tuple[float, float]) -> dict[str, FloatArray]:
    """Return the mean excess log loss of each method, shape (N,), with curves that differ so much."""
    total = {method: np.zeros(len(POSITIVES)) for method in METHODS}
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        intercept = rng.normal(center[0], spread[0], len(POSITIVES))
        slope = np.maximum(0.2, rng.normal(center[1], spread[1], len(POSITIVES)))
        scores, probs = world(rng, 5000, POSITIVES, intercept, slope)
        truth = rng.random(probs.shape) < probs
        others, their_probs = world(rng, 20_000, POSITIVES, intercept, slope)
        for method in METHODS:
            total[method] += excess(predict(fit(scores, truth, method=method).curves, others), their_probs) / draws
    return total


@pytest.mark.parametrize(
    ("spread", "center"),
    [((0.7, 0.15), (-0.7, 0.8)), ((0.0, 0.0), (-1.0, 0.6)), ((0.0, 0.0), (0.0, 1.0))],
    ids=["categories differ", "all alike", "calibrated already"],
)
def test_pooling_beats_categories_by_themselves_where_positives_are_few(
    spread: tuple[float, float], center: tuple[float, float]
) -> None:
    loss = simulate(6, spread, center)
    pooled = loss["hierarchical_platt"]
    assert (pooled[FEW].mean() < loss["sigmoid"][FEW].mean()) & (pooled[FEW] < loss["isotonic"][FEW]).all()
    # A fit of two parameters for each category costs about 2 / (2 n) nats where raw scores are perfect.
    assert (pooled <= loss["none"] + 3 / 5000).all()
    assert pooled.sum() < min(loss["sigmoid"].sum(), loss["isotonic"].sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spread", "center"),
    [((0.7, 0.15), (-0.7, 0.8)), ((1.5, 0.3), (-1.0, 0.8)), ((0.0, 0.0), (-1.0, 0.6)), ((0.0, 0.0), (0.0, 1.0))],
)
def test_pooling_beats_them_in_each_category_with_few_positives(
    spread: tuple[float, float], center: tuple[float, float]
) -> None:
    loss = simulate(60, spread, center)
    pooled = loss["hierarchical_platt"]
    assert (pooled[FEW] < np.minimum(loss["sigmoid"], loss["isotonic"])[FEW]).all()
    assert (pooled <= loss["none"] + 2 / 5000).all()


@st.composite
def tables(draw: st.DrawFn) -> tuple[FloatArray, BoolArray, FloatArray]:
    """Return scores with 0, 1 and ties among them, labels that know of them, of the opposite, or of nothing."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 80)), draw(st.integers(1, 4)))
    scores = rng.random(shape) ** draw(st.sampled_from([1, 6]))
    scores = np.where(rng.random(shape) < 0.2, np.round(scores), scores).astype(np.float32).astype(np.float64)
    knows = draw(st.sampled_from([0.0, 1.0, -1.0]))
    truth = rng.random(shape) < np.clip(0.3 + knows * (scores - 0.5), 0, 1)
    return scores, truth, rng.random(shape[0]) * 10 + 0.01


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15)
@given(table=tables(), points=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_probabilities_are_inside_0_and_1_and_ascend_with_the_score(
    method: Method, table: tuple[FloatArray, BoolArray, FloatArray], points: list[float]
) -> None:
    scores, truth, weights = table
    kept = scores.copy()
    curves = fit(scores, truth, weights, method).curves
    line = np.sort(np.array([0.0, 1.0, 2**-149, 1 - 2**-24, *points]))
    probs = predict(curves, np.repeat(line[:, None], scores.shape[1], axis=1))
    assert ((probs > 0) & (probs < 1)).all()
    assert (np.diff(probs, axis=0) >= -1e-15).all()
    np.testing.assert_array_equal(scores, kept)
    again = fit(scores, truth, weights, method).curves
    assert curves == again
    np.testing.assert_array_equal(predict(curves, scores), predict(again, scores))


class Odds(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose decision function is its only feature."""

    def fit(self, x: FloatArray, y: BoolArray) -> Odds:
        self.classes_ = np.array([False, True])
        return self

    def decision_function(self, x: FloatArray) -> FloatArray:
        return x[:, 0]

    def predict(self, x: FloatArray) -> BoolArray:
        return x[:, 0] > 0


def sample(n: int = 2000) -> tuple[FloatArray, BoolArray, FloatArray]:
    rng = np.random.default_rng(3)
    x = rng.normal(-2, 2, (n, 3))
    return expit(x), rng.random((n, 3)) < expit(-0.5 + 0.7 * x), rng.choice([0.5, 1.0, 4.0], n)


def test_the_sigmoid_is_the_one_of_scikit_learn() -> None:
    scores, truth, _ = sample()
    x = logit(scores[:, :1])
    model = CalibratedClassifierCV(FrozenEstimator(Odds().fit(x, truth[:, 0])), method="sigmoid").fit(x, truth[:, 0])
    (curve, *_) = fit(scores, truth, method="sigmoid").curves
    np.testing.assert_allclose(curve.prob(scores[:, 0]), model.predict_proba(x)[:, 1], rtol=1e-4)


def test_isotonic_is_the_one_of_scikit_learn_but_for_its_ends() -> None:
    scores, truth, weights = sample()
    expected = IsotonicRegression(out_of_bounds="clip").fit(scores[:, 1], truth[:, 1], sample_weight=weights)
    curve = fit(scores, truth, weights, "isotonic").curves[1]
    margin = 1 / (effective_size(weights) + 2)
    np.testing.assert_allclose(
        curve.prob(scores[:, 1]), np.clip(expected.predict(scores[:, 1]), margin, 1 - margin), rtol=1e-12
    )


@pytest.mark.parametrize("method", ["hierarchical_platt", "sigmoid", "isotonic"])
def test_a_document_of_weight_three_is_three_documents(method: Method) -> None:
    scores, truth, _ = sample(300)
    times = np.random.default_rng(0).integers(1, 4, len(scores))
    weighted = fit(scores, truth, times.astype(np.float64), method, Scales(0.4, 0.15))
    # Repeating documents claims more labels than there are: only shape and balance are those of the weights.
    repeated = fit(np.repeat(scores, times, axis=0), np.repeat(truth, times, axis=0), None, method, Scales(0.4, 0.15))
    probs = [predict(each.curves, scores) for each in (weighted, repeated, fit(scores, truth, None, method))]
    assert np.abs(probs[0] - probs[1]).max() < 0.02
    assert np.abs(probs[0] - probs[2]).max() > 0.02


def test_only_proportions_of_weights_count() -> None:
    scores, truth, weights = sample(200)
    for method in METHODS:
        left, right = (predict(fit(scores, truth, w, method).curves, scores) for w in (weights, weights * 1000))
        np.testing.assert_allclose(left, right, rtol=1e-6)


def test_a_category_without_a_positive_label_takes_after_the_others() -> None:
    scores, truth, _ = sample(400)
    truth[:, 2] = False
    pooled = fit(scores, truth)
    assert all(isinstance(curve, Logistic) and curve.slope > 0 for curve in pooled.curves)
    probs = predict(pooled.curves, scores)
    assert probs[:, 2].mean() < probs[:, 0].mean()
    nothing = fit(scores, np.zeros_like(truth))
    assert (predict(nothing.curves, scores) < 0.01).all()
    everything = fit(scores, np.ones_like(truth))
    assert (predict(everything.curves, scores) > 0.99).all()


def test_a_score_that_says_the_opposite_says_nothing() -> None:
    scores, truth, _ = sample(2000)
    truth[:, 0] = np.random.default_rng(0).random(2000) < 1 - scores[:, 0]
    for method in ("hierarchical_platt", "sigmoid"):
        first, second, _ = fit(scores, truth, method=method).curves
        assert isinstance(first, Logistic)
        assert isinstance(second, Logistic)
        assert first.slope == 0
        assert second.slope > 0.5
        assert first.prob(scores[:, 0]).mean() == pytest.approx(truth[:, 0].mean(), abs=0.03)


def test_the_scales_say_how_far_categories_lie_apart() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(-1, 2, (3000, 8))
    alike = fit(expit(x), rng.random(x.shape) < expit(0.7 * x - 1)).scales
    apart = fit(expit(x), rng.random(x.shape) < expit((0.7 * x - 1) + rng.normal(0, 1.5, 8))).scales
    assert alike is not None
    assert apart is not None
    assert alike.intercept <= 0.15
    assert apart.intercept >= 1


def test_out_of_fold_probabilities_do_not_know_their_own_labels() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((200, 1))
    truth = rng.random((200, 1)) < 0.5  # nothing to learn
    inside = quality(predict(fit(scores, truth, method="isotonic").curves, scores)[:, 0], truth[:, 0])
    outside = quality(predict_out_of_fold(scores, truth, method="isotonic")[:, 0], truth[:, 0])
    assert inside.log_loss < np.log(2) < outside.log_loss
    one = predict_out_of_fold(scores[:3], truth[:3])
    assert one.shape == (3, 1)


def test_the_estimator_is_the_functions() -> None:
    scores, truth, weights = sample(300)
    model = Calibrator("sigmoid").fit(scores, truth, weights)
    np.testing.assert_array_equal(
        model.predict_proba(scores), predict(fit(scores, truth, weights, "sigmoid").curves, scores)
    )


def test_what_cannot_be_fitted_is_refused() -> None:
    scores, truth, weights = sample(10)
    with pytest.raises(ValueError, match="one shape"):
        fit(scores, truth[:5])
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        fit(scores * 2, truth)
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        fit(np.where(truth, np.nan, scores), truth)
    with pytest.raises(ValueError, match="above 0"):
        fit(scores, truth, weights * 0)


CURVES = (
    Identity(),
    Logistic(intercept=-1.5, slope=0.6),
    Logistic(intercept=3, slope=9),
    Logistic(intercept=0.5, slope=0),
    Isotonic(scores=(0.0, 0.25, 0.25000003, 1.0), probs=(0.01, 0.01, 0.4, 0.9)),
)


@pytest.mark.parametrize("curve", CURVES, ids=str)
@given(st.floats(0, 1))
def test_a_cut_on_the_probability_is_a_cut_on_the_score(curve: Identity | Logistic | Isotonic, prob: float) -> None:
    cut = score_at(curve, prob)
    if cut is None:
        assert curve.prob(np.array([1.0]))[0] < prob
        return
    assert cut == np.float32(cut)
    assert curve.prob(np.array([cut]))[0] >= prob
    if cut > 0:
        assert curve.prob(np.array([np.nextafter(np.float32(cut), np.float32(0), dtype=np.float32)]))[0] < prob


@given(st.floats(-50, 50), st.floats(0, 20))
def test_every_logistic_curve_stays_inside(intercept: float, slope: float) -> None:
    from confscore.curves import logistic

    curve = logistic(intercept, slope)
    low, high = curve.domain
    assert EPS * (1 - 1e-6) <= low <= high <= 1 - EPS * (1 - 1e-6)
    probs = curve.prob(np.array([0.0, 1e-30, 0.5, 1.0]))
    assert ((probs >= EPS * (1 - 1e-6)) & (probs <= 1 - EPS * (1 - 1e-6))).all()
    assert np.isnan(curve.prob(np.array([np.nan]))).all()


def test_the_parts_of_the_brier_score_add_up() -> None:
    scores, truth, weights = sample()
    for weight in (None, weights):
        found = quality(scores[:, 0], truth[:, 0], weight)
        assert found.brier == pytest.approx(found.miscalibration - found.discrimination + found.uncertainty)
        assert found.miscalibration > 0
        assert found.discrimination > 0
    rng = np.random.default_rng(0)
    perfect = quality(scores[:, 0], rng.random(len(scores)) < scores[:, 0])
    assert perfect.miscalibration < quality(scores[:, 0], truth[:, 0]).miscalibration / 3


def test_errors_of_calibration_in_two_bins_do_not_cancel() -> None:
    probs, truth = np.repeat([0.2, 0.6], 50), np.tile(np.arange(50) < 20, 2)  # 0.4 is right for both
    assert quality(probs, truth).ece == pytest.approx(0.2)
    assert quality(probs, truth, np.repeat([3.0, 1.0], 50)).ece == pytest.approx(0.2)
    assert quality(np.full(100, 0.4), truth).ece == pytest.approx(0)


def test_a_figure_has_a_curve_with_a_band_before_and_after(tmp_path: Path) -> None:
    scores, truth, _ = sample(400)
    after = predict(fit(scores, truth).curves, scores)
    drawn = {}
    for name, pair in {"both": (scores, after), "before": (scores, scores), "after": (after, after)}.items():
        draw_figure(tmp_path / f"{name}.svg", ["S1", "S2", "S3"], *pair, truth)
        drawn[name] = (tmp_path / f"{name}.svg").read_text()
    assert drawn["both"].count('id="FillBetweenPolyCollection_') == 2 * 4  # of each category and of all of them
    assert len(set(drawn.values())) == 3


def test_weights_make_a_biased_sample_as_good_as_the_population() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(-3, 2, 200_000)
    scores, truth = expit(x), rng.random(len(x)) < expit(0.5 * x)
    chance = np.where(scores > 0.3, 0.5, 0.02)
    drawn = rng.random(len(x)) < chance
    whole, weighted, plain = (
        quality(scores[here], truth[here], weight)
        for here, weight in ((slice(None), None), (drawn, 1 / chance[drawn]), (drawn, None))
    )
    for name in ("log_loss", "brier", "ece", "uncertainty"):
        assert getattr(weighted, name) == pytest.approx(getattr(whole, name), rel=0.06)
        assert getattr(plain, name) != pytest.approx(getattr(whole, name), rel=0.2)


def test_bins_hold_equal_numbers_of_open_labels_and_their_bands_cover() -> None:
    rng = np.random.default_rng(2)
    covered = total = 0
    for _ in range(60):
        probs = expit(rng.normal(-6, 4, 2000))
        found = bins(probs, rng.random(2000) < probs)
        assert len(found.prob) == 10
        assert (np.diff(found.prob) > 0).all()
        covered += int(((found.low <= found.prob) & (found.prob <= found.high)).sum())
        total += len(found.prob)
    assert covered / total > 0.93
    tied = bins(np.full(50, 0.25), rng.random(50) < 0.25)
    assert len(tied.prob) == 1


def test_it_loads_neither_ray_nor_vllm_nor_torch() -> None:
    script = (
        "import sys, confscore.cli_offline, confscore.fitting, confscore.apply, confscore.sql, confscore.fit_report; "
        "print(*sorted({'ray', 'vllm', 'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []
