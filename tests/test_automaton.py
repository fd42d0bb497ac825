"""The automaton accepts exactly the answers, in every tokenization: held against brute force."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from confscore.automaton import AnswerAutomaton, State
from confscore.errors import GuardError
from confscore.guards.answers import QuestionAnswer, VerdictAnswer
from confscore.guards.grammar import ANY, Grammar, Labels, Mark, category_mask, choice, listing, sequence
from confscore.guards.spec import Category, Guard
from confscore.token_walk import ByteState

END = 900
OTHER_END = 901


def make_guard(labels: Sequence[str], **answer: object) -> Guard:
    """Return a guard whose categories are written as given: as codes, or as names behind made-up codes."""
    by_name = answer.get("label") == "name"
    codes = [f"C{j}" for j in range(len(labels))] if by_name else labels
    categories = tuple(Category(code=code, name=name) for code, name in zip(codes, labels, strict=True))
    return Guard(
        name="made-up", categories=categories, answer=VerdictAnswer.model_validate(answer), end_tokens=("<end>",)
    )


def make_vocabulary(guard: Guard, *tokens: str | bytes) -> dict[int, bytes]:
    """Return the single bytes that answers have, then the given tokens, then some that no answer has."""
    answer = guard.answer
    texts = [answer.lead, answer.safe, answer.unsafe, answer.before, answer.separator]
    texts += [category.code if answer.label == "code" else category.name for category in guard.categories]
    single = sorted(set("".join(texts).encode()))
    words = [bytes([byte]) for byte in single]
    words += [token.encode() if isinstance(token, str) else token for token in tokens]
    return dict(enumerate([*words, b"", b"zebra", b"\xff"]))


def build(guard: Guard, vocabulary: Mapping[int, bytes], ends: Sequence[int] = (END,)) -> AnswerAutomaton:
    return AnswerAutomaton(guard.grammar(), guard.codes, vocabulary, ends)


def language(automaton: AnswerAutomaton) -> dict[oracle.Tokens, oracle.Categories]:
    """Return every token sequence the automaton accepts, with the categories it names."""
    found: dict[oracle.Tokens, oracle.Categories] = {}
    stack: list[tuple[oracle.Tokens, int, ByteState]] = [((), 0, automaton.root)]
    while stack:
        tokens, named, key = stack.pop()
        state = automaton.state(key)
        ends = state.allowed[len(state.columns) :]
        assert len(state.finals) == len(ends)
        for end in automaton.alphabet[ends]:
            path = (*tokens, int(end))
            assert path not in found
            found[path] = categories_of(named | (state.finals[0] if state.finals else 0), automaton.n_columns)
        for edge, token in enumerate(automaton.alphabet[state.columns]):
            stack.append(((*tokens, int(token)), named | state.named[edge], state.targets[edge]))
    return found


def categories_of(mask: int, n_columns: int) -> oracle.Categories:
    named = frozenset(j for j in range(n_columns - 1) if mask >> (j + 1) & 1)
    assert (mask & ANY == 1) == bool(named), "the any bit goes with the categories"
    return named


def flags(named: oracle.Categories, n_columns: int) -> np.ndarray:
    return np.array([bool(named), *(j in named for j in range(n_columns - 1))])


def check_language(guard: Guard, vocabulary: Mapping[int, bytes], ends: Sequence[int] = (END,)) -> None:
    automaton = build(guard, vocabulary, ends)
    expected = oracle.answers(guard, vocabulary, ends)
    assert language(automaton) == expected
    assert max(map(len, expected)) <= automaton.max_tokens
    used = {token for tokens in expected for token in tokens}
    assert used <= set(automaton.alphabet.tolist()) <= {*vocabulary, *ends}
    assert len(set(automaton.alphabet.tolist())) == len(automaton.alphabet)


def check_flags(guard: Guard, vocabulary: Mapping[int, bytes], *, tight: bool) -> None:
    """Hold may and must against all completions of every prefix; equal to them where ``tight``."""
    automaton = build(guard, vocabulary)
    through: dict[oracle.Tokens, list[np.ndarray]] = {}
    for tokens, named in oracle.answers(guard, vocabulary, (END,)).items():
        for length in range(1, len(tokens)):
            through.setdefault(tokens[:length], []).append(flags(named, automaton.n_columns))
    stack: list[tuple[oracle.Tokens, int, ByteState]] = [((), 0, automaton.root)]
    while stack:
        tokens, before, key = stack.pop()
        state = automaton.state(key)
        for edge, token in enumerate(automaton.alphabet[state.columns]):
            prefix = (*tokens, int(token))
            may = state.may[edge] | automaton.unpack(before)
            must = state.must[edge] | automaton.unpack(before)
            some, every = np.any(through[prefix], axis=0), np.all(through[prefix], axis=0)
            assert not (some & ~may).any(), "an answer names a category that the automaton rules out"
            assert not (must & ~every).any(), "an answer lacks a category that the automaton promises"
            if tight:
                np.testing.assert_array_equal(may, some)
                np.testing.assert_array_equal(must, every)
            stack.append((prefix, before | state.named[edge], state.targets[edge]))


CASES: dict[str, tuple[Guard, tuple[str | bytes, ...]]] = {
    "digits are split": (make_guard(["S1", "S10", "S2"]), ("safe", "un", "unsafe", "S")),
    "10 is one token": (make_guard(["S1", "S10", "S2"]), ("safe", "unsafe", "10", "S", "S1")),
    "separator and S are merged": (make_guard(["S1", "S2", "S12"]), ("unsafe", ",S", "1,", "2,S1", "\nS")),
    "codes are prefixes": (make_guard(["S1", "S10", "S1a", "S"]), ("safe", "unsafe\n", "S1", "a,", "0,S")),
    "codes are prefixes, in any order": (
        make_guard(["S1", "S10", "S1a"], safe="s", unsafe="u", order="any"),
        ("S1", "0,", "1,S1"),
    ),
    "names of several words": (
        make_guard(["Hate", "Hate Speech", "Self Harm"], label="name", safe="ok", unsafe="no", separator=", "),
        ("Hate", " Speech", "Hate Sp", ", Self", " Harm", "e, S"),
    ),
    "characters are split": (
        make_guard(["Gewäß", "Gewä", "日本"], label="name", safe="s", unsafe="u", before=" "),
        (b"Gew\xc3", b"\xa4\xc3", b"\x9f", "日", b"\xe6\x9c", b"u \xe6", "Gewä"),
    ),
    "verdicts are spanned": (
        make_guard(["S1", "S2"], lead="\n\n"),
        ("\n\n", "\n\nun", "unsafe\n", "safe", "fe\nS", "e\nS1", "\nsafe", "uns", "afe"),
    ),
    "safe is a prefix of unsafe": (make_guard(["a", "b"], safe="no", unsafe="no: ", before=""), ("no", "no: a", ": ")),
    "same bytes twice": (make_guard(["S1", "S2"], safe="s", unsafe="u"), ("S", "S", "1", "u\nS1", "u\nS1", ",")),
    "at most two": (make_guard(["1", "2", "3", "12"], safe="s", unsafe="u", most=2), ("12", ",1", "2,")),
    "at most two, in any order": (
        make_guard(["1", "2", "3", "12"], safe="s", unsafe="u", most=2, order="any"),
        ("12", ",1", "2,"),
    ),
    "at most one": (make_guard(["1", "2", "3"], most=1), ("unsafe\n1", "safe")),
    "more than there are": (make_guard(["1", "2"], most=9), ("unsafe\n1", "safe")),
    "one category": (make_guard(["S1"]), ("S1", "unsafe")),
    "a name holds the separator": (
        make_guard(["a", "b, c", "d"], label="name", safe="s", unsafe="u", separator=", "),
        (", ", "b,", " c, d", "a, b"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_language_is_that_of_brute_force(case: str) -> None:
    guard, tokens = CASES[case]
    check_language(guard, make_vocabulary(guard, *tokens))


@pytest.mark.parametrize("case", CASES)
def test_may_and_must_are_those_of_brute_force(case: str) -> None:
    guard, tokens = CASES[case]
    check_flags(guard, make_vocabulary(guard, *tokens), tight=True)


def test_each_end_token_ends_an_answer() -> None:
    guard = make_guard(["S1", "S2"], safe="s", unsafe="u")
    check_language(guard, make_vocabulary(guard, "u\nS"), (END, OTHER_END))


def test_an_end_token_named_twice_counts_once() -> None:
    guard = make_guard(["S1"], safe="s", unsafe="u")
    automaton = build(guard, make_vocabulary(guard), (END, END))
    assert automaton.alphabet.tolist().count(END) == 1


def test_an_end_token_is_never_part_of_an_answer() -> None:
    guard = make_guard(["S1", "S2"], safe="s", unsafe="u")
    vocabulary = {**make_vocabulary(guard, "S1"), END: b"S1", OTHER_END: b","}
    check_language(guard, vocabulary, (END, OTHER_END))


def test_tokens_without_which_some_lists_cannot_be_written() -> None:
    guard = make_guard(["S1", "S2"], safe="s", unsafe="u")
    vocabulary = {1: b"s", 2: b"u\nS", 3: b"1", 4: b"2", 5: b",", 6: b",S1"}
    assert len(oracle.answers(guard, vocabulary, (END,))) == 3, "S1,S2 cannot be written"
    check_language(guard, vocabulary)
    check_flags(guard, vocabulary, tight=False)


def test_a_code_is_named_once_a_longer_one_is_ruled_out_and_not_before() -> None:
    guard = make_guard(["S1", "S10"], safe="s", unsafe="u", before="")
    automaton = build(guard, {0: b"s", 1: b"u", 2: b"S", 3: b"1", 4: b"0", 5: b","})
    key, named = automaton.root, []
    for token in (1, 2, 3, 5):
        state = automaton.state(key)
        edge = state.edge_of[automaton.alphabet.tolist().index(token)]
        named.append(state.named[edge])
        key = state.targets[edge]
    assert named == [0, ANY, 0, category_mask(0) & ~ANY]


def test_explore_returns_every_state_once() -> None:
    guard, tokens = CASES["codes are prefixes, in any order"]
    automaton = build(guard, make_vocabulary(guard, *tokens))
    found: dict[ByteState, State] = {}
    keys = [automaton.root]
    for key in keys:
        if key not in found:
            found[key] = automaton.state(key)
            keys += found[key].targets
    explored = automaton.explore()
    assert len(explored) == len(found)
    assert {id(state) for state in explored} == {id(state) for state in found.values()}


def test_orders_of_the_same_labels_share_states() -> None:
    guard = make_guard(list("abcdefgh"), safe="s", unsafe="u", order="any")
    # After "u\n" and k of the 8 labels: one state before the next label, and one after it.
    assert len(build(guard, make_vocabulary(guard)).explore()) < 4 * 2**8


def test_a_hundred_categories_in_canonical_order() -> None:
    guard = make_guard([f"S{number}" for number in range(1, 101)])
    automaton = build(guard, make_vocabulary(guard, "unsafe", "safe", "\n", "S", ",S"))
    states = automaton.explore()
    assert len(states) < 1000
    assert automaton.n_columns == 101
    everything = np.any([state.may.any(axis=0) for state in states if len(state.columns)], axis=0)
    assert everything.all()


def test_a_hundred_long_names_in_any_order() -> None:
    names = [
        f"{word} {number}" for number in range(25) for word in ("Hate", "Hateful Content", "Harm", "Fraud & Scams")
    ]
    guard = make_guard(names, label="name", order="any", separator=", ")
    automaton = build(guard, dict(enumerate(bytes([byte]) for byte in range(256))))
    assert automaton.state(automaton.root).may.all(axis=1).any()


# -- random guards and vocabularies --------------------------------------------------------------------------


@st.composite
def guards(draw: st.DrawFn, letters: str = "aA1", label: str = "code") -> Guard:
    """Small guards with much in common between labels, verdicts and separator."""
    texts = st.text(alphabet=letters, min_size=1, max_size=3)
    labels = draw(st.lists(texts, min_size=1, max_size=3, unique_by=str.lower))
    return make_guard(
        labels,
        label=label,
        lead=draw(st.sampled_from(["", "\n", "a"])),
        safe=draw(st.sampled_from(["s", "sa", "a", "A,"])),
        unsafe=draw(st.sampled_from(["u", "us", "A", "a"])),
        before=draw(st.sampled_from(["", "\n", "a"])),
        separator=draw(st.sampled_from([",", ", ", "a", "1"])),
        order=draw(st.sampled_from(["canonical", "any"])),
        most=draw(st.sampled_from([None, 1, 2])),
    )


@st.composite
def vocabularies(draw: st.DrawFn, guard: Guard, *, complete: bool = True) -> dict[int, bytes]:
    """Pieces of the guard's answers, some of them twice, with every single byte where ``complete``."""
    texts = sorted(oracle.answer_texts(guard))
    words = sorted({bytes([byte]) for text in texts for byte in text}) if complete else []
    for _ in range(draw(st.integers(0, 5))):
        text = draw(st.sampled_from(texts))
        start = draw(st.integers(0, len(text) - 1))
        words.append(text[start : start + draw(st.integers(1, 5))])
    words.append(draw(st.binary(min_size=0, max_size=2)))
    # Words that are there several times multiply, and brute force takes minutes over one example.
    assume(sum(n_tokenizations(text, words) for text in texts) <= 3000)
    ids = draw(st.lists(st.integers(0, 99), min_size=len(words), max_size=len(words), unique=True))
    return dict(zip(ids, words, strict=True))


