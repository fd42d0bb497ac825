"""The demo world: what it says about its documents is true, and the documents are fit to demonstrate with."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from confscore.demo import GUARD_YAML, world
from confscore.demo.phrases import CUES, PAIRS
from confscore.demo.world import CODES, Mix, answer_probability, generate, noisy_or, write_corpus
from confscore.guards import resolve
from confscore.guards.llama_guard import LLAMA_GUARD_3

N = len(CODES)


@pytest.fixture(scope="module")
def documents() -> list[world.WorldDocument]:
    return generate(20_000, seed=2024)


@pytest.fixture(scope="module")
def probs(documents: list[world.WorldDocument]) -> np.ndarray:
    return np.array([document.probs for document in documents])


@pytest.fixture(scope="module")
def labels(documents: list[world.WorldDocument]) -> np.ndarray:
    return np.array([document.labels for document in documents])


def test_the_taxonomy_and_the_answers_are_those_of_the_guards() -> None:
    guard = resolve(str(GUARD_YAML))
    assert guard.codes == CODES == LLAMA_GUARD_3.codes
    assert guard.answer == LLAMA_GUARD_3.answer
    assert guard.end_tokens == LLAMA_GUARD_3.end_tokens
    assert len({category.name for category in guard.categories}) == N
    assert all(category.description for category in guard.categories)


def test_probabilities_are_probabilities_above_the_base_rate(probs: np.ndarray) -> None:
    assert probs.shape == (20_000, N)
    assert probs.min() >= world.BASE_RATE * (1 - 1e-9)
    assert probs.max() < 1


def test_label_frequencies_agree_with_the_probabilities(probs: np.ndarray, labels: np.ndarray) -> None:
    # Each cell is a sum of independent Bernoulli draws; 4.5 standard deviations over about 130 cells.
    for low, high in [(0, 0.001), (0.001, 0.05), (0.05, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 0.96), (0.96, 1)]:
        for j in range(N):
            inside = (probs[:, j] >= low) & (probs[:, j] < high)
            expected, spread = probs[inside, j].sum(), np.sqrt((probs[inside, j] * (1 - probs[inside, j])).sum())
            assert abs(labels[inside, j].sum() - expected) <= 4.5 * spread + 1


def test_categories_are_independent_given_the_text(probs: np.ndarray, labels: np.ndarray) -> None:
    left = labels - probs
    spread = np.sqrt(probs * (1 - probs))
    for i, j in itertools.combinations(range(N), 2):
        covariance = (left[:, i] * left[:, j]).sum()
        assert abs(covariance) <= 5 * np.sqrt(((spread[:, i] * spread[:, j]) ** 2).sum()) + 1


def test_noisy_or_by_hand() -> None:
    cues = np.array([[0.5, 0.0, 0.9], [0.5, 0.0, 0.0]])
    assert noisy_or(cues, 0.1) == pytest.approx([1 - 0.9 * 0.25, 0.1, 1 - 0.9 * 0.1])
    assert noisy_or(np.zeros((0, 2)), 0.25) == pytest.approx([0.25, 0.25])


def test_answer_probabilities_of_all_sets_sum_to_one() -> None:
    probs = np.array([0.2, 0.95, 0.01, 0.5, 0.7])
    masks = np.array(list(itertools.product([False, True], repeat=5)))
    each = answer_probability(probs, masks)
    assert each.sum() == pytest.approx(1)
    assert each @ masks == pytest.approx(probs)
    assert answer_probability(probs, np.zeros(5, dtype=bool)) == pytest.approx(0.8 * 0.05 * 0.99 * 0.5 * 0.3)


def test_a_text_decides_its_probabilities() -> None:
    # Read the cues back out of the text, without the generator.
    patterns = [
        (re.compile(_pattern(template)), named)
        for template, named in [
            *((template, {code: prob}) for code, cues in CUES.items() for prob, template in cues),
            *((template, named) for named, template in PAIRS),
        ]
    ]
    for document in generate(400, seed=3):
        found = [named for pattern, named in patterns if pattern.search(document.text)]
        cues = np.array([[named.get(code, 0.0) for code in CODES] for named in found]).reshape(-1, N)
        assert noisy_or(cues) == pytest.approx(document.probs, abs=1e-12), document.text


def _pattern(template: str) -> str:
    parts = re.split(r"\[([^\]]+)\]|\{(\w+)\}", template)
    pattern = ""
    for literal, choice, slot in itertools.zip_longest(parts[0::3], parts[1::3], parts[2::3]):
        options = choice.split("|") if choice else world.SLOTS[slot] if slot else [""]
        pattern += re.escape(literal) + "(?:" + "|".join(map(re.escape, options)) + ")"
    return r"(?:^|(?<=[.?] ))" + pattern


def test_equal_seeds_give_equal_documents_and_others_do_not() -> None:
    one, again, other = generate(50, seed=7), generate(80, seed=7), generate(50, seed=8)
    for left, right in zip(one, again, strict=False):
        assert (left.doc_id, left.text) == (right.doc_id, right.text)
        assert np.array_equal(left.probs, right.probs)
        assert np.array_equal(left.labels, right.labels)
    assert sum(left.text == right.text for left, right in zip(one, other, strict=True)) == 0


def test_about_four_in_five_documents_are_safe(probs: np.ndarray, labels: np.ndarray) -> None:
    assert np.prod(1 - probs, axis=1).mean() == pytest.approx(0.8, abs=0.03)
    assert (~labels.any(axis=1)).mean() == pytest.approx(0.8, abs=0.03)
    sizes = labels.sum(axis=1)
    assert np.isin(sizes[sizes > 0], (2, 3)).mean() > 0.3
    assert labels.mean(axis=0).min() > 0.01


def test_documents_vary(documents: list[world.WorldDocument]) -> None:
    assert len({document.text for document in documents}) > 0.995 * len(documents)
    assert len({document.doc_id for document in documents}) == len(documents)
    assert documents[17].doc_id == "doc-000017"
    words = np.array([len(document.text.split()) for document in documents])
    assert words.min() >= 12
    assert 30 <= np.median(words) <= 50
    assert words.max() <= 120
    assert not any(mark in document.text for document in documents for mark in "[]{}|")


def test_there_are_ambiguous_documents_and_hard_negatives(probs: np.ndarray) -> None:
    assert ((probs > 0.2) & (probs < 0.8)).any(axis=1).mean() > 0.08
    assert ((probs > 0.008) & (probs < 0.035)).any(axis=1).mean() > 0.2
    for cues in CUES.values():
        levels = [prob for prob, _ in cues]
        assert sum(prob >= 0.95 for prob in levels) >= 3
        assert len({prob for prob in levels if 0.03 < prob < 0.95}) >= 3
        assert sum(prob <= 0.03 for prob in levels) >= 3


@pytest.mark.parametrize(("mix", "safe"), [(Mix(strong=1.0), 0.03), (Mix(strong=0, ambiguous=0), 0.9)])
def test_the_mix_decides_the_share_of_flagged_documents(mix: Mix, safe: float) -> None:
    share = np.mean([not document.labels.any() for document in generate(500, seed=1, mix=mix)])
    assert share < safe if safe < 0.5 else share > safe


def test_the_corpus_is_partitioned_and_the_labels_lie_beside_it(tmp_path: Path) -> None:
    labels_path = write_corpus(tmp_path / "corpus", 101, seed=11)
    assert labels_path == tmp_path / "labels.parquet"
    files = sorted(str(path.relative_to(tmp_path / "corpus")) for path in (tmp_path / "corpus").rglob("*.parquet"))
    assert files == [f"date=2026-11-{day}/part-000{part}.parquet" for day in (22, 23) for part in (0, 1)]
    table = ds.dataset(tmp_path / "corpus", partitioning="hive").to_table()
    assert set(table.column_names) == {"doc_id", "text", "source", "date"}
    assert set(table["source"].to_pylist()) <= set(world.SOURCES)

    drawn = generate(101, seed=11)
    assert dict(zip(table["doc_id"].to_pylist(), table["text"].to_pylist(), strict=True)) == {
        document.doc_id: document.text for document in drawn
    }
    truth = pq.read_table(labels_path)
    assert truth.column_names == ["doc_id", "labels", *(f"prob_{code}" for code in CODES)]
    assert truth["labels"].to_pylist() == [
        [code for code, on in zip(CODES, document.labels, strict=True) if on] for document in drawn
    ]
    for j, code in enumerate(CODES):
        assert np.array_equal(truth[f"prob_{code}"].to_numpy(), [document.probs[j] for document in drawn])


def test_labels_may_not_lie_in_the_corpus(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not lie in the corpus"):
        write_corpus(tmp_path, 4, seed=1, labels=tmp_path / "date=2026-11-22" / "labels.parquet")
