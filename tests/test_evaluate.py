"""Every number against a hand computation and against scikit-learn; the command from score table to figure."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from dataclasses import asdict, astuple, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from test_labels import CODES, jsonl, score_table
from typer.testing import CliRunner, Result

from confscore.cli import app
from confscore.metrics import (
    METRICS,
    THRESHOLDS,
    Metrics,
    Sample,
    bootstrap,
    equal_mass_bins,
    evaluate,
    evaluate_categories,
    macro_categories,
)
from confscore.rows import BoolArray, FloatArray

SCORES = np.array([[0.9, 0.2], [0.6, 0.6], [0.4, 0.1]])
TRUTH = np.array([[1, 0], [0, 1], [1, 0]], dtype=bool)


def test_a_small_case_by_hand() -> None:
    found = evaluate(SCORES, TRUTH)
    assert found.micro_f1 == pytest.approx(4 / 6)  # 2 true positives, 1 false positive, 1 false negative
    assert found.macro_f1 == pytest.approx((1 / 2 + 1) / 2)
    assert (found.best_micro_f1, found.best_micro_threshold) == (pytest.approx(6 / 7), 0.4)
    assert (found.best_macro_f1, found.best_macro_threshold) == (pytest.approx((4 / 5 + 1) / 2), 0.4)
    assert found.hamming_loss == pytest.approx(2 / 6)
    assert found.subset_accuracy == pytest.approx(1 / 3)
    assert found.micro_auc == pytest.approx((3 + 2.5 + 2) / 9)  # the tie at 0.6 counts half
    assert found.macro_auc == pytest.approx((1 / 2 + 1) / 2)
    assert found.micro_ap == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert found.macro_ap == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.6, 0.4, 0.9]).mean())
    assert found.brier == pytest.approx((0.01 + 0.04 + 0.36 + 0.16 + 0.36 + 0.01) / 6)
    assert found.ece == pytest.approx((0.1 + 0.2 + 0.2 + 0.6 + 0.1) / 6)  # the tie at 0.6 is one bin


def test_the_categories_of_the_small_case_by_hand() -> None:
    first, second = evaluate_categories(SCORES, TRUTH, ["A", "B"])
    assert (first.code, first.positives, second.code, second.positives) == ("A", 2, "B", 1)
    assert (first.f1, first.precision, first.recall) == (0.5, 0.5, 0.5)
    assert (first.best_f1, first.best_threshold) == (pytest.approx(4 / 5), 0.4)
    assert (second.best_f1, second.best_threshold) == (1.0, 0.6)
    assert (first.auc, second.auc) == (0.5, 1.0)
    assert first.ap == pytest.approx((1 + 2 / 3) / 2)
    assert first.log_loss == pytest.approx(-np.log([0.9, 0.4, 0.4]).mean())
    assert first.brier == pytest.approx((0.01 + 0.36 + 0.36) / 3)
    assert first.ece == pytest.approx((0.1 + 0.6 + 0.6) / 3)


def test_a_score_at_the_threshold_is_a_prediction() -> None:
    assert evaluate(SCORES, TRUTH, 0.9).micro_f1 == pytest.approx(2 / 4)
    assert evaluate(SCORES, TRUTH, np.nextafter(0.9, 1)).micro_f1 == 0
    assert evaluate(SCORES, TRUTH, 0.0).micro_f1 == pytest.approx(6 / 9)


@st.composite
def cases(draw: st.DrawFn) -> tuple[FloatArray, BoolArray, float, np.random.Generator]:
    """Return scores with many ties or none, labels that know of them, and a threshold that may be a score."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 60)), draw(st.integers(1, 5)))
    scores = rng.random(shape) ** draw(st.sampled_from([1, 4]))
    levels = draw(st.sampled_from([1, 3, 10, 0]))
    scores = np.round(scores * levels) / levels if levels else scores
    truth = rng.random(shape) < draw(st.sampled_from([0.05, 0.5, 0.95])) * (0.2 + scores)
    return scores, truth, float(draw(st.sampled_from([0.5, 0.0, 1.0, 1 / 3, float(scores[0, 0])]))), rng


