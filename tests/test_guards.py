"""Guards: the registry, YAML files, and a digest that tells contracts apart."""

from __future__ import annotations

from pathlib import Path

import oracle
import pytest
import yaml

from confscore.errors import GuardError
from confscore.guards import REGISTRY, Guard, resolve
from confscore.guards.grammar import longest, possible

SMALLEST = {
    "name": "mine",
    "categories": [{"code": "S1", "name": "Violence"}, {"code": "S2", "name": "Hate"}],
    "end_tokens": ["<end>"],
}


def write(folder: Path, tree: object) -> str:
    path = folder / "guard.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    return str(path)


def changed(path: str, value: object) -> dict:
    """Return the smallest guard with one dotted key set; an integer part indexes a list."""
    tree = yaml.safe_load(yaml.safe_dump(SMALLEST))
    node = tree
    *parents, leaf = path.split(".")
    for part in parents:
        node = node[int(part)] if part.isdigit() else node.setdefault(part, {})
    node[leaf] = value
    return tree


def test_a_small_guard_is_read(tmp_path: Path) -> None:
    guard = resolve(write(tmp_path, SMALLEST))
    assert guard.codes == ("S1", "S2")
    assert guard.judges == "last"
    assert oracle.answer_texts(guard) == {
        b"safe": frozenset(),
        b"unsafe\nS1": frozenset({0}),
        b"unsafe\nS2": frozenset({1}),
        b"unsafe\nS1,S2": frozenset({0, 1}),
    }


def test_a_guard_may_prompt_in_another_way_than_the_one_it_extends(tmp_path: Path) -> None:
    base = REGISTRY["wildguard"].prompt
    assert base.text is not None
    by_message = {"extends": "wildguard", "name": "mine", "prompt": {"message": "Judge: {text}"}}
    prompt = resolve(write(tmp_path, by_message)).prompt
    assert (prompt.text, prompt.message) == (None, "Judge: {text}")
    by_text = {"extends": "shieldgemma", "name": "ours", "prompt": {"text": "Is {name} in it? {text}"}}
    prompt = resolve(write(tmp_path, by_text)).prompt
    assert (prompt.text, prompt.message, prompt.system, prompt.closing) == ("Is {name} in it? {text}", None, None, None)


def test_a_large_guard_is_read(tmp_path: Path) -> None:
    tree = {
        **SMALLEST,
        "prompt": {"text": "{categories}\n{text}", "category_line": "{name}", "user": "U", "assistant": "A"},
        "answer": {"safe": "no", "unsafe": "yes", "before": ": ", "separator": "; ", "label": "name", "order": "any"},
        "judges": "assistant",
        "models": ["some/model"],
        "source": "https://example.org",
    }
    guard = resolve(write(tmp_path, tree))
    assert set(oracle.answer_texts(guard)) == {
        b"no",
        b"yes: Violence",
        b"yes: Hate",
        b"yes: Violence; Hate",
        b"yes: Hate; Violence",
    }


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", "My Guard", "name: "),
        ("name", None, "name: "),
        ("nmae", "x", "nmae: is not a known key"),
        ("categories", [], "categories: "),
        ("categories", "S1", "categories: "),
        ("categories.0.code", "S 1", "categories.0.code: "),
        ("categories.1.code", "", "categories.1.code: "),
        ("categories.0.code", 1, "categories.0.code: "),
        ("categories.0.code", "S1\n", "categories.0.code: "),
        ("categories.0.name", "", "categories.0.name: "),
        ("categories.0.colour", "red", "categories.0.colour: is not a known key"),
        ("categories.1.code", "S1", "two categories have the code 'S1'"),
        ("categories.1.code", "s1", "differ only in case"),
        ("categories.1.code", "any", "p_any and p_max are columns already"),
        ("categories.1.code", "Max", "p_any and p_max are columns already"),
        ("end_tokens", None, "end_tokens: "),
        ("end_tokens", [""], "end_tokens.0: "),
        ("prompt.text", "judge this", "prompt: the prompt must contain {conversation}, {text} or {request}"),
        ("prompt.text", "{text} {conversation}", "one of them and once"),
        ("prompt.text", "{text} {text}", "one of them and once"),
        ("prompt.txt", "{text}", "prompt.txt: is not a known key"),
        ("answer.safe", "", "answer.safe: "),
        ("answer.separator", "", "answer.separator: "),
        ("answer.most", 0, "answer.most: "),
        ("answer.order", "random", "answer.order: "),
        ("answer.label", "number", "answer.label: "),
        ("answer.safe", "unsafe\nS1", "answers are ambiguous: 'unsafe\\nS1' is also the text of an unsafe answer"),
        ("answer.safe", "unsafe\nS1,S2", "answers are ambiguous"),
        ("judges", "system", "judges: "),
    ],
)
def test_a_bad_guard_is_refused_with_the_path_of_the_key(
    tmp_path: Path, path: str, value: object, message: str
) -> None:
    file = write(tmp_path, changed(path, value))
    with pytest.raises(GuardError) as caught:
        resolve(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_that_are_written_alike_are_refused_by_code(tmp_path: Path) -> None:
    names = ["Guns", "Knives", "Guns, Knives"]
    tree = {**SMALLEST, "categories": [{"code": f"C{j}", "name": name} for j, name in enumerate(names)]}
    assert resolve(write(tmp_path, tree)), "codes tell them apart"
    file = write(tmp_path, {**tree, "answer": {"label": "name", "separator": ", "}})
    with pytest.raises(GuardError, match="C2 and C0 with C1 are written alike"):
        resolve(file)
    assert resolve(write(tmp_path, {**tree, "answer": {"label": "name", "separator": "; "}}))
    assert resolve(write(tmp_path, {**tree, "answer": {"label": "name", "separator": ", ", "most": 1}}))


def test_two_categories_of_one_name_are_fine_where_codes_are_written(tmp_path: Path) -> None:
    tree = changed("categories.1.name", "Violence")
    assert resolve(write(tmp_path, tree))
    with pytest.raises(GuardError, match="two categories have the name 'Violence'"):
        resolve(write(tmp_path, {**tree, "answer": {"label": "name"}}))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "cannot be read as YAML"), ("- a", "a guard is a mapping"), ("", "a guard is a mapping")],
)
def test_a_file_that_is_no_guard_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(GuardError, match=message):
        resolve(write(tmp_path, text))


