"""A random two-layer model with a real byte-level tokenizer: enough to hold two engines against each other."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTROLS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"]
WORDS = ["safe", "unsafe", "unsafe\nS1,S2,S10", "\n\nsafe", "the cat sat on the mat", "10 12 14", "User: hello"]


def write_tokenizer(folder: Path, size: int = 400, template: str | None = None) -> PreTrainedTokenizerFast:
    """Train and save a byte-level BPE tokenizer; digits are kept apart, so S1 and S10 share tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(WORDS * 5, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in CONTROLS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=CONTROLS[0], eos_token=CONTROLS[3], chat_template=template
    )
    fast.save_pretrained(folder)
    return fast


def write_model(folder: Path, seed: int = 0) -> None:
    """Save a tokenizer and a random float32 Llama beside it."""
    write_random_model(folder, write_tokenizer(folder), hidden_size=64, max_position_embeddings=1024, seed=seed)


def write_random_model(
    folder: Path, tokenizer: PreTrainedTokenizerFast, hidden_size: int, max_position_embeddings: int, seed: int = 0
) -> None:
    """Save a random float32 Llama of two layers whose probabilities are far from even."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=True,
        initializer_range=0.35,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
