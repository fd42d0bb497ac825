"""Tokens as bytes, and whether a guard and a tokenizer fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from confscore.errors import GuardError
from confscore.guards.answers import QuestionAnswer, VerdictAnswer
from confscore.guards.spec import Category, Guard
from confscore.vocabulary import (
    answer_bytes,
    build_automaton,
    end_token_ids,
    load_tokenizer,
    model_digest,
    token_bytes,
    tokenizer_digest,
)

GUARD = Guard(
    name="small",
    categories=(Category(code="S1", name="Violence"), Category(code="S10", name="Gewäß")),
    end_tokens=("<|eot_id|>", "<|none|>", "<|end_of_text|>"),
)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return tiny.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def sentencepiece(pieces: list[str], *, strip: bool = False) -> PreTrainedTokenizerFast:
    """Return a byte-fallback tokenizer with the given pieces."""
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    tokenizer.add_special_tokens([AddedToken("<unk>", special=True), AddedToken("<|eot_id|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_byte_level_tokens_are_all_bytes_and_no_control_tokens(byte_level: PreTrainedTokenizerFast) -> None:
    vocabulary = token_bytes(byte_level)
    single = {data for data in vocabulary.values() if len(data) == 1}
    assert single == {bytes([byte]) for byte in range(256)}
    assert not set(vocabulary) & set(byte_level.added_tokens_decoder)
    assert len(vocabulary) == len(byte_level) - len(tiny.CONTROLS)
    assert b"unsafe" in vocabulary.values()


@given(text=st.text())
def test_the_tokens_of_a_text_have_its_bytes(byte_level: PreTrainedTokenizerFast, text: str) -> None:
    vocabulary = token_bytes(byte_level)
    ids = byte_level.backend_tokenizer.encode(text, add_special_tokens=False).ids
    if not set(ids) & set(byte_level.added_tokens_decoder):
        assert b"".join(vocabulary[token] for token in ids) == text.encode()


def test_added_tokens_that_are_not_special_stand_for_their_text(tmp_path: Path) -> None:
    tokenizer = tiny.write_tokenizer(tmp_path)
    tokenizer.backend_tokenizer.add_tokens([AddedToken("Gewäß", special=False)])
    assert token_bytes(tokenizer)[tokenizer.convert_tokens_to_ids("Gewäß")] == "Gewäß".encode()


@pytest.mark.parametrize("strip", [False, True])
def test_sentencepiece_pieces(strip: bool) -> None:
    tokenizer = sentencepiece(["▁safe", "un", "▁▁", "ß", "<0x>", "<0x0A>x"], strip=strip)
    vocabulary = {tokenizer.convert_ids_to_tokens(i): data for i, data in token_bytes(tokenizer).items()}
    assert vocabulary["▁safe"] == b" safe"
    assert vocabulary["▁▁"] == b"  "
    assert vocabulary["ß"] == "ß".encode()
    assert vocabulary["<0x0A>"] == b"\n"
    assert vocabulary["<0xFF>"] == b"\xff"
    assert vocabulary["<0x>"] == b"<0x>"
    assert vocabulary["<0x0A>x"] == b"<0x0A>x"
    assert not {"<unk>", "<|eot_id|>"} & set(vocabulary)


def test_a_guard_works_with_sentencepiece() -> None:
    tokenizer = sentencepiece(["safe", "unsafe", "S1", ",S"])
    automaton = build_automaton(GUARD, tokenizer)
    used = {token_bytes(tokenizer).get(int(token), b"<end>") for token in automaton.alphabet}
    # A newline has no piece of its own there: it is the byte token <0x0A>.
    assert {b"safe", b"unsafe", b"S1", b",S", b"0", b"\n", b"<end>"} <= used


def test_other_tokenizers_are_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"safe": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(GuardError, match="neither byte-level BPE nor SentencePiece"):
        token_bytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def test_the_end_tokens_that_the_tokenizer_has(byte_level: PreTrainedTokenizerFast) -> None:
    ids = end_token_ids(GUARD, byte_level)
    assert byte_level.convert_ids_to_tokens(list(ids)) == ["<|eot_id|>", "<|end_of_text|>"]
    automaton = build_automaton(GUARD, byte_level)
    assert automaton.alphabet[-2:].tolist() == list(ids)
    assert automaton.state(automaton.root).finals == ()


def test_a_tokenizer_without_the_end_tokens_is_refused(byte_level: PreTrainedTokenizerFast) -> None:
    guard = GUARD.model_copy(update={"end_tokens": ("</s>", "<end>")})
    with pytest.raises(GuardError, match=r"^guard small: the tokenizer has none of its end tokens \(</s>, <end>\)"):
        build_automaton(guard, byte_level)


def test_what_does_not_fit_is_said_with_the_name_of_the_guard() -> None:
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate("safeun\nS1")}, []))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken("<|eot_id|>", special=True)])
    with pytest.raises(GuardError, match="guard small: the tokenizer cannot spell an answer that names only S10:"):
        build_automaton(GUARD, PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def test_a_name_that_splits_characters_is_spelled(byte_level: PreTrainedTokenizerFast) -> None:
    guard = GUARD.model_copy(update={"answer": VerdictAnswer(label="name")})
    automaton = build_automaton(guard, byte_level)
    vocabulary = token_bytes(byte_level)
    used = {vocabulary.get(int(token)) for token in automaton.alphabet}
    assert {b"\xc3", b"\xa4", b"\x9f"} <= used


def test_a_tokenizer_is_loaded_from_its_folder(tmp_path: Path) -> None:
    written = tiny.write_tokenizer(tmp_path)
    loaded = load_tokenizer(str(tmp_path), None, trust_remote_code=False)
    assert token_bytes(loaded) == token_bytes(written)
    assert tokenizer_digest(loaded) == tokenizer_digest(load_tokenizer(str(tmp_path), None, trust_remote_code=False))


def test_a_folder_without_tokenizer_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(GuardError, match="its tokenizer cannot be loaded") as caught:
        load_tokenizer(str(tmp_path), None, trust_remote_code=False)
    assert str(caught.value).startswith(f"model.source {tmp_path}: ")
    assert "\n" not in str(caught.value)


def test_the_digest_tells_tokenizers_and_templates_apart(tmp_path: Path) -> None:
    digests = {
        tokenizer_digest(tiny.write_tokenizer(tmp_path)),
        tokenizer_digest(tiny.write_tokenizer(tmp_path, template="{{ messages }}")),
        tokenizer_digest(tiny.write_tokenizer(tmp_path, size=270)),
    }
    assert len(digests) == 3


def test_a_model_folder_is_told_apart_by_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = bytearray(5_000_000)
    (tmp_path / "model.safetensors").write_bytes(weights)
    before = model_digest(str(tmp_path), None)
    assert before == model_digest(str(tmp_path), None)
    weights[::1000] = b"\1" * 5000  # as a training step does, all over the file
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert model_digest(str(tmp_path), None) != before


def test_control_tokens_that_answers_are_written_with_are_part_of_them(tmp_path: Path) -> None:
    tokenizer = tiny.write_tokenizer(tmp_path)
    tokenizer.backend_tokenizer.add_special_tokens(
        [AddedToken("<score>", special=True), AddedToken("<x>", special=True)]
    )
    score = tokenizer.backend_tokenizer.token_to_id("<score>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    question = QuestionAnswer(form="question", lead=("<score> ", ""), after=("", " </score>"))
    guard = GUARD.model_copy(update={"answer": question})
    words = answer_bytes(guard, tokenizer)
    assert words[score] == b"<score>"
    assert score not in token_bytes(tokenizer)
    assert b"<x>" not in words.values()
    automaton = build_automaton(guard, tokenizer)
    assert score in automaton.alphabet[automaton.state(automaton.root).allowed]
    assert score not in build_automaton(GUARD, tokenizer).alphabet