def best_f1(scores: FloatArray, truth: BoolArray, average: str) -> float:
    """Return the largest F1 over every threshold, by trying all of them."""
    return max(sk.f1_score(truth, scores >= cut, average=average, zero_division=0) for cut in np.unique(scores))


@settings(max_examples=40)
@given(cases())
def test_pooled_and_macro_numbers_are_those_of_scikit_learn(
    case: tuple[FloatArray, BoolArray, float, np.random.Generator],
) -> None:
    scores, truth, threshold, _ = case
    found = evaluate(scores, truth, threshold)
    flat, flags, predicted = scores.ravel(), truth.ravel(), scores >= threshold
    assert found.hamming_loss == pytest.approx((truth != predicted).mean())
    assert found.subset_accuracy == pytest.approx((truth == predicted).all(axis=1).mean())
    assert found.brier == pytest.approx(sk.brier_score_loss(flags, flat, pos_label=True))
    if flags.any():
        assert found.micro_f1 == pytest.approx(sk.f1_score(flags, predicted.ravel()))
        assert found.best_micro_f1 == pytest.approx(best_f1(flat, flags, "binary"))
        assert found.micro_ap == pytest.approx(sk.average_precision_score(flags, flat))
    else:
        assert np.isnan([found.micro_ap, found.best_micro_f1, found.best_micro_threshold]).all()
    if flags.any() and not flags.all():
        assert found.micro_auc == pytest.approx(sk.roc_auc_score(flags, flat))
        eps = np.finfo(np.float64).eps  # scikit-learn cuts probabilities there
        if flat.min() >= eps and flat.max() <= 1 - eps:
            assert found.log_loss == pytest.approx(sk.log_loss(flags, flat))
    else:
        assert np.isnan(found.micro_auc)
    known = macro_categories(truth)
    np.testing.assert_array_equal(known, [len(set(column)) == 2 for column in truth.T.tolist()])
    if known.any():
        scores, truth, predicted = scores[:, known], truth[:, known], predicted[:, known]
        columns = [(truth[:, j], scores[:, j]) for j in range(scores.shape[1])]
        assert found.macro_f1 == pytest.approx(np.mean([sk.f1_score(y, s >= threshold) for y, s in columns]))
        each = [[sk.f1_score(y, s >= cut) for y, s in columns] for cut in np.unique(flat)]
        assert found.best_macro_f1 == pytest.approx(np.mean(each, axis=1).max())
        assert found.macro_auc == pytest.approx(np.mean([sk.roc_auc_score(y, s) for y, s in columns]))
        assert found.macro_ap == pytest.approx(np.mean([sk.average_precision_score(y, s) for y, s in columns]))
    else:
        assert np.isnan([found.macro_f1, found.best_macro_f1, found.macro_auc, found.macro_ap]).all()


@settings(max_examples=40)
@given(cases())
def test_the_numbers_of_a_category_are_those_of_scikit_learn(
    case: tuple[FloatArray, BoolArray, float, np.random.Generator],
) -> None:
    scores, truth, threshold, _ = case
    for j, found in enumerate(evaluate_categories(scores, truth, [str(j) for j in range(scores.shape[1])], threshold)):
        flags, column = truth[:, j], scores[:, j]
        predicted = column >= threshold
        assert found.positives == flags.sum()
        if predicted.any():
            assert found.precision == pytest.approx(sk.precision_score(flags, predicted))
        else:
            assert np.isnan(found.precision)
        if flags.any():
            assert found.recall == pytest.approx(sk.recall_score(flags, predicted))
            assert found.f1 == pytest.approx(sk.f1_score(flags, predicted))
            assert found.best_f1 == pytest.approx(best_f1(column, flags, "binary"))
            assert found.best_f1 == pytest.approx(sk.f1_score(flags, column >= found.best_threshold))
            assert found.ap == pytest.approx(sk.average_precision_score(flags, column))
        else:
            assert np.isnan([found.recall, found.best_f1, found.best_threshold, found.ap]).all()
        if flags.any() and not flags.all():
            assert found.auc == pytest.approx(sk.roc_auc_score(flags, column))
        else:
            assert np.isnan(found.auc)


