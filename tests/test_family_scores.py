"""Scores of the families on small random models, against every answer in every tokenization."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from family_tokenizers import family_tokenizer, word_tokenizer, write_model
from test_guard_families import FORMATS
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from confscore.config import ModelConfig, ScoringConfig
from confscore.guards import REGISTRY, Guard, resolve
from confscore.guards.spec import PromptSpec
from confscore.loading import open_scorer
from confscore.prompt import Prompter
from confscore.rows import Document, Message, Score
from confscore.vocabulary import end_token_ids, token_bytes

NextLogits = Callable[[Sequence[int]], torch.Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # small matrices: more threads only wait for each other


def document(*contents: str) -> Document:
    roles = ("user", "assistant")
    return Document("d", tuple(Message(roles[i % 2], text) for i, text in enumerate(contents)))


def score(guard: Guard, folder: Path, what: Document, **scoring: object) -> Score:
    given = {"tolerance": 1e-4, "max_requests_per_document": 3000, "bounds": True, **scoring}
    model = ModelConfig(source=str(folder), engine="transformers")

    async def run() -> Score:
        scorer = open_scorer(guard, model, ScoringConfig.model_validate(given))
        result = await scorer.score(what)
        await scorer.close()
        return result

    return asyncio.run(run())


def weigh(folder: Path, prompt: Sequence[int], answers: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Return the raw probability of each answer, its tokens read off the model's softmax one after another."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    order = sorted(range(len(answers)), key=lambda i: len(answers[i]))
    probs = np.zeros(len(answers))
    for start in range(0, len(order), 64):
        some = order[start : start + 64]
        longest = max(len(answers[i]) for i in some)
        # What is padded on the right changes nothing that stands before it.
        rows = [[*prompt, *answers[i], *[0] * (longest - len(answers[i]))] for i in some]
        with torch.inference_mode():
            logits = model(torch.tensor(rows)).logits[:, len(prompt) - 1 : -1]
        steps = torch.log_softmax(logits.double(), dim=-1)
        for row, i in enumerate(some):
            probs[i] = float(sum(steps[row, t, token] for t, token in enumerate(answers[i])).exp())
    return probs


def every_answer(guard: Guard, tokenizer: PreTrainedTokenizerFast) -> dict[tuple[int, ...], frozenset[str]]:
    """Return every answer of the documented format in every tokenization, with the codes it names."""
    ends = end_token_ids(guard, tokenizer)
    words = {token: data for token, data in token_bytes(tokenizer).items() if token not in ends}
    return {
        (*tokens, *end): named
        for text, named in FORMATS[guard.name](guard, len(guard.categories)).items()
        for tokens in oracle.tokenizations(text.encode(), words)
        for end in ([(end,) for end in ends] or [()])
    }


def bare(name: str, count: int, text: str, **more: object) -> Guard:
    """Return a guard with its first categories and a prompt that a tokenizer of few words can write."""
    guard = REGISTRY[name]
    return guard.model_copy(
        update={"categories": guard.categories[:count], "prompt": PromptSpec.model_validate({"text": text, **more})}
    )


CASES: dict[str, tuple[Guard, tuple[str, ...]]] = {
    "llama-guard-1": (
        bare("llama-guard-1", 3, "<s>{text}"),
        ("safe", " safe", "un", " un", " unsafe", "O", "1", "2", "3", "O2", ",", " ", ", O"),
    ),
    "llama-guard-3-1b": (
        bare("llama-guard-3-1b", 3, "<|begin_of_text|>{text}"),
        ("\n\n", "\n", "safe", "unsafe", "un", "S", "1", "2", "3", ",", ",S", " "),
    ),
    "wildguard": (
        bare("wildguard", 3, "<s>{request}</s>{response}"),
        (
            "Harmful",
            " request:",
            " request",
            ":",
            "Response",
            " refusal:",
            " response:",
            " yes",
            " no",
            " n/a",
        ),
    ),
    "qwen3guard-gen": (
        bare("qwen3guard-gen", 3, "<|im_start|>{text}"),
        (
            *(
                "Safety",
                ": ",
                "Safe",
                "Unsafe",
                "Controversial",
                "\n",
                "Categories: ",
                "None",
                "Refusal: ",
                "Yes",
                "No",
            ),
            *("Violent", "Non-violent Illegal Acts", "Sexual Content", " or Sexual Acts", ", "),
        ),
    ),
    "nemotron-safety-guard-3": (
        bare("nemotron-safety-guard-3", 2, "<|begin_of_text|>{text}"),
        (
            *('{"User Safety": "', "safe", "un", "unsafe", '", "Response Safety": "', '"', "}", "} "),
            *(', "Safety Categories": "', '", "Safety Categories": "', "Violence", "Sexual", ", ", ",", " "),
        ),
    ),
}


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        *((name, 5 if name == "wildguard" else 0) for name in CASES),
        ("llama-guard-1", 1),
        ("llama-guard-3-1b", 1),
        ("qwen3guard-gen", 1),
    ],
)
def test_marginals_are_those_of_brute_force(tmp_path: Path, name: str, seed: int) -> None:
    guard, words = CASES[name]
    folder = write_model(tmp_path, word_tokenizer(name, words), seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    what = document("zz", "z") if name == "wildguard" else document("zzz")
    answers = every_answer(guard, tokenizer)
    (prompt,) = Prompter(guard, tokenizer, 500).prompts(what).token_ids
    probs = weigh(folder, prompt, list(answers))
    whole = probs.sum()
    flags = np.array([[bool(named), *(code in named for code in guard.codes)] for named in answers.values()])
    exact = flags.T @ probs / whole
    result = score(guard, folder, what)
    assert result.status == "scored"
    assert result.residual <= 1e-4
    np.testing.assert_allclose([result.p_any, *result.probs], exact, atol=1e-4)
    assert result.off_grammar <= 1 - whole + 1e-9
    for budget in (1, 7):
        early = score(guard, folder, what, max_requests_per_document=budget)
        assert early.requests <= budget
        assert (early.lower - 1e-6 <= exact[1:]).all()
        assert (exact[1:] <= early.upper + 1e-6).all()
    raw = score(guard, folder, what, normalization="raw")
    np.testing.assert_allclose([raw.p_any, *raw.probs], exact * whole, atol=1e-4)


# -- a question for each category ----------------------------------------------------------------------------

FIRST_WORDS = ("Yes", " Yes", "yes", " yes", "No", " No", "no", " no", "Y", "es", "YES", "NO", " ", "N", "o")


def test_shieldgemma_is_yes_among_yes_and_no(tmp_path: Path) -> None:
    """All spellings, straight from the softmax: Yes is also Y and es, and so on."""
    guard = REGISTRY["shieldgemma"]
    folder = write_model(tmp_path, word_tokenizer("shieldgemma", FIRST_WORDS))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompter = Prompter(guard, tokenizer, 2000)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    number = {word: tokenizer.convert_tokens_to_ids(word.replace(" ", "▁")) for word in FIRST_WORDS}

    def softmax(*ids: int) -> torch.Tensor:
        with torch.inference_mode():
            return torch.softmax(model(torch.tensor([ids])).logits[0, -1].double(), dim=-1)

    expected = []
    prompts = [prompter.prompts(document("zz"), question).token_ids[0] for question in range(4)]
    for prompt in prompts:
        after = {words: softmax(*prompt, *(number[word] for word in words)) for words in ((), (" ",), ("Y",), ("N",))}
        after |= {words: softmax(*prompt, *(number[word] for word in words)) for words in ((" ", "Y"), (" ", "N"))}
        yes = no = 0.0
        for lead in ((), (" ",)):
            reach = 1.0 if not lead else float(after[()][number[" "]])
            yes += reach * sum(float(after[lead][number[word]]) for word in ("Yes", "yes", "YES"))
            yes += reach * float(after[lead][number["Y"]] * after[(*lead, "Y")][number["es"]])
            no += reach * sum(float(after[lead][number[word]]) for word in ("No", "no", "NO"))
            no += reach * float(after[lead][number["N"]] * after[(*lead, "N")][number["o"]])
        yes += sum(float(after[()][number[word]]) for word in (" Yes", " yes"))
        no += sum(float(after[()][number[word]]) for word in (" No", " no"))
        expected.append(yes / (yes + no))
    assert len({tuple(prompt) for prompt in prompts}) == 4, "every policy is in its prompt"
    result = score(guard, folder, document("zz"), tolerance=1e-7)
    np.testing.assert_allclose(result.probs, expected, atol=1e-6)
    assert result.p_any == pytest.approx(max(expected), abs=1e-6)


TAGS = ("<think>", "</think>", "\n", "\n\n", "<score>", "yes", " yes", "no", " no", "Yes", "No", " ")
QUESTIONS = {
    "shieldgemma": FIRST_WORDS,
    "granite-guardian-3": FIRST_WORDS,
    "granite-guardian-3.3": TAGS,
    "granite-guardian-4": TAGS,
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_one_document_is_one_row_of_all_questions(tmp_path: Path, name: str) -> None:
    guard = REGISTRY[name]
    tokenizer = word_tokenizer(name, QUESTIONS[name])
    if name != "shieldgemma":
        tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ guardian_config }}"
    folder = write_model(tmp_path, tokenizer, seed=3)
    answers = every_answer(guard, tokenizer)
    expected = []
    for question in range(len(guard.categories)):
        (prompt,) = Prompter(guard, tokenizer, 2000).prompts(document("zz"), question).token_ids
        probs = weigh(folder, prompt, list(answers))
        yes = np.array([bool(named) for named in answers.values()])
        expected.append(probs[yes].sum() / probs.sum())
    result = score(guard, folder, document("zz"))
    assert (result.doc_id, result.status, result.chunks) == ("d", "scored", 1)
    np.testing.assert_allclose(result.probs, expected, atol=1e-4)
    assert result.answer == tuple(code for code, prob in zip(guard.codes, expected, strict=True) if prob > 0.5)
    assert result.requests >= len(guard.categories)


@pytest.mark.parametrize("name", ["shieldgemma", "granite-guardian-3"])
def test_a_word_of_one_token_takes_one_request_a_question(tmp_path: Path, name: str) -> None:
    guard = REGISTRY[name]
    tokenizer = word_tokenizer(name, ("Yes", " Yes", "No", " No"))
    tokenizer.chat_template = "{{ messages[-1].content }}{{ guideline }}{{ guardian_config }}"
    result = score(guard, write_model(tmp_path, tokenizer), document("zz", "z"))
    assert result.requests == len(guard.categories) == len(result.probs)


def test_wildguards_lines_are_scored_apart(tmp_path: Path) -> None:
    """A marginal of one line adds up all values of the others."""
    guard, words = CASES["wildguard"]
    folder = write_model(tmp_path, word_tokenizer("wildguard", words), seed=5)
    result = score(guard, folder, document("zz"), top_answers=8, tolerance=1e-3)
    sets = {top.categories for top in result.top_answers}
    assert len(sets) == 8, "any combination of three lines"
    for j, code in enumerate(guard.codes):
        assert sum(top.prob for top in result.top_answers if code in top.categories) == pytest.approx(
            result.probs[j], abs=1e-3
        )
    assert sets == {
        tuple(code for code, chosen in zip(guard.codes, flags, strict=True) if chosen)
        for flags in product([True, False], repeat=3)
    }


def test_the_documented_topics_are_scored(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "guards.md").read_text(encoding="utf-8")
    (block,) = [found for found in re.findall(r"^```yml\n(.*?)^```", page, re.M | re.S) if "support-topics" in found]
    path = tmp_path / "support-topics.yaml"
    path.write_text(block, encoding="utf-8")
    guard = resolve(str(path))
    tokenizer = family_tokenizer("instruct", ["some\nbilling,delivery", "none", "defect, praise"])
    tokenizer.chat_template = "<|im_start|>{{ messages[0].content }}<|im_end|>"
    result = score(guard, write_model(tmp_path / "model", tokenizer), document("Where is it?"), tolerance=0.1)
    assert result.error is None
    assert len(result.probs) == len(guard.codes) == 4
    assert (result.lower <= result.probs).all()
    assert (result.probs <= result.upper).all()
    assert result.p_any >= result.probs.max() - result.residual
