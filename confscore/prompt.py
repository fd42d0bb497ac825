"""A document becomes the token ids of one or more prompts.

Two rules. A document is content: whatever it contains, control tokens of the prompt are exactly those of the
template. And nothing is cut in silence: a document that does not fit is windowed, truncated with a flag, or
refused, as configured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from confscore.errors import GuardError, RowError
from confscore.guards.spec import Guard
from confscore.plain_text import PlainText
from confscore.rows import Document, Message
from confscore.skeleton import Skeleton, render_skeleton

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LongDocuments = Literal["chunk", "truncate", "error"]

_SPACES = " \t\n\r\x0b\x0c\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""What tokenizers take for white space: less than Python does."""


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
        self._added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if token.content}
        self._control_ids = {token.content: i for i, token in self._added.items()}
        special = {i for i, token in self._added.items() if token.special}
        # What a vocabulary has no word for is no part of a template.
        self._plain = PlainText(tokenizer, special - {tokenizer.unk_token_id})
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
        encoding = self._tokenizer.backend_tokenizer.encode(skeleton.fill(contents), add_special_tokens=False)
        ids: list[int] = encoding.ids
        found = [place for place, token in enumerate(ids) if token in self._added]
        if [ids[place] for place in found] == [control.token for control in skeleton.controls]:
            # In their places, too. A token may take white space beside it as well.
            read = [encoding.token_to_chars(place) or (0, 0) for place in found]
            written = skeleton.places(contents)
            if all(start <= first and last <= end for (start, end), (first, last) in zip(read, written, strict=True)):
                return ids
        return self._encode_apart(skeleton, contents)

    def _encode_apart(self, skeleton: Skeleton, contents: Sequence[str]) -> list[int]:
        """Encode a prompt whose contents would add, move or swallow control tokens.

        Only what the template itself writes is read for control tokens; everything between two of them is
        encoded by a tokenizer that knows none.
        """
        ids: list[int] = []
        for text, control in zip(skeleton.runs(contents), [*skeleton.controls, None], strict=True):
            # Some control tokens take the white space beside them, as they do where a tokenizer reads a whole prompt.
            left = text.lstrip(_SPACES) if ids and self._added[ids[-1]].rstrip else text
            kept = left.rstrip(_SPACES) if control is not None and self._added[control.token].lstrip else left
            ids += self._plain.read(kept, first=not ids).ids
            ids += [] if control is None else [control.token]
        return ids

    def _shortened(self, skeleton: Skeleton, context: Sequence[str]) -> list[str]:
        """Keep the ends of earlier messages, in at most half of the room that the template leaves."""
        if not context:
            return []
        room = self._max_tokens - len(self._encode(skeleton, [""] * (len(context) + 1)))
        share = max(1, room // 2 // len(context))
        short = []
        for content in context:
            offsets = self._plain.read(content).offsets
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
        offsets = self._plain.read(content).offsets
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
            self._skeletons[key] = render_skeleton(self._guard, self._tokenizer, roles, question, self._control_ids)
        return self._skeletons[key]