def n_tokenizations(text: bytes, words: Sequence[bytes]) -> int:
    """Return in how many ways words spell a text, without listing them."""
    ways = [1] + [0] * len(text)
    for end in range(1, len(text) + 1):
        ways[end] = sum(ways[end - len(word)] for word in words if word and text[:end].endswith(word))
    return ways[-1]


def drawn(data: st.DataObject, strategy: st.SearchStrategy[Guard]) -> Guard:
    """Draw a guard, leaving out those that are refused as ambiguous."""
    try:
        return data.draw(strategy)
    except ValueError:
        assume(False)
        raise


QUIET = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@settings(QUIET, max_examples=150)
@given(data=st.data())
def test_random_guards_have_the_language_of_brute_force(data: st.DataObject) -> None:
    guard = drawn(data, guards())
    check_language(guard, data.draw(vocabularies(guard)))


@settings(QUIET, max_examples=100)
@given(data=st.data())
def test_random_guards_have_the_flags_of_brute_force(data: st.DataObject) -> None:
    guard = drawn(data, guards())
    check_flags(guard, data.draw(vocabularies(guard)), tight=True)


@settings(QUIET, max_examples=300)
@given(
    labels=st.lists(st.text(alphabet="a1", min_size=1, max_size=5), min_size=1, max_size=4, unique=True),
    safe=st.sampled_from(["s", "ua", "u1a1", "ua11"]),
    separator=st.sampled_from(["1", "a", "11", "a1"]),
    order=st.sampled_from(["canonical", "any"]),
    most=st.sampled_from([None, 1, 2, 3]),
)
def test_a_guard_is_refused_where_one_text_has_two_meanings_and_nowhere_else(
    labels: list[str], safe: str, separator: str, order: str, most: int | None
) -> None:
    answer = {"safe": safe, "separator": separator, "order": order, "most": most, "unsafe": "u", "before": ""}
    answer = {"label": "name", "safe": safe, "separator": separator, "order": order, "most": most}
    answer |= {"unsafe": "u", "before": ""}
    categories = tuple(Category(code=f"C{j}", name=name) for j, name in enumerate(labels))
    unchecked = Guard.model_construct(categories=categories, answer=VerdictAnswer.model_validate(answer))
    try:
        oracle.answer_texts(unchecked)
    except oracle.Ambiguous:
        event("ambiguous")
        with pytest.raises(ValueError, match="ambiguous"):
            make_guard(labels, **answer)
    else:
        make_guard(labels, **answer)


