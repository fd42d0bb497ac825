"""A tokenizer that knows no control tokens: whatever a text spells, it is read as text.

Made from the model's own tokenizer. Control tokens are taken out of it twice: as added tokens, which are looked for in
a text before anything else is, and as words of the vocabulary, to which ordinary merges may lead.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING

from pydantic import JsonValue

from confscore.errors import RowError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerFast

_NO_TEXT = "\uffff{}\uffff"  # a noncharacter, which Unicode keeps out of texts


class PlainText:
    """Reads texts for one tokenizer.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        The model's tokenizer.
    special : collection of int
        Tokens that must never come out of a text. Added tokens that are not special, such as runs of blank lines, may
        well be spelled by ordinary merges.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, special: Collection[int]) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415 - a native library that offline commands never need

        definition = json.loads(tokenizer.backend_tokenizer.to_str())
        definition |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        definition["model"] = _without_words(definition["model"], special)
        self._first: Tokenizer = Tokenizer.from_str(json.dumps(definition))
        definition["pre_tokenizer"] = _never_at_start(definition["pre_tokenizer"])
        self._later: Tokenizer = Tokenizer.from_str(json.dumps(definition))
        self._special = frozenset(special)

    def read(self, text: str, *, first: bool = True) -> Encoding:
        """Return a text's tokens and their places.

        Parameters
        ----------
        text : str
            A part of a prompt without control tokens.
        first : bool
            Whether the prompt starts with it: some tokenizers write a space there.

        Raises
        ------
        RowError
            A control token came out.
        """
        encoding = (self._first if first else self._later).encode(text, add_special_tokens=False)
        if not self._special.isdisjoint(encoding.ids):
            raise RowError("the text holds control tokens that this tokenizer cannot read as plain text")
        return encoding


def _without_words(model: dict[str, JsonValue], special: Collection[int]) -> dict[str, JsonValue]:
    """Return a tokenizer's model in which no text leads to the special tokens; their ids stay taken."""
    vocabulary, merges = model.get("vocab"), model.get("merges")
    changed: dict[str, JsonValue] = dict(model)
    if isinstance(vocabulary, list):  # Unigram: pieces with scores, by their ids
        pieces = ((i, piece) for i, piece in enumerate(vocabulary) if isinstance(piece, list))
        changed["vocab"] = [[_NO_TEXT.format(i), *piece[1:]] if i in special else piece for i, piece in pieces]
    if isinstance(vocabulary, dict):
        gone = {word for word, number in vocabulary.items() if number in special}
        changed["vocab"] = {_NO_TEXT.format(i) if word in gone else word: i for word, i in vocabulary.items()}
        if isinstance(merges, list):
            halves = [[str(half) for half in pair] for pair in merges if isinstance(pair, list)]
            changed["merges"] = [[*pair] for pair in halves if gone.isdisjoint({*pair, "".join(pair)})]
    return changed


def _never_at_start(pre_tokenizer: JsonValue) -> JsonValue:
    """Return a pre-tokenizer that writes no space before a text, where it does so at the start of a prompt only."""
    if not isinstance(pre_tokenizer, dict):
        return pre_tokenizer
    if pre_tokenizer.get("prepend_scheme") == "first":
        return pre_tokenizer | {"prepend_scheme": "never"}
    parts = pre_tokenizer.get("pretokenizers")
    return (
        pre_tokenizer | {"pretokenizers": [_never_at_start(part) for part in parts]}
        if isinstance(parts, list)
        else pre_tokenizer
    )