@given(cases())
def test_a_resample_by_weights_is_the_same_as_documents_copied(
    case: tuple[FloatArray, BoolArray, float, np.random.Generator],
) -> None:
    scores, truth, threshold, rng = case
    drawn = rng.integers(0, len(scores), len(scores))
    weights = np.bincount(drawn, minlength=len(scores)).astype(np.float64)
    by_weight = Sample(scores, truth, threshold).measure(weights)
    copied = evaluate(scores[drawn], truth[drawn], threshold)
    whole = evaluate(scores, truth, threshold)
    # What is kept of the whole sample: the best thresholds and the bins. The F1 there is tested on its own.
    bins = np.broadcast_to(equal_mass_bins(scores.ravel()).reshape(scores.shape), scores.shape)[drawn]
    gaps = np.bincount(bins.ravel(), (scores - truth)[drawn].ravel())
    lost = not truth[drawn].any()
    expected = replace(
        copied,
        ece=float(np.abs(gaps).sum() / scores.size),
        best_micro_threshold=whole.best_micro_threshold,
        best_macro_threshold=whole.best_macro_threshold,
        best_micro_f1=np.nan
        if np.isnan(whole.best_micro_threshold)
        else evaluate(scores[drawn], truth[drawn], whole.best_micro_threshold).micro_f1,
        best_macro_f1=np.nan
        if np.isnan(whole.best_macro_threshold)
        else evaluate(scores[drawn], truth[drawn], whole.best_macro_threshold).macro_f1,
    )
    assert astuple(by_weight) == pytest.approx(astuple(expected), nan_ok=True)
    assert not lost or np.isnan(by_weight.micro_ap)


@given(cases())
def test_a_weight_is_so_many_documents(case: tuple[FloatArray, BoolArray, float, np.random.Generator]) -> None:
    scores, truth, threshold, rng = case
    times = rng.integers(1, 4, len(scores))
    copies = (np.repeat(each, times, axis=0) for each in (scores, truth))
    weighted, copied = Sample(scores, truth, threshold, times.astype(np.float64)), Sample(*copies, threshold)
    found = [(asdict(weighted.measure()), asdict(copied.measure()))]
    found += [(asdict(weighted.category(j, "")), asdict(copied.category(j, ""))) for j in range(scores.shape[1])]
    # Bins are cut by documents, positives are counted, and of several best thresholds that are as good any will do.
    left_out = {"ece", "code", "positives", "best_threshold", *THRESHOLDS}
    for left, right in found:
        names = sorted(set(left) - left_out)
        assert [left[name] for name in names] == pytest.approx([right[name] for name in names], nan_ok=True)


def test_the_calibration_error_of_a_category_is_weighted() -> None:
    scores, truth = np.full((4, 1), 0.5), np.array([[1], [0], [0], [0]], dtype=bool)
    weights = np.array([5.0, 1.0, 1.0, 1.0])
    sample = Sample(scores, truth, 0.5, weights)
    assert sample.category(0, "A").ece == pytest.approx(1 / 8)
    assert sample.measure().ece == pytest.approx(1 / 8)
    assert [each.tolist() for each in sample.reliability()] == [[0.5], [5 / 8]]


@given(cases())
def test_bins_are_of_equal_mass_and_never_part_equal_scores(
    case: tuple[FloatArray, BoolArray, float, np.random.Generator],
) -> None:
    values = case[0].ravel()
    bins = equal_mass_bins(values)
    assert 0 <= bins.min() <= bins.max() < 15
    assert len(set(zip(values.tolist(), bins.tolist(), strict=True))) == len(set(values.tolist()))
    assert (np.diff(bins[np.argsort(values)]) >= 0).all()
    if len(set(values.tolist())) == len(values):
        masses = np.bincount(bins, minlength=15)
        assert np.abs(masses - len(values) / 15).max() < 2  # an edge that meets a value may be rounded to either side