@settings(QUIET, max_examples=100)
@given(data=st.data())
def test_poor_vocabularies_are_refused_or_have_the_language_of_brute_force(data: st.DataObject) -> None:
    guard = drawn(data, guards(letters="ab"))
    vocabulary = data.draw(vocabularies(guard, complete=data.draw(st.booleans())))
    found = oracle.answers(guard, vocabulary, (END,))
    alone = {j for named in found.values() if len(named) == 1 for j in named}
    if alone == set(range(len(guard.codes))):
        check_language(guard, vocabulary)
        check_flags(guard, vocabulary, tight=False)
    else:
        with pytest.raises(GuardError, match="cannot spell"):
            build(guard, vocabulary)


# -- refusals ------------------------------------------------------------------------------------------------


def test_answers_that_may_go_on_need_an_end_token() -> None:
    guard = make_guard(["S1", "S10"])
    with pytest.raises(GuardError, match="one answer can be the beginning of another"):
        build(guard, make_vocabulary(guard), ())


def test_without_end_tokens_an_answer_is_over_when_it_is_complete() -> None:
    answer = QuestionAnswer(form="question", lead=("", " "), yes=("Yes", "yes"), no="No")
    words = {
        0: b"Yes",
        1: b" Yes",
        2: b"Y",
        3: b"es",
        4: b"yes",
        5: b"No",
        6: b" ",
        7: b"!",
        8: b"N",
        9: b"o",
        10: b"Yes!",
    }
    automaton = AnswerAutomaton(answer.grammar(()), ("yes",), words, ())
    assert set(automaton.alphabet) == set(words) - {7, 10}
    assert set(automaton.stops) == {0, 1, 3, 4, 5, 9}
    root = automaton.state(automaton.root)
    k = len(root.columns)
    edges = {words[int(automaton.alphabet[column])] for column in root.columns}
    ends = {words[int(automaton.alphabet[c])]: mask for c, mask in zip(root.allowed[k:], root.finals, strict=True)}
    assert edges == {b"Y", b"N", b" "}
    assert ends == {b"Yes": category_mask(0), b" Yes": category_mask(0), b"yes": category_mask(0), b"No": 0}
    assert automaton.max_tokens == len(" Yes")


