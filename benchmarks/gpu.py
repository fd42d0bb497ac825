"""One GPU: certified marginals beside one plain generation, and the share of peak prefill that is reached.

The model has the shape of an 8B Llama in bfloat16 with random weights (vLLM's ``load_format: dummy``) and the tokenizer
of the guard in this package, or is a model of yours (``--model``, with ``--guard``). Prompts have 300 to 800 tokens, of
which a policy is shared. Random weights answer nearly at random, so marginals at a tolerance would need no end of
rollouts: ``--rollouts`` says how many a document gets, and what is compared is the price of a rollout.

``--dry-run`` uses the small guard on CPUs and a few documents. ``python benchmarks/gpu.py --json gpu.json``
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import torch
from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind

from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.engines.base import AnswerTokens
from confscore.engines.vllm import SPEAKS, VllmEngine
from confscore.guards import resolve
from confscore.versions import versions
from confscore.vocabulary import build_automaton, load_tokenizer

SHAPE = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
    "dtype": "bfloat16",
}
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12}
"""Dense bfloat16, of the data sheets; another card needs --peak-flops."""


def shaped(folder: Path) -> str:
    """Write a model folder of real size without weights: vLLM makes them up."""
    for file in GUARD_FOLDER.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder / file.name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | SHAPE))
    return str(folder)


class Bench:
    """An engine, and prompts of random tokens behind a shared policy."""

    def __init__(self, source: str, guard: str, arguments: dict[str, object], given: argparse.Namespace) -> None:
        tokenizer = load_tokenizer(source, None, trust_remote_code=False)
        self.automaton = build_automaton(resolve(guard), tokenizer)
        self.answers = AnswerTokens(self.automaton.alphabet, self.automaton.stops, self.automaton.max_tokens)
        self.engine = VllmEngine(source, self.answers, engine_args=arguments)
        numbers = random.Random(0)
        words = [token for token in range(len(tokenizer)) if token not in set(tokenizer.all_special_ids)]
        policy = numbers.choices(words, k=given.policy_tokens)
        lengths = [numbers.randint(*given.tokens) for _ in range(given.documents)]
        self.prompts = [[*policy, *numbers.choices(words, k=max(1, n - len(policy)))] for n in lengths]
        self.unshared = sum(len(prompt) - len(policy) for prompt in self.prompts)
        self.rollouts = given.rollouts

    async def greedy(self) -> None:
        """Generate every answer, as a user of vLLM would."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=self.automaton.max_tokens,
            stop_token_ids=list(self.answers.ends),
            allowed_token_ids=[int(token) for token in self.answers.alphabet],
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

        async def one(number: int, prompt: list[int]) -> None:
            async for _ in self.engine._llm.generate(TokensPrompt(prompt_token_ids=prompt), params, f"g{number}"):
                pass

        await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(self.prompts)))

    async def marginal(self) -> None:
        """Roll out so often for each document: the answer, and then from its likeliest other tokens."""

        async def one(prompt: list[int]) -> None:
            first = await self.engine.rollout(prompt, ())
            others = first.log_probs[0].argsort()[::-1][1 : self.rollouts]
            await asyncio.gather(*(self.engine.rollout(prompt, (int(self.answers.alphabet[i]),)) for i in others))

        await asyncio.gather(*(one(prompt) for prompt in self.prompts))

    async def prefill(self) -> None:
        """Read every prompt and say one token."""
        params = SamplingParams(
            temperature=0.0, max_tokens=1, output_kind=RequestOutputKind.FINAL_ONLY, extra_args={SPEAKS: True}
        )

        async def one(number: int, prompt: list[int]) -> None:
            async for _ in self.engine._llm.generate(TokensPrompt(prompt_token_ids=prompt), params, f"p{number}"):
                pass

        await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(self.prompts)))

    async def timed(self, work: Callable[[], Awaitable[None]]) -> float:
        """Return the seconds of one turn with an empty prefix cache."""
        await self.engine._llm.reset_prefix_cache()
        start = time.perf_counter()
        await work()
        return time.perf_counter() - start

    async def measure(self, rounds: int) -> dict[str, float]:
        """Take turns; return the median seconds of each kind of work."""
        works = {"prefill": self.prefill, "greedy": self.greedy, "marginal": self.marginal}
        await self.engine.warm_up()
        await self.timed(self.greedy)
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                seconds[name].append(await self.timed(work))
        await self.engine.close()
        return {name: statistics.median(found) for name, found in seconds.items()}


def main() -> None:
    """Measure, print, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, nargs=2, default=[300, 800])
    parser.add_argument("--policy-tokens", type=int, default=250)
    parser.add_argument("--rollouts", type=int, default=2)
    parser.add_argument("--model")
    parser.add_argument("--guard", default=str(GUARD_YAML))
    parser.add_argument("--parameters", type=float, default=8e9, help="of the model, for the share of peak")
    parser.add_argument("--peak-flops", type=float)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    arguments: dict[str, object] = {"dtype": "bfloat16", "max_model_len": 2048}
    with tempfile.TemporaryDirectory() as folder:
        if given.dry_run:
            given.documents, given.rounds = min(given.documents, 20), 1
            source = str(GUARD_FOLDER)
            arguments |= {"dtype": "float32", "max_model_len": 1024, "kv_cache_memory_bytes": 1 << 29}
            arguments["enforce_eager"] = True
        elif given.model:
            source = given.model
        else:
            source = shaped(Path(folder))
            arguments["load_format"] = "dummy"
        bench = Bench(source, given.guard, arguments, given)
        seconds = asyncio.run(bench.measure(given.rounds))
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    peak = given.peak_flops or next((flops for name, flops in PEAK_FLOPS.items() if name in card), None)
    tokens_per_s = bench.unshared / seconds["prefill"]
    found = {
        "card": card,
        "versions": versions(),
        "documents": given.documents,
        "unshared_tokens_per_document": bench.unshared / given.documents,
        "documents_per_s": {name: given.documents / took for name, took in seconds.items()},
        "marginal_of_greedy": seconds["greedy"] / seconds["marginal"],
        "rollouts_per_document": given.rollouts,
        "prefill_tokens_per_s": tokens_per_s,
        "share_of_peak_prefill": None if peak is None else tokens_per_s * 2 * given.parameters / peak,
    }
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
