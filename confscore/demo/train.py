"""Train the small guard that ships with the package: ``python -m confscore.demo.train --out DIR``.

A Llama of about a million parameters learns what a perfect guard would say in the demo world. It is not shown
sampled answers but the exact next-token distribution at every place of an answer, which is known
(:mod:`confscore.demo.targets`), so a quarter of an hour on two CPU cores is enough. Prompts are made by the code
that makes them for scoring.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import DynamicCache, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from confscore.config import ModelConfig, ScoringConfig
from confscore.demo import GUARD_YAML
from confscore.demo.quality import measure
from confscore.demo.targets import answer_pieces, draw_path, next_piece_probs
from confscore.demo.tokenizer import train_tokenizer
from confscore.demo.world import Mix, WorldDocument, generate
from confscore.guards import Guard, resolve
from confscore.loading import open_scorer
from confscore.prompt import Prompter
from confscore.rows import Document, Message

# Flagged and ambiguous documents teach most; P(category | text) does not depend on their share.
SHORT = Mix(strong=0.45, ambiguous=0.4, sentences=(1, 1))
USUAL = Mix(strong=0.45, ambiguous=0.4, sentences=(1, 5))
LONG = Mix(strong=0.5, ambiguous=0.3, sentences=(12, 30))
LONG_SHARE, CHAT_SHARE = 0.02, 0.12
POOL = 2048
"""Documents that are drawn and sorted by length at a time."""

UNSAFE_SHARE = 0.5
"""How often an answer that names nothing gives way to one that names something."""

OUTSIDE_WEIGHT = 4.0
VOCABULARY = 1500
STEPS = (400, 1400)
BATCH_TOKENS = 4608
STORED_AS = torch.bfloat16
FRESH_SEED = 20_261_122
LEARNING_RATE = 5e-3


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with an answer, and what should be said at each place of it.

    Attributes
    ----------
    ids : list of int
        The prompt, then the answer without its end token.
    prompt : int
        Tokens of the prompt.
    targets : list of dict of int to float
        ``targets[t]`` is the next-token distribution after ``ids[: prompt + t]``.
    """

    ids: list[int]
    prompt: int
    targets: list[dict[int, float]]


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the untrained model."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        attention_bias=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


