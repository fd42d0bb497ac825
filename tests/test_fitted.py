"""Fits: what is in the result, that it can be read for ever, and what is not put together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_labels import CODES, jsonl, score_table
from test_score_table import PROVENANCE
from typer.testing import CliRunner, Result

from confscore.cli import app
from confscore.curves import Logistic
from confscore.errors import InputError, TableError
from confscore.fitted import FittedModel, load_model
from confscore.fitting import LabelFile, fit
from confscore.identity import identity_of, refuse_others
from confscore.labels import read_labels
from confscore.policy import Fixed, MaxF1, PolicyFile, PrecisionAtLeast, RecallAtLeast
from confscore.rows import BoolArray, FloatArray
from confscore.sample_file import SAMPLE_KEY
from confscore.score_table import PROVENANCE_KEY

DOCUMENTS = 1500

VERSION_1 = """{"format": "confscore.fit", "version": 1, "created_at": "2026-11-25T09:42:57+00:00",
"versions": {"python": "3.11.7", "confscore": "0.1.0"}, "identity": {"guard": "g", "guard_hash": "0",
"categories": {"S1": "One", "S2": "Two"}, "model": "m", "model_hash": null, "revision": null, "tokenizer_hash": "2",
"prompt_hash": "1", "procedure": "exact", "paper": null, "normalization": "global", "long_documents": "chunk"},
"scores": {"path": "scores", "documents": 3000, "runs": ["run-1"]}, "labels": {"path": "labels.parquet",
"sha256": "1a", "documents": 3000, "effective_documents": 3000.0, "weighted": false}, "policy_sha256": "2d",
"calibration": "hierarchical_platt", "scales": {"intercept": 0.05, "slope": 0.02},
"quality": {"before": {"log_loss": 0.02, "brier": 0.01, "miscalibration": 0.001, "discrimination": 0.02,
"uncertainty": 0.029, "ece": 0.003}, "after": {"log_loss": 0.02, "brier": 0.01, "miscalibration": 0.001,
"discrimination": 0.02, "uncertainty": 0.029, "ece": 0.003}}, "categories": [
{"code": "S1", "name": "One", "positives": 75, "negatives": 2925,
"curve": {"kind": "logistic", "intercept": -0.69, "slope": 0.67}, "policy": {"policy": "of another age", "x": [1]},
"outcome": "threshold", "threshold": 0.5, "probability": 0.33, "guarantee": null, "reason": null,
"more_positives": null, "flagged_at_most": 77, "precision": {"value": 0.8, "low": 0.7, "high": 0.9}, "recall": null,
"quality": {"before": {"log_loss": 0.02, "brier": 0.01, "miscalibration": 0.001, "discrimination": 0.02,
"uncertainty": 0.029, "ece": 0.003}, "after": {"log_loss": 0.02, "brier": 0.01, "miscalibration": 0.001,
"discrimination": 0.02, "uncertainty": 0.029, "ece": 0.003}}},
{"code": "S2", "name": "Two", "positives": 1, "negatives": 2999,
"curve": {"kind": "isotonic", "scores": [0.0, 0.5], "probs": [0.1, 0.2]}, "policy": {"policy": "max_f1"},
"outcome": "abstained", "threshold": null, "probability": null, "guarantee": null, "reason": "1 positive label",
"more_positives": 9, "flagged_at_most": null, "precision": null, "recall": null,
"quality": {"before": {"log_loss": 0.02, "brier": 0.01, "miscalibration": 0.001, "discrimination": 0.02,
"uncertainty": 0.029, "ece": 0.003}, "after": {"log_loss": 0.02, "brier": 0.01, "miscalibration": 0.001,
"discrimination": 0.02, "uncertainty": 0.029, "ece": 0.003}}}]}"""


def world(documents: int = DOCUMENTS) -> tuple[list[str], FloatArray, BoolArray]:
    rng = np.random.default_rng(11)
    x = rng.normal((-1, -2, -5), 3, (documents, 3))
    truth = rng.random(x.shape) < 1 / (1 + np.exp(-(0.7 * x - 0.5)))
    return [f"d{i}" for i in range(documents)], 1 / (1 + np.exp(-x)), truth


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return a score table of 1,500 documents and labels of all of them."""
    folder = tmp_path_factory.mktemp("fitted")
    ids, probs, truth = world()
    scores = score_table(folder / "scores", dict(zip(ids, probs.tolist(), strict=True)), failed=["broken"])
    table = pa.table({"doc_id": ids, **{code: truth[:, j] for j, code in enumerate(CODES)}})
    pq.write_table(table, folder / "labels.parquet")
    return scores, str(folder / "labels.parquet")


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_a_result_of_version_1_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(VERSION_1)
    model = load_model(str(path))
    assert model.categories[0].curve == Logistic(intercept=-0.69, slope=0.67)
    assert model.categories[0].threshold == 0.5
    assert model.abstained == ("S2",)
    assert json.loads(model.dump()) == json.loads(VERSION_1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            VERSION_1.replace('"version": 1', '"version": 2'),
            "is a fit of version 2, and this confscore reads version 1",
        ),
        ("{}", "is no result of confscore fit: created_at: [Ff]ield required"),
        ("not JSON", "is no result of confscore fit: [Ii]nvalid JSON"),
        (VERSION_1.replace('"slope": 0.67', '"slope": -0.67'), r"categories.0.curve.logistic.slope"),
        (VERSION_1.replace('"threshold": 0.5,', '"threshold": 1.5,'), r"categories.0.threshold"),
        (VERSION_1.replace("[0.1, 0.2]", "[0.2, 0.1]"), "must not descend"),
    ],
)
def test_a_result_that_is_none_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(content)
    with pytest.raises(TableError, match=words):
        load_model(str(path))


