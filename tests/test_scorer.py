"""Documents in, scores out, on engines whose every word is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import oracle
import pytest
import tiny
import torch
from toys import Toy, random_table, toy_guard, written_table
from transformers import AutoModelForCausalLM, AutoTokenizer

from confscore.config import ModelConfig, ScoringConfig
from confscore.engines.base import AnswerTokens, Rollout
from confscore.engines.table import TableEngine
from confscore.errors import EngineError, GuardError, RowError
from confscore.guards.answers import VerdictAnswer
from confscore.guards.spec import Category, Guard, PromptSpec
from confscore.loading import open_scorer
from confscore.prompt import Prompter, Prompts
from confscore.rows import Document, FloatArray, Message, Score
from confscore.scorer import Scorer
from confscore.vocabulary import build_automaton, end_token_ids, token_bytes

TOY = Toy(toy_guard("a", "b"), ("s", "u", "a", "b", ",", "x"))
TABLES = {seed: random_table(TOY, seed, peaked=0.5) for seed in range(40)}


def toy_document(*windows: int, doc_id: str = "d") -> Document:
    """Return a document whose windows are the prompts ``[seed]`` of the given tables."""
    return Document(doc_id, (Message("user", " ".join(map(str, windows))),))


class ToyPrompter:
    """Reads the numbers of a document as its prompts; words are refused."""

    questions = (None,)

    def prompts(self, document: Document, question: int | None = None) -> Prompts:
        assert question is None
        words = document.messages[0].content.split()
        if not all(word.isdigit() for word in words):
            raise RowError(f"cannot be prompted: {words[0]}")
        return Prompts(tuple([int(word)] for word in words), truncated=len(words) == 4)


class ToyEngine(TableEngine):
    """Answers prompt ``[seed]`` from that table; counts what is in flight, and can be held."""

    def __init__(self, tables: dict[int, oracle.NextProbs]) -> None:
        alphabet = TOY.automaton.alphabet

        def table(prompt: tuple[int, ...], so_far: tuple[int, ...]) -> FloatArray:
            with np.errstate(divide="ignore"):
                return np.log(tables[prompt[0]](so_far))[alphabet]

        super().__init__(AnswerTokens(alphabet, TOY.ends, TOY.automaton.max_tokens), table)
        self.held: dict[int, asyncio.Event] = {}
        self.in_flight = 0
        self.most_in_flight = 0
        self.asked: list[tuple[int, tuple[int, ...]]] = []

    async def rollout(self, prompt: Sequence[int], prefix: Sequence[int]) -> Rollout:
        self.asked.append((prompt[0], tuple(prefix)))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        if prompt[0] in self.held:
            await self.held[prompt[0]].wait()
        self.in_flight -= 1
        return await super().rollout(prompt, prefix)


def toy_scorer(engine: TableEngine | None = None, **scoring: object) -> Scorer:
    given = {"tolerance": 1e-9, "max_requests_per_document": 1000, **scoring}
    prompter: Prompter = ToyPrompter()  # type: ignore[assignment]
    config = ScoringConfig.model_validate(given)
    return Scorer(TOY.guard.codes, TOY.automaton, prompter, engine or ToyEngine(TABLES), config)


def score(*documents: Document, engine: TableEngine | None = None, **scoring: object) -> list[Score]:
    return asyncio.run(toy_scorer(engine, **scoring).score_all(documents))


@pytest.mark.parametrize("normalization", ["raw", "local", "global"])
def test_scores_are_the_exact_marginals(normalization: str) -> None:
    documents = [toy_document(seed, doc_id=f"d{seed}") for seed in TABLES]
    for seed, result in enumerate(score(*documents, normalization=normalization, bounds=True)):
        exact = TOY.exact(TABLES[seed])
        assert (result.doc_id, result.status, result.error) == (f"d{seed}", "scored", None)
        np.testing.assert_allclose(result.probs, exact.marginals[normalization][1:], atol=1e-8)
        assert result.p_any == pytest.approx(exact.marginals[normalization][0], abs=1e-8)
        assert (result.lower <= result.probs).all()
        assert (result.probs <= result.upper).all()
        assert result.residual <= 1e-9
        assert result.off_grammar <= 1 - exact.valid + 1e-9
        assert (result.chunks, result.truncated, result.prompt_tokens) == (1, False, 1)


def test_the_answer_is_the_most_probable_one() -> None:
    rows = {"": {"u": 0.7, "s": 0.3}, "u": {"a": 0.6, "b": 0.4}, "ua": {",": 0.7, ".": 0.3}}
    rows |= {"ua,": {"b": 1.0}, "s": {".": 1.0}, "ub": {".": 1.0}, "ua,b": {".": 1.0}}
    engine = ToyEngine({0: written_table(TOY, rows)})
    (result,) = score(toy_document(0), engine=engine, top_answers=2)
    assert result.answer == (), "0.3 for safe, 0.294 for a and b, 0.28 for b, 0.126 for a"
    assert [top.categories for top in result.top_answers] == [(), ("a", "b")]
    assert [top.prob for top in result.top_answers] == pytest.approx([0.3, 0.294])
    assert score(toy_document(0), engine=engine)[0].top_answers is None


def test_extras_are_left_out_unless_asked_for() -> None:
    (result,) = score(toy_document(0))
    assert result.lower is result.upper is result.top_answers is None
    assert result.estimates == {}


def test_results_come_in_the_order_of_the_documents() -> None:
    documents = [toy_document(seed, doc_id=str(seed)) for seed in (7, 3, 9, 3, 1)]
    assert [result.doc_id for result in score(*documents)] == ["7", "3", "9", "3", "1"]
    assert score() == []


# -- independence --------------------------------------------------------------------------------------------


def test_one_slow_document_does_not_hold_the_others() -> None:
    async def run() -> None:
        engine = ToyEngine(TABLES)
        engine.held[5] = asyncio.Event()
        scorer = toy_scorer(engine)
        slow = asyncio.create_task(scorer.score(toy_document(5)))
        others = await scorer.score_all([toy_document(seed) for seed in range(40) if seed != 5])
        assert all(result.status == "scored" for result in others)
        assert not slow.done(), "the others are done while it waits for its first rollout"
        engine.held[5].set()
        assert (await slow).status == "scored"

    asyncio.run(run())


def test_documents_and_windows_are_in_flight_together() -> None:
    engine = ToyEngine(TABLES)
    score(*(toy_document(seed, seed + 1) for seed in range(30)), engine=engine)
    assert engine.most_in_flight >= 60
    assert engine.in_flight == 0


def test_a_score_does_not_depend_on_its_neighbours() -> None:
    together = score(*(toy_document(seed) for seed in range(20)), tolerance=0.05)
    for seed, result in enumerate(together):
        (alone,) = score(toy_document(seed), tolerance=0.05)
        np.testing.assert_array_equal(alone.probs, result.probs)
        assert alone.requests == result.requests


# -- errors --------------------------------------------------------------------------------------------------


def spoiled(change: Callable[[FloatArray], FloatArray]) -> dict[int, oracle.NextProbs]:
    return {**TABLES, 0: lambda so_far: change(TABLES[0](so_far))}


NOTHING_BUT_X = np.eye(TOY.size)[TOY.words.index("x")]


@pytest.mark.parametrize(
    ("bad", "tables", "reason"),
    [
        (Document("bad", fault="empty text"), TABLES, "empty text"),
        (Document("bad", (Message("user", "word"),)), TABLES, "cannot be prompted: word"),
        (toy_document(0, doc_id="bad"), spoiled(lambda probs: probs * np.nan), "NaN"),
        (toy_document(0, doc_id="bad"), spoiled(lambda _: NOTHING_BUT_X), "no probability to any answer"),
        (toy_document(1, 0, doc_id="bad"), spoiled(lambda _: NOTHING_BUT_X), "no probability to any answer"),
    ],
    ids=["fault", "prompt", "not a number", "never an answer", "one window of two"],
)
def test_a_document_that_cannot_be_scored_is_an_error_row(
    bad: Document, tables: dict[int, oracle.NextProbs], reason: str
) -> None:
    before, result, after = score(toy_document(1), bad, toy_document(2), engine=ToyEngine(tables))
    assert (result.doc_id, result.status, result.probs, result.answer) == ("bad", "error", None, None)
    assert reason in (result.error or "")
    assert before.status == after.status == "scored"


def test_documents_of_one_text_are_scored_once() -> None:
    engine = ToyEngine(TABLES)
    scorer = toy_scorer(engine)
    documents = [toy_document(seed, doc_id=f"{seed}-{copy}") for copy in range(3) for seed in (1, 2)]
    first = asyncio.run(scorer.score_all(documents[:4]))  # two of each are in flight together
    later = asyncio.run(scorer.score_all(documents[4:]))
    assert [score.doc_id for score in (*first, *later)] == [document.doc_id for document in documents]
    alone_engine = ToyEngine(TABLES)
    alone = asyncio.run(toy_scorer(alone_engine).score_all(documents[:2]))
    assert len(engine.asked) == len(alone_engine.asked)
    for place, score in enumerate((*first, *later)):
        expected = alone[place % 2]
        assert score.probs is not None
        np.testing.assert_array_equal(score.probs, expected.probs)
        spent = (expected.requests, expected.prompt_tokens) if place < 2 else (0, 0)
        assert (score.requests, score.prompt_tokens) == spent


def test_the_same_words_in_another_role_are_another_document() -> None:
    asked, said = (Document("d", (Message(role, "1"),)) for role in ("user", "assistant"))
    scores = asyncio.run(toy_scorer(ToyEngine(TABLES)).score_all([asked, said]))
    assert all(score.requests > 0 for score in scores)


def test_a_document_that_failed_is_tried_again() -> None:
    tables = dict[int, oracle.NextProbs]()
    scorer = toy_scorer(ToyEngine(tables))
    first = asyncio.run(scorer.score(toy_document(1)))
    tables[1] = TABLES[1]
    again = asyncio.run(scorer.score(toy_document(1)))
    assert (first.status, again.status) == ("error", "scored")


def test_what_is_remembered_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confscore.scorer.RECENT", 2)
    scorer = toy_scorer(ToyEngine(TABLES))
    spent = [asyncio.run(scorer.score(toy_document(seed))).requests for seed in (1, 2, 3, 3, 2, 1)]
    assert [requests > 0 for requests in spent] == [True, True, True, False, False, True]


@pytest.mark.parametrize("normalization", ["raw", "local", "global"])
def test_a_model_that_never_answers_makes_error_rows(normalization: str) -> None:
    engine = ToyEngine({0: lambda _: NOTHING_BUT_X})
    assert score(toy_document(0), engine=engine, normalization=normalization)[0].status == "error"


def test_a_broken_engine_fails_the_job_and_not_the_row() -> None:
    class Broken(ToyEngine):
        async def rollout(self, prompt: Sequence[int], prefix: Sequence[int]) -> Rollout:
            raise EngineError("gone")

    with pytest.raises(EngineError, match="gone"):
        score(toy_document(0), engine=Broken(TABLES))


# -- windows and budgets -------------------------------------------------------------------------------------


def test_windows_are_put_together_by_the_largest() -> None:
    exact = [TOY.exact(TABLES[seed]).marginals["global"] for seed in (0, 1, 2, 3)]
    (result,) = score(toy_document(0, 1, 2, 3), bounds=True)
    np.testing.assert_allclose(result.probs, np.max(exact, axis=0)[1:], atol=1e-8)
    assert result.p_any == pytest.approx(np.max(exact, axis=0)[0], abs=1e-8)
    assert (result.lower <= result.probs).all()
    assert (result.probs <= result.upper).all()
    assert (result.chunks, result.prompt_tokens, result.truncated) == (4, 4, True)
    alone = score(*(toy_document(seed) for seed in range(4)))
    assert result.requests == sum(one.requests for one in alone)
    worst = max(alone, key=lambda one: one.p_any)
    assert result.answer == worst.answer
    assert result.off_grammar == max(one.off_grammar for one in alone)


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 100])
def test_a_spent_budget_makes_a_bounded_row(budget: int) -> None:
    results = score(*(toy_document(seed) for seed in TABLES), max_requests_per_document=budget, bounds=True)
    for seed, result in enumerate(results):
        exact = TOY.exact(TABLES[seed]).marginals["global"][1:]
        assert result.requests <= budget
        assert (result.lower - 1e-9 <= exact).all()
        assert (exact <= result.upper + 1e-9).all()
        assert (result.status == "scored") == (result.residual <= 1e-9)
    assert any(result.status == "bounded" for result in results) == (budget < 100)


def test_a_bound_relative_to_what_is_flagged() -> None:
    for result in score(*(toy_document(seed) for seed in TABLES), tolerance=0.1, tolerance_of="flagged"):
        assert result.status == "scored"
        assert result.residual <= 0.1 * result.p_any + 1e-12


@pytest.mark.parametrize(("windows", "budget", "most"), [(1, 7, 7), (2, 7, 3), (3, 7, 2), (4, 4, 1), (9, 4, 1)])
def test_windows_share_the_budget_of_their_document(windows: int, budget: int, most: int) -> None:
    engine = ToyEngine(TABLES)
    (result,) = score(toy_document(*range(windows)), engine=engine, max_requests_per_document=budget)
    asked = [seed for seed, _ in engine.asked]
    assert {seed: asked.count(seed) <= most for seed in range(windows)} == dict.fromkeys(range(windows), True)
    assert result.requests == len(asked) <= max(budget, windows)
    assert max(map(asked.count, asked)) == most, "the share is there to be spent"


# -- a real model --------------------------------------------------------------------------------------------

GUARD = Guard(
    name="small",
    categories=(Category(code="S1", name="Violence"), Category(code="S10", name="Hate")),
    prompt=PromptSpec(text="<|begin_of_text|>{categories}\n{text}<|eot_id|>"),
    answer=VerdictAnswer(safe="safe", unsafe="un", before=""),
    end_tokens=("<|eot_id|>", "<|end_of_text|>", "<|none|>"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny.write_model(path)
    return path


def model_config(folder: Path, **engine_args: object) -> ModelConfig:
    return ModelConfig(source=str(folder), engine="transformers", engine_args=engine_args)


@pytest.mark.parametrize("normalization", ["raw", "local", "global"])
def test_a_transformers_model_is_scored_as_brute_force_does(folder: Path, normalization: str) -> None:
    scoring = ScoringConfig(normalization=normalization, tolerance=1e-7, max_requests_per_document=5000, bounds=True)
    scorer = open_scorer(GUARD, model_config(folder), scoring)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = Prompter(GUARD, tokenizer, 900).prompts(Document("d", (Message("user", "the cat sat"),))).token_ids[0]
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def next_probs(so_far: tuple[int, ...]) -> FloatArray:
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *so_far]])).logits[0, -1]
        return torch.softmax(logits.double(), dim=-1).numpy()

    found = oracle.answers(GUARD, token_bytes(tokenizer), end_token_ids(GUARD, tokenizer))
    exact = oracle.exact(found, 2, next_probs)

    async def run() -> Score:
        await scorer.warm_up()
        result = await scorer.score(Document("d", (Message("user", "the cat sat"),)))
        await scorer.close()
        return result

    result = asyncio.run(run())
    assert result.status == "scored"
    assert result.prompt_tokens == len(prompt)
    np.testing.assert_allclose(result.probs, exact.marginals[normalization][1:], atol=1e-5)
    assert result.p_any == pytest.approx(exact.marginals[normalization][0], abs=1e-5)


def test_a_model_without_room_is_refused(folder: Path) -> None:
    longest = build_automaton(GUARD, AutoTokenizer.from_pretrained(folder)).max_tokens
    with pytest.raises(GuardError, match=r"its longest answer takes up to .* raise model\.engine_args\.max_model_len"):
        open_scorer(GUARD, model_config(folder, max_model_len=longest), ScoringConfig())
    with pytest.raises(GuardError, match="its prompt takes"):
        open_scorer(GUARD, model_config(folder, max_model_len=longest + 20), ScoringConfig())


def test_a_guard_that_does_not_fit_is_refused_before_weights_are_loaded(tmp_path: Path) -> None:
    tiny.write_tokenizer(tmp_path)  # and no weights beside it
    wrong = GUARD.model_copy(update={"end_tokens": ("<|none|>",)})
    with pytest.raises(GuardError, match=r"guard small: the tokenizer has none of its end tokens \(<\|none\|>\)"):
        open_scorer(wrong, model_config(tmp_path), ScoringConfig())
    with pytest.raises(EngineError, match="could not load"):
        open_scorer(GUARD, model_config(tmp_path), ScoringConfig())


def test_a_model_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GuardError, match="its tokenizer cannot be loaded"):
        open_scorer(GUARD, model_config(tmp_path), ScoringConfig())
