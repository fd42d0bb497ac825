"""The forms of answers that guards give, as data: each turns a taxonomy into a grammar.

Where a text may be one of several, such as with or without a leading space, all of them are answers and their
probabilities are added; nothing is decided by which one a model happens to prefer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from confscore.guards.grammar import Grammar, Labels, Listing, Mark, category_mask, choice, listing, sequence

Text = Annotated[str, Field(min_length=1)]
Texts: TypeAlias = str | Annotated[tuple[str, ...], Field(min_length=1)]
"""One text, or a tuple of alternatives; any of them may be empty."""

Words: TypeAlias = Text | Annotated[tuple[Text, ...], Field(min_length=1)]
"""One text, or a tuple of alternatives, none of them empty."""


class Part(BaseModel):
    """A part of a guard: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Category(Part):
    """One label of a taxonomy.

    ``code`` becomes part of column names (``p_S1``), so it has letters, digits, ``_`` and ``-`` only.
    """

    code: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    name: Text
    description: str = ""


class VerdictAnswer(Part):
    """Answers of the form ``safe``, or ``unsafe`` and a list of labels.

    Attributes
    ----------
    lead : str or tuple of str
        What every answer starts with.
    safe, unsafe : str or tuple of str
        The two verdicts.
    before : str or tuple of str
        What stands between the unsafe verdict and the first label.
    separator : str or tuple of str
        What stands between two labels.
    after : str or tuple of str
        What stands after the last label.
    label : {'code', 'name'}
        What an answer writes for a category.
    order : {'canonical', 'any'}
        Whether labels come in the order of the taxonomy.
    repeats : bool
        The model may list a label again; it counts once. Needs ``order: any``.
    most : int, optional
        The most labels an answer lists, repeated ones counted; as many as there are where it is not given.
    """

    form: Literal["verdict"] = "verdict"
    lead: Texts = ""
    safe: Words = "safe"
    unsafe: Words = "unsafe"
    before: Texts = "\n"
    separator: Words = ","
    after: Texts = ""
    label: Literal["code", "name"] = "code"
    order: Literal["canonical", "any"] = "canonical"
    repeats: bool = False
    most: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.repeats and self.order == "canonical":
            raise ValueError("repeats needs order: any; labels in canonical order cannot come twice")
        return self

    def listing(self, categories: Sequence[Category]) -> Listing:
        """Return the grammar of the list of labels."""
        texts = tuple((c.code if self.label == "code" else c.name).encode() for c in categories)
        separators = tuple(dict.fromkeys(text.encode() for text in alternatives(self.separator)))
        labels = Labels(texts, separators, self.order == "canonical", self.repeats)
        return listing(labels, self.most)

    def grammar(self, categories: Sequence[Category]) -> Grammar:
        """Return the grammar of these answers over a taxonomy."""
        labels = self.listing(categories)
        unsafe = sequence(any_of(self.unsafe), any_of(self.before), labels, any_of(self.after))
        return sequence(any_of(self.lead), choice(any_of(self.safe), unsafe))

    def unmarked_texts(self) -> list[str]:
        """Return every answer that names no category."""
        return [lead + safe for lead in alternatives(self.lead) for safe in alternatives(self.safe)]


class FieldsAnswer(Part):
    """Answers with one line a category, each with a value that says yes or no.

    Attributes
    ----------
    lead : str or tuple of str
        What every answer starts with.
    key : str
        What stands before each value; ``{code}`` and ``{name}`` are filled in.
    yes, no : str or tuple of str
        The values that name the category, and those that do not.
    separator : str
        What stands between two lines.
    """

    form: Literal["fields"]
    lead: Texts = ""
    key: Text = "{name}: "
    yes: Words = "yes"
    no: Words = "no"
    separator: Text = "\n"

    @model_validator(mode="after")
    def _values_differ(self) -> Self:
        _refuse_common(self.yes, self.no)
        return self

    def grammar(self, categories: Sequence[Category]) -> Grammar:
        """Return the grammar of these answers over a taxonomy."""
        parts: list[Grammar | bytes] = [any_of(self.lead)]
        for index, category in enumerate(categories):
            key = self.key.replace("{code}", category.code).replace("{name}", category.name)
            parts.append(f"{self.separator if index else ''}{key}".encode())
            parts.append(_value(self.yes, self.no, index))
        return sequence(*parts)


class QuestionAnswer(Part):
    """Answers to a question of its own for each category: yes or no.

    The probability of a category is that of all texts that say yes, of all texts that say either: P(yes) / (P(yes) +
    P(no)) in ``global`` normalization.

    Attributes
    ----------
    lead : str or tuple of str
        What every answer starts with.
    yes, no : str or tuple of str
        The two answers, in every spelling that counts.
    after : str or tuple of str
        What stands after them.
    """

    form: Literal["question"]
    lead: Texts = ""
    yes: Words = "yes"
    no: Words = "no"
    after: Texts = ""

    @model_validator(mode="after")
    def _values_differ(self) -> Self:
        _refuse_common(self.yes, self.no)
        return self

    def grammar(self, categories: Sequence[Category]) -> Grammar:
        """Return the grammar of the answer to one question; it names category 0 or none."""
        del categories
        return sequence(any_of(self.lead), _value(self.yes, self.no, 0), any_of(self.after))


def _form_of(value: object) -> str:
    form = value.get("form", "verdict") if isinstance(value, dict) else getattr(value, "form", "verdict")
    return str(form)


Answer = Annotated[
    Annotated[VerdictAnswer, Tag("verdict")]
    | Annotated[FieldsAnswer, Tag("fields")]
    | Annotated[QuestionAnswer, Tag("question")],
    Discriminator(
        _form_of,
        custom_error_type="form",
        custom_error_message="form has to be verdict, fields or question",
    ),
]


def alternatives(texts: Texts) -> tuple[str, ...]:
    """Return one text or several as a tuple."""
    return (texts,) if isinstance(texts, str) else texts


def any_of(texts: Texts) -> Grammar:
    """Return the grammar of any one of the texts."""
    return choice(*(text.encode() for text in dict.fromkeys(alternatives(texts))))


def _value(yes: Texts, no: Texts, index: int) -> Grammar:
    # The mark stands before the word, so that the category's place is where the word begins.
    return choice(sequence(Mark(category_mask(index)), any_of(yes)), any_of(no))


def _refuse_common(yes: Texts, no: Texts) -> None:
    both = set(alternatives(yes)) & set(alternatives(no))
    if both:
        raise ValueError(f"answers are ambiguous: {min(both)!r} stands for both yes and no")
