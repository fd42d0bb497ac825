"""Ray's metrics of a job, for its dashboard and for Prometheus."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence

import numpy as np
from ray.util.metrics import Counter, Gauge

from confscore.rows import Score

_RESIDUALS = (1e-4, 1e-3, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


class RayMeters:
    """What one actor measures.

    Ray puts ``ray_`` before the names and ``_total`` behind those of counters, and adds tags for node and worker.

    Parameters
    ----------
    run_id : str
        The run, a tag of every metric.
    """

    def __init__(self, run_id: str) -> None:
        tags = ("run_id",)
        self._documents = Counter("confscore_documents", "Documents by status", tag_keys=("run_id", "status"))
        self._requests = Counter("confscore_requests", "Engine requests (rollouts)", tag_keys=tags)
        self._prompt_tokens = Counter("confscore_prompt_tokens", "Tokens of prompts", tag_keys=tags)
        # Not Ray's own histogram: that takes one document a call, and the agent of each node again.
        self._residuals = Counter(
            "confscore_residual_bucket",
            "Documents whose least certain category has an upper minus a lower bound of at most le",
            tag_keys=("run_id", "le"),
        )
        self._waiting = Gauge("confscore_requests_waiting", "Requests the engine has not answered yet", tag_keys=tags)
        self._in_flight = Gauge("confscore_documents_in_flight", "Documents taken and not scored yet", tag_keys=tags)
        for each in (self._documents, self._requests, self._prompt_tokens, self._residuals):
            each.set_default_tags({"run_id": run_id})
        for gauge in (self._waiting, self._in_flight):
            gauge.set_default_tags({"run_id": run_id})

    def scored(self, scores: Sequence[Score]) -> None:
        """Count documents that have been scored."""
        for status, count in Tally(score.status for score in scores).items():
            self._documents.inc(count, {"status": status})
        requests, tokens = sum(score.requests for score in scores), sum(score.prompt_tokens for score in scores)
        if requests:  # Ray refuses to add nothing
            self._requests.inc(requests)
        if tokens:
            self._prompt_tokens.inc(tokens)
        for bound, count in _buckets([score.residual for score in scores if score.residual is not None]).items():
            if count:
                self._residuals.inc(count, {"le": bound})

    def queued(self, documents: int, requests: int) -> None:
        """Note how many documents are in flight, and how many requests wait for the engine."""
        self._in_flight.set(documents)
        self._waiting.set(requests)


def _buckets(residuals: Sequence[float]) -> dict[str, int]:
    """Count residuals as Prometheus does: by upper bound, smaller ones included."""
    counts = np.searchsorted(np.sort(residuals), _RESIDUALS, side="right").tolist()
    return {f"{bound:g}": count for bound, count in zip(_RESIDUALS, counts, strict=True)} | {"+Inf": len(residuals)}