def test_a_result_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: no such file; confscore fit writes it"):
        load_model(str(tmp_path / "none.json"))


def test_a_fit_says_what_it_rests_on_and_is_read_back_equal(tmp_path: Path, files: tuple[str, str]) -> None:
    scores, labels = files
    policy = PolicyFile(
        categories={
            "S1": PrecisionAtLeast(precision=0.8),
            "S2": RecallAtLeast(recall=0.8),
            "S10": MaxF1(min_positives=500),
        }
    )
    found = fit(scores, LabelFile(labels), policy)
    model = found.model
    (tmp_path / "model.json").write_text(model.dump())
    assert load_model(str(tmp_path / "model.json")) == model
    _, probs, truth = world()
    assert [each.positives for each in model.categories] == truth.sum(axis=0).tolist()
    assert {each.positives + each.negatives for each in model.categories} == {DOCUMENTS}
    assert (model.labels.documents, model.scores.documents, model.scores.runs) == (DOCUMENTS, DOCUMENTS, ("run-1",))
    assert len(model.labels.sha256) == 64
    first, second, third = model.categories
    assert first.guarantee == "exact binomial tests in fixed sequence"
    assert first.precision is not None
    assert first.precision.value > 0.8
    assert second.guarantee == "exact order statistic"
    assert second.flagged_at_most is not None
    assert third.outcome == "abstained"
    assert (third.threshold, third.more_positives) == (None, 500 - third.positives)
    for j, each in enumerate((first, second)):
        assert each.threshold == np.float32(each.threshold)
        assert each.recall is not None
        flagged = probs[:, j].astype(np.float32) >= each.threshold
        assert each.recall.value == pytest.approx((flagged & truth[:, j]).sum() / truth[:, j].sum(), abs=1e-9)
    assert model.quality.after.log_loss < model.quality.before.log_loss
    assert model.quality.after.ece < model.quality.before.ece
    quality = model.quality.before
    assert quality.brier == pytest.approx(quality.miscalibration - quality.discrimination + quality.uncertainty)


def test_flagged_at_most_is_the_number_of_documents(files: tuple[str, str]) -> None:
    scores, labels = files
    ids, probs, _ = world()
    model = fit(scores, LabelFile(labels), PolicyFile(default=Fixed(threshold=0.4))).model
    exact = (probs.astype(np.float32) >= np.float32(0.4)).sum(axis=0)
    for each, count in zip(model.categories, exact.tolist(), strict=True):
        assert each.flagged_at_most is not None
        assert count <= each.flagged_at_most <= count * 1.03 + 1
    assert ids


