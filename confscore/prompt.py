"""A document becomes the token ids of one or more prompts.

Two rules. A document is content: whatever it contains, control tokens of the prompt are exactly those of the
template. And nothing is cut in silence: a document that does not fit is windowed, truncated with a flag, or
refused, as configured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from confscore.errors import GuardError, RowError
from confscore.guards.spec import Guard
from confscore.render import render_prompt
from confscore.rows import Document, Message

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

LongDocuments = Literal["chunk", "truncate", "error"]

_KEY = "confscore-content-{}"
_KEYS = re.compile(r"confscore-content-(\d+)\.")
_BLANKS = "\x0b\x0c"  # white space that no template writes by itself: tells whether a template trims


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A rendered template with holes.

    Attributes
    ----------
    literals : tuple of str
        What the template writes before, between and after the holes; one more than ``holes``.
    holes : tuple of int
        ``holes[i]`` is the index of the message that fills hole ``i``.
    trims : bool
        The template strips white space around contents.
    controls : tuple of int
        The control tokens the template writes, in order.
    """

    literals: tuple[str, ...]
    holes: tuple[int, ...]
    trims: bool
    controls: tuple[int, ...]

    def fill(self, contents: Sequence[str]) -> str:
        """Return the prompt as text."""
        parts = [self.literals[0]]
        for hole, literal in zip(self.holes, self.literals[1:], strict=True):
            parts += [contents[hole], literal]
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of one document: one, or one for each window."""

    token_ids: tuple[list[int], ...]
    truncated: bool


class Prompter:
    """Turns documents into prompts for one guard and one tokenizer.

    Parameters
    ----------
    guard : Guard
        Its prompt, taxonomy and whose message it judges.
    tokenizer : PreTrainedTokenizerFast
        The model's tokenizer.
    max_tokens : int
        The longest prompt the engine has room for.
    long_documents : {'chunk', 'truncate', 'error'}
        What to do with a document that does not fit.
    overlap : int
        Tokens that neighbouring windows share.

    Attributes
    ----------
    questions : tuple
        What is asked about each document: indices of categories, or one ``None`` where one prompt asks about all.

    Raises
    ------
    GuardError
        The prompt cannot be rendered, or has no room for a document.
    """

    def __init__(
        self,
        guard: Guard,
        tokenizer: PreTrainedTokenizerFast,
        max_tokens: int,
        long_documents: LongDocuments = "chunk",
        overlap: int = 64,
    ) -> None:
        self._guard = guard
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._long_documents = long_documents
        self._overlap = overlap
        added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if token.content}
        self._control_ids = {token.content: i for i, token in added.items()}
        self._controls = set(added)
        self._special = {i for i, token in added.items() if token.special}
        longest_first = sorted(self._control_ids, key=len, reverse=True)
        self._control_text = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._plain = _without_controls(tokenizer)
        self._skeletons: dict[tuple[tuple[str, ...], int | None], Skeleton] = {}
        self.questions: tuple[int | None, ...] = tuple(range(len(guard.categories))) if guard.asks_each else (None,)
        overhead = max(self._overhead(question) for question in self.questions)
        roles = self._shortest()
        if len({self._skeleton(roles, question) for question in self.questions}) < len(self.questions):
            raise GuardError(
                f"guard {guard.name}: the tokenizer's chat template asks the same about every category, so it is not "
                "of this guard's family; is this the right guard for the model?"
            )
        if overhead + 16 > max_tokens:
            raise GuardError(
                f"guard {guard.name}: its prompt takes {overhead} tokens and the model has room for {max_tokens}, "
                "which leaves less than 16 for a document; raise model.engine_args.max_model_len"
            )

    def prompts(self, document: Document, question: int | None = None) -> Prompts:
        """Return the prompts of a document: those of one question, where each category is a question of its own.

        Raises
        ------
        RowError
            The conversation has no message the guard judges, the template refuses its roles, or the document is
            too long and ``long_documents`` is ``error``.
        """
        messages = self._judged(document.messages)
        skeleton = self._skeleton(tuple(message.role for message in messages), question)
        contents = [m.content.strip() if skeleton.trims else m.content for m in messages]
        whole = self._encode(skeleton, contents)
        if len(whole) <= self._max_tokens:
            return Prompts((whole,), truncated=False)
        if self._long_documents == "error":
            raise RowError(
                f"the prompt has {len(whole)} tokens and the model has room for {self._max_tokens}; set "
                "scoring.long_documents to chunk or truncate"
            )
        context = self._shortened(skeleton, contents[:-1])
        windows = self._windows(skeleton, context, contents[-1])
        kept = windows[:1] if self._long_documents == "truncate" else windows
        return Prompts(tuple(kept), truncated=len(kept) < len(windows) or context != contents[:-1])

    def template_text(self) -> str:
        """Return the prompt of the shortest conversation with its hole marked, for provenance.

        Where each category is a question of its own, all of their prompts.
        """
        roles = self._shortest()
        marked = [*[""] * (len(roles) - 1), "{text}"]
        return "\0".join(self._skeleton(roles, question).fill(marked) for question in self.questions)

    def _shortest(self) -> tuple[str, ...]:
        """Return the roles of the shortest conversation that the guard judges."""
        return ("user", "assistant") if self._guard.judges == "assistant" else ("user",)

    def _overhead(self, question: int | None) -> int:
        roles = self._shortest()
        try:
            return len(self._encode(self._skeleton(roles, question), [""] * len(roles)))
        except RowError as error:
            raise GuardError(f"guard {self._guard.name}: {error}") from error

    def _judged(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the conversation up to the message that the guard judges."""
        if self._guard.judges == "last":
            return messages
        for end in range(len(messages), 0, -1):
            if messages[end - 1].role == self._guard.judges:
                return messages[:end]
        raise RowError(f"the conversation has no {self._guard.judges} message, and the guard judges that role")

    def _encode(self, skeleton: Skeleton, contents: Sequence[str]) -> list[int]:
        text = skeleton.fill(contents)
        ids: list[int] = self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        if tuple(token for token in ids if token in self._controls) == skeleton.controls:
            return ids
        return self._encode_apart(skeleton, contents)

    def _encode_apart(self, skeleton: Skeleton, contents: Sequence[str]) -> list[int]:
        """Encode a prompt whose contents hold the text of control tokens.

        Only what the template itself writes is read for control tokens; everything between two of them is
        encoded by a tokenizer that knows none.
        """
        ids: list[int] = []
        run = ""
        for index, literal in enumerate(skeleton.literals):
            start = 0
            for match in self._control_text.finditer(literal):
                ids += self._encode_plain(run + literal[start : match.start()])
                ids.append(self._control_ids[match.group()])
                run, start = "", match.end()
            run += literal[start:]
            if index < len(skeleton.holes):
                run += contents[skeleton.holes[index]]
        return ids + self._encode_plain(run)

    def _encode_plain(self, text: str) -> list[int]:
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        # Added tokens that are not special, such as runs of blank lines, may well be spelled by ordinary merges.
        if not self._special.isdisjoint(ids):
            raise RowError("the text holds control tokens that this tokenizer cannot read as plain text")
        return ids

    def _shortened(self, skeleton: Skeleton, context: Sequence[str]) -> list[str]:
        """Keep the ends of earlier messages, in at most half of the room that the template leaves."""
        if not context:
            return []
        room = self._max_tokens - len(self._encode(skeleton, [""] * (len(context) + 1)))
        share = max(1, room // 2 // len(context))
        short = []
        for content in context:
            offsets = self._plain.encode(content, add_special_tokens=False).offsets
            short.append(content if len(offsets) <= share else content[offsets[-share][0] :])
        return short

    def _windows(self, skeleton: Skeleton, context: list[str], content: str) -> list[list[int]]:
        overhead = len(self._encode(skeleton, [*context, ""]))
        room = self._max_tokens - overhead
        if room < 8:
            raise RowError(
                f"the rest of the conversation takes {overhead} tokens and leaves no room for the judged message; "
                "raise model.engine_args.max_model_len"
            )
        offsets = self._plain.encode(content, add_special_tokens=False).offsets
        if not offsets:
            return [self._encode(skeleton, [*context, content])]
        windows = []
        start = 0
        while start < len(offsets):
            end = min(start + room, len(offsets))
            window = self._encode(skeleton, [*context, content[offsets[start][0] : offsets[end - 1][1]]])
            while len(window) > self._max_tokens:
                # Tokens at the seams can split differently than within the whole text.
                if end == start + 1:
                    raise RowError("one character of the text takes more tokens than the prompt leaves room for")
                end = start + max(1, (end - start) * 9 // 10)
                window = self._encode(skeleton, [*context, content[offsets[start][0] : offsets[end - 1][1]]])
            windows.append(window)
            if end == len(offsets):
                break
            start = max(end - min(self._overlap, (end - start) // 2), start + 1)
        return windows

    def _skeleton(self, roles: tuple[str, ...], question: int | None) -> Skeleton:
        key = (roles, question)
        if key not in self._skeletons:
            self._skeletons[key] = self._render(roles, question)
        return self._skeletons[key]

    def _render(self, roles: tuple[str, ...], question: int | None) -> Skeleton:
        marks = [f"{_BLANKS}{_KEY.format(index)}.{_BLANKS}" for index in range(len(roles))]
        text = render_prompt(self._guard, self._tokenizer, roles, marks, question)
        trims = _BLANKS not in text
        if not trims:
            text = text.replace(_BLANKS, "")
        literals = _KEYS.split(text)
        holes = tuple(int(index) for index in literals[1::2])
        if len(roles) - 1 not in holes:
            raise RowError(f"the chat template leaves out the judged message of a {' → '.join(roles)} conversation")
        written = tuple(literals[::2])
        controls = tuple(self._control_ids[text] for part in written for text in self._control_text.findall(part))
        return Skeleton(written, holes, trims, controls)


def _without_controls(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """Return the same tokenizer without any added token, so that their texts are only text."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - a native library that offline commands never need

    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    definition |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps(definition))