def test_a_guard_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GuardError, match="no such guard file"):
        resolve(str(tmp_path / "none.yml"))
    with pytest.raises(GuardError, match=r"no guard is called 'lama-guard'; known: .*llama-guard-3"):
        resolve("lama-guard")


def test_the_order_of_answers_can_be_overridden(tmp_path: Path) -> None:
    file = write(tmp_path, SMALLEST)
    assert resolve(file).answer.order == "canonical"
    assert b"unsafe\nS2,S1" in oracle.answer_texts(resolve(file, "any"))
    assert resolve("llama-guard-3", "any").answer.order == "any"
    assert REGISTRY["llama-guard-3"].answer.order == "canonical"


def test_llama_guard_3_is_as_published() -> None:
    guard = resolve("llama-guard-3")
    assert guard.codes == tuple(f"S{number}" for number in range(1, 15))
    assert guard.answer.lead == "\n\n"
    assert possible(guard.grammar()) == (1 << 15) - 1
    assert longest(guard.grammar()) == len("\n\nunsafe\n" + ",".join(guard.codes))


@pytest.mark.parametrize("name", REGISTRY)
def test_registered_guards_are_called_by_their_own_name(name: str) -> None:
    assert resolve(name).name == name


# -- the digest ----------------------------------------------------------------------------------------------


def test_equal_guards_have_equal_digests(tmp_path: Path) -> None:
    first = resolve(write(tmp_path, SMALLEST))
    defaults_written_out = {**SMALLEST, "answer": {"safe": "safe", "order": "canonical"}, "judges": "last"}
    assert resolve(write(tmp_path, defaults_written_out)).digest() == first.digest()
    assert len(first.digest()) == 64


def test_the_digest_of_a_published_guard_stays_the_same() -> None:
    # It stands in score tables: a change here means that old and new scores are not comparable.
    assert resolve("llama-guard-3").digest().startswith(LLAMA_GUARD_3_DIGEST)


LLAMA_GUARD_3_DIGEST = "a191c8cce996d884"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("categories.0.code", "S9"),
        ("categories.0.name", "Harm"),
        ("categories.0.description", "Blows."),
        ("categories", SMALLEST["categories"][::-1]),
        ("end_tokens", ["<end>", "<other>"]),
        ("prompt.text", "{text}"),
        ("prompt.chat_template", "{{ messages }}"),
        ("prompt.category_line", "{code}"),
        ("prompt.user", "Human"),
        ("answer.lead", "\n"),
        ("answer.safe", "ok"),
        ("answer.order", "any"),
        ("answer.most", 1),
        ("answer.label", "name"),
        ("judges", "user"),
    ],
)
def test_whatever_changes_a_score_changes_the_digest(path: str, value: object) -> None:
    before, after = Guard.model_validate(SMALLEST), Guard.model_validate(changed(path, value))
    assert before.digest() != after.digest()


@pytest.mark.parametrize(("path", "value"), [("name", "other"), ("models", ["x/y"]), ("source", "a book")])
def test_what_changes_no_score_leaves_the_digest(path: str, value: object) -> None:
    before, after = Guard.model_validate(SMALLEST), Guard.model_validate(changed(path, value))
    assert before.digest() == after.digest()
