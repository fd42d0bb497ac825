"""What users would pick instead, on the same documents, the same guard and the same engine, in one process.

- ``greedy``: plain vLLM generation; a category is 1 where the answer names it, else 0;
- ``greedy, logprobs=20``: the same with the log-probabilities that vLLM's users know; a category gets the product of
  the probabilities of the answer's tokens up to its own, 0 where the answer does not name it;
- ``k samples``: k answers at temperature 1 for each document; a category gets the share of answers that name it, as
  ``(count + 1/2) / (k + 1)`` for the log loss;
- ``marginal``: confscore at two tolerances;
- ``search``: the published search, see ``published_search.py``, with the stops of its experiments and with its own
  defaults; what it collects may exceed 1, and is cut for the log loss.

Errors are against marginals at a tolerance of 0.0005, and AUC and log loss against labels that were drawn from the
world's own probabilities. Rounds take turns with an empty prefix cache. ``python benchmarks/alternatives.py``
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
from in_process import Bench
from published_search import AS_BY_DEFAULT, AS_IN_THE_PAPER
from sklearn.metrics import log_loss, roc_auc_score
from vllm.outputs import CompletionOutput

from confscore.demo.world import CODES, generate
from confscore.rows import FloatArray
from confscore.versions import versions

EXACT = 0.0005
SAMPLES = (3, 10, 20)
"""Three cost about as much as a marginal at the smaller tolerance."""
CLIP = 1e-4
"""Probabilities are cut to [CLIP, 1 - CLIP] before the log loss: an alternative may say 0."""

Method = Callable[[], Awaitable[FloatArray]]


class Alternatives(Bench):
    """The same guard and engine, used in other ways."""

    def walk(self, tokens: Sequence[int]) -> list[tuple[int, FloatArray]]:
        """Return the categories that each token of an answer adds; stops where the answer leaves the grammar."""
        column_of = {int(token): column for column, token in enumerate(self.automaton.alphabet)}
        state, named, found = self.automaton.state(self.automaton.root), 0, []
        for place, token in enumerate(tokens):
            edge = state.edge_of.get(column_of.get(int(token), -1))
            if edge is None:
                break
            before, named = named, named | state.named[edge]
            found.append((place, self.automaton.unpack(named & ~before)[1:]))
            state = self.automaton.state(state.targets[edge])
        return found

    def named(self, completion: CompletionOutput) -> FloatArray:
        """Return 1 for each category that an answer names, shape (N,)."""
        nothing = np.zeros(len(self.guard.codes))
        return np.sum([nothing, *(new for _, new in self.walk(completion.token_ids))], axis=0)

    async def plain(self) -> FloatArray:
        """Score by the greedy answer alone."""
        params = self.params(temperature=0.0)
        outputs = await asyncio.gather(*(self.ask(document, params, "plain") for document in self.documents))
        return np.array([self.named(output[0]) for output in outputs])

    async def joint(self) -> FloatArray:
        """Score by the probabilities of the greedy answer's tokens."""
        params = self.params(temperature=0.0, logprobs=20)
        outputs = await asyncio.gather(*(self.ask(document, params, "joint") for document in self.documents))
        scores = np.zeros((len(outputs), len(self.guard.codes)))
        for row, (completion,) in zip(scores, outputs, strict=True):
            steps = zip(completion.logprobs, completion.token_ids, strict=True)
            so_far = np.cumsum([step[int(token)].logprob for step, token in steps])
            for place, new in self.walk(completion.token_ids):
                row[:] += new * np.exp(so_far[place])
        return scores

    def sampled(self, k: int) -> Method:
        """Return the scoring by the share of k sampled answers."""
        params = self.params(temperature=1.0, n=k)  # no seed: vLLM on CPUs fails with one

        async def work() -> FloatArray:
            outputs = await asyncio.gather(*(self.ask(document, params, f"k{k}") for document in self.documents))
            return np.array([np.mean([self.named(each) for each in output], axis=0) for output in outputs])

        return work

    def marginals(self, tolerance: float) -> Method:
        """Return confscore's scoring."""
        work = self.marginal(tolerance)

        async def run() -> FloatArray:
            return np.array([score.probs for score in await work()])

        return run


async def compare(bench: Alternatives, rounds: int) -> tuple[dict[str, FloatArray], dict[str, list[float]]]:
    """Return every method's scores and its documents a second in each round."""
    methods: dict[str, Method] = {"greedy": bench.plain, "greedy, logprobs=20": bench.joint}
    methods |= {f"{k} samples": bench.sampled(k) for k in SAMPLES}
    methods |= {f"marginal {tolerance}": bench.marginals(tolerance) for tolerance in (0.05, 0.01)}
    await bench.engine.warm_up()
    scores = {"exact": await bench.marginals(EXACT)()}
    rates: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            await bench.engine._llm.reset_prefix_cache()
            start = time.perf_counter()
            scores[name] = await method()
            rates[name].append(len(bench.documents) / (time.perf_counter() - start))
    await bench.engine.close()
    return scores, rates


def main() -> None:
    """Run all of it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    documents = generate(given.documents, seed=3)
    bench = Alternatives(documents)
    truth = np.array([document.labels for document in documents])
    scores, rates = asyncio.run(compare(bench, given.rounds))
    for name, stops in {"search, as in the paper": AS_IN_THE_PAPER, "search, by default": AS_BY_DEFAULT}.items():
        found, cost = bench.search(bench.documents, stops)
        scores[name] = np.array([[each[code] for code in CODES] for each in found])
        rates[name] = [cost["documents_per_s"]]
    rows = []
    for name, rounds in rates.items():
        probs, k = scores[name], next((k for k in SAMPLES if name == f"{k} samples"), None)
        smooth = probs if k is None else (probs * k + 0.5) / (k + 1)
        row: dict[str, object] = {"method": name, "documents_per_s": statistics.median(rounds)}
        row["mean_error"] = float(np.abs(probs - scores["exact"]).mean())
        row["largest_error"] = float(np.abs(probs - scores["exact"]).max())
        row["largest_score"] = float(probs.max())
        row["micro_auc"] = float(roc_auc_score(truth.ravel(), probs.ravel()))
        row["log_loss"] = float(log_loss(truth.ravel(), np.clip(smooth.ravel(), CLIP, 1 - CLIP)))
        rows.append(row)
    exact = scores["exact"].ravel()
    print(f"{versions()}; {len(documents)} documents")
    print(f"exact: AUC {roc_auc_score(truth.ravel(), exact):.4f}, log loss {log_loss(truth.ravel(), exact):.5f}")
    print(" ".join(f"{name:>10.10}" if number else f"{name:26}" for number, name in enumerate(rows[0])))
    for row in rows:
        print(" ".join(f"{value:>10.5g}" if isinstance(value, float) else f"{value:26}" for value in row.values()))
    if given.json:
        given.json.write_text(json.dumps({"versions": versions(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
