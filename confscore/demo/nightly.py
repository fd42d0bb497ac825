"""The demo's second part: a fit on the first labels, and an audit of two nights, as a scheduler would run it."""

from __future__ import annotations

from datetime import UTC, date, datetime

import yaml

from confscore import console, fitted, fitting
from confscore.audit.lake import INDEX, Lake
from confscore.audit.run import Outcome, Span, audit
from confscore.audit.settings import load_audit
from confscore.demo.run import DemoFolder
from confscore.demo.world import DATES
from confscore.policy import PolicyFile


def audit_two_nights(folder: DemoFolder) -> None:
    """Fit thresholds, audit the first night and then the second, and say where the pages are."""
    labels = {"path": str(folder.labels), "label_column": "labels"}
    source = fitting.LabelFile(str(folder.labels), "doc_id", "labels", None)
    command = f"fit --scores {folder.scores} --labels {folder.labels} --label-column labels --out {folder.fit}"
    console.say(f"$ confscore {command}")
    fitted.write_file(str(folder.fit), fitting.fit(str(folder.scores), source, PolicyFile()).model.dump().encode())
    settings = {
        "scores": str(folder.scores),
        "corpus": {"path": str(folder.corpus), "id_column": "doc_id"},
        "output": str(folder.audit),
        "fit": str(folder.fit),
        "labels": labels,
        "sample": {"budget": 100, "text": True},
    }
    folder.audit_config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    config = load_audit(folder.audit_config)
    for night in map(date.fromisoformat, DATES):
        console.say(f"$ confscore audit --config {folder.audit_config} --to {night}")
        outcome: Outcome = audit(config, Span(None, night, datetime.now(UTC).date()), lambda sentence: None)
        console.say(outcome.line)
    lake = Lake(config.output)
    assert outcome.last is not None
    console.say(
        f"The page of the last night: {lake.place(outcome.last.folder)}/report.html; all nights: {folder.audit}/{INDEX}"
    )
