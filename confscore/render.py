"""A conversation becomes the text of a prompt: the guard's own text, or the model's chat template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydantic import JsonValue

from confscore.errors import GuardError, RowError
from confscore.guards.spec import PLACEHOLDER, Category, Guard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def render_prompt(
    guard: Guard,
    tokenizer: PreTrainedTokenizerFast,
    roles: Sequence[str],
    contents: Sequence[str],
    question: int | None = None,
) -> str:
    """Return the prompt of a conversation as text, control tokens written out.

    Parameters
    ----------
    guard : Guard
        How it is prompted.
    tokenizer : PreTrainedTokenizerFast
        Its chat template is used where the guard's prompt is not a whole text.
    roles, contents : sequence of str
        The turns; ``roles[i]`` says ``contents[i]``.
    question : int, optional
        Which category is asked about, where each is a question of its own.

    Raises
    ------
    GuardError
        There is no chat template.
    RowError
        The guard's prompt or the chat template cannot take this conversation.
    """
    spec = guard.prompt
    fills = _fills(guard, roles, contents, question)

    def filled(text: str) -> str:
        missing = [name for name in PLACEHOLDER.findall(text) if name not in fills]
        if missing:
            raise RowError(f"the prompt asks for one {{request}} and its {{response}}, not {_arrows(roles)}")
        return PLACEHOLDER.sub(lambda match: fills[match.group(1)], text)

    if spec.text is not None:
        return filled(spec.text)
    if spec.message is not None:
        turns = [("system", filled(spec.system))] if spec.system is not None else []
        turns.append(("user", filled(spec.message)))
    else:
        turns = list(zip(roles, contents, strict=True))
        turns += [("user", filled(spec.closing))] if spec.closing is not None else []
    template = tokenizer.chat_template or spec.chat_template
    if template is None:
        raise GuardError(f"guard {guard.name}: the tokenizer has no chat template; give the guard a prompt.text")
    arguments = {key: _filled_in(value, filled) for key, value in spec.template_args.items()}
    if spec.category_argument is not None:
        arguments["categories"] = {
            category.code: _about(spec.category_argument, category) for category in guard.categories
        }
    chat = [{"role": role, "content": _content(text, spec.list_content)} for role, text in turns]
    try:
        return str(
            tokenizer.apply_chat_template(
                chat, chat_template=template, tokenize=False, add_generation_prompt=True, **arguments
            )
        )
    except Exception as error:  # a template is a program and may raise anything, its own refusals included
        raise RowError(f"the chat template refuses a {_arrows(roles)} conversation: {error}") from error


def _fills(guard: Guard, roles: Sequence[str], contents: Sequence[str], question: int | None) -> dict[str, str]:
    """Return what the placeholders stand for, those of ``{request}`` only where the conversation is one exchange."""
    spec = guard.prompt
    names = {"user": spec.user, "assistant": spec.assistant}
    unknown = set(roles) - set(names)
    if unknown and (spec.text or spec.message):
        raise RowError(f"the prompt has no name for the role {min(unknown)!r}; it knows user and assistant")
    turns = [f"{names.get(role, role)}: {text}" for role, text in zip(roles, contents, strict=True)]
    fills = {
        "categories": "\n".join(_about(spec.category_line, category).rstrip() for category in guard.categories),
        "conversation": spec.between_turns.join(turns),
        "text": contents[-1],
        "role": names.get(roles[-1], roles[-1]),
    }
    if tuple(roles) in {("user",), ("user", "assistant")}:
        fills |= {"request": contents[0], "response": contents[1] if len(contents) > 1 else ""}
    if question is not None:
        asked = guard.categories[question]
        fills |= {"code": asked.code, "name": asked.name, "description": asked.description}
    return fills


def _about(line: str, category: Category) -> str:
    """Fill one category into a line."""
    values = {"code": category.code, "name": category.name, "description": category.description}
    return PLACEHOLDER.sub(lambda match: values.get(match.group(1), match.group()), line)


def _filled_in(value: JsonValue, filled: Callable[[str], str]) -> JsonValue:
    """Fill the texts of a template's argument in, however deep they lie."""
    match value:
        case str():
            return filled(value)
        case dict():
            return {key: _filled_in(inner, filled) for key, inner in value.items()}
        case list():
            return [_filled_in(inner, filled) for inner in value]
        case _:
            return value


def _content(text: str, as_list: bool) -> str | list[dict[str, str]]:
    return [{"type": "text", "text": text}] if as_list else text


def _arrows(roles: Sequence[str]) -> str:
    return " → ".join(roles)
