"""From a score table to a labelled sample, and back to what holds for the table."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_estimation import world
from test_labels import CODES, jsonl, score_table
from typer.testing import CliRunner, Result

from confscore.cli import app
from confscore.estimation import STATISTICS, estimate
from confscore.population import Tally
from confscore.rows import BoolArray, FloatArray

DOCUMENTS = 3000
Drawn = tuple[str, FloatArray, BoolArray, dict[str, float]]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """Return a score table, its scores and labels, and the inclusion probabilities of a sample by document."""
    folder = tmp_path_factory.mktemp("drawn")
    probs, truth = world(DOCUMENTS, [0.2, 0.05, 0.02])
    probs = probs.astype(np.float32).astype(np.float64)
    # The second estimator has the same order, and no probabilities.
    logits = {f"logtoku_{code}": pa.array(10 * probs[:, j]) for j, code in enumerate(CODES)}
    ids = [f"d{i}" for i in range(DOCUMENTS)]
    scores = score_table(folder / "scores", dict(zip(ids, probs.tolist(), strict=True)), extra=logits)
    out = folder / "sample.csv"
    done = CliRunner().invoke(app, ["sample", "--scores", scores, "--out", str(out), "--budget", "300"])
    assert done.exit_code == 0, done.output
    with out.open(encoding="utf-8-sig", newline="") as lines:
        inclusion = {row["doc_id"]: float(row["inclusion_probability"]) for row in csv.DictReader(lines)}
    return scores, probs, truth, inclusion


def labels(path: Path, truth: BoolArray, inclusion: dict[str, float], *, name: str = "inclusion_probability") -> str:
    """Write the labels of sampled documents, as a labeller who kept the sample's columns."""
    records = [
        {
            "doc_id": doc_id,
            name: pi,
            "labels": [code for code, on in zip(CODES, truth[int(doc_id[1:])], strict=True) if on],
        }
        for doc_id, pi in inclusion.items()
    ]
    return jsonl(path, records)


