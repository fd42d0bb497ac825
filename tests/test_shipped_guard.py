"""The shipped guard against brute force, and vLLM against transformers on it.

The brute force shares no code with the automaton and the tree: answers are written out as 2^14 byte strings, a
token is allowed where the bytes so far stay a prefix of one of them, and the transformers model is run in float64
over all prefixes, level by level.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from confscore.answer_tree import AnswerTree, StoppingRule
from confscore.config import ModelConfig, ScoringConfig
from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.demo.world import CODES, Mix, generate
from confscore.engines.base import AnswerTokens, Rollout
from confscore.engines.transformers import TransformersEngine
from confscore.guards import resolve
from confscore.loading import open_scorer
from confscore.prompt import Prompter
from confscore.rows import Document, Message
from confscore.vocabulary import build_automaton, end_token_ids, load_tokenizer, token_bytes

TOLERANCES = (0.2, 0.02, 0.002)
NORMALIZATIONS = ("raw", "local", "global")
BELOW = 1e-7  # prefixes less probable than this are not followed; what they add up to is kept


pytestmark = pytest.mark.timeout(900)
FULL_OF_BRANCHES = Mix(strong=0.3, ambiguous=0.3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run the small model on one thread: threads that wait for each other cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def documents(count: int, seed: int, mix: Mix | None = None) -> list[Document]:
    """Return documents of the demo's world."""
    drawn = generate(count, seed, mix)
    return [Document(d.doc_id, (Message("user", d.text),)) for d in drawn]


@dataclass
class Exact:
    """Sums over answers, per normalization: of everything, of each category, and what was not followed."""

    whole: dict[str, float] = field(default_factory=lambda: {"raw": 0.0, "local": 0.0})
    named: dict[str, np.ndarray] = field(
        default_factory=lambda: {n: np.zeros(len(CODES) + 1) for n in ("raw", "local")}
    )
    lost: dict[str, float] = field(default_factory=lambda: {"raw": 0.0, "local": 0.0})

    def marginals(self, normalization: str) -> tuple[np.ndarray, float]:
        """Return "any" and the categories, and how wrong they can be."""
        if normalization != "global":
            return self.named[normalization], self.lost[normalization]
        return self.named["raw"] / self.whole["raw"], self.lost["raw"] / self.whole["raw"]


class BruteForce:
    def __init__(self) -> None:
        tokenizer = load_tokenizer(str(GUARD_FOLDER), None, trust_remote_code=False)
        self.model = AutoModelForCausalLM.from_pretrained(GUARD_FOLDER, dtype=torch.float64).eval()
        self.ends = [tokenizer.convert_tokens_to_ids(t) for t in ("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>")]
        sets = [s for k in range(1, 15) for s in itertools.combinations(CODES, k)]
        self.sets = {b"\n\nsafe": (), **{b"\n\nunsafe\n" + ",".join(s).encode(): s for s in sets}}
        self.answers = sorted(self.sets)
        letters = set(b"".join(self.answers))
        self.words = {i: data for i, data in token_bytes(tokenizer).items() if data and set(data) <= letters}
        self.after: dict[bytes, list[int]] = {}

    def is_prefix(self, data: bytes) -> bool:
        place = bisect.bisect_left(self.answers, data)
        return place < len(self.answers) and self.answers[place].startswith(data)

    def allowed(self, data: bytes) -> list[int]:
        if data not in self.after:
            self.after[data] = [i for i, word in self.words.items() if self.is_prefix(data + word)]
        return self.after[data]

    def exact(self, prompt: list[int]) -> Exact:
        found = Exact()
        with torch.inference_mode():
            out = self.model(input_ids=torch.tensor([prompt]), past_key_values=DynamicCache(), use_cache=True)
            level = [(b"", 0.0, 0.0)]  # bytes so far, log P raw, log P local
            while level:
                log_probs = torch.log_softmax(out.logits[:, -1], dim=-1).numpy()
                following, parents, tokens = [], [], []
                for row, (data, raw, local) in enumerate(level):
                    allowed = self.allowed(data)
                    ends = self.ends if data in self.sets else []
                    kept = np.logaddexp.reduce(log_probs[row, [*allowed, *ends]])
                    if ends:
                        whole = np.exp(log_probs[row, ends]).sum()
                        self.count(found, data, np.exp(raw) * whole, np.exp(local - kept) * whole)
                    for token in allowed:
                        below = (raw + log_probs[row, token], local + log_probs[row, token] - kept)
                        if max(below) < np.log(BELOW):
                            found.lost["raw"] += np.exp(below[0])
                            found.lost["local"] += np.exp(below[1])
                            continue
                        following.append((data + self.words[token], *below))
                        parents.append(row)
                        tokens.append(token)
                level = following
                if level:
                    cache = out.past_key_values
                    cache.batch_select_indices(torch.tensor(parents))
                    ids = torch.tensor(tokens)[:, None]
                    out = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
        return found

    def count(self, found: Exact, data: bytes, raw: float, local: float) -> None:
        named = np.array([bool(self.sets[data]), *(code in self.sets[data] for code in CODES)])
        for normalization, mass in (("raw", raw), ("local", local)):
            found.whole[normalization] += mass
            found.named[normalization] += mass * named