def test_the_calibration_error_is_the_gap_of_scikit_learns_curve() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random((900, 1)) ** 3
    truth = rng.random(scores.shape) < scores**1.3
    share, score = calibration_curve(truth.ravel(), scores.ravel(), n_bins=15, strategy="quantile")
    assert len(share) == 15  # of 60 pairs each
    assert evaluate(scores, truth).ece == pytest.approx(np.abs(share - score).mean())


def test_log_loss_is_not_clipped() -> None:
    truth = np.array([[True], [False], [False]])
    assert evaluate(np.array([[0.0], [0.5], [0.0]]), truth).log_loss == np.inf
    assert evaluate(np.array([[0.5], [1.0], [0.0]]), truth).log_loss == np.inf
    certain = evaluate(np.array([[1.0], [0.0], [0.0]]), truth)
    assert str(certain.log_loss) == "0.0"  # and not -0.0
    (category,) = evaluate_categories(np.array([[1.0], [0.0], [0.0]]), truth, ["A"])
    assert str(category.log_loss) == "0.0"


def test_an_interval_with_an_infinite_end_is_said_as_it_is() -> None:
    scores, truth = np.full((40, 1), 0.5), np.zeros((40, 1), dtype=bool)
    scores[0], truth[0], truth[1] = 0.0, True, True
    low, high = bootstrap(scores, truth)
    assert low.log_loss == pytest.approx(np.log(2))  # about a third of the resamples lack the document
    assert high.log_loss == np.inf


def test_what_is_no_probability_is_ranked_and_cut_but_has_no_calibration() -> None:
    found = evaluate(SCORES * 10 - 5, TRUTH, 0.5)
    same = evaluate(SCORES, TRUTH, 0.55)
    outside = ("log_loss", "brier", "ece", *THRESHOLDS)
    for name in METRICS:
        if name not in outside:
            assert getattr(found, name) == pytest.approx(getattr(same, name)), name
    assert np.isnan([found.log_loss, found.brier, found.ece]).all()
    assert found.best_micro_threshold == pytest.approx(-1)
    (category, _) = evaluate_categories(SCORES * 10 - 5, TRUTH, ["A", "B"])
    assert np.isnan([category.log_loss, category.brier, category.ece]).all()
    low, high = bootstrap(SCORES * 10 - 5, TRUTH, resamples=20)
    assert np.isnan([low.brier, high.brier, low.log_loss, high.ece]).all()


def test_a_category_without_a_positive_or_negative_label_is_in_no_macro_average() -> None:
    scores = np.column_stack([SCORES, [0.9, 0.8, 0.7], [0.1, 0.2, 0.3]])
    truth = np.column_stack([TRUTH, [False] * 3, [True] * 3])
    np.testing.assert_array_equal(macro_categories(truth), [True, True, False, False])
    found, without = evaluate(scores, truth), evaluate(SCORES, TRUTH)
    assert (found.macro_f1, found.macro_auc, found.macro_ap) == (without.macro_f1, without.macro_auc, without.macro_ap)
    assert found.micro_f1 == pytest.approx(4 / (4 + 1 + 3 + 1 + 3))  # three more false positives and negatives


def test_a_category_that_a_resample_loses_does_not_spoil_the_interval() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random((30, 3))
    truth = rng.random((30, 3)) < scores
    truth[:, 2] = np.arange(30) == 4  # absent from about a third of all resamples
    scores[4, 2] = np.sort(scores[:, 2])[-5]  # ranked high, and not first
    low, high = bootstrap(scores, truth)
    assert np.isfinite(astuple(low)).all()
    assert np.isfinite(astuple(high)).all()
    only = bootstrap(scores[:, 2:], truth[:, 2:])
    assert 0.5 < only[0].macro_auc < only[1].macro_auc <= 1  # from the resamples that have it


def test_intervals_are_those_of_a_mean_and_cover_the_truth() -> None:
    rng = np.random.default_rng(5)
    n, rate, covered, widths = 150, 0.7, 0, []
    for seed in range(60):
        right = rng.random((n, 1)) < rate
        low, high = bootstrap(np.where(right, 0.9, 0.1), np.ones((n, 1), dtype=bool), seed=seed)
        covered += low.subset_accuracy <= rate <= high.subset_accuracy
        widths.append(high.subset_accuracy - low.subset_accuracy)
    assert 0.85 * 60 <= covered <= 60
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt(rate * (1 - rate) / n), rel=0.1)


