"""Samples of a score table: what is drawn from it, the files they become, and the texts that go with them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_labels import CODES, jsonl, score_table
from typer.testing import CliRunner, Result

from confscore.cli import app
from confscore.config import InputConfig
from confscore.corpus import RowReader
from confscore.curves import Logistic
from confscore.designs import DESIGNS, DesignName
from confscore.errors import ConfigError, CorpusError, InputError, TableError
from confscore.fitted import BeforeAfter, FittedCategory, FittedModel, LabelCounts, QualityRecord, ScoreTable
from confscore.identity import identity_of
from confscore.rows import FloatArray
from confscore.sample import Request, Sample, draw_sample
from confscore.sample_file import SAMPLE_KEY
from confscore.sample_text import input_of_run, read_texts
from confscore.score_table import open_table, provenance_of


def population(documents: int, categories: int = 4, seed: int = 0) -> FloatArray:
    """Return probabilities as guards give them: most of them tiny, and each category rarer than the one before."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-3 - np.arange(categories), 2.5, (documents, categories))
    return (1 / (1 + np.exp(-odds))).astype(np.float32).astype(np.float64)


def ids_of(documents: int) -> np.ndarray:
    return np.array([f"d{i}" for i in range(documents)], dtype=object)


# -- from a score table --------------------------------------------------------------------------------------


def table(folder: Path, documents: int = 400, *, failed: int = 7, run: str = "run-1", prefix: str = "d") -> str:
    rows = population(documents, len(CODES)).tolist()
    probs = {f"{prefix}{i}": row for i, row in enumerate(rows)}
    return score_table(folder, probs, failed=[f"{prefix}-failed-{i}" for i in range(failed)], run=run)


def same(first: Sample, second: Sample) -> bool:
    return (first.doc_ids, first.run_ids, first.inclusion.tolist()) == (
        second.doc_ids,
        second.run_ids,
        second.inclusion.tolist(),
    )


