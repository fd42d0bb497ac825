"""A guard, a tokenizer and an engine, loaded and held against each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confscore.automaton import AnswerAutomaton
from confscore.config import ModelConfig, ScoringConfig
from confscore.engines.base import AnswerTokens, Engine
from confscore.errors import GuardError
from confscore.guards import Guard
from confscore.prompt import Prompter
from confscore.scorer import Scorer
from confscore.trust import check_trust
from confscore.vocabulary import build_automaton, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Loaded:
    """What scoring needs, once loaded; several scorers may share it.

    Attributes
    ----------
    guard : Guard
        The contract.
    tokenizer : PreTrainedTokenizerFast
        The model's tokenizer.
    automaton : AnswerAutomaton
        The guard's answers over the tokenizer.
    engine : Engine
        Runs the model.
    """

    guard: Guard
    tokenizer: PreTrainedTokenizerFast
    automaton: AnswerAutomaton
    engine: Engine

    def prompter(self, scoring: ScoringConfig) -> Prompter:
        """Return what turns documents into prompts that the engine has room for.

        Raises
        ------
        GuardError
            The engine has no room for a prompt and an answer.
        """
        room = self.engine.max_length - self.automaton.max_tokens
        if room <= 0:
            raise GuardError(
                f"guard {self.guard.name}: its longest answer takes up to {self.automaton.max_tokens} tokens and the "
                f"model has room for {self.engine.max_length}; raise model.engine_args.max_model_len"
            )
        return Prompter(self.guard, self.tokenizer, room, scoring.long_documents, scoring.chunk_overlap_tokens)

    def scorer(self, scoring: ScoringConfig) -> Scorer:
        """Return a scorer."""
        size = math.log(len(self.tokenizer))
        return Scorer(self.guard.codes, self.automaton, self.prompter(scoring), self.engine, scoring, size)


def load(guard: Guard, model: ModelConfig) -> Loaded:
    """Load tokenizer and engine.

    The guard is held against the tokenizer before any weights are loaded.

    Raises
    ------
    ConfigError
        The model's repository would have to be trusted more than the configuration does.
    GuardError
        The guard and the tokenizer do not fit.
    EngineError
        The engine cannot load the model.
    """
    check_trust(model)
    tokenizer = load_tokenizer(model.source, model.revision, trust_remote_code=model.trust_remote_code)
    automaton = build_automaton(guard, tokenizer)
    answers = AnswerTokens(automaton.alphabet, automaton.stops, automaton.max_tokens)
    return Loaded(guard, tokenizer, automaton, _open_engine(model, answers))


def open_scorer(guard: Guard, model: ModelConfig, scoring: ScoringConfig) -> Scorer:
    """Load tokenizer and engine, and return a scorer over them; errors are those of :func:`load`."""
    return load(guard, model).scorer(scoring)


def _open_engine(model: ModelConfig, answers: AnswerTokens) -> Engine:
    # Each engine imports a large library; only the one that is asked for is loaded.
    chosen: Callable[..., Engine]
    if model.engine == "vllm":
        from confscore.engines.vllm import VllmEngine as chosen  # noqa: PLC0415
    else:
        from confscore.engines.transformers import TransformersEngine as chosen  # noqa: PLC0415
    return chosen(
        model.source,
        answers,
        revision=model.revision,
        engine_args=model.engine_args,
        trust_remote_code=model.trust_remote_code,
        allow_pickle=model.allow_pickle,
    )