def test_the_whole_sample_lies_inside_and_a_seed_decides() -> None:
    rng = np.random.default_rng(2)
    scores = rng.random((300, 4))
    truth = rng.random((300, 4)) < scores
    found, (low, high) = evaluate(scores, truth), bootstrap(scores, truth, seed=7)
    for name in METRICS:
        if name == "ece":  # resampling adds noise to every bin, so resamples lie above the sample
            continue
        assert getattr(low, name) <= getattr(found, name) <= getattr(high, name), name
        assert name in THRESHOLDS or getattr(low, name) < getattr(high, name), name
    assert bootstrap(scores, truth, seed=7) == (low, high)
    assert bootstrap(scores, truth, seed=8) != (low, high)
    assert np.isnan([astuple(each) for each in bootstrap(scores, truth, resamples=0)]).all()


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape \(n, N\), not \(3, 2\) and \(2, 2\)"):
        evaluate(SCORES, TRUTH[:2])
    with pytest.raises(ValueError, match=r"not \(0, 2\)"):
        evaluate(SCORES[:0], TRUTH[:0])
    with pytest.raises(ValueError, match="must not hold a nan"):
        evaluate(np.where(TRUTH, np.nan, SCORES), TRUTH)


def test_it_loads_neither_an_engine_nor_ray_nor_a_figure_library() -> None:
    heavy = ("ray", "vllm", "torch", "transformers", "matplotlib")
    script = f"import sys, confscore.evaluate, confscore.labelled; print(*sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Return a score table with two estimators, one of them no probability, and its labels; S10 is in none."""
    rng = np.random.default_rng(0)
    probs = rng.random((80, 3)).astype(np.float32)
    ids = [f"d{i}" for i in range(80)]
    logits = {f"logtoku_{code}": pa.array(np.log(probs[:, j])) for j, code in enumerate(CODES)}
    logits |= {f"upper_{code}": pa.array(probs[:, j]) for j, code in enumerate(CODES)}
    scores = score_table(tmp_path / "scores", dict(zip(ids, probs.tolist(), strict=True)), extra=logits)
    truth = (rng.random((80, 3)) < probs) & [True, True, False]
    named = [[code for code, on in zip(CODES, row, strict=True) if on] for row in truth]
    records = [{"doc_id": i, "categories": codes} for i, codes in zip(ids, named, strict=True)]
    return scores, jsonl(tmp_path / "labels.jsonl", [*records[:70], {"doc_id": "gone", "categories": []}])


