"""The guard contract: how one model family is prompted, and what its answers look like.

A guard is data. The registered ones are built in Python, a user's own is the same thing in YAML, and both
have one hash that stands in the provenance of every score table.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from confscore.guards.ambiguity import alike, meanings
from confscore.guards.answers import Answer, Category, FieldsAnswer, Part, QuestionAnswer, Text, VerdictAnswer
from confscore.guards.grammar import Grammar

__all__ = ["PLACEHOLDER", "Category", "Guard", "PromptSpec"]

PLACEHOLDER = re.compile(r"\{(categories|conversation|text|request|response|role|code|name|description)\}")
_DOCUMENT = ("conversation", "text", "request")
_QUESTION = ("code", "name", "description")


class PromptSpec(Part):
    """How a document becomes a prompt.

    In texts, ``{categories}`` stands for the taxonomy; ``{conversation}`` for all turns, ``{text}`` for the judged
    message alone, or ``{request}`` and ``{response}`` for one user message and the answer to it; ``{role}`` for what
    the judged role is called; and where every category is a question of its own, ``{code}``, ``{name}`` and
    ``{description}`` for the one that is asked about.

    Attributes
    ----------
    text : str, optional
        The whole prompt, control tokens written out.
    message : str, optional
        A user message, put into the model's chat template. With neither ``text`` nor ``message`` the conversation
        itself goes into the chat template.
    system : str, optional
        A system message before ``message``.
    closing : str, optional
        A last user message after the conversation, for guards that are instructed in this way.
    chat_template : str, optional
        A Jinja chat template for tokenizers that have none.
    template_args : mapping
        Further arguments of the chat template. The texts in them are filled in as ``text`` is.
    category_argument : str, optional
        The chat template takes the taxonomy as an argument ``categories``, which maps codes to this text; ``{code}``,
        ``{name}`` and ``{description}`` are filled in.
    list_content : bool
        The chat template wants a message's content as a list of typed parts.
    category_line : str
        How ``{categories}`` writes one category: ``{code}``, ``{name}`` and ``{description}`` are filled in.
    between_turns : str
        What stands between two turns of ``{conversation}``.
    user, assistant : str
        How ``{conversation}`` and ``{role}`` call the two roles.
    """

    text: str | None = None
    message: str | None = None
    system: str | None = None
    closing: str | None = None
    chat_template: str | None = None
    template_args: dict[str, JsonValue] = Field(default_factory=dict)
    category_argument: str | None = None
    list_content: bool = False
    category_line: str = "{code}: {name}. {description}"
    between_turns: str = "\n\n"
    user: str = "User"
    assistant: str = "Agent"

    @model_validator(mode="after")
    def _one_way_to_prompt(self) -> Self:
        if self.text is not None and self.message is not None:
            raise ValueError("give either text (a whole prompt) or message (for the chat template), not both")
        if self.system is not None and self.message is None:
            raise ValueError("system stands before message, and there is no message")
        if self.closing is not None and (self.text or self.message):
            raise ValueError("closing stands after a conversation in the chat template, so without text and message")
        written = self.text if self.text is not None else self.message
        if written is None:
            return self
        found = PLACEHOLDER.findall(written)
        documents = [name for name in found if name in _DOCUMENT]
        if len(documents) != 1:
            raise ValueError("the prompt must contain {conversation}, {text} or {request}, one of them and once")
        if found.count("response") > (documents == ["request"]):
            raise ValueError("{response} stands once, beside {request}")
        return self

    def written(self) -> list[str]:
        """Return every text in which placeholders are filled in."""
        texts = [self.text, self.message, self.system, self.closing, json.dumps(self.template_args)]
        return [text for text in texts if text is not None]


class Guard(Part):
    """One model family's contract.

    Attributes
    ----------
    name : str
        How a configuration calls it.
    categories : tuple of Category
        The taxonomy, in canonical order.
    prompt : PromptSpec
        How a document becomes a prompt.
    answer : VerdictAnswer, FieldsAnswer or QuestionAnswer
        What the model may say.
    judges : {'last', 'user', 'assistant'}
        Whose last message is judged; what comes after it is not shown to the model.
    end_tokens : tuple of str
        Tokens that end an answer. Those the tokenizer has are used; it must have at least one of them. With none,
        an answer is over as soon as it is complete.
    models : tuple of str
        Models this guard was made for.
    source : str
        Where the contract was published.
    notes : str
        What a user of this guard should know, such as what is not certain of its answers.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    categories: Annotated[tuple[Category, ...], Field(min_length=1)]
    prompt: PromptSpec = PromptSpec()
    answer: Answer = VerdictAnswer()
    judges: Literal["last", "user", "assistant"] = "last"
    end_tokens: tuple[Text, ...]
    models: tuple[str, ...] = ()
    source: str = ""
    notes: str = ""

    @model_validator(mode="after")
    def _categories_differ(self) -> Self:
        for what in ("code", "name"):
            values = [getattr(category, what) for category in self.categories]
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice and (what == "code" or self._writes_names()):
                raise ValueError(f"two categories have the {what} {twice[0]!r}")
        lowered = [code.lower() for code in self.codes]
        if len(set(lowered)) < len(lowered):
            raise ValueError("two category codes differ only in case; SQL engines would not tell them apart")
        if "any" in lowered or "max" in lowered:
            raise ValueError("a category may not be called any or max: p_any and p_max are columns already")
        return self

    @model_validator(mode="after")
    def _answers_differ(self) -> Self:
        if not isinstance(self.answer, VerdictAnswer):
            return self
        same = alike(self.answer.listing(self.categories))
        if same is not None:
            first, second = ([c.code for j, c in enumerate(self.categories) if mask >> j & 1] for mask in same)
            raise ValueError(
                f"answers are ambiguous: {' with '.join(first)} and {' with '.join(second)} are written alike; "
                "change a label or the separator"
            )
        for text in self.answer.unmarked_texts():
            if len(meanings(self.grammar(), text.encode())) > 1:
                raise ValueError(f"answers are ambiguous: {text!r} is also the text of an unsafe answer")
        return self

    @model_validator(mode="after")
    def _questions_ask(self) -> Self:
        found = {name for text in self.prompt.written() for name in PLACEHOLDER.findall(text)}
        about_one = sorted(found & set(_QUESTION))
        if self.asks_each and not about_one:
            raise ValueError(
                "answer.form question asks about one category at a time, so the prompt must contain {code}, {name} or "
                "{description}"
            )
        if about_one and not self.asks_each:
            raise ValueError(f"the prompt contains {{{about_one[0]}}}, which only answer.form question fills in")
        return self

    @property
    def codes(self) -> tuple[str, ...]:
        """Return the category codes in canonical order."""
        return tuple(category.code for category in self.categories)

    @property
    def asks_each(self) -> bool:
        """Say whether every category is a question, and a request, of its own."""
        return isinstance(self.answer, QuestionAnswer)

    @property
    def answer_codes(self) -> tuple[str, ...]:
        """Return what one answer can name: the categories, or a yes to the one that was asked about."""
        return ("yes",) if self.asks_each else self.codes

    def grammar(self) -> Grammar:
        """Return the grammar of this guard's answers; of one question's, where each category is one."""
        return self.answer.grammar(self.categories)

    def digest(self) -> str:
        """Return a SHA-256 over everything that changes a score: not the name, models, source and notes.

        Defaults are left out, so that a guard keeps its digest when guards learn something new.
        """
        about = {"name", "models", "source", "notes"}
        content = self.model_dump(mode="json", exclude=about, exclude_defaults=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _writes_names(self) -> bool:
        answer = self.answer
        if isinstance(answer, VerdictAnswer):
            return answer.label == "name"
        return isinstance(answer, FieldsAnswer) and "{code}" not in answer.key