class Remembering:
    """An engine that is asked once for each rollout, so that all rules explore at the price of one."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine = engine
        self.known: dict[tuple[tuple[int, ...], tuple[int, ...]], Rollout] = {}

    def rollout(self, prompt: Sequence[int], prefix: Sequence[int]) -> Rollout:
        key = (tuple(prompt), tuple(prefix))
        if key not in self.known:
            self.known[key] = asyncio.run(self.engine.rollout(prompt, prefix))
        return self.known[key]


@pytest.mark.parametrize("count", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_exact_marginals_lie_within_their_bounds_at_every_tolerance(count: int) -> None:
    brute = BruteForce()
    guard = resolve(str(GUARD_YAML))
    tokenizer = load_tokenizer(str(GUARD_FOLDER), None, trust_remote_code=False)
    automaton = build_automaton(guard, tokenizer)
    answers = AnswerTokens(automaton.alphabet, end_token_ids(guard, tokenizer), automaton.max_tokens)
    engine = TransformersEngine(str(GUARD_FOLDER), answers, engine_args={"dtype": "float64"})
    prompter = Prompter(guard, tokenizer, 1000)
    budget = 12
    spent = met = flagged = 0
    for document in documents(count, seed=11, mix=FULL_OF_BRANCHES):
        (prompt,) = prompter.prompts(document).token_ids
        exact = brute.exact(prompt)
        remembering = Remembering(engine)
        flagged += exact.marginals("global")[0][0] > 0.5
        for normalization, tolerance in itertools.product(NORMALIZATIONS, TOLERANCES):
            tree = AnswerTree(automaton, StoppingRule(normalization, tolerance, budget=budget))
            while wanted := tree.wanted():
                for prefix in wanted:
                    rollout = remembering.rollout(prompt, prefix)
                    tree.add(prefix, rollout.tokens, rollout.log_probs)
            bounds = tree.bounds(normalization)
            marginal, slack = exact.marginals(normalization)
            slack += 1e-9
            assert (bounds.lower <= marginal + slack).all(), (document.doc_id, normalization, tolerance)
            assert (bounds.upper >= marginal - slack).all(), (document.doc_id, normalization, tolerance)
            assert slack < 1e-4  # the brute force knows what it claims to know
            if tree.requests < budget:
                met += 1
                assert bounds.width.max() <= tolerance
                assert tree.within_tolerance()
            else:
                spent += 1
    assert flagged >= count / 4
    assert met > 5 * count
    assert spent > 0  # both ends of the stopping rule were reached


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Unclosed context:ResourceWarning")  # vLLM's own
@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.slow)])
def test_vllm_and_transformers_agree(count: int) -> None:
    guard = resolve(str(GUARD_YAML))
    scoring = ScoringConfig(tolerance=5e-4, max_requests_per_document=400)
    drawn = documents(count, seed=12)

    def probs(engine: str, arguments: dict) -> np.ndarray:
        async def run() -> np.ndarray:
            model = ModelConfig(source=str(GUARD_FOLDER), engine=engine, engine_args={"dtype": "float32", **arguments})
            scorer = open_scorer(guard, model, scoring)
            try:
                scores = await scorer.score_all(drawn)
            finally:
                await scorer.close()
            return np.array([[score.p_any, *score.probs] for score in scores])

        return asyncio.run(run())

    small = {"max_model_len": 512, "enforce_eager": True, "kv_cache_memory_bytes": 1 << 28}
    difference = np.abs(probs("vllm", small) - probs("transformers", {}))
    assert difference.shape == (count, 15)
    assert difference.max() < 1e-3
