"""The shipped guard knows its world, and learned from exact targets."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Sequence

import numpy as np
import pytest

from confscore.config import ModelConfig, ScoringConfig
from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.demo.quality import Quality, measure
from confscore.demo.targets import END, answer_pieces, draw_path, next_piece_probs
from confscore.demo.world import CODES, WorldDocument, answer_probability, generate
from confscore.guards import resolve
from confscore.loading import open_scorer
from confscore.rows import Document, Message, Score

N = len(CODES)


def _scores(guard: str, messages: Sequence[tuple[Message, ...]]) -> list[Score]:
    model = ModelConfig(source=str(GUARD_FOLDER), engine="transformers")
    scorer = open_scorer(resolve(guard), model, ScoringConfig(tolerance=0.01, bounds=True))
    documents = [Document(f"doc-{i}", each) for i, each in enumerate(messages)]
    return asyncio.run(scorer.score_all(documents))


def _alone(documents: Sequence[WorldDocument]) -> list[tuple[Message, ...]]:
    return [(Message("user", document.text),) for document in documents]


@pytest.fixture(scope="module")
def documents() -> list[WorldDocument]:
    return generate(60, seed=404)


@pytest.fixture(scope="module")
def scores(documents: list[WorldDocument]) -> list[Score]:
    return _scores(str(GUARD_YAML), _alone(documents))


@pytest.fixture(scope="module")
def quality(documents: list[WorldDocument], scores: list[Score]) -> Quality:
    return measure(documents, scores)


def test_every_document_is_scored_within_tolerance(scores: list[Score]) -> None:
    assert {score.status for score in scores} == {"scored"}
    assert max(score.residual or 0 for score in scores) <= 0.01
    assert {score.chunks for score in scores} == {1}


def test_scores_are_close_to_the_truth(quality: Quality) -> None:
    assert quality.error < 0.004
    assert quality.ambiguous_error < 0.07
    assert quality.calibration_error < 0.05


def test_scores_rank_about_as_well_as_the_truth(quality: Quality) -> None:
    assert quality.auc > quality.auc_ceiling - 0.01


def test_answers_stay_in_the_grammar(quality: Quality) -> None:
    assert quality.off_grammar < 1e-3


def test_the_registered_guard_of_the_same_form_gives_the_same_scores(
    documents: list[WorldDocument], scores: list[Score]
) -> None:
    # Codes and grammar are equal, and the prompt is the tokenizer's own chat template.
    for ours, theirs in zip(scores[:8], _scores("llama-guard-3", _alone(documents[:8])), strict=True):
        assert ours.prompt_tokens == theirs.prompt_tokens
        assert ours.answer == theirs.answer
        assert ours.probs == pytest.approx(theirs.probs, abs=1e-9)


def test_only_the_last_message_counts() -> None:
    first, last = generate(200, seed=5)[:100], generate(300, seed=6)
    loud = [document for document in first if document.probs.max() > 0.9][:8]
    quiet = [document for document in last if document.probs.max() < 0.05][: len(loud)]
    chats = [
        (Message("user", asked.text), Message("assistant", said.text)) for asked, said in zip(loud, quiet, strict=True)
    ]
    assert len(chats) >= 5
    p_any = np.array([score.p_any for score in _scores(str(GUARD_YAML), chats)])
    assert p_any.mean() < 0.2


def test_the_files_are_small_and_say_nothing_about_the_machine_that_made_them() -> None:
    assert (GUARD_FOLDER / "model.safetensors").stat().st_size <= 4_000_000
    needed = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert needed <= {path.name for path in GUARD_FOLDER.iterdir()}
    for path in [*GUARD_FOLDER.glob("*.json"), *GUARD_FOLDER.glob("*.jinja"), GUARD_YAML]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'"(/\w+/|[A-Z]:\\|~/|file:)', text), f"{path.name} holds an absolute path"
        assert "_name_or_path" not in text
    config = json.loads((GUARD_FOLDER / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "llama"
    assert config["head_dim"] in (32, 64)  # what CPU attention kernels take
    assert config["tie_word_embeddings"] is True


@pytest.mark.parametrize("codes", [("S1", "S2", "S10", "S12"), ("S1", "S10", "S100"), ("A", "AB", "B")])
def test_targets_are_sums_over_all_label_sets(codes: tuple[str, ...]) -> None:
    probs = np.array([0.3, 0.85, 0.02, 0.5])[: len(codes)]
    masks = np.array(list(itertools.product([False, True], repeat=len(codes))))
    answers = [(answer_pieces(codes, mask), float(answer_probability(probs, mask))) for mask in masks]
    for mask in masks:
        path = answer_pieces(codes, mask)
        targets = next_piece_probs(codes, probs, mask)
        assert len(targets) == len(path)
        for t, nexts in enumerate(targets):
            mass: dict[str, float] = {}
            for pieces, prob in answers:
                if pieces[:t] == path[:t]:
                    mass[pieces[t]] = mass.get(pieces[t], 0.0) + prob
            expected = {piece: prob / sum(mass.values()) for piece, prob in mass.items()}
            assert nexts == pytest.approx(expected, abs=1e-12)


def test_a_path_has_the_probability_of_its_answer() -> None:
    rng = np.random.default_rng(8)
    for _ in range(50):
        probs = rng.uniform(0.001, 0.999, size=N)
        labels = rng.random(N) < probs
        pieces = answer_pieces(CODES, labels)
        targets = next_piece_probs(CODES, probs, labels)
        product = np.prod([nexts[piece] for piece, nexts in zip(pieces, targets, strict=True)])
        assert product == pytest.approx(float(answer_probability(probs, labels)))
        assert pieces[-1] == END


def test_paths_follow_the_world_and_rare_ones_can_be_asked_for() -> None:
    rng = np.random.default_rng(9)
    probs = np.array([0.02, 0.1, 0.005])
    drawn = np.array([draw_path(probs, rng, 0.0) for _ in range(20_000)])
    assert drawn.mean(axis=0) == pytest.approx(probs, abs=0.008)
    assert np.array([draw_path(probs, rng, 1.0) for _ in range(500)]).any(axis=1).all()