def test_inclusion_probabilities_undo_a_biased_choice_of_documents(tmp_path: Path, files: tuple[str, str]) -> None:
    scores, _ = files
    ids, probs, truth = world()
    rng = np.random.default_rng(0)
    chance = np.where(probs.max(axis=1) > 0.5, 0.9, 0.25)
    drawn = np.flatnonzero(rng.random(len(ids)) < chance)
    table = pa.table(
        {
            "doc_id": [ids[i] for i in drawn],
            "chance": chance[drawn],
            **{code: truth[drawn, j] for j, code in enumerate(CODES)},
        }
    )
    pq.write_table(table, tmp_path / "biased.parquet")
    path = str(tmp_path / "biased.parquet")
    policy = PolicyFile(default=RecallAtLeast(recall=0.7))
    weighted = fit(scores, LabelFile(path, pi_column="chance"), policy).model
    plain = fit(scores, LabelFile(path), policy).model
    assert weighted.labels.weighted
    assert not plain.labels.weighted
    assert weighted.labels.effective_documents < weighted.labels.documents
    assert {each.guarantee for each in weighted.categories} == {
        "approximate: Korn-Graubard intervals on the Hajek estimate"
    }
    prevalence = truth.mean()
    estimates = [fit_.quality.before.uncertainty for fit_ in (weighted, plain)]
    true = np.mean(truth) * (1 - np.mean(truth))
    assert abs(estimates[0] - true) < abs(estimates[1] - true) / 3
    assert prevalence < 0.5
    pq.write_table(table.rename_columns(["doc_id", "inclusion_probability", *CODES]), path)
    named = fit(scores, LabelFile(path), policy).model  # by its usual name the column needs no option
    assert named.categories == weighted.categories


@pytest.mark.parametrize("chance", [0, -0.1, 1.5, None, float("nan"), "often", [0.5]])
def test_an_inclusion_probability_that_is_none_is_refused_with_its_row(tmp_path: Path, chance: object) -> None:
    records = [
        {"doc_id": "a", "of": ["S1"], "inclusion_probability": 0.5},
        {"doc_id": "b", "of": [], "inclusion_probability": chance},
    ]
    with pytest.raises(InputError, match=r"row 1 \(document 'b'\): inclusion_probability is .*above 0 and at most 1"):
        read_labels(jsonl(tmp_path / "labels.jsonl", records), CODES, label_column="of")


def test_equal_inclusion_probabilities_are_none(tmp_path: Path) -> None:
    records = [{"doc_id": i, "of": [], "pi": 0.5} for i in "ab"]
    assert read_labels(jsonl(tmp_path / "l.jsonl", records), CODES, label_column="of", pi_column="pi").inclusion is None
    with pytest.raises(InputError, match="has no column chance"):
        read_labels(str(tmp_path / "l.jsonl"), CODES, label_column="of", pi_column="chance")


