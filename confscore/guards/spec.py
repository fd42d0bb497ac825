"""The guard contract: how one model family is prompted, and what its answers look like.

A guard is data. The registered ones are built in Python, a user's own is the same thing in YAML, and both
have one hash that stands in the provenance of every score table.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from confscore.guards.ambiguity import alike, meanings
from confscore.guards.grammar import Grammar, Labels, Listing, choice, listing, sequence

Text = Annotated[str, Field(min_length=1)]
PLACEHOLDER = re.compile(r"\{(categories|conversation|text)\}")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Category(_Part):
    """One label of a taxonomy.

    ``code`` becomes part of column names (``p_S1``), so it has letters, digits, ``_`` and ``-`` only.
    """

    code: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    name: Text
    description: str = ""


class PromptSpec(_Part):
    """How a document becomes a prompt.

    Attributes
    ----------
    text : str, optional
        A prompt with the placeholders ``{categories}`` and ``{conversation}`` or ``{text}``, control tokens
        written out. Without it the model's own chat template is used.
    chat_template : str, optional
        A Jinja chat template for tokenizers that have none.
    category_line : str
        How ``{categories}`` writes one category: ``{code}``, ``{name}`` and ``{description}`` are filled in.
    user, assistant : str
        How ``{conversation}`` calls the two roles.
    """

    text: str | None = None
    chat_template: str | None = None
    category_line: str = "{code}: {name}. {description}"
    user: str = "User"
    assistant: str = "Agent"

    @model_validator(mode="after")
    def _has_room_for_the_document(self) -> Self:
        if self.text is None:
            return self
        found = PLACEHOLDER.findall(self.text)
        if ("conversation" in found) + ("text" in found) != 1 or found.count("text") > 1:
            raise ValueError("the prompt text must contain {conversation} or {text}, one of them and once")
        return self


class VerdictAnswer(_Part):
    """Answers of the form ``safe``, or ``unsafe`` and a list of labels.

    Attributes
    ----------
    lead : str
        What every answer starts with.
    safe, unsafe : str
        The two verdicts.
    before : str
        What stands between the unsafe verdict and the first label.
    separator : str
        What stands between two labels.
    label : {'code', 'name'}
        What an answer writes for a category.
    order : {'canonical', 'any'}
        Whether labels come in the order of the taxonomy.
    most : int, optional
        The most categories an answer names; all of them where it is not given.
    """

    lead: str = ""
    safe: Text = "safe"
    unsafe: Text = "unsafe"
    before: str = "\n"
    separator: Text = ","
    label: Literal["code", "name"] = "code"
    order: Literal["canonical", "any"] = "canonical"
    most: Annotated[int, Field(ge=1)] | None = None

    def listing(self, categories: tuple[Category, ...]) -> Listing:
        """Return the grammar of the list of labels."""
        texts = tuple((c.code if self.label == "code" else c.name).encode() for c in categories)
        return listing(Labels(texts, self.separator.encode(), self.order == "canonical"), self.most)

    def grammar(self, categories: tuple[Category, ...]) -> Grammar:
        """Return the grammar of these answers over a taxonomy."""
        unsafe = sequence(f"{self.unsafe}{self.before}".encode(), self.listing(categories))
        return sequence(self.lead.encode(), choice(self.safe.encode(), unsafe))


class Guard(_Part):
    """One model family's contract.

    Attributes
    ----------
    name : str
        How a configuration calls it.
    categories : tuple of Category
        The taxonomy, in canonical order.
    prompt : PromptSpec
        How a document becomes a prompt.
    answer : VerdictAnswer
        What the model may say.
    judges : {'last', 'user', 'assistant'}
        Whose last message is judged; what comes after it is not shown to the model.
    end_tokens : tuple of str
        Tokens that end an answer. Those the tokenizer has are used; it must have at least one of them.
    models : tuple of str
        Models this guard was made for.
    source : str
        Where the contract was published.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    categories: Annotated[tuple[Category, ...], Field(min_length=1)]
    prompt: PromptSpec = PromptSpec()
    answer: VerdictAnswer = VerdictAnswer()
    judges: Literal["last", "user", "assistant"] = "last"
    end_tokens: Annotated[tuple[Text, ...], Field(min_length=1)]
    models: tuple[str, ...] = ()
    source: str = ""

    @model_validator(mode="after")
    def _categories_differ(self) -> Self:
        for what in ("code", "name"):
            values = [getattr(category, what) for category in self.categories]
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice and (what == "code" or self.answer.label == "name"):
                raise ValueError(f"two categories have the {what} {twice[0]!r}")
        lowered = [code.lower() for code in self.codes]
        if len(set(lowered)) < len(lowered):
            raise ValueError("two category codes differ only in case; SQL engines would not tell them apart")
        if "any" in lowered or "max" in lowered:
            raise ValueError("a category may not be called any or max: p_any and p_max are columns already")
        return self

    @model_validator(mode="after")
    def _answers_differ(self) -> Self:
        same = alike(self.answer.listing(self.categories))
        if same is not None:
            first, second = ([c.code for j, c in enumerate(self.categories) if mask >> j & 1] for mask in same)
            raise ValueError(
                f"answers are ambiguous: {' with '.join(first)} and {' with '.join(second)} are written alike; "
                "change a label or the separator"
            )
        if len(meanings(self.grammar(), f"{self.answer.lead}{self.answer.safe}".encode())) > 1:
            raise ValueError(f"answers are ambiguous: {self.answer.safe!r} is also the text of an unsafe answer")
        return self

    @property
    def codes(self) -> tuple[str, ...]:
        """Return the category codes in canonical order."""
        return tuple(category.code for category in self.categories)

    def grammar(self) -> Grammar:
        """Return the grammar of this guard's answers."""
        return self.answer.grammar(self.categories)

    def digest(self) -> str:
        """Return a SHA-256 over everything that changes a score: not the name, models and source."""
        content = self.model_dump(mode="json", exclude={"name", "models", "source"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
