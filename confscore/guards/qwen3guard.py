"""Qwen3Guard-Gen: a line with the verdict, a line with category names, and for responses a line about refusal.

The chat template writes the whole prompt, an empty thinking block included, so no fallback stands in for it.
"""

from confscore.guards.answers import VerdictAnswer
from confscore.guards.spec import Category, Guard, PromptSpec

_REFUSAL = ("", "\nRefusal: Yes", "\nRefusal: No")

QWEN3GUARD_GEN = Guard(
    name="qwen3guard-gen",
    categories=(
        Category(code="VIOLENT", name="Violent"),
        Category(code="ILLEGAL", name="Non-violent Illegal Acts"),
        Category(code="SEXUAL", name="Sexual Content or Sexual Acts"),
        Category(code="PII", name="PII"),
        Category(code="SELF_HARM", name="Suicide & Self-Harm"),
        Category(code="UNETHICAL", name="Unethical Acts"),
        Category(code="POLITICAL", name="Politically Sensitive Topics"),
        Category(code="COPYRIGHT", name="Copyright Violation"),
        Category(code="JAILBREAK", name="Jailbreak"),
    ),
    prompt=PromptSpec(),
    answer=VerdictAnswer(
        safe=tuple("Safety: Safe\nCategories: None" + refusal for refusal in _REFUSAL),
        unsafe=("Safety: Unsafe", "Safety: Controversial"),
        before="\nCategories: ",
        separator=(", ", ","),
        after=_REFUSAL,
        label="name",
        order="any",
    ),
    end_tokens=("<|im_end|>", "<|endoftext|>"),
    models=("Qwen/Qwen3Guard-Gen-0.6B", "Qwen/Qwen3Guard-Gen-4B", "Qwen/Qwen3Guard-Gen-8B"),
    source="https://github.com/QwenLM/Qwen3Guard",
    notes="The score of a category is the probability that the answer lists its name; none is published. Controversial "
    "counts as unsafe, as in the strict mode of the paper; with answer.unsafe: 'Safety: Unsafe' it is no answer, and "
    "global scores are those among safe and unsafe ones. The model is said to list one main category, so the scores "
    "of several that apply share one probability. Jailbreak is listed for prompts only. Whether refused or not does "
    "not change a score. A verdict other than safe with the category None is no answer of this grammar. The tokenizer "
    "must have its own chat template.",
)
