"""One GPU: certified marginals beside one plain generation and what users would pick, and the share of peak prefill.

The model has the shape of an 8B Llama in bfloat16 and answers as the small guard of this package does
(``wide_guard.py``), so that documents of a known world cost what they cost with a guard of real size. Prompts have 450
to 760 tokens, of which a policy of 400 is shared (``unheard.py``). Or it is a model of yours (``--model``, with
``--guard``), for which documents stand amid calm ones. The shape of 8B takes 16 GB of the folder for temporary files,
or of ``--folder``, where it stays and another run finds it.

Documents a second, rollouts a document, errors against marginals at a tolerance of 0.0005, and AUC and log loss
against the world's labels are as in ``alternatives.py``, but that shares of samples are only clipped for the log loss.
``peak_prefill`` is the operations of the tokens that no cache has (2 for each number of the model that they are
multiplied with) over what the card can do by its data sheet. Ray Data is not measured here.

``--dry-run`` uses the small guard on CPUs and a few documents. ``python benchmarks/gpu.py --json gpu.json``
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
from alternatives import CLIP, EXACT, Alternatives, Method
from in_process import ENGINE_ARGS, WORLDS
from published_search import AS_BY_DEFAULT, AS_IN_THE_PAPER
from sklearn.metrics import log_loss, roc_auc_score
from unheard import lengthen
from wide_guard import INDEX, Shape

from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.demo.world import Mix, WorldDocument, generate
from confscore.memory import collect_rarely
from confscore.rows import FloatArray
from confscore.versions import versions

MORE_TEXTS = (3, 11)
"""So many texts without a cue are around each document's own, where the guard hears all letters: 160 to 750 tokens."""
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12}
"""Dense bfloat16, of the data sheets; another card needs --peak-flops."""
WARM_UP = 50
"""Documents before the first turn: kernels are compiled for them."""
ENGINE = {"dtype": "bfloat16", "max_model_len": 2048}


def cpu_seconds() -> tuple[float, float]:
    """Return the CPU time of this process, and of the engine's processes, so far."""
    own = psutil.Process()
    engine = [each.cpu_times() for each in own.children(recursive=True)]
    return sum(own.cpu_times()[:2]), sum(sum(times[:2]) for times in engine)


def long_documents(count: int, mix: Mix) -> list[WorldDocument]:
    """Return documents of a world amid texts that change no probability."""
    numbers = random.Random(0)
    # Texts of its own for each: with few to draw from, prompts would begin alike, and the cache would know them.
    calm = iter(generate(count * MORE_TEXTS[1], seed=1, mix=Mix(strong=0.0, ambiguous=0.0)))
    found = []
    for document in generate(count, seed=0, mix=mix):
        texts = [next(calm).text for _ in range(numbers.randint(*MORE_TEXTS))]
        texts.insert(numbers.randint(0, len(texts)), document.text)
        found.append(replace(document, text=" ".join(texts)))
    return found


class GpuBench(Alternatives):
    """What is measured on one GPU."""

    async def prefill(self) -> FloatArray:
        """Read every prompt and say one token."""
        params = self.params(most=1)
        await asyncio.gather(*(self.ask(document, params, "prefill") for document in self.documents))
        return np.empty((0, len(self.guard.codes)))

    async def measure(
        self, rounds: int, samples: int, only: Sequence[str], exact: bool
    ) -> tuple[dict[str, FloatArray], dict[str, dict[str, float]]]:
        """Take turns; return each method's scores, and the medians of its figures."""
        methods: dict[str, Method] = {
            "prefill": self.prefill,
            "greedy": self.plain,
            "marginal 0.05": self.marginals(0.05),
            "marginal 0.01": self.marginals(0.01),
            "greedy, logprobs=20": self.joint,
            f"{samples} samples": self.sampled(samples),
        }
        methods = {name: method for name, method in methods.items() if not only or name in {"greedy", *only}}
        await self.engine.warm_up()
        await self.marginal(0.01, documents=self.documents[:WARM_UP])()
        scores = {"exact": await self.marginals(EXACT)()} if exact else {}
        collect_rarely()  # as an actor does
        found: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
        count = len(self.documents)
        for _ in range(rounds):
            for name, method in methods.items():
                await self.engine._llm.reset_prefix_cache()
                self.spent.clear()
                busy, start = cpu_seconds(), time.perf_counter()
                scores[name] = await method()
                seconds = time.perf_counter() - start
                ours, engine = ((after - before) / count for before, after in zip(busy, cpu_seconds(), strict=True))
                # A request for several samples tells only of one what was cached.
                spent = {} if "samples" in name else {what: number / count for what, number in self.spent.items()}
                found[name].append(
                    {"documents_per_s": count / seconds, "client_cpu_ms": 1e3 * ours, "engine_cpu_ms": 1e3 * engine}
                    | spent
                )
                print(f"{name:24} {count / seconds:.4g} documents/s", flush=True)
        await self.engine.close()
        return scores, {
            name: {figure: statistics.median(one[figure] for one in ones) for figure in ones[0]}
            for name, ones in found.items()
        }


