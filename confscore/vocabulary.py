"""A tokenizer's vocabulary as bytes, and the checks that a guard can work with it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from confscore.automaton import AnswerAutomaton
from confscore.errors import GuardError
from confscore.guards.spec import Guard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16
_SPACE = "\u2581"  # how SentencePiece writes a space


def load_tokenizer(source: str, revision: str | None, *, trust_remote_code: bool) -> PreTrainedTokenizerFast:
    """Load the fast tokenizer of a model folder or hub id.

    Raises
    ------
    GuardError
        There is none, or it has no fast version.
    """
    if source.startswith(("/", "./", "../", "~")) and not Path(source).is_dir():
        raise GuardError(f"model.source {source}: no such folder")
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy, and offline commands never need it

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GuardError(f"model.source {source}: its tokenizer cannot be loaded: {reason}") from None
    if not tokenizer.is_fast:
        raise GuardError(f"model.source {source}: it has no fast tokenizer (tokenizer.json), which is needed")
    return tokenizer


def model_digest(source: str, revision: str | None) -> str | None:
    """Return what tells two versions of a model apart without reading all of it.

    For a folder, a SHA-256 over names, sizes and samples of its weights and its ``config.json``: a training step
    changes every sample. For a hub model, the commit, where transformers can tell it.
    """
    if not Path(source).is_dir():
        from transformers.utils import cached_file  # noqa: PLC0415 - see load_tokenizer

        try:
            found = cached_file(source, "config.json", revision=revision)
        except (OSError, ValueError):
            return None  # the engine will say what is wrong with it
        return Path(found).parent.name if found else None  # the hub's cache names folders by commit
    digest = hashlib.sha256()
    for path in sorted(
        [*Path(source).glob("*.safetensors"), *Path(source).glob("*.bin"), Path(source) / "config.json"]
    ):
        if not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for start in sorted({size * i // _SAMPLES for i in range(_SAMPLES)}):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def token_bytes(tokenizer: PreTrainedTokenizerFast) -> dict[int, bytes]:
    """Return the bytes that each ordinary token stands for; control tokens are left out.

    Byte-level BPE writes a byte as one printable character; SentencePiece writes a space as U+2581 and bytes
    it has no piece for as ``<0x0A>``.

    Raises
    ------
    GuardError
        The tokenizer is of neither kind.
    """
    pieces = json.loads(tokenizer.backend_tokenizer.to_str())
    kinds = set(_kinds(pieces.get("decoder"))) | set(_kinds(pieces.get("pre_tokenizer")))
    added = tokenizer.added_tokens_decoder
    words = {i: word for word, i in tokenizer.get_vocab().items() if i not in added}
    if "ByteLevel" in kinds:
        table = _byte_of_character()
        plain = {i: bytes(table[c] for c in word) for i, word in words.items() if all(c in table for c in word)}
    elif kinds & {"ByteFallback", "Metaspace", "Replace"}:
        plain = {i: _piece_bytes(word) for i, word in words.items()}
    else:
        raise GuardError(
            "the tokenizer is neither byte-level BPE nor SentencePiece, so the bytes of its tokens are unknown"
        )
    literal = {i: token.content.encode() for i, token in added.items() if not token.special}
    return plain | literal


def end_token_ids(guard: Guard, tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """Return the ids of the guard's end tokens that the tokenizer has; none for a guard without end tokens.

    Raises
    ------
    GuardError
        It has none of them.
    """
    vocabulary = tokenizer.get_vocab()
    ids = tuple(vocabulary[token] for token in guard.end_tokens if token in vocabulary)
    if guard.end_tokens and not ids:
        raise GuardError(
            f"guard {guard.name}: the tokenizer has none of its end tokens ({', '.join(guard.end_tokens)}); "
            "is this the right guard for the model?"
        )
    return ids


def build_automaton(guard: Guard, tokenizer: PreTrainedTokenizerFast) -> AnswerAutomaton:
    """Return the answer automaton of a guard over a tokenizer, or say why the two do not fit."""
    try:
        return AnswerAutomaton(
            guard.grammar(), guard.answer_codes, answer_bytes(guard, tokenizer), end_token_ids(guard, tokenizer)
        )
    except GuardError as error:
        message = str(error)
        raise GuardError(message if message.startswith("guard ") else f"guard {guard.name}: {message}") from None


def answer_bytes(guard: Guard, tokenizer: PreTrainedTokenizerFast) -> dict[int, bytes]:
    """Return the bytes of the tokens that answers may be made of.

    Those are the ordinary ones, and control tokens that the guard's answers are written with, such as ``<think>`` where
    a tokenizer has it as one.
    """
    texts = [text for value in guard.answer.model_dump().values() for text in _texts(value)]
    controls = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    written = {i: word.encode() for i, word in controls.items() if word and any(word in text for text in texts)}
    return token_bytes(tokenizer) | written


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for text in value if isinstance(text, str)] if isinstance(value, tuple) else []


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return a SHA-256 over the tokenizer's definition and its chat template."""
    parts = [tokenizer.backend_tokenizer.to_str(), json.dumps(tokenizer.chat_template)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _kinds(piece: dict[str, object] | None) -> list[str]:
    """Return the type names of a tokenizer part and of the parts it is a sequence of."""
    if not piece:
        return []
    inner = [part for key in ("decoders", "pretokenizers") for part in _dicts(piece.get(key))]
    return [str(piece["type"]), *(kind for part in inner for kind in _kinds(part))]


def _dicts(value: object) -> list[dict[str, object]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _piece_bytes(word: str) -> bytes:
    if len(word) == 6 and word.startswith("<0x") and word.endswith(">"):
        return bytes([int(word[3:5], 16)])
    return word.replace(_SPACE, " ").encode()


def _byte_of_character() -> dict[str, int]:
    """Return the byte behind each character of byte-level BPE.

    Printable bytes stand for themselves; the others are shifted past U+00FF, in ascending order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + shift): byte for shift, byte in enumerate(hidden)}
