"""Tells somebody else how an audit went: a JSON object, posted to an address."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from urllib.parse import urlsplit

from confscore.audit.lake import Lake
from confscore.audit.run import Outcome
from confscore.words import one_line

TIMEOUT_S = 10.0


def message_of(outcome: Outcome, lake: Lake) -> dict[str, object]:
    """Return what is posted.

    ``text`` is for chat services, which show it; the rest is for programs. ``nights`` are those that were audited now.
    """
    return {
        "text": outcome.line,
        "verdict": outcome.verdict,
        "status": outcome.status,
        "output": lake.output,
        "nights": [
            {
                "night": record.night,
                "audit_id": record.audit_id,
                "verdict": record.verdict,
                "summary": record.summary,
                "page": lake.place(f"{record.folder}/report.html"),
                "report": lake.place(f"{record.folder}/report.json"),
            }
            for record in outcome.records
        ],
    }


def failure(sentence: str, status: int, lake: Lake) -> dict[str, object]:
    """Return what is posted where there is no verdict, because the audit itself failed."""
    return {"text": f"AUDIT FAILED: {sentence}", "verdict": None, "status": status, "output": lake.output, "nights": []}


def post(url: str, message: dict[str, object]) -> str | None:
    """Post a message; returns why it did not arrive, or ``None``.

    The address is a secret at most chat services, so only its host is named.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        return "the webhook was not told: its address has to start with http:// or https://"
    body = json.dumps(message, ensure_ascii=False).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        return f"the webhook at {host} was not told: it answered {error.code} {one_line(str(error.reason))}"
    except urllib.error.URLError as error:
        return f"the webhook at {host} was not told: {one_line(str(error.reason))}"
    except (OSError, ValueError, HTTPException) as error:
        return f"the webhook at {host} was not told: {type(error).__name__}"
