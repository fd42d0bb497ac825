"""Tokenizers shaped like those of the guard families, and random models behind them.

The control tokens are the families'; the vocabularies are small. A family is of one of two kinds: byte-level BPE
(Llama 3 and 4, Granite, Qwen), or SentencePiece, where a space is U+2581 and a line break a byte token (Llama 2,
Mistral, Gemma).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tiny
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

LLAMA_3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")
LLAMA_4 = ("<|begin_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>", "<|end_of_text|>")
QWEN = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
GRANITE = ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>")
LLAMA_2 = ("<s>", "</s>")
MISTRAL = ("<s>", "</s>", "[INST]", "[/INST]")
GEMMA = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")

BYTE_LEVEL = {
    "llama-guard-2": LLAMA_3,
    "llama-guard-3": LLAMA_3,
    "llama-guard-3-1b": LLAMA_3,
    "llama-guard-4": LLAMA_4,
    "nemotron-safety-guard-3": LLAMA_3,
    "granite-guardian-3": GRANITE,
    "granite-guardian-3.3": GRANITE,
    "granite-guardian-4": GRANITE,
    "qwen3guard-gen": QWEN,
    "instruct": QWEN,
    "instruct-labels": LLAMA_3,
}
SENTENCEPIECE = {
    "llama-guard-1": LLAMA_2,
    "aegis-1": LLAMA_2,
    "wildguard": MISTRAL,
    "shieldgemma": GEMMA,
}


def family_tokenizer(name: str, texts: Iterable[str], *, split_digits: bool = True) -> PreTrainedTokenizerFast:
    """Train a tokenizer on texts, of the kind and with the control tokens of a guard's family."""
    controls = (BYTE_LEVEL | SENTENCEPIECE)[name]
    trained = Tokenizer(models.BPE())
    digits = [pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
    if name in BYTE_LEVEL:
        trained.pre_tokenizer = pre_tokenizers.Sequence([*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        trained.normalizer = normalizers.Replace(" ", "▁")
        trained.pre_tokenizer = pre_tokenizers.Sequence([*digits, pre_tokenizers.Split("▁", "merged_with_next")])
        alphabet = []
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(list(texts) * 3, trainer)
    model = json.loads(trained.to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return _tokenizer(words, [tuple(merge) for merge in model["merges"]], controls, byte_level=name in BYTE_LEVEL)


def word_tokenizer(name: str, words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of a family's kind that knows the given words and hardly anything else.

    Of what is not a word, only ``z`` can be written, so that an answer has few tokenizations and all of them can be
    listed.
    """
    controls = (BYTE_LEVEL | SENTENCEPIECE)[name]
    if name in BYTE_LEVEL:
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        words = [level.pre_tokenize_str(word)[0][0] for word in words]
        return _tokenizer([*words, "z"], [], controls, byte_level=True)
    words = [word.replace(" ", "▁") for word in words]
    return _tokenizer([*words, "z"], [], controls, byte_level=False, fallback=b"\n")


def _tokenizer(
    words: Sequence[str],
    merges: list[tuple[str, str]],
    controls: Sequence[str],
    *,
    byte_level: bool,
    fallback: bytes = bytes(range(256)),
) -> PreTrainedTokenizerFast:
    if byte_level:
        vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
        tokenizer = Tokenizer(models.BPE(vocabulary, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in fallback), *(word for word in words if word != "\n")]
        vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
        kept = [merge for merge in merges if "\n" not in "".join(merge)]
        kept = [merge for merge in kept if {*merge, "".join(merge)} <= set(vocabulary)]
        tokenizer = Tokenizer(models.BPE(vocabulary, kept, unk_token="<unk>", byte_fallback=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in controls])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=controls[0], eos_token=controls[-1])


def segmented(text: bytes, vocabulary: Mapping[int, bytes], seed: int) -> tuple[int, ...]:
    """Cut a text into tokens at random; every byte of it has to be a token."""
    numbers = random.Random(seed)
    tokens: list[int] = []
    while text:
        token = numbers.choice([number for number, word in vocabulary.items() if word and text.startswith(word)])
        tokens.append(token)
        text = text[len(vocabulary[token]) :]
    return tuple(tokens)


def write_model(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Path:
    """Save a tokenizer and a random float32 model beside it."""
    tokenizer.save_pretrained(folder)
    tiny.write_random_model(folder, tokenizer, hidden_size=32, max_position_embeddings=4096, seed=seed)
    return folder
