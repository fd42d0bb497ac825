"""Ray's metrics of a job, for its dashboard and for Prometheus."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence

from ray.util.metrics import Counter, Gauge, Histogram

from confscore.rows import Score

_RESIDUALS = [1e-4, 1e-3, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]


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
        self._residual = Histogram(
            "confscore_residual",
            "Upper minus lower bound of a document's least certain category",
            boundaries=_RESIDUALS,
            tag_keys=tags,
        )
        self._waiting = Gauge("confscore_requests_waiting", "Requests the engine has not answered yet", tag_keys=tags)
        self._in_flight = Gauge("confscore_documents_in_flight", "Documents taken and not scored yet", tag_keys=tags)
        for each in (self._documents, self._requests, self._prompt_tokens, self._residual):
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
        for score in scores:
            if score.residual is not None:
                self._residual.observe(score.residual)

    def queued(self, documents: int, requests: int) -> None:
        """Note how many documents are in flight, and how many requests wait for the engine."""
        self._in_flight.set(documents)
        self._waiting.set(requests)