@pytest.mark.parametrize("design", DESIGNS)
def test_a_sample_does_not_depend_on_how_the_table_is_cut(tmp_path: Path, design: DesignName) -> None:
    whole = table(tmp_path / "whole")
    rows = pq.read_table(Path(whole) / "run-1-00000.parquet")
    for number, part in enumerate(np.array_split(np.random.default_rng(0).permutation(len(rows)), 5)):
        folder = tmp_path / "parts" / f"date=2026-11-{20 + number}"
        folder.mkdir(parents=True)
        pq.write_table(rows.take(part), folder / "part.parquet", row_group_size=13)
    request = Request(whole, 60, design)
    found = draw_sample(request)
    assert same(found, draw_sample(replace(request, scores=str(tmp_path / "parts"))))
    assert not same(found, draw_sample(replace(request, seed=1)))
    assert 30 < len(found.doc_ids) < 95
    assert found.totals.documents == 400
    assert found.failed == 7
    probs = np.column_stack([rows[f"p_{code}"].drop_null().to_numpy() for code in CODES]).astype(np.float64)
    np.testing.assert_allclose(found.totals.expected, probs.sum(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(found.totals.flagged, (probs >= 0.5).sum(axis=0))
    np.testing.assert_allclose(found.totals.expected_flagged, (probs * (probs >= 0.5)).sum(axis=0), rtol=1e-9)


def test_a_batch_ends_nowhere_in_particular(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confscore.population.ROWS_AT_ONCE", 64)
    rows = 2 * 64 + 5
    probs = np.full((rows, 3), 0.25)
    scores = score_table(tmp_path / "scores", dict(zip(ids_of(rows).tolist(), probs.tolist(), strict=True)))
    found = draw_sample(Request(scores, 50, "f1"))
    assert found.totals.documents == rows
    np.testing.assert_array_equal(found.totals.expected, rows / 4)
    np.testing.assert_allclose(found.inclusion, 50 / rows)


def test_thresholds_and_a_fit_decide_what_is_flagged(tmp_path: Path) -> None:
    scores = table(tmp_path / "scores")
    request = Request(scores, 60)
    plain = draw_sample(request, ["0.25", "S2=0.875"])
    assert [rule.threshold for rule in plain.rules] == [0.25, 0.875, 0.25]
    assert [rule.threshold for rule in draw_sample(request, ["S2=0.875"]).rules] == [0.5, 0.875, 0.5]
    at_the_limit = score_table(tmp_path / "one", {"a": (0.5, 0.25, 0.75)})
    np.testing.assert_array_equal(draw_sample(Request(at_the_limit, 1), ["S2=0.25"]).totals.flagged, [1, 1, 1])
    model = fitted(scores, {"S1": 0.25, "S2": None, "S10": 0.25})
    calibrated = draw_sample(request, model=model)
    np.testing.assert_array_equal(calibrated.totals.flagged[[0, 2]], plain.totals.flagged[[0, 2]])
    assert calibrated.totals.flagged[1] == 0, "where the fit abstained nothing is flagged"
    assert (calibrated.totals.expected < plain.totals.expected).all()
    mixed = draw_sample(request, ["S2=0.875"], model)
    np.testing.assert_array_equal(mixed.totals.flagged, plain.totals.flagged)
    assert not same(mixed, plain)
    with pytest.raises(InputError, match="--threshold S99: is no category of the scores; they are S1, S2, S10"):
        draw_sample(request, ["S99=0.5"])
    others = model.model_copy(update={"identity": model.identity.model_copy(update={"guard": "another"})})
    with pytest.raises(TableError, match="the model was fitted to labels from scores with other guard: another, where"):
        draw_sample(request, model=others)


def fitted(scores: str, thresholds: dict[str, float | None]) -> FittedModel:
    """Return a fit whose calibrated probabilities are lower than the scores."""
    nothing = QualityRecord(log_loss=0, brier=0, miscalibration=0, discrimination=0, uncertainty=0, ece=0)
    quality = BeforeAfter(before=nothing, after=nothing)
    categories = [
        FittedCategory(
            code=code,
            name=code,
            positives=1,
            negatives=1,
            curve=Logistic(intercept=-1.0, slope=1.0),
            policy={},
            outcome="abstained" if threshold is None else "threshold",
            threshold=threshold,
            quality=quality,
        )
        for code, threshold in thresholds.items()
    ]
    return FittedModel(
        created_at="2026-11-22T00:00:00+00:00",
        versions={},
        identity=identity_of(provenance_of(open_table(scores))),
        scores=ScoreTable(path=scores, documents=1, runs=()),
        labels=LabelCounts(path="", sha256="", documents=1, effective_documents=1, weighted=False),
        policy_sha256="",
        calibration="sigmoid",
        scales=None,
        quality=quality,
        categories=tuple(categories),
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"budget": 0}, "--budget 0: has to be at least 1"),
        ({"floor_share": 0.0}, "--floor 0: has to be above 0 and at most 1"),
        ({"floor_share": 1.5}, r"--floor 1\.5: has to be above 0"),
        ({"seed": -1}, "--seed -1: has to be at least 0 and below"),
        ({"run": "run-9"}, r"has no document of run run-9 with scores \(0 rows of status error\)"),
    ],
)
def test_a_request_out_of_range_is_refused(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    request = Request(table(tmp_path / "scores", 20), 5)
    with pytest.raises(InputError, match=sentence):
        draw_sample(replace(request, **change))  # type: ignore[arg-type]


def test_documents_of_two_runs_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    scores = table(tmp_path / "scores")
    score_table(tmp_path / "scores", {"new": (0.1, 0.2, 0.3), "d9": (0.9, 0.9, 0.9)}, run="run-2")
    with pytest.raises(TableError, match=r"document 'd9' was scored by more than one run \(run-1, run-2\); choose one"):
        draw_sample(Request(scores, 50))
    chosen = draw_sample(Request(scores, 50, run="run-2"))
    assert (set(chosen.doc_ids), set(chosen.run_ids)) == ({"new", "d9"}, {"run-2"})
    np.testing.assert_array_equal(chosen.inclusion, 1)


def sentence_of(do: Callable[[], object]) -> str | None:
    """Return what is said against doing something; ``None`` if it was done."""
    try:
        do()
    except TableError as error:
        return str(error)
    return None


def test_a_document_twice_in_a_run_is_refused_however_far_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = table(tmp_path / "scores")
    rows = pq.read_table(Path(scores) / "run-1-00000.parquet")
    for kept in (1 << 18, 150):  # all ids, or the smaller half of the hashes
        monkeypatch.setattr("confscore.sample._IDS_COMPARED", kept)
        refused = 0
        for row in range(0, 400, 40):
            pq.write_table(rows.slice(row, 1), Path(scores) / "run-1-00001.parquet")
            said = sentence_of(lambda: draw_sample(Request(scores, 50)))
            assert said is None or "has several rows of run-1, so its score is not known" in said
            refused += said is not None
        assert refused == 10 if kept > 400 else 0 < refused < 10


def test_scores_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="document 'n' is scored, and its p_S2 is null or NaN"):
        draw_sample(Request(score_table(tmp_path / "nan", {"n": (0.1, np.nan, 0.1)}), 5))
    with pytest.raises(TableError, match=r"document 'n' has p_S10 1\.5, outside \[0, 1\]"):
        draw_sample(Request(score_table(tmp_path / "above", {"n": (0.1, 0.1, 1.5)}), 5))
    with pytest.raises(TableError, match=r"has no document with scores \(2 rows of status error\)"):
        draw_sample(Request(score_table(tmp_path / "failed", {}, failed=["a", "b"]), 5))


