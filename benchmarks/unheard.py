"""Text that the guard of ``wide_guard.py`` reads and does not hear: prompts as long as one likes, and the same answers.

The small guard was trained on short prompts, and on long ones it is less sure than a guard of real size is; that costs
rollouts which a real guard would not need. So prompts are made longer by letters that the small tokenizer has no tokens
for. Each gets one, and no token of the guard's own looks at it. What is left is where the others stand. The guard knows
distances only, so that letters before the whole prompt change nothing, and those before a document change only how far
it is from a policy that is the same in every prompt.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

from confscore.demo.world import WorldDocument

LETTERS = tuple(chr(code) for code in range(0x0410, 0x0450))
"""Cyrillic, of which the small guard has seen none."""
TOKENS = 2 * len(LETTERS)
"""Each letter alone, and behind a space."""
POLICY_LETTERS, DOCUMENT_LETTERS = 289, (0, 300)
"""A policy of 400 tokens, of which the guard's own has 111, and documents of about 50 to 350."""
_BEGIN = "<|begin_of_text|>"


def letters(numbers: random.Random, count: int) -> str:
    """Return a word of ``count`` tokens."""
    return "".join(numbers.choices(LETTERS, k=count))


def lengthen_policy(folder: Path) -> None:
    """Give the tokenizer in a model's folder its letters, and its template a policy that begins with some of them."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    model, first = tokenizer["model"], len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
    spelled = [ByteLevel(add_prefix_space=False).pre_tokenize_str(letter)[0][0] for letter in LETTERS]
    # Behind all merges there were, and letters before spaces: no merge that the guard knows comes out otherwise.
    model["merges"] += [list(pair) for pair in spelled] + [["Ġ", pair] for pair in spelled]
    model["vocab"] |= {token: first + i for i, token in enumerate([*spelled, *(f"Ġ{pair}" for pair in spelled)])}
    # Control tokens that are in no vocabulary would get the numbers behind it.
    model["vocab"] |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    template = folder / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    template.write_text(text.replace(_BEGIN, letters(random.Random(0), POLICY_LETTERS) + _BEGIN), encoding="utf-8")


def lengthen(documents: Sequence[WorldDocument]) -> list[WorldDocument]:
    """Return the documents, each with letters of its own before it."""
    numbers = random.Random(1)
    words = [letters(numbers, numbers.randint(*DOCUMENT_LETTERS)) for _ in documents]
    return [
        replace(document, text=f"{word} {document.text}".lstrip())
        for word, document in zip(words, documents, strict=True)
    ]
