"""The guards that ship: each family's answers against its documented format, listed here in another way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, permutations, product
from pathlib import Path

import numpy as np
import oracle
import pytest
import yaml
from family_tokenizers import BYTE_LEVEL, SENTENCEPIECE, family_tokenizer, segmented
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import Toy, explore, random_table, toy_guard

from confscore.answer_tree import AnswerTree, StoppingRule
from confscore.automaton import AnswerAutomaton
from confscore.guards import REGISTRY, Guard, resolve
from confscore.guards.answers import FieldsAnswer, QuestionAnswer, VerdictAnswer
from confscore.guards.spec import Category, PromptSpec
from confscore.vocabulary import build_automaton, end_token_ids, token_bytes

ROOT = Path(__file__).parents[1]
Answers = dict[str, frozenset[str]]
"""Texts, and the codes that each names; ``yes`` where a question is answered with it."""

NONE: frozenset[str] = frozenset()
YES = frozenset({"yes"})

# -- the documented formats ----------------------------------------------------------------------------------


def listed(labels: dict[str, str], most: int, separators: Sequence[str], *, ordered: bool = False) -> Answers:
    """Return every list of up to ``most`` labels; ``labels`` maps codes to what an answer writes."""
    found: Answers = {}
    for size in range(1, most + 1):
        for codes in (combinations if ordered else permutations)(labels, size):
            for between in product(separators, repeat=size - 1):
                text = "".join(labels[code] + joint for code, joint in zip(codes, (*between, ""), strict=True))
                found[text] = frozenset(codes)
    return found


def llama_guard(guard: Guard, most: int) -> Answers:
    codes = {code: code for code in guard.codes}
    ordered = guard.name == "llama-guard-3"
    lists = listed(codes, most, [","] if ordered else [",", ", "], ordered=ordered)
    leads = {
        "llama-guard-1": ["", " "],
        "aegis-1": ["", " "],
        "llama-guard-2": ["", " ", "\n\n"],
        "llama-guard-3": ["\n\n"],
        "llama-guard-3-1b": ["\n\n", ""],
        "llama-guard-4": ["\n\n", "\n", ""],
        "instruct": ["", " ", "\n", "\n\n"],
    }[guard.name]
    found = {lead + "safe": NONE for lead in leads}
    return found | {f"{lead}unsafe\n{text}": named for lead in leads for text, named in lists.items()}


def instruct_labels(guard: Guard, most: int) -> Answers:
    lists = listed({code: code for code in guard.codes}, most, [",", ", "])
    leads = ["", " ", "\n", "\n\n"]
    found = {lead + "none": NONE for lead in leads}
    return found | {f"{lead}some\n{text}": named for lead in leads for text, named in lists.items()}


def first_word(guard: Guard, most: int) -> Answers:
    leads = ["", " ", "\n"] if guard.name == "granite-guardian-3" else ["", " "]
    spellings = [(word, word.lower() == "yes") for word in ("Yes", "yes", "YES", "No", "no", "NO")]
    return {lead + word: YES if yes else NONE for lead in leads for word, yes in spellings}


def scored(guard: Guard, most: int) -> Answers:
    blocks = ["", "<think>\n</think>\n", "<think>\n\n</think>\n", "<think></think>\n", "<think>\n</think>\n\n"]
    words = [("yes", YES), ("Yes", YES), ("no", NONE), ("No", NONE)]
    return {f"{block}<score>{gap}{word}": named for block in blocks for gap in ("", " ") for word, named in words}


def wildguard(guard: Guard, most: int) -> Answers:
    found: Answers = {}
    values = ["yes", "Yes", "no", "No", "n/a", "N/A"]
    for lead, *said in product(["", " ", "\n"], values, values, values):
        text = f"{lead}Harmful request: {said[0]}\nResponse refusal: {said[1]}\nHarmful response: {said[2]}"
        codes = ("harmful_request", "response_refusal", "harmful_response")
        found[text] = frozenset(code for code, value in zip(codes, said, strict=True) if value.lower() == "yes")
    return found


def nemotron(guard: Guard, most: int) -> Answers:
    lists = listed({category.code: category.name for category in guard.categories}, most, [", ", ","])
    found: Answers = {}
    for lead, close in product(["", " "], ["}", "} "]):
        found[f'{lead}{{"User Safety": "safe"{close}'] = NONE
        found[f'{lead}{{"User Safety": "safe", "Response Safety": "safe"{close}'] = NONE
        for text, named in lists.items():
            rest = f', "Safety Categories": "{text}"{close}'
            found[f'{lead}{{"User Safety": "unsafe"{rest}'] = named
            for user, agent in (("unsafe", "safe"), ("safe", "unsafe"), ("unsafe", "unsafe")):
                found[f'{lead}{{"User Safety": "{user}", "Response Safety": "{agent}"{rest}'] = named
    return found


def qwen3guard(guard: Guard, most: int) -> Answers:
    lists = listed({category.code: category.name for category in guard.categories}, most, [", ", ","])
    found: Answers = {}
    for refusal in ("", "\nRefusal: Yes", "\nRefusal: No"):
        found[f"Safety: Safe\nCategories: None{refusal}"] = NONE
        for verdict, (text, named) in product(("Unsafe", "Controversial"), lists.items()):
            found[f"Safety: {verdict}\nCategories: {text}{refusal}"] = named
    return found


FORMATS: dict[str, Callable[[Guard, int], Answers]] = {
    **{f"llama-guard-{version}": llama_guard for version in ("1", "2", "3", "3-1b", "4")},
    "aegis-1": llama_guard,
    "instruct": llama_guard,
    "instruct-labels": instruct_labels,
    "shieldgemma": first_word,
    "granite-guardian-3": first_word,
    "granite-guardian-3.3": scored,
    "granite-guardian-4": scored,
    "wildguard": wildguard,
    "nemotron-safety-guard-3": nemotron,
    "qwen3guard-gen": qwen3guard,
}


def read(automaton: AnswerAutomaton, tokens: Sequence[int]) -> int | None:
    """Return the mask of what an answer names, or ``None`` where the automaton does not accept it."""
    key, named = automaton.root, 0
    columns = {int(token): column for column, token in enumerate(automaton.alphabet)}
    for place, token in enumerate(tokens):
        state, column = automaton.state(key), columns.get(token, -1)
        if place == len(tokens) - 1:
            last = state.allowed[len(state.columns) :].tolist()
            return named | state.finals[last.index(column)] if column in last else None
        edge = state.edge_of.get(column)
        if edge is None:
            return None
        key, named = state.targets[edge], named | state.named[edge]
    return None


def mask_of(named: frozenset[str], codes: Sequence[str]) -> int:
    return sum(1 << (codes.index(code) + 1) for code in named) | bool(named)


def smaller(guard: Guard, count: int) -> Guard:
    """Return a guard with the first categories only."""
    return guard.model_copy(update={"categories": guard.categories[:count]})


@pytest.mark.parametrize("name", REGISTRY)
def test_the_language_is_the_documented_format(name: str) -> None:
    guard = REGISTRY[name] if name == "wildguard" else smaller(REGISTRY[name], 3)
    expected = FORMATS[name](guard, 3)
    ends = [900] if guard.end_tokens else []
    automaton = AnswerAutomaton(guard.grammar(), guard.answer_codes, {b: bytes([b]) for b in range(256)}, ends)
    found = {bytes(tokens): mask for tokens, mask in accepted(automaton, bool(ends))}
    assert found == {text.encode(): mask_of(named, guard.answer_codes) for text, named in expected.items()}


def accepted(automaton: AnswerAutomaton, with_end: bool) -> Iterator[tuple[list[int], int]]:
    """Yield every answer of an automaton over single bytes, with its mask."""
    stack = [([], 0, automaton.root)]
    while stack:
        tokens, named, key = stack.pop()
        state = automaton.state(key)
        for column, final in zip(state.allowed[len(state.columns) :], state.finals, strict=True):
            yield tokens if with_end else [*tokens, int(automaton.alphabet[column])], named | final
        for edge, token in enumerate(automaton.alphabet[state.columns]):
            stack.append(([*tokens, int(token)], named | state.named[edge], state.targets[edge]))


WRONG = ("", "Safe!", "perhaps", "safe\nunsafe", "unsafe", "unsafe\nS99", "unsafe\nO1,O1", "Yesterday", "<think>")


@pytest.mark.parametrize("split_digits", [True, False])
@pytest.mark.parametrize("name", REGISTRY)
def test_answers_are_read_in_every_tokenization(name: str, split_digits: bool) -> None:
    guard = REGISTRY[name]
    answers = FORMATS[name](guard, 2)
    few = list(answers.items())[:: max(1, len(answers) // 150)]
    tokenizer = family_tokenizer(name, [text for text, _ in few[::2]], split_digits=split_digits)
    automaton, vocabulary = build_automaton(guard, tokenizer), token_bytes(tokenizer)
    ends = end_token_ids(guard, tokenizer)[:1]
    for number, (text, named) in enumerate(few):
        own = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        assert b"".join(vocabulary[token] for token in own) == text.encode()
        for tokens in (
            own,
            segmented(text.encode(), vocabulary, number),
            segmented(text.encode(), vocabulary, -number),
        ):
            assert read(automaton, (*tokens, *ends)) == mask_of(named, guard.answer_codes), text
        # Cut off, lengthened, or with a letter exchanged, it is no answer, or another one of the format.
        middle = len(text) // 2
        for other in (text[:-1], text + "x", text[:middle] + "#" + text[middle + 1 :]):
            expected = answers.get(other)
            found = read(automaton, (*segmented(other.encode(), vocabulary, number), *ends))
            assert found == (None if expected is None else mask_of(expected, guard.answer_codes)), other
    for text in WRONG:
        assert read(automaton, (*segmented(text.encode(), vocabulary, 0), *ends)) is None, text


def test_every_family_has_a_tokenizer_and_a_format_here() -> None:
    assert set(FORMATS) == set(BYTE_LEVEL | SENTENCEPIECE) == set(REGISTRY)


# -- lists with repeats, and several separators --------------------------------------------------------------


def repeated(codes: Sequence[str], most: int, separators: Sequence[str]) -> dict[bytes, frozenset[int]]:
    found = {b"s": frozenset[int]()}
    for size in range(1, most + 1):
        for chosen in product(range(len(codes)), repeat=size):
            for between in product(separators, repeat=size - 1):
                text = "".join(codes[j] + joint for j, joint in zip(chosen, (*between, ""), strict=True))
                found[f"u{text}".encode()] = frozenset(chosen)
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(
    codes=st.sampled_from([("1",), ("1", "2"), ("1", "12"), ("1", "2", "12")]),
    separators=st.sampled_from([(",",), (",", ", "), (" ", ", ", ",")]),
    words=st.lists(st.sampled_from([", ", "12", "1,", "u1", "2, 1", ",1"]), unique=True, max_size=3),
    seed=st.integers(0, 1000),
    normalization=st.sampled_from(["raw", "local", "global"]),
)
def test_a_category_that_is_listed_again_counts_once(
    codes: tuple[str, ...], separators: tuple[str, ...], words: list[str], seed: int, normalization: str
) -> None:
    guard = toy_guard(*codes, order="any", repeats=True, most=3, separator=separators)
    toy = Toy(guard, ("s", "u", "1", "2", ",", " ", *words))
    texts = repeated(codes, 3, separators)
    answers = {
        (*tokens, end): named
        for text, named in texts.items()
        for tokens in oracle.tokenizations(text, toy.vocabulary)
        for end in toy.ends
    }
    for tokens, named in answers.items():
        assert read(toy.automaton, tokens) == mask_of(frozenset(codes[j] for j in named), codes)
    table = random_table(toy, seed)
    exact = oracle.exact(answers, len(codes), table)
    rule = StoppingRule(normalization=normalization, tolerance=1e-9, budget=10_000)
    tree = AnswerTree(toy.automaton, rule)

    async def run() -> None:
        await explore(tree, toy.engine(table))

    asyncio.run(run())
    np.testing.assert_allclose(tree.bounds(normalization).value, exact.marginals[normalization], atol=1e-8)
    assert tree.bounds(normalization).value.max() <= 1 + 1e-9


@pytest.mark.parametrize("separators", [(",", ", "), (",", ",x")])
def test_labels_that_several_separators_make_alike_are_refused(separators: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="are written alike"):
        toy_guard("a", "b", "a-b", separator=("-", *separators))
    assert toy_guard("a", "b", "ab", separator=separators)


# -- the registry --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGISTRY)
def test_a_guard_comes_back_from_its_own_yaml(tmp_path: Path, name: str) -> None:
    guard = REGISTRY[name]
    path = tmp_path / "guard.yaml"
    for unset in (False, True):
        path.write_text(yaml.safe_dump(guard.model_dump(mode="json", exclude_defaults=unset)), encoding="utf-8")
        back = resolve(str(path))
        assert back == guard
        assert back.digest() == guard.digest()


@pytest.mark.parametrize("name", REGISTRY)
def test_a_guard_says_where_it_comes_from(name: str) -> None:
    guard = REGISTRY[name]
    assert guard.name == name
    assert guard.models
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", model) for model in guard.models)
    assert guard.source.startswith("https://")
    assert len(guard.notes) > 100
    assert guard.asks_each == isinstance(guard.answer, QuestionAnswer) == (not guard.end_tokens)


def test_no_model_belongs_to_two_families() -> None:
    models = [model for name, guard in REGISTRY.items() if not name.startswith("instruct") for model in guard.models]
    assert len(models) == len(set(models))


def test_codes_of_two_llama_guards_mean_different_things() -> None:
    second, third = (dict(zip(REGISTRY[name].codes, REGISTRY[name].categories, strict=True)) for name in PAIR)
    assert second["S9"].name == "Hate" == third["S10"].name


PAIR = ("llama-guard-2", "llama-guard-3")


def test_a_registered_guard_takes_another_taxonomy(tmp_path: Path) -> None:
    for name in REGISTRY:
        path = tmp_path / "mine.yaml"
        categories = [{"code": "C1", "name": "Spam", "description": "Bulk mail."}, {"code": "C2", "name": "Boasting"}]
        path.write_text(yaml.safe_dump({"extends": name, "name": "mine", "categories": categories}), encoding="utf-8")
        guard = resolve(str(path))
        assert guard.codes == ("C1", "C2")
        assert guard.prompt == REGISTRY[name].prompt
        assert guard.categories[0] == Category(code="C1", name="Spam", description="Bulk mail.")


def test_yes_and_no_are_words_in_a_guards_file(tmp_path: Path) -> None:
    path = tmp_path / "guard.yaml"
    path.write_text(
        "name: mine\ncategories: [{code: on, name: off}]\nend_tokens: []\n"
        "prompt: {text: '{text}: {name}?', list_content: true}\nanswer: {form: question, yes: yes, no: [no, No]}\n"
    )
    guard = resolve(str(path))
    assert (guard.answer.yes, guard.answer.no) == ("yes", ("no", "No"))
    assert (guard.codes, guard.prompt.list_content) == (("on",), True)


# -- the documentation ---------------------------------------------------------------------------------------


def table_rows() -> dict[str, list[str]]:
    text = (ROOT / "docs" / "guards.md").read_text(encoding="utf-8").split("## Your own")[0]
    rows = re.findall(r"^\| `([a-z0-9.-]+)` \| (.*) \|$", text, re.M)
    return {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in rows}


def test_the_documented_families_are_the_registered_ones() -> None:
    rows = table_rows()
    assert list(rows) == list(REGISTRY)
    for name, (models, categories, *_) in rows.items():
        guard = REGISTRY[name]
        assert {model.split("/")[1] for model in guard.models} == set(re.findall(r"`([^`]+)`", models)), name
        first, last = guard.codes[0], guard.codes[-1]
        span = f"{first}–{last}" if re.fullmatch(r"[A-Z]\d+", first) else ", ".join(guard.codes)
        assert categories == span, name


def test_the_documented_taxonomies_are_valid(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "guards.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```yml\n(.*?)^```", text, re.M | re.S)
    assert len(shown) >= 2
    for number, block in enumerate(shown):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, encoding="utf-8")
        guard = resolve(str(path))
        assert guard.name == re.search(r"^# ([\w-]+)\.yaml", block).group(1)


def test_every_key_is_documented() -> None:
    text = (ROOT / "docs" / "guards.md").read_text(encoding="utf-8")
    parts = {"prompt": [PromptSpec], "answer": [VerdictAnswer, FieldsAnswer, QuestionAnswer], "": [Guard]}
    for prefix, models in parts.items():
        for key in {key for model in models for key in model.model_fields}:
            assert re.search(rf"^\|.*`{prefix and prefix + '.'}{key}`", text, re.M), key