# -- files ---------------------------------------------------------------------------------------------------


def run(*options: str) -> Result:
    return CliRunner().invoke(app, ["sample", *options])


def rows_of(path: Path) -> list[dict[str, object]]:
    """Return the rows of a sample file, as the readers of label files would find them."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    assert path.read_bytes().startswith(b"\xef\xbb\xbf"), "or a spreadsheet takes it for another encoding"
    with path.open(encoding="utf-8-sig", newline="") as lines:
        found = list(csv.DictReader(lines))
    return [{**row, "inclusion_probability": float(row["inclusion_probability"])} for row in found]


def about(path: Path) -> dict[str, object]:
    if path.suffix == ".parquet":
        return json.loads(pq.read_schema(path).metadata[SAMPLE_KEY])
    return json.loads(Path(f"{path}.about.json").read_text())


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[str, Path]:
    """Return a score table and the configuration of its corpus; some texts are formulas, or have many lines."""
    scores = table(tmp_path / "scores")
    starts = ["=1+1", "+49", "-5 degrees", "@you", 'He said "no",\nand left.', "tab\t", "plain", "\u202egnol ,é 漢"]
    texts = [f"{starts[i % len(starts)]} {i}" for i in range(400)]
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = pa.table({"id": ids_of(400).tolist(), "body": texts})
    pq.write_table(rows.slice(0, 250), folder / "a.parquet", row_group_size=50)
    pq.write_table(rows.slice(250), folder / "b.parquet", row_group_size=50)
    config = tmp_path / "score.yaml"
    config.write_text(
        f"input: {{path: {folder}, id_column: id, text_column: body}}\nmodel: {{source: m}}\n"
        f"output: {{path: {scores}}}\n"
    )
    return scores, config


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_file_holds_what_was_drawn_and_how(tmp_path: Path, corpus: tuple[str, Path], kind: str) -> None:
    scores, config = corpus
    out = tmp_path / f"sample.{kind}"
    done = run("--scores", scores, "--out", str(out), "--budget", "60", "--seed", "3", "--corpus", str(config))
    assert done.exit_code == 0, done.output
    found = draw_sample(Request(scores, 60, seed=3))
    rows = rows_of(out)
    assert f"{len(rows)} of 400 documents" in done.output
    assert "7 rows of status error" in done.output
    assert [row["doc_id"] for row in rows] == list(found.doc_ids)
    assert [row["inclusion_probability"] for row in rows] == found.inclusion.tolist(), "with all their digits"
    assert list(rows[0]) == ["doc_id", "inclusion_probability", "run_id", "text"]
    for row in rows:
        number = int(str(row["doc_id"])[1:])
        text = str(row["text"])
        assert text.endswith(f" {number}")
        formula = number % 8 < 4
        assert text.startswith("'") == (kind == "csv" and formula)
        assert text.lstrip("'")[0] == "=+-@Htp\u202e"[number % 8]
    said = about(out)
    assert said["scores"] == found.provenance.model_dump(mode="json")
    assert (said["design"], said["budget"], said["seed"], said["floor_share"]) == ("f1", 60, 3, 0.2)
    assert said["thresholds"] == dict.fromkeys(CODES, 0.5)
    assert said["drawn"] == len(rows)
    population = said["population"]
    assert isinstance(population, dict)
    assert (population["documents"], population["failed"]) == (400, 7)
    assert population["flagged"] == dict(zip(CODES, found.totals.flagged.tolist(), strict=True))


def test_a_spreadsheet_would_find_no_formula(tmp_path: Path, corpus: tuple[str, Path]) -> None:
    scores, config = corpus
    out = tmp_path / "sample.csv"
    assert run("--scores", scores, "--out", str(out), "--budget", "400", "--corpus", str(config)).exit_code == 0
    with out.open(encoding="utf-8-sig", newline="") as lines:
        cells = [cell for row in csv.reader(lines) for cell in row]
    assert len(cells) == 401 * 4
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t\r")]


def test_an_id_that_would_be_a_formula_is_not_changed(tmp_path: Path) -> None:
    scores = score_table(tmp_path / "scores", {"-a": (0.1, 0.2, 0.9), "b": (0.2, 0.1, 0.1)})
    done = run("--scores", scores, "--out", str(tmp_path / "sample.csv"), "--budget", "5")
    assert done.exit_code == 2
    assert "would take the id '-a' for a formula" in done.output
    assert not (tmp_path / "sample.csv").exists()
    assert run("--scores", scores, "--out", str(tmp_path / "sample.jsonl"), "--budget", "5").exit_code == 0
    assert {row["doc_id"] for row in rows_of(tmp_path / "sample.jsonl")} == {"-a", "b"}


def test_a_sample_that_may_have_labels_is_not_written_over(tmp_path: Path) -> None:
    scores, out = table(tmp_path / "scores", 20), tmp_path / "sample.csv"
    assert run("--scores", scores, "--out", str(out), "--budget", "5").exit_code == 0
    before = out.read_bytes()
    done = run("--scores", scores, "--out", str(out), "--budget", "9")
    assert done.exit_code == 2
    assert "exists, and labels in it would be lost; choose another name" in done.output
    assert out.read_bytes() == before
    done = run("--scores", scores, "--out", str(tmp_path / "sample.xlsx"))
    assert done.exit_code == 2
    assert "sample.xlsx: has to end in .parquet, .csv, .jsonl" in done.output
    done = run("--scores", scores, "--out", str(tmp_path / "nowhere" / "sample.csv"))
    assert done.exit_code == 2
    assert "sample.csv: cannot be written to" in done.output


def test_the_run_says_where_its_texts_are(tmp_path: Path, corpus: tuple[str, Path]) -> None:
    scores, config = corpus
    out = tmp_path / "sample.jsonl"
    done = run("--scores", scores, "--out", str(out), "--budget", "30", "--text")
    assert done.exit_code == 2
    assert "config.yaml: the configuration of run-1 cannot be read; name the one of the corpus with" in done.output
    ledger = Path(scores) / "_confscore" / "run-1"
    ledger.mkdir(parents=True)
    (ledger / "config.yaml").write_text(config.read_text())
    # A second run over another corpus has texts of its own.
    table(Path(scores), 50, failed=0, run="run-2", prefix="e")
    other = tmp_path / "other"
    other.mkdir()
    jsonl(other / "rows.jsonl", [{"id": f"e{i}", "body": f"from the other corpus {i}"} for i in range(50)])
    (ledger.parent / "run-2").mkdir()
    (ledger.parent / "run-2" / "config.yaml").write_text(
        config.read_text().replace(f"{tmp_path}/corpus", f"{other}, format: jsonl")
    )
    done = run("--scores", scores, "--out", str(out), "--budget", "60", "--text")
    assert done.exit_code == 0, done.output
    rows = rows_of(out)
    assert {row["run_id"] for row in rows} == {"run-1", "run-2"}
    for row in rows:
        assert str(row["text"]).startswith("from the other corpus") == (row["run_id"] == "run-2")
    assert input_of_run(scores, "run-2").format == "jsonl"
    # What else it had may be refused by now.
    (ledger / "config.yaml").write_text("input: {path: a}\nmodel: {engine_args: {max_logprobs: 5}}\n")
    assert input_of_run(scores, "run-1").path == "a"
    (ledger / "config.yaml").write_text("input: {path: a, txt_column: b}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: .*input\.txt_column is not a known key"):
        input_of_run(scores, "run-1")


# -- texts ---------------------------------------------------------------------------------------------------


def in_jsonl(folder: Path) -> InputConfig:
    jsonl(folder / "a.jsonl", [{"id": f"x{i}", "text": f"text {i}"} for i in range(30)])
    return InputConfig(path=str(folder), format="jsonl", id_column="id")


def in_conversations(folder: Path) -> InputConfig:
    turns = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"text {i}"}] for i in range(30)]
    pq.write_table(pa.table({"id": [f"x{i}" for i in range(30)], "chat": turns}), folder / "a.parquet")
    return InputConfig(path=str(folder), id_column="id", messages_column="chat")


def in_text_files(folder: Path) -> InputConfig:
    for i in range(30):
        (folder / f"x{i}").mkdir()
        (folder / f"x{i}" / "file.txt").write_text(f"text {i}")
    return InputConfig(path=str(folder), format="text")


def in_rows_without_ids(folder: Path) -> InputConfig:
    (folder / "a#b.csv").write_text("text\n" + "".join(f"text {i}\n" for i in range(30)))
    (folder / "c.csv").write_text("text\n" + "other\n" * 30)
    return InputConfig(path=str(folder), format="csv")


@pytest.mark.parametrize(
    ("write", "doc_id", "text"),
    [
        (in_jsonl, "x{}", "text {}"),
        (in_conversations, "x{}", "[user]\nHi\n\n[assistant]\ntext {}"),
        (in_text_files, "x{}/file.txt", "text {}"),
        (in_rows_without_ids, "a#b.csv#{}", "text {}"),
    ],
)
def test_texts_come_from_every_kind_of_corpus(
    tmp_path: Path, write: Callable[[Path], InputConfig], doc_id: str, text: str
) -> None:
    config = write(tmp_path)
    wanted = [17, 3, 29]
    assert read_texts([doc_id.format(i) for i in wanted], config) == [text.format(i) for i in wanted]
    with pytest.raises(CorpusError, match=r"1 of 2 sampled documents, such as 'gone#1', are not in this corpus"):
        read_texts([doc_id.format(3), "gone#1"], config)


def test_only_parts_with_a_sampled_document_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        ids = [f"{name}{i}" for i in range(10)]
        pq.write_table(pa.table({"id": ids, "text": [f"text of {i}" for i in ids]}), tmp_path / f"{name}.parquet")
    config = InputConfig(path=str(tmp_path), id_column="id")
    read: list[str] = []
    tables = RowReader.tables
    monkeypatch.setattr(
        RowReader, "tables", lambda self, part, rows: read.append(part.file.name) or tables(self, part, rows)
    )
    assert read_texts(["c3", "a9"], config) == ["text of c3", "text of a9"]
    assert read == ["a.parquet", "c.parquet"]
    read.clear()  # ids made of file names say where they are
    assert read_texts(["c.parquet#3"], InputConfig(path=str(tmp_path))) == ["text of c3"]
    assert read == ["c.parquet"]


def test_a_text_that_has_changed_into_none_is_said(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["x", ""]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet: document 'b' was scored, and is faulty now: text is empty"):
        read_texts(["b"], InputConfig(path=str(tmp_path), id_column="id"))