class Lessons:
    """An endless stream of training batches.

    Parameters
    ----------
    guard : Guard
        What is asked.
    tokenizer : PreTrainedTokenizerFast
        How it is spelled.
    batch_tokens : int
        Tokens of a batch, the policy at the start of each prompt not counted.
    seed : int
        Equal seeds give equal batches.
    """

    def __init__(self, guard: Guard, tokenizer: PreTrainedTokenizerFast, batch_tokens: int, seed: int) -> None:
        self._codes = guard.codes
        self._prompter = Prompter(guard, tokenizer, 1900)
        self._piece_ids = tokenizer.get_vocab()
        self._batch_tokens = batch_tokens
        self._rng = np.random.default_rng(seed)
        blank = [self._prompter.prompts(_document(text)).token_ids[0] for text in ("a", "b")]
        self._policy = next(t for t, pair in enumerate(zip(*blank, strict=True)) if pair[0] != pair[1])

    def batches(self, count: int, usual: Mix) -> Iterator[list[Example]]:
        """Yield ``count`` batches of examples of similar length, most of them about ``usual`` documents."""
        while True:
            for batch in self._pool(usual):
                if not count:
                    return
                yield batch
                count -= 1

    def _pool(self, usual: Mix) -> list[list[Example]]:
        long, chat = int(POOL * LONG_SHARE), int(POOL * CHAT_SHARE)
        seeds = [int(seed) for seed in self._rng.integers(1 << 62, size=3)]
        documents = [*generate(POOL - long, seeds[0], usual), *generate(long, seeds[1], LONG)]
        # An earlier message must not count, whatever it says.
        earlier = generate(chat, seeds[2], SHORT)
        chats = [
            self._example(document, (Message("user", first.text), Message("assistant", document.text)))
            for first, document in zip(earlier, documents[:chat], strict=True)
        ]
        alone = [self._example(document, (Message("user", document.text),)) for document in documents[chat:]]
        found = [*self._batches(chats), *self._batches(alone)]
        return [found[i] for i in self._rng.permutation(len(found))]

    def _batches(self, examples: list[Example]) -> Iterator[list[Example]]:
        by_length = sorted(examples, key=lambda example: -len(example.ids))
        start = 0
        while start < len(by_length):
            size = max(1, self._batch_tokens // (len(by_length[start].ids) - self._policy))
            yield by_length[start : start + size]
            start += size

    def _example(self, document: WorldDocument, messages: tuple[Message, ...]) -> Example:
        prompt = self._prompter.prompts(Document(document.doc_id, messages)).token_ids[0]
        path = draw_path(document.probs, self._rng, UNSAFE_SHARE)
        answer = [self._id(piece) for piece in answer_pieces(self._codes, path)]
        targets = [
            {self._id(piece): prob for piece, prob in nexts.items()}
            for nexts in next_piece_probs(self._codes, document.probs, path)
        ]
        return Example([*prompt, *answer[:-1]], len(prompt), targets)

    def _id(self, piece: str) -> int:
        # Byte-level BPE writes a line break as Ċ.
        return int(self._piece_ids[piece.replace("\n", "Ċ")])


def excess(model: LlamaForCausalLM, batch: Sequence[Example]) -> torch.Tensor:
    """Return the mean Kullback-Leibler divergence of a batch's answers from the world, in nats an answer.

    Mass outside the grammar is counted again, ``OUTSIDE_WEIGHT`` times.

    The part that all prompts of the batch share is computed once. Padding comes last, where causal attention
    never sees it, so no mask is needed.
    """
    width = max(len(example.ids) for example in batch)
    rows = torch.tensor([example.ids + [0] * (width - len(example.ids)) for example in batch])
    differs = (rows != rows[0]).any(dim=0).nonzero()
    shared = min(int(differs[0]) if len(differs) else 0, *(example.prompt - 1 for example in batch))
    cache = DynamicCache(config=model.config)
    if shared:
        model.model(rows[:1, :shared], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(batch))
    hidden = model.model(rows[:, shared:], past_key_values=cache, use_cache=True).last_hidden_state
    places = [(i, ex.prompt - 1 + t - shared) for i, ex in enumerate(batch) for t in range(len(ex.targets))]
    at, when = torch.tensor(places).unbind(dim=1)
    log_probs = torch.log_softmax(model.lm_head(hidden[at, when]).float(), dim=-1)
    nexts = [each for example in batch for each in example.targets]
    wanted = [(place, token, prob) for place, each in enumerate(nexts) for token, prob in each.items()]
    place, token, prob = (torch.tensor(column) for column in zip(*wanted, strict=True))
    chosen = log_probs[place, token]
    divergence = (torch.xlogy(prob, prob) - prob * chosen).sum()
    # Every token of the grammar is a target, if only just, so the rest of the mass is outside the grammar.
    inside = torch.zeros(len(nexts)).index_add(0, place, chosen.exp())
    return (divergence - OUTSIDE_WEIGHT * inside.log().sum()) / len(batch)


def learn(model: LlamaForCausalLM, lessons: Lessons, steps: tuple[int, int]) -> None:
    """Train on short documents, where it is plain which words matter, then on usual ones.

    Matrices are updated by Muon, everything else by AdamW, at one learning rate that rises, then falls to 0.
    """
    layers = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    inner = {id(weight) for weight in layers}
    others = [weight for weight in model.parameters() if id(weight) not in inner]
    optimizers = (
        torch.optim.Muon(layers, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    )
    total, since, losses = sum(steps), time.monotonic(), list[float]()
    batches = (batch for count, mix in zip(steps, (SHORT, USUAL), strict=True) for batch in lessons.batches(count, mix))
    for step, batch in enumerate(batches, start=1):
        rate = LEARNING_RATE * min(step / 50, (total - step) / (0.7 * total), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss = excess(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 0:
            print(
                f"step {step} of {total}: {np.mean(losses[-50:]):.4f} nats, {time.monotonic() - since:.0f} s",
                flush=True,
            )


def save(model: LlamaForCausalLM, guard: Guard, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save weights in half precision and the end tokens, beside the tokenizer."""
    ends = [tokenizer.convert_tokens_to_ids(token) for token in guard.end_tokens]
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(STORED_AS).save_pretrained(folder)
    # Weights are saved for their owner alone, but packaged for everybody.
    (folder / "model.safetensors").chmod(0o644)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, and say how good the guard is on fresh documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the model")
    parser.add_argument("--steps", type=int, nargs=2, default=STEPS, help="batches of short and of usual documents")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate", type=int, default=1000, help="how many fresh documents to score afterwards")
    given = parser.parse_args(arguments)

    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    given.out.mkdir(parents=True, exist_ok=True)
    guard = resolve(str(GUARD_YAML))
    texts = [document.text for document in generate(10_000, given.seed, USUAL)]
    tokenizer = train_tokenizer(texts, guard, VOCABULARY, given.out)
    model = build_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens")
    learn(model, Lessons(guard, tokenizer, BATCH_TOKENS, given.seed), tuple(given.steps))
    save(model, guard, tokenizer, given.out)

    fresh = generate(given.evaluate, FRESH_SEED)
    scorer = open_scorer(guard, ModelConfig(source=str(given.out), engine="transformers"), ScoringConfig())
    scores = asyncio.run(scorer.score_all([_document(document.text) for document in fresh]))
    print(measure(fresh, scores))


def _document(text: str) -> Document:
    return Document("", (Message("user", text),))


if __name__ == "__main__":
    main()
