"""A rendered prompt with holes where the messages go, so that no message ever passes through a template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confscore.errors import RowError
from confscore.guards.spec import Guard
from confscore.render import render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_KEY = "confscore-content-{}"
_KEYS = re.compile(r"confscore-content-(\d+)\.")
_BLANKS = "\x0b\x0c"  # white space that no template writes by itself: tells whether a template trims
_PROBE = "Qz \"'\\ <b> &amp; {z} é\nQz"  # whoever escapes it, or writes it otherwise, shows other words


@dataclass(frozen=True, slots=True)
class Control:
    """A control token that a template writes: characters ``start:end`` of the skeleton's literal ``literal``."""

    token: int
    literal: int
    start: int
    end: int


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
    controls : tuple of Control
        The control tokens the template writes, in order.
    """

    literals: tuple[str, ...]
    holes: tuple[int, ...]
    trims: bool
    controls: tuple[Control, ...]

    def fill(self, contents: Sequence[str]) -> str:
        """Return the prompt as text."""
        parts = [self.literals[0]]
        for hole, literal in zip(self.holes, self.literals[1:], strict=True):
            parts += [contents[hole], literal]
        return "".join(parts)

    def places(self, contents: Sequence[str]) -> list[tuple[int, int]]:
        """Return where the control tokens are in the prompt as text, as pairs of start and end."""
        starts = [0]
        for literal, hole in zip(self.literals, self.holes, strict=False):
            starts.append(starts[-1] + len(literal) + len(contents[hole]))
        return [(starts[each.literal] + each.start, starts[each.literal] + each.end) for each in self.controls]

    def runs(self, contents: Sequence[str]) -> list[str]:
        """Return the texts before, between and after the control tokens; one more than ``controls``."""
        text, runs, done = self.fill(contents), [], 0
        for start, end in self.places(contents):
            runs.append(text[done:start])
            done = end
        return [*runs, text[done:]]


def render_skeleton(
    guard: Guard,
    tokenizer: PreTrainedTokenizerFast,
    roles: Sequence[str],
    question: int | None,
    control_ids: Mapping[str, int],
) -> Skeleton:
    """Render a guard's prompt for messages that are not known yet.

    Parameters
    ----------
    guard, tokenizer
        As in :func:`~confscore.render.render_prompt`.
    roles : sequence of str
        Who says what, in order.
    question : int or None
        Which category is asked about, where each is a question of its own.
    control_ids : mapping of str to int
        Control tokens by their texts.

    Raises
    ------
    GuardError
        There is no chat template.
    RowError
        The template cannot take this conversation, leaves the judged message out, or does not write messages as they
        are.
    """
    marks = [f"{_BLANKS}{_KEY.format(index)}.{_BLANKS}" for index in range(len(roles))]
    text = render_prompt(guard, tokenizer, roles, marks, question)
    trims = _BLANKS not in text
    if not trims:
        text = text.replace(_BLANKS, "")
    literals = _KEYS.split(text)
    holes = tuple(int(index) for index in literals[1::2])
    if len(roles) - 1 not in holes:
        raise RowError(f"the chat template leaves out the judged message of a {' → '.join(roles)} conversation")
    written = tuple(literals[::2])
    longest_first = sorted(control_ids, key=len, reverse=True)
    control_text = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    controls = tuple(
        Control(control_ids[match.group()], index, match.start(), match.end())
        for index, part in enumerate(written)
        for match in control_text.finditer(part)
    )
    skeleton = Skeleton(written, holes, trims, controls)
    probes = [_PROBE] * len(roles)
    if render_prompt(guard, tokenizer, roles, probes, question) != skeleton.fill(probes):
        raise RowError(
            f"the chat template does not write the messages of a {' → '.join(roles)} conversation as they are; give "
            "the guard a prompt.text, or a tokenizer whose chat template does"
        )
    return skeleton
