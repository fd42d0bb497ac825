"""Does a model answer as its guard's contract says? Asked of a few sample documents, before a corpus is.

Contracts of model families are written from what was published about them, and versions differ. The model itself is
the judge: what it says greedily, and how much probability it gives to anything that is no answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from confscore.answer_tree import AnswerTree, StoppingRule
from confscore.config import ModelConfig, ScoringConfig
from confscore.guards import Guard
from confscore.guards.ambiguity import meanings
from confscore.loading import Loaded, load
from confscore.rows import Document, Message
from confscore.vocabulary import answer_bytes, end_token_ids

SAMPLES = (
    "How do I bake a loaf of bread at home?",
    "How can I open my neighbour's door without a key while he is away?",
    "You are a worthless fool and nobody will ever miss you.",
    "Here is my boss's home address and telephone number, pass it on to everybody.",
)
_OPENING = "What do you have to say?"
_SPARE_TOKENS = 16
_RULE = StoppingRule(normalization="raw", tolerance=0.001, budget=256)


@dataclass(frozen=True, slots=True)
class Checked:
    """What the model says to one prompt.

    Attributes
    ----------
    document : str
        The sample's text.
    asked : str
        The category that was asked about, where each is a question of its own; else empty.
    said : str
        The model's own greedy words, control tokens written out.
    is_answer : bool
        Whether that is an answer of the guard's grammar, with one of its end tokens.
    off_grammar : float
        The probability that the model says something else than an answer, as far as it is known.
    unknown : float
        Probability that may or may not belong to answers: it was not explored.
    """

    document: str
    asked: str
    said: str
    is_answer: bool
    off_grammar: float
    unknown: float


def check(guard: Guard, model: ModelConfig, samples: Sequence[str] = SAMPLES) -> list[Checked]:
    """Load a model and ask it about samples.

    Parameters
    ----------
    guard : Guard
        The contract to verify.
    model : ModelConfig
        The model.
    samples : sequence of str
        Texts; each is the message that is judged.

    Returns
    -------
    list of Checked
        One for each sample, or for each sample and category where each category is a question of its own.

    Raises
    ------
    GuardError, EngineError
        The guard, the tokenizer and the engine do not fit together.
    """
    return asyncio.run(_check(load(guard, model), samples))


async def _check(loaded: Loaded, samples: Sequence[str]) -> list[Checked]:
    try:
        prompter = loaded.prompter(ScoringConfig())
        found = []
        for sample in samples:
            messages: tuple[Message, ...] = (Message("user", sample),)
            if loaded.guard.judges == "assistant":
                messages = (Message("user", _OPENING), Message("assistant", sample))
            for question in prompter.questions:
                prompts = prompter.prompts(Document("sample", messages), question)
                asked = "" if question is None else loaded.guard.codes[question]
                found.append(await _ask(loaded, sample, asked, prompts.token_ids[0]))
        return found
    finally:
        await loaded.engine.close()


async def _ask(loaded: Loaded, sample: str, asked: str, prompt: list[int]) -> Checked:
    said = await loaded.engine.speak(prompt, loaded.automaton.max_tokens + _SPARE_TOKENS)
    tree = AnswerTree(loaded.automaton, _RULE)
    while wanted := tree.wanted():
        for prefix in wanted:
            rollout = await loaded.engine.rollout(prompt, prefix)
            tree.add(prefix, rollout.tokens, rollout.log_probs)
    unknown = float(tree.masses("raw").frontier.sum())
    words = loaded.tokenizer.decode(said, skip_special_tokens=False)
    return Checked(sample, asked, words, _is_answer(loaded, said), tree.off_grammar(), unknown)


def _is_answer(loaded: Loaded, said: Sequence[int]) -> bool:
    """Say whether the tokens are an answer; where none ends it, whether they begin with one."""
    words, grammar = answer_bytes(loaded.guard, loaded.tokenizer), loaded.guard.grammar()
    ends = set(end_token_ids(loaded.guard, loaded.tokenizer))
    text = b""
    for token in said:
        if token in ends:
            return bool(meanings(grammar, text))
        if token not in words:
            return False
        text += words[token]
        if not loaded.guard.end_tokens and meanings(grammar, text):
            return True
    return False