def run(scores: str, labels: str, *options: str) -> Result:
    words = ["evaluate", "--scores", scores, "--labels", labels, "--label-column", "categories"]
    return CliRunner().invoke(app, [*words, *options])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_command_says_and_writes_the_numbers(files: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "evaluation"
    done = run(*files, "--bootstrap", "20", "--threshold", "0.4", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "70 documents with scores and labels" in done.output
    assert "0 rows of status error, 10 scored documents without a label, 1 labels of documents without" in done.output
    assert "Not in macro averages: S10 (no positive label)" in done.output
    assert sorted(path.name for path in out.iterdir()) == [
        "evaluation.csv",
        "evaluation.png",
        "evaluation.svg",
        "per_category.csv",
    ]
    marginal, logits = read_csv(out / "evaluation.csv")
    assert (marginal["estimator"], marginal["documents"], marginal["threshold"]) == ("marginal", "70", "0.4")
    assert logits["estimator"] == "logtoku"
    assert all(float(marginal[name]) >= 0 for name in METRICS)
    assert float(marginal["micro_f1_low"]) <= float(marginal["micro_f1"]) <= float(marginal["micro_f1_high"])
    assert f"{float(marginal['macro_ap']):.4f}" in done.output
    assert [logits[name] for name in ("log_loss", "brier", "ece", "ece_low")] == [""] * 4
    assert logits["micro_auc"] == marginal["micro_auc"]  # the same order
    assert not any(name.startswith(limit) for limit in THRESHOLDS for name in marginal if name.endswith("_low"))
    categories = read_csv(out / "per_category.csv")
    assert [(row["estimator"], row["code"]) for row in categories] == [
        (name, code) for name in ("marginal", "logtoku") for code in CODES
    ]
    assert (categories[2]["positives"], categories[2]["auc"], categories[2]["best_threshold"]) == ("0", "", "")
    # A threshold is written with all its digits, so it finds again what it found.
    again = tmp_path / "again"
    run(*files, "--bootstrap", "0", "--threshold", marginal["best_micro_threshold"], "--out", str(again))
    assert read_csv(again / "evaluation.csv")[0]["micro_f1"] == marginal["best_micro_f1"]
    assert read_csv(again / "evaluation.csv")[0]["micro_f1_low"] == ""


def test_the_figure_names_its_axes_and_replaces_only_itself(files: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "evaluation.png").write_text("old")
    (out / "notes.txt").write_text("mine")
    assert run(*files, "--bootstrap", "0", "--out", str(out)).exit_code == 0
    svg = (out / "evaluation.svg").read_text()
    words = set(re.findall(r">([^<>\n]+)</text>", svg))
    assert {"recall (share of true pairs)", "precision (share of predicted pairs)"} <= words
    assert {"mean score of bin (probability)", "true labels in bin (share of pairs)"} <= words
    assert {"marginal", "logtoku"} <= {word.strip() for word in words}
    assert (out / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "notes.txt").read_text() == "mine"
    run(*files, "--bootstrap", "0", "--out", str(out))
    assert (out / "evaluation.svg").read_text() == svg


def test_a_sample_without_any_label_is_evaluated_as_far_as_it_goes(tmp_path: Path) -> None:
    scores = score_table(tmp_path / "scores", {"a": (0.1, 0.2, 0.3), "b": (0.4, 0.1, 0.1)})
    labels = jsonl(tmp_path / "labels.jsonl", [{"doc_id": i, "categories": []} for i in "ab"])
    done = run(scores, labels, "--out", str(tmp_path / "out"), "--bootstrap", "5")
    assert done.exit_code == 0, done.output
    assert "Not in macro averages: S1, S2, S10 (no positive label)" in done.output
    (row,) = read_csv(tmp_path / "out" / "evaluation.csv")
    assert (row["micro_auc"], row["macro_f1"], row["subset_accuracy"]) == ("", "", "1.0")


def test_one_estimator_is_chosen(files: tuple[str, str]) -> None:
    done = run(*files, "--bootstrap", "0", "--estimator", "logtoku")
    assert done.exit_code == 0
    assert "logtoku" in done.output
    assert "marginal" not in done.output


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--estimator", "greedy"], "has no estimator greedy; its estimators are: marginal, logtoku"),
        (["--run", "run-9"], "has no run run-9; its runs are run-1"),
        (["--id-column", "id"], "has no column id; its columns are categories, doc_id"),
        (["--threshold", "nan"], "--threshold nan: has to be a finite number"),
        (["--out", "{labels}"], "--out {labels}: cannot be written to"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(files: tuple[str, str], options: list[str], sentence: str) -> None:
    filled = [option.format(labels=files[1]) for option in options]
    done = run(*files, "--bootstrap", "0", *filled)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("confscore: ")
    assert sentence.format(labels=files[1]) in line


def test_a_missing_score_table_is_exit_code_2(files: tuple[str, str], tmp_path: Path) -> None:
    done = run(str(tmp_path / "nowhere"), files[1])
    assert done.exit_code == 2
    assert "nowhere: no such score table" in done.stderr


def test_metrics_are_all_in_the_command_s_table(files: tuple[str, str]) -> None:
    done = run(*files, "--bootstrap", "0")
    assert all(name in done.output for name in METRICS)
    assert Metrics.__doc__ is not None
    assert all(name in Metrics.__doc__ for name in METRICS)