def quality(probs: FloatArray, exact: FloatArray, truth: FloatArray) -> dict[str, float]:
    """Return a method's errors against exact marginals, and its AUC and log loss against labels."""
    clipped = np.clip(probs.ravel(), CLIP, 1 - CLIP)
    return {
        "mean_error": float(np.abs(probs - exact).mean()),
        "largest_error": float(np.abs(probs - exact).max()),
        "micro_auc": float(roc_auc_score(truth.ravel(), probs.ravel())),
        "log_loss": float(log_loss(truth.ravel(), clipped)),
    }


def arguments() -> argparse.Namespace:
    """Return what was given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--world", choices=list(WORLDS), default="production")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[], help="methods, beside greedy; by default all")
    parser.add_argument("--no-errors", action="store_true", help="leave errors, AUC and log loss out")
    parser.add_argument("--search-documents", type=int, default=12, help="0 leaves the published search out")
    parser.add_argument("--folder", help="of the small guard in the shape of 8B, written unless it is there")
    parser.add_argument("--model", help="instead of the small guard in the shape of 8B; needs --parameters")
    parser.add_argument("--guard", default=str(GUARD_YAML), help="another one needs --no-errors")
    parser.add_argument("--engine-args", type=json.loads, default={}, help="JSON, for vLLM")
    parser.add_argument("--parameters", type=float, help="of --model, without its vocabularies")
    parser.add_argument("--peak-flops", type=float)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scores", type=Path, help="an .npz file for every method's scores")
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    if (given.model is None) != (given.parameters is None):
        parser.error("--model and --parameters go together")
    if given.guard != str(GUARD_YAML) and not given.no_errors:
        parser.error("the documents have no labels of another --guard's categories; add --no-errors")
    return given


def main() -> None:
    """Measure, print, and write one JSON."""
    given = arguments()
    count, mix = min(given.documents, 20) if given.dry_run else given.documents, WORLDS[given.world]
    hears_all = given.model or given.dry_run
    documents = long_documents(count, mix) if hears_all else lengthen(generate(count, seed=0, mix=mix))
    truth = np.array([document.labels for document in documents])
    rounds, engine_args = given.rounds, ENGINE | given.engine_args
    with tempfile.TemporaryDirectory() as folder:
        if given.dry_run:
            source, rounds, engine_args = str(GUARD_FOLDER), 1, ENGINE_ARGS
        elif given.model:
            source = given.model
        else:
            source = given.folder or folder
            if not Path(source, INDEX).exists():  # in a process of its own, which leaves nothing on the GPU
                subprocess.run([sys.executable, str(Path(__file__).with_name("wide_guard.py")), source], check=True)
        bench = GpuBench(documents, source, given.guard, engine_args)
        lengths = [len(bench.prompter.prompts(document).token_ids[0]) for document in bench.documents]
        scores, found = asyncio.run(bench.measure(rounds, given.samples, given.only, not given.no_errors))
        if given.search_documents:
            for name, stops in {
                "search, as in the paper": AS_IN_THE_PAPER,
                "search, by default": AS_BY_DEFAULT,
            }.items():
                found[name] = bench.search(bench.documents[: given.search_documents], stops)[1]
    greedy = found["greedy"]["documents_per_s"]
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    words = card.replace("-", " ").split()
    peak = given.peak_flops or next((flops for name, flops in PEAK_FLOPS.items() if name in words), None)
    for name, figures in found.items():
        figures["of_greedy"] = figures["documents_per_s"] / greedy
        if peak and "prefill" in figures:
            per_s = (figures["prefill"] + figures["decode"]) * figures["documents_per_s"]
            figures["peak_prefill"] = 2 * (given.parameters or Shape().multiplied) * per_s / peak
        if "exact" in scores and name in scores and len(scores[name]):
            figures.update(quality(scores[name], scores["exact"], truth))
        print(f"{name:24}", " ".join(f"{what} {value:.4g}" for what, value in figures.items()))
    told = {
        "card": card,
        "versions": versions(),
        "documents": len(documents),
        "world": given.world,
        "prompt_tokens": {"least": min(lengths), "median": statistics.median(lengths), "most": max(lengths)},
        "exact": None if given.no_errors else quality(scores["exact"], scores["exact"], truth),
        "methods": found,
    }
    print(json.dumps({name: value for name, value in told.items() if name != "methods"}, indent=2))
    if given.json:
        given.json.write_text(json.dumps(told, indent=2) + "\n")
    if given.scores:
        np.savez(given.scores, **scores)


if __name__ == "__main__":
    main()