def test_a_category_that_the_vocabulary_cannot_spell_is_refused_by_its_code() -> None:
    guard = make_guard(["S1", "S2", "S3"])
    vocabulary = {i: data for i, data in make_vocabulary(guard).items() if data not in (b"2", b"3")}
    with pytest.raises(GuardError, match=r"names only S2 \(nor S3\)"):
        build(guard, vocabulary)


@pytest.mark.parametrize(
    ("labels", "answer"),
    [
        (["a", "b", "a,b"], {}),
        (["b", "a", "a,b"], {"order": "any"}),
        (["a", "b", "c", "b,c"], {"most": 2}),
    ],
)
def test_an_ambiguous_listing_is_refused(labels: list[str], answer: dict[str, object]) -> None:
    texts = tuple(label.encode() for label in labels)
    most = answer.get("most")
    listed = listing(Labels(texts, b",", answer.get("order") != "any"), most if isinstance(most, int) else None)
    grammar = choice(b"safe", sequence(b"unsafe\n", listed))
    automaton = AnswerAutomaton(grammar, labels, {ord(c): c.encode() for c in string.printable}, (END,))
    with pytest.raises(GuardError, match="ambiguous"):
        automaton.explore()


@pytest.mark.parametrize(
    "grammar",
    [
        choice(b"a", sequence(b"a", Mark(category_mask(0)))),
        choice(sequence(Mark(category_mask(0)), b"ab"), sequence(Mark(category_mask(1)), b"ab")),
    ],
)
def test_a_text_of_two_meanings_is_refused(grammar: Grammar) -> None:
    with pytest.raises(GuardError, match="ambiguous"):
        AnswerAutomaton(grammar, ["x", "y"], {0: b"a", 1: b"b"}, (END,)).explore()
