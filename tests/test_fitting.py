"""How a fit is put together: what weights and runs do in it, what it is measured on, and samples that lack a part."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from test_fitted import invoke, world
from test_labels import CODES, jsonl, score_table

from confscore import calibration
from confscore.errors import InputError
from confscore.fitting import LabelFile, fit
from confscore.labelled import label_scores
from confscore.policy import MaxF1, PolicyFile
from confscore.rows import BoolArray, FloatArray

DOCUMENTS = 900


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a score table of 900 documents, whose labels :func:`world` knows."""
    ids, probs, _ = world(DOCUMENTS)
    return score_table(tmp_path_factory.mktemp("fitting"), dict(zip(ids, probs.tolist(), strict=True)))


def labels(path: Path, which: list[int], inclusion: FloatArray | None = None) -> str:
    _, _, truth = world(DOCUMENTS)
    records: list[dict[str, object]] = [
        {"doc_id": f"d{i}", "labels": [code for code, on in zip(CODES, truth[i], strict=True) if on]} for i in which
    ]
    for record, pi in zip(records, [] if inclusion is None else inclusion[which].tolist(), strict=False):
        record["inclusion_probability"] = pi
    return jsonl(path, records)


def biased() -> tuple[list[int], FloatArray]:
    """Return documents of a sample that was drawn by score, and every document's inclusion probability."""
    _, probs, _ = world(DOCUMENTS)
    inclusion = np.where(probs.max(axis=1) > 0.5, 0.9, 0.2)
    drawn = np.random.default_rng(0).random(DOCUMENTS) < inclusion
    return np.flatnonzero(drawn).tolist(), inclusion


@pytest.mark.parametrize("method", ["hierarchical_platt", "isotonic"])
def test_curves_are_of_weighted_labels_and_measured_on_labels_they_have_not_seen(
    tmp_path: Path, scores: str, method: calibration.Method
) -> None:
    which, inclusion = biased()
    path = labels(tmp_path / "labels.jsonl", which, inclusion)
    found = fit(scores, LabelFile(path, label_column="labels"), PolicyFile(calibration=method), seed=3)
    known = label_scores(scores, path, label_column="labels")
    raw, weights = known.scores("marginal"), 1 / inclusion[which]
    expected = calibration.fit(raw, known.truth, weights, method)
    assert tuple(each.curve for each in found.model.categories) == expected.curves
    assert expected.curves != calibration.fit(raw, known.truth, None, method).curves
    folds = calibration.predict_out_of_fold(raw, known.truth, weights, method, expected.scales, seed=3)
    np.testing.assert_array_equal(found.after, folds)
    assert np.abs(folds - calibration.predict(expected.curves, raw)).max() > 0.01
    assert found.model.labels.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_run_is_fitted_by_itself(tmp_path: Path) -> None:
    ids, probs, _ = world(DOCUMENTS)
    rows = dict(zip(ids, probs.tolist(), strict=True))
    folder = score_table(tmp_path / "scores", rows)
    score_table(tmp_path / "scores", {f"other-{i}": (0.9, 0.9, 0.9) for i in range(50)}, run="run-2")
    source = LabelFile(labels(tmp_path / "labels.jsonl", list(range(300))), label_column="labels")
    whole, one = (fit(folder, source, PolicyFile(), run).model.scores for run in (None, "run-1"))
    assert (whole.documents, whole.runs) == (DOCUMENTS + 50, ("run-1", "run-2"))
    assert (one.documents, one.runs) == (DOCUMENTS, ("run-1",))


def largest(count: int) -> list[int]:
    _, probs, _ = world(DOCUMENTS)
    return np.argsort(-probs.max(axis=1))[:count].tolist()


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_documents_that_were_chosen_for_certain_are_no_random_sample(tmp_path: Path, scores: str, command: str) -> None:
    path = labels(tmp_path / "top.jsonl", largest(100), np.ones(DOCUMENTS))
    words = [command, "--scores", scores, "--labels", path, "--label-column", "labels"]
    done = invoke(*words, *(["--out", str(tmp_path / "model.json")] if command == "fit" else ["--bootstrap", "0"]))
    assert done.exit_code == 2, done.output
    assert "100 of 900 scored documents are labelled, each with an inclusion probability of 1" in done.output
    everything = labels(tmp_path / "all.jsonl", list(range(DOCUMENTS)), np.ones(DOCUMENTS))
    known = label_scores(scores, everything, label_column="labels")
    assert known.weights is None
    assert len(known.truth) == DOCUMENTS


def test_a_fit_of_a_part_of_a_sample_says_that_nothing_is_guaranteed_for_the_rest(tmp_path: Path, scores: str) -> None:
    which, inclusion = biased()

    def said(part: BoolArray) -> str:
        path = labels(tmp_path / "labels.jsonl", np.array(which)[part].tolist(), inclusion)
        out = str(tmp_path / "model.json")
        done = invoke("fit", "--scores", scores, "--labels", path, "--label-column", "labels", "--out", out)
        assert done.exit_code in (0, 1), done.output
        return " ".join(done.output.split())

    assert "nothing is guaranteed for the others" not in said(np.ones(len(which), dtype=np.bool_))
    assert "and the score table has 900. Label all documents of the sample" in said(np.arange(len(which)) % 3 == 0)


def test_the_hash_of_a_policy_is_of_all_that_it_says(tmp_path: Path, scores: str) -> None:
    source = LabelFile(labels(tmp_path / "labels.jsonl", list(range(200))), label_column="labels")
    policies = (PolicyFile(), PolicyFile(), PolicyFile(default=MaxF1(min_positives=9)), PolicyFile(calibration="none"))
    hashes = [fit(scores, source, policy).model.policy_sha256 for policy in policies]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_a_fit_of_one_label_is_refused(tmp_path: Path, scores: str) -> None:
    one = LabelFile(labels(tmp_path / "labels.jsonl", [0]), label_column="labels")
    with pytest.raises(InputError, match=r"labels\.jsonl: labels one scored document.*a fit needs two at the very"):
        fit(scores, one, PolicyFile())
    two = LabelFile(labels(tmp_path / "labels.jsonl", [0, 1]), label_column="labels")
    assert fit(scores, two, PolicyFile()).model.labels.documents == 2