def run(scores: str, path: str, *options: str) -> Result:
    words = ["evaluate", "--scores", scores, "--labels", path, "--label-column", "labels", "--bootstrap", "0"]
    return CliRunner().invoke(app, [*words, *options])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_sample_says_what_holds_for_the_table(tmp_path: Path, drawn: Drawn) -> None:
    scores, probs, truth, inclusion = drawn
    path, out = labels(tmp_path / "labels.jsonl", truth, inclusion), tmp_path / "out"
    done = run(scores, path, "--threshold", "0.4", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "By their inclusion probabilities they stand for" in done.output
    assert "the score table has 3,000." in done.output
    rows = read_csv(out / "population.csv")
    assert [(row["estimator"], row["code"]) for row in rows] == [
        (name, code) for name in ("marginal", "logtoku") for code in (*CODES, "micro", "macro")
    ]
    which, flags = [int(doc_id[1:]) for doc_id in inclusion], probs >= 0.4
    tally = Tally(3)
    tally.add(probs, flags)
    pi = np.array(list(inclusion.values()))
    expected = estimate(truth[which], probs[which], flags[which], pi, tally.totals())
    for row, quality in zip(rows, (*expected.categories, expected.micro, expected.macro), strict=False):
        for name in STATISTICS:
            one = getattr(quality, name)
            assert [float(row[key]) for key in (name, f"{name}_low", f"{name}_high")] == pytest.approx(
                [one.value, one.low, one.high]
            )
        assert (row["documents"], row["labelled"], row["threshold"]) == ("3000", str(len(which)), "0.4")
    assert f"{float(rows[0]['f1']):.4f} {float(rows[0]['f1_low']):.4f}–" in done.output
    assert float(rows[0]["prevalence_low"]) <= truth[:, 0].mean() <= float(rows[0]["prevalence_high"])
    # Scores that are no probabilities take part by their flags: at 10 times the threshold they flag the same.
    run(scores, path, "--threshold", "4", "--out", str(tmp_path / "ten"), "--estimator", "logtoku")
    same = estimate(truth[which], None, flags[which], pi, tally.totals()).categories[0]
    assert float(read_csv(tmp_path / "ten" / "population.csv")[0]["f1"]) == pytest.approx(same.f1.value)


def test_the_column_is_found_by_its_name_and_may_have_another(tmp_path: Path, drawn: Drawn) -> None:
    scores, _, truth, inclusion = drawn
    own = run(scores, labels(tmp_path / "a.jsonl", truth, inclusion), "--estimator", "marginal")
    named = run(
        scores,
        labels(tmp_path / "b.jsonl", truth, inclusion, name="chance"),
        "--estimator",
        "marginal",
        "--pi-column",
        "chance",
    )
    assert own.output == named.output
    assert "whole score table" in own.output
    without = run(scores, labels(tmp_path / "c.jsonl", truth, inclusion, name="chance"), "--estimator", "marginal")
    assert without.exit_code == 0
    assert "whole score table" not in without.output
    assert "stand for" not in without.output


def test_equal_chances_are_those_of_a_random_sample(tmp_path: Path, drawn: Drawn) -> None:
    scores, _, truth, inclusion = drawn
    even = dict.fromkeys(list(inclusion)[:200], 0.5)
    done = run(scores, labels(tmp_path / "labels.jsonl", truth, even), "--pi-column", "inclusion_probability")
    assert done.exit_code == 0, done.output
    assert "they stand for 3,000 documents; the score table has 3,000." in done.output


def test_a_sample_that_does_not_fit_the_table_is_refused(tmp_path: Path, drawn: Drawn) -> None:
    scores, _, truth, inclusion = drawn
    third = dict(list(inclusion.items())[::3])
    done = run(scores, labels(tmp_path / "labels.jsonl", truth, third))
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "documents by their inclusion probabilities, and" in line
    assert "has 3,000; label all documents of the sample, and choose the run it was drawn from with --run" in line
    assert done.stdout == ""


def test_a_category_without_a_sampled_positive_is_said_to_be_unknown(tmp_path: Path, drawn: Drawn) -> None:
    scores, _, truth, inclusion = drawn
    none = truth.copy()
    none[:, 2] = False
    out = tmp_path / "out"
    done = run(scores, labels(tmp_path / "labels.jsonl", none, inclusion), "--out", str(out), "--estimator", "marginal")
    assert done.exit_code == 0, done.output
    row = read_csv(out / "population.csv")[2]
    assert (row["code"], row["positives"], row["recall"], row["recall_low"], row["recall_high"]) == (
        CODES[2],
        "0",
        "",
        "0.0",
        "1.0",
    )
    assert "? 0.0000–1.0000" in done.output
    assert float(row["prevalence_high"]) > 0.01


def test_the_commands_of_the_documentation_run_as_they_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    probs, truth = world(DOCUMENTS, [0.2, 0.05, 0.02])
    ids = [f"d{i}" for i in range(DOCUMENTS)]
    scores = score_table(Path("demo-run/scores"), dict(zip(ids, probs.tolist(), strict=True)))
    corpus = pa.table({"doc_id": ids, "text": [f"text {i}" for i in ids]})
    Path("corpus").mkdir()
    pq.write_table(corpus, "corpus/a.parquet")
    ledger = Path(scores) / "_confscore" / "run-1"
    ledger.mkdir(parents=True)
    (ledger / "config.yaml").write_text(
        "input: {path: corpus, id_column: doc_id}\nmodel: {source: m}\noutput: {path: demo-run/scores}\n"
    )
    page = (Path(__file__).parents[1] / "docs" / "sampling.md").read_text()
    lines = re.findall(r"^\$ confscore (.*)$", page, re.M)
    assert [line.split()[0] for line in lines] == ["sample", "evaluate", "fit", "sample"]
    for line in lines:
        done = CliRunner().invoke(app, line.split())
        # A fit says with 1 that it could not choose for some category.
        assert done.exit_code in ((0, 1) if line.startswith("fit") else (0,)), done.output
        if Path("sample.csv").exists() and not Path("labelled.csv").exists():
            rows = [*csv.DictReader(Path("sample.csv").read_text(encoding="utf-8-sig").splitlines())]
            assert rows[0]["text"] == f"text {rows[0]['doc_id']}"
            with Path("labelled.csv").open("w", newline="") as labelled:
                writer = csv.writer(labelled)
                writer.writerow([*rows[0], "labels"])
                for row in rows:
                    named = [code for code, on in zip(CODES, truth[int(row["doc_id"][1:])], strict=True) if on]
                    writer.writerow([*row.values(), ",".join(named)])
    assert len(read_csv(Path("evaluation/population.csv"))) == 5
    about = json.loads(pq.read_schema("next.parquet").metadata[b"confscore.sample"])
    assert about["model"] == hashlib.sha256(Path("model.json").read_bytes()).hexdigest()
    assert about["seed"] == 1