def test_labels_with_a_category_that_the_scores_lack_are_of_another_taxonomy(tmp_path: Path) -> None:
    records = [{"doc_id": "a", **dict.fromkeys([*CODES, "S11"], 0)}]
    with pytest.raises(InputError, match="has the column S11, which looks like a category that the scores do not have"):
        read_labels(jsonl(tmp_path / "labels.jsonl", records), CODES)
    fine = [{"doc_id": "a", "score2": 1, "note": "S11", **dict.fromkeys(CODES, 0)}]
    assert read_labels(jsonl(tmp_path / "fine.jsonl", fine), CODES).ids == ("a",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guard": "h"}, "other guard: h, where .*scores has g"),
        ({"guard_hash": "9"}, "other guard hash: 9, where .*scores has 0"),
        ({"categories": {"S1": "S1", "S2": "S2"}}, "other categories: no S10, where .*scores has S10: S10"),
        ({"categories": {"S2": "S2", "S1": "S1", "S10": "S10"}}, None),
        ({"model": "n"}, "other model: n, where .*scores has m"),
        ({"prompt_hash": "7"}, "other prompt hash: 7"),
        ({"normalization": "raw"}, "other normalization: raw, where .*scores has global"),
        ({"engine": "transformers", "tolerance": 0.5, "bounds": True}, None),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_labels_of_a_sample_from_other_scores_are_refused(
    tmp_path: Path, files: tuple[str, str], changes: dict[str, object], words: str | None, kind: str
) -> None:
    scores, _ = files
    drawn_from = {**PROVENANCE.model_dump(mode="json"), "categories": {code: code for code in CODES}, **changes}
    about = json.dumps({"version": 1, "scores": drawn_from})
    path = tmp_path / f"sample.{kind}"
    if kind == "parquet":
        table = pa.table({"doc_id": ["d0", "d1"], "of": [["S1"], []]})
        pq.write_table(table.replace_schema_metadata({SAMPLE_KEY: about.encode()}), path)
    else:
        jsonl(path, [{"doc_id": "d0", "of": ["S1"]}, {"doc_id": "d1", "of": []}])
        Path(f"{path}.about.json").write_text(about)
    source = LabelFile(str(path), label_column="of")
    if words is None:
        assert fit(scores, source, PolicyFile()).model.labels.documents == 2
    else:
        with pytest.raises(TableError, match=f"was drawn from scores with {words}"):
            fit(scores, source, PolicyFile())


def test_weights_of_the_same_hash_are_the_same_model_whatever_they_are_called() -> None:
    known = identity_of(PROVENANCE.model_copy(update={"model_hash": "abc", "model": "here"}))
    other = identity_of(PROVENANCE.model_copy(update={"model_hash": "abc", "model": "there"}))
    refuse_others("x", known, "y", other)
    with pytest.raises(TableError, match="other normalization: global"):
        refuse_others("x", known, "y", other.model_copy(update={"normalization": "raw"}))
    with pytest.raises(TableError, match="other model: here"):
        refuse_others("x", known, "y", identity_of(PROVENANCE.model_copy(update={"model": "there"})))


@pytest.mark.parametrize("command", ["apply", "sql"])
def test_a_fit_of_other_scores_is_refused(tmp_path: Path, files: tuple[str, str], command: str) -> None:
    scores, labels = files
    assert invoke("fit", "--scores", scores, "--labels", labels, "--out", str(tmp_path / "model.json")).exit_code == 0
    other = score_table(tmp_path / "other", {"a": (0.1, 0.2, 0.3)})
    (path,) = Path(other).glob("*.parquet")
    provenance = PROVENANCE.model_copy(
        update={"normalization": "raw", "categories": {code: code for code in CODES}, "engine": "transformers"}
    )
    table = pq.read_table(path).replace_schema_metadata({PROVENANCE_KEY: provenance.model_dump_json().encode()})
    pq.write_table(table, path)
    out = ["--out", str(tmp_path / "flags.parquet")] if command == "apply" else []
    done = invoke(command, "--scores", other, "--model", str(tmp_path / "model.json"), *out)
    assert done.exit_code == 2
    assert "was fitted from scores with other normalization: global, where" in " ".join(done.output.split())
    assert not (tmp_path / "flags.parquet").exists()


def test_the_command_prints_what_was_fitted_and_ends_with_1_where_labels_do_not_suffice(
    tmp_path: Path, files: tuple[str, str]
) -> None:
    scores, labels = files
    (tmp_path / "policy.yaml").write_text(
        "calibration: isotonic\ncategories: {S1: {policy: precision_at_least, precision: 0.9999}}\n"
    )
    out, figure = tmp_path / "model.json", tmp_path / "reliability.svg"
    words = ["fit", "--scores", scores, "--labels", labels, "--policy", str(tmp_path / "policy.yaml")]
    done = invoke(*words, "--out", str(out), "--figure", str(figure))
    assert done.exit_code == 1, done.output
    assert "1,500 labelled documents; 1,500 scored documents of 1 run." in done.output
    assert "S1: no threshold" in done.output
    assert "→" in done.output
    assert figure.read_text().count("positive labels") == 4
    model = load_model(str(out))
    assert model.abstained == ("S1",)
    assert model.calibration == "isotonic"
    plain = invoke("fit", "--scores", scores, "--labels", labels, "--out", str(out))
    assert plain.exit_code == 0, plain.output
    assert load_model(str(out)).abstained == ()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--labels", "none.parquet", "--out", "m.json"], "no such label file"),
        (["--policy", "none.yaml", "--labels", "LABELS", "--out", "m.json"], "no such policy file"),
        (["--labels", "LABELS", "--out", "nowhere/m.json"], "--out nowhere/m.json: cannot be written to"),
        (["--labels", "LABELS", "--out", "m.json", "--figure", "f.doc"], "--figure f.doc: cannot be written"),
        (["--labels", "LABELS", "--out", "m.json", "--run", "run-9"], "has no run run-9"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, str], words: list[str], said: str
) -> None:
    scores, labels = files
    monkeypatch.chdir(tmp_path)
    done = invoke("fit", "--scores", scores, *(labels if word == "LABELS" else word for word in words))
    assert done.exit_code == 2, done.output
    assert said in done.output


def test_scores_that_are_no_probabilities_are_refused(tmp_path: Path) -> None:
    scores = score_table(tmp_path / "scores", {"a": (0.1, 1.5, 0.1)})
    labels = jsonl(tmp_path / "labels.jsonl", [{"doc_id": "a", "of": []}])
    with pytest.raises(TableError, match=r"p_S2 of document 'a' is no probability in \[0, 1\]"):
        fit(scores, LabelFile(labels, label_column="of"), PolicyFile())


def test_equal_input_gives_equal_results(files: tuple[str, str]) -> None:
    scores, labels = files
    left, right = (fit(scores, LabelFile(labels), PolicyFile()).model for _ in range(2))
    same = {"created_at": "now"}
    assert left.model_copy(update=same) == right.model_copy(update=same)
    assert isinstance(left, FittedModel)
