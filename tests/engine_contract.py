"""What every engine has to do: the same tests for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from confscore.engines.base import AnswerTokens, Engine, Rollout
from confscore.rows import FloatArray

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Bench:
    """An engine on its event loop, and what it has to say.

    ``truth(prompt, so_far)[a]`` is the raw log-probability of ``alphabet[a]``, found in another way; the engine
    may differ from it by ``noise``.
    """

    engine: Engine
    answers: AnswerTokens
    runner: asyncio.Runner
    truth: Callable[[Tokens, Tokens], FloatArray]
    noise: float

    def rollouts(self, cases: Sequence[tuple[Tokens, Tokens]]) -> list[Rollout]:
        """Run rollouts that overlap."""

        async def together() -> list[Rollout]:
            return list(await asyncio.gather(*(self.engine.rollout(prompt, prefix) for prompt, prefix in cases)))

        return self.runner.run(together())

    def rollout(self, prompt: Tokens, prefix: Tokens = ()) -> Rollout:
        """Run one rollout alone."""
        return self.rollouts([(prompt, prefix)])[0]

    def prompts(self, count: int, length: int = 12) -> list[Tokens]:
        """Return different prompts of ordinary tokens."""
        numbers = np.random.default_rng(count)
        return [tuple(int(token) for token in numbers.integers(0, 250, length + i % 5)) for i in range(count)]


def check(bench: Bench, prompt: Tokens, prefix: Tokens, rollout: Rollout) -> None:
    """Hold one rollout against the truth, step by step."""
    alphabet, ends = bench.answers.alphabet, bench.answers.ends
    tokens, log_probs = rollout.tokens, rollout.log_probs
    assert log_probs.dtype == np.float64
    assert log_probs.shape == (len(tokens), len(alphabet))
    assert len(tokens) >= 1
    assert all(type(token) is int for token in tokens)
    assert set(tokens) <= set(alphabet.tolist())
    assert not set(tokens[:-1]) & set(ends), "nothing comes after an end token"
    if tokens[-1] not in ends:
        assert len(tokens) == max(1, bench.answers.max_tokens - len(prefix)), "stopped before its limit"
    columns = {int(token): column for column, token in enumerate(alphabet)}
    for step, token in enumerate(tokens):
        truth = bench.truth(prompt, (*prefix, *tokens[:step]))
        np.testing.assert_allclose(log_probs[step], truth, atol=bench.noise, rtol=0)
        assert truth[columns[token]] >= truth.max() - 2 * bench.noise, "not the greedy choice"


class EngineContract:
    """Tests of an engine; a subclass gives the fixture ``bench``, which lives as long as the class."""

    def test_it_is_warm_after_warming_up_twice(self, bench: Bench) -> None:
        bench.runner.run(bench.engine.warm_up())
        bench.runner.run(bench.engine.warm_up())
        assert bench.engine.max_length > 100

    def test_log_probs_are_those_of_the_model_at_every_step(self, bench: Bench) -> None:
        for prompt in bench.prompts(6):
            check(bench, prompt, (), bench.rollout(prompt))

    def test_log_probs_are_raw(self, bench: Bench) -> None:
        rollout = bench.rollout(bench.prompts(1)[0])
        inside = np.exp(rollout.log_probs).sum(axis=1)
        assert (inside < 0.999).all(), "the vocabulary is larger than the alphabet, and has some of the mass"

    def test_a_forced_prefix_is_continued(self, bench: Bench) -> None:
        alphabet, ends = bench.answers.alphabet.tolist(), bench.answers.ends
        words = [token for token in alphabet if token not in ends]
        for number, prompt in enumerate(bench.prompts(8)):
            prefix = tuple(words[(number * 5 + i * 3) % len(words)] for i in range(1 + number % 4))
            check(bench, prompt, prefix, bench.rollout(prompt, prefix))

    def test_going_on_by_hand_is_the_same_as_going_on(self, bench: Bench) -> None:
        prompt = bench.prompts(3)[2]
        whole = bench.rollout(prompt)
        for step in range(len(whole.tokens)):
            rest = bench.rollout(prompt, tuple(whole.tokens[:step]))
            np.testing.assert_allclose(rest.log_probs[0], whole.log_probs[step], atol=2 * bench.noise, rtol=0)

    def test_no_answer_is_longer_than_the_longest(self, bench: Bench) -> None:
        prompt, most = bench.prompts(1)[0], bench.answers.max_tokens
        word = int(bench.answers.alphabet[0])
        for forced, room in [(0, most), (most - 2, 2), (most - 1, 1), (most, 1), (most + 1, 1)]:
            rollout = bench.rollout(prompt, (word,) * forced)
            assert 1 <= len(rollout.tokens) <= room
            check(bench, prompt, (word,) * forced, rollout)

    def test_overlapping_rollouts_do_not_disturb_each_other(self, bench: Bench) -> None:
        words = bench.answers.alphabet.tolist()[: -len(bench.answers.ends)]
        prompts = bench.prompts(12)
        cases = [(prompt, tuple(words[i : i + n])) for i, prompt in enumerate(prompts) for n in (0, 1, 2, 4)]
        together = bench.rollouts(cases)
        for (prompt, prefix), rollout in zip(cases, together, strict=True):
            check(bench, prompt, prefix, rollout)
            alone = bench.rollout(prompt, prefix)
            np.testing.assert_allclose(alone.log_probs[0], rollout.log_probs[0], atol=2 * bench.noise, rtol=0)

    def test_the_same_question_asked_twice_at_once(self, bench: Bench) -> None:
        prompt = bench.prompts(1)[0]
        first, second = bench.rollouts([(prompt, ()), (prompt, ())])
        np.testing.assert_allclose(first.log_probs[0], second.log_probs[0], atol=2 * bench.noise, rtol=0)

    def test_it_closes_and_closing_twice_does_no_harm(self, bench: Bench) -> None:
        # The last test of the class: the engine is gone afterwards.
        bench.runner.run(bench.engine.close())
        bench.runner.run(bench.engine.close())
