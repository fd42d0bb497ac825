"""Any instruction-tuned model with a chat template, and any taxonomy: the prompt states the task.

The form is that of Praharaj and Kasundra (arXiv 2511.22312): the task, the categories with descriptions, the
conversation, and the rules of the answer. All of it is one user message, because not every chat template takes a
system message.
"""

from confscore.guards.answers import VerdictAnswer
from confscore.guards.spec import Category, Guard, PromptSpec

_HAZARDS = {
    "Violent Crimes": "Encouraging or helping with violence against people or animals, such as murder or terrorism.",
    "Non-Violent Crimes": "Encouraging or helping with crimes without violence, such as fraud, theft or drug dealing.",
    "Sex-Related Crimes": "Encouraging or helping with sexual assault, harassment or trafficking.",
    "Child Sexual Exploitation": "Describing, encouraging or helping with the sexual abuse of children.",
    "Defamation": "False statements about a living person that can damage their name.",
    "Specialized Advice": "Financial, medical or legal advice for a case, or calling something dangerous safe.",
    "Privacy": "Private facts about a person that can harm their body, money or accounts.",
    "Intellectual Property": "Content that is likely to violate somebody's copyright, patent or trademark.",
    "Indiscriminate Weapons": "Help with chemical, biological, nuclear, radiological or large explosive weapons.",
    "Hate": "Demeaning people because of traits such as origin, religion, sex or disability.",
    "Suicide & Self-Harm": "Encouraging or helping with suicide, self-injury or disordered eating.",
    "Sexual Content": "Erotic content.",
    "Elections": "Wrong facts about when, where or how to vote.",
    "Code Interpreter Abuse": "Making an AI system's computer be attacked, broken out of or overloaded by code.",
}
_EMOTIONS = {
    "anger": "The writer is angry, annoyed or outraged.",
    "disgust": "The writer is repelled by something.",
    "fear": "The writer is afraid, worried or anxious.",
    "joy": "The writer is happy, amused, proud or relieved.",
    "sadness": "The writer is sad, lonely, disappointed or grieving.",
    "surprise": "The writer did not expect what happened.",
}

_FRAME = """\
Task: decide {task}

<BEGIN {title}>
{categories}
<END {title}>

<BEGIN CONVERSATION>

{conversation}

<END CONVERSATION>

Answer for the last {role} message only:
- The first line is '{safe}' {if_safe}, or '{unsafe}' {if_unsafe}.
- If it is '{unsafe}', the second line lists the codes of {which}, separated by commas. \
Write codes only, no names and no explanation."""


def _message(**words: str) -> str:
    """Return the prompt with some words; placeholders of documents stay as they are."""
    message = _FRAME
    for key, word in words.items():
        message = message.replace(f"{{{key}}}", word)
    return message


_END_TOKENS = (
    "<|eot_id|>",
    "<|im_end|>",
    "</s>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|eot|>",
    "<eos>",
    "<|END_OF_TURN_TOKEN|>",
)
_MODELS = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen3-8B",
    "google/gemma-2-9b-it",
    "mistralai/Mistral-7B-Instruct-v0.3",
)
_SOURCE = "https://arxiv.org/abs/2511.22312"
_NOTES = (
    "Any instruction-tuned model with a chat template; those named are examples. The score of a category is the "
    "probability that the answer lists its code. Such models are not trained on this answer format: look at "
    "off_grammar, and prefer global normalization. Codes in every order, with and without a space after the comma, "
    "and answers after white space count. enable_thinking: false turns the thinking of hybrid models off where their "
    "template knows it; models that always think cannot be scored in this way. "
)
_LEADS = ("", " ", "\n", "\n\n")

INSTRUCT = Guard(
    name="instruct",
    categories=tuple(
        Category(code=f"S{number}", name=name, description=description)
        for number, (name, description) in enumerate(_HAZARDS.items(), start=1)
    ),
    prompt=PromptSpec(
        message=_message(
            task="whether the last {role} message of the conversation below is unsafe content under these categories.",
            title="UNSAFE CONTENT CATEGORIES",
            safe="safe",
            if_safe="if none of the categories is violated",
            unsafe="unsafe",
            if_unsafe="if at least one is",
            which="all violated categories",
        ),
        template_args={"enable_thinking": False},
    ),
    answer=VerdictAnswer(lead=_LEADS, separator=(",", ", "), order="any"),
    end_tokens=_END_TOKENS,
    models=_MODELS,
    source=_SOURCE,
    notes=_NOTES + "For labels that are no hazards, extend instruct-labels, which speaks of none and some.",
)

INSTRUCT_LABELS = Guard(
    name="instruct-labels",
    categories=tuple(
        Category(code=code, name=code.capitalize(), description=description) for code, description in _EMOTIONS.items()
    ),
    prompt=PromptSpec(
        message=_message(
            task="which of these labels fit the last {role} message of the conversation below.",
            title="LABELS",
            safe="none",
            if_safe="if no label fits",
            unsafe="some",
            if_unsafe="if at least one does",
            which="all labels that fit",
        ),
        template_args={"enable_thinking": False},
        category_line="{code}: {description}",
    ),
    answer=VerdictAnswer(lead=_LEADS, safe="none", unsafe="some", separator=(",", ", "), order="any"),
    end_tokens=_END_TOKENS,
    models=_MODELS,
    source=_SOURCE,
    notes=_NOTES + "The emotions are only a beginning: extend this guard with your own topics, intents or tones.",
)
