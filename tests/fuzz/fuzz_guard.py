"""Any file as a guard: read, or refused in one line, and in a time in which somebody still waits."""

from __future__ import annotations

import tempfile
from pathlib import Path

import harness
import yaml
from hypothesis import strategies as st

from confscore.automaton import AnswerAutomaton
from confscore.errors import ConfscoreError
from confscore.guards import REGISTRY, resolve
from confscore.guards.grammar import certain, longest, possible

BYTES = {number: bytes([number]) for number in range(256)}


def check(data: bytes) -> None:
    """Read a guard, and build what scoring builds of it: first states included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "guard.yaml")
        path.write_bytes(data)
        try:
            guard = resolve(str(path))
            assert len(guard.digest()) == 64
            grammar = guard.grammar()
            assert longest(grammar) >= 0
            assert certain(grammar) & ~possible(grammar) == 0
            automaton = AnswerAutomaton(grammar, guard.answer_codes, BYTES, (256,) if guard.end_tokens else ())
            assert automaton.state(automaton.root).may.shape[1] == len(guard.answer_codes) + 1
        except ConfscoreError as error:
            harness.check_sentence(error)


words = st.one_of(
    st.text("aS1, \n{}", max_size=5),
    st.text(max_size=4),
    st.sampled_from(["{text}", "{code}", "{conversation}", "safe", "yes"]),
)
texts = st.one_of(words, st.lists(words, max_size=3))
plain = st.one_of(st.none(), st.booleans(), st.integers(-1, 5), words)


def some(**fields: st.SearchStrategy) -> st.SearchStrategy[dict]:
    return st.fixed_dictionaries({}, optional=fields)


categories = st.lists(
    st.fixed_dictionaries(
        {"code": st.text("aAS10_", min_size=1, max_size=4) | plain, "name": words | plain},
        optional={"description": words},
    ),
    max_size=5,
)
answers = some(
    form=st.sampled_from(["verdict", "fields", "question", "other"]),
    lead=texts,
    safe=texts,
    unsafe=texts,
    before=texts,
    separator=texts,
    after=texts,
    yes=texts,
    no=texts,
    key=words,
    label=st.sampled_from(["code", "name", "x"]),
    order=st.sampled_from(["canonical", "any"]),
    repeats=st.booleans(),
    most=st.integers(-1, 9) | st.just(10**9),
)
prompts = some(
    text=words,
    message=words,
    system=words,
    closing=words,
    chat_template=words,
    template_args=st.dictionaries(words, words | st.lists(words, max_size=2), max_size=2),
    category_line=words,
)
guards = some(
    name=st.sampled_from(["mine", "x.y", "Ä"]),
    extends=st.sampled_from([*REGISTRY, "nobody"]) | plain,
    categories=categories | plain,
    prompt=prompts | plain,
    answer=answers | plain,
    judges=st.sampled_from(["last", "user", "assistant", "x"]),
    end_tokens=st.lists(words, max_size=2) | plain,
    models=plain,
)
small = {
    "name": "mine",
    "categories": [{"code": "S1", "name": "One"}, {"code": "S10", "name": "Two"}],
    "end_tokens": ["<end>"],
}


@st.composite
def trees(draw: st.DrawFn) -> bytes:
    tree = draw(guards)
    if draw(st.booleans()):
        tree = small | {
            key: value for key, value in tree.items() if key in draw(st.sets(st.sampled_from(sorted(tree) or ["name"])))
        }
    return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


marks = st.sampled_from([*b"{}[]:,-?!&*#|>'\"\n\t \0\xff"]).map(lambda byte: bytes([byte]))
scraps = st.sampled_from(
    [b"name: a\n", b"extends: llama-guard-3\n", b"answer: ", b"categories: ", b"yes", b"!!set ", b"&a ", b"*a", b"? "]
)
inputs = st.one_of(
    trees(), trees(), st.lists(st.one_of(marks, scraps, st.binary(max_size=3)), max_size=30).map(b"".join)
)
