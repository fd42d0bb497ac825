"""Kinds of scores: what is compared with what, and what is said when a new kind begins."""

from __future__ import annotations

from collections.abc import Sequence

from confscore.audit.history import History
from confscore.audit.nights import digest
from confscore.audit.record import Baseline, NightRecord, Notice
from confscore.fitted import FittedModel
from confscore.identity import Identity, first_difference


def kind_of(identity: Identity) -> str:
    """Return what tells kinds of scores apart: weights that have a hash are known by it, whatever their name."""
    names = {"model", "revision"} if identity.model_hash is not None else set()
    return digest(identity.model_dump(mode="json", exclude=names))


def changes(
    before: NightRecord | None, signature: str, records: Sequence[NightRecord], identity: Identity, history: History
) -> list[Notice]:
    """Return what has changed beside the documents."""
    found = []
    if before is not None and before.signature != signature:
        text = f"this night was audited before ({before.audit_id}), and its files have changed since"
        found.append(Notice(severity="warn", text=text))
    earlier = [record for record in records if record.night < str(history.night)]
    if earlier:
        changed = first_difference(max(earlier, key=lambda record: record.night).identity, identity)
        if changed is not None:
            text = f"scores have another {changed[0]} ({changed[2]}, not {changed[1]})"
            if history.records:
                text += f" again: they are compared with {history.records[-1].night} and before"
            else:
                text = f"a new baseline begins: {text}"
            found.append(Notice(severity="warn", text=text))
    return found


def baseline_of(history: History, records: Sequence[NightRecord], identity: Identity, night: str) -> Baseline:
    """Return what a night's scores are compared with, and why it begins where it does."""
    if history.records:
        nights = tuple(record.night for record in history.baseline)
        return Baseline(began=history.records[0].night, reason="the first night of these scores", nights=nights)
    earlier = [record for record in records if record.night < night]
    reason = "the first audited night"
    if earlier:
        changed = first_difference(max(earlier, key=lambda record: record.night).identity, identity)
        if changed is not None:
            reason = f"another {changed[0]}: {changed[2]}, not {changed[1]}"
    return Baseline(began=night, reason=reason, nights=())


def fit_for(path: str | None, model: FittedModel | None, identity: Identity) -> tuple[FittedModel | None, list[Notice]]:
    """Return the fit, if it is of these scores; thresholds of other scores would flag at random."""
    if model is None:
        return None, []
    changed = first_difference(model.identity, identity)
    if changed is None:
        return model, []
    text = (
        f"{path} was fitted to scores with another {changed[0]} ({changed[1]}, not {changed[2]}), so it is "
        "left out: probabilities are the scores themselves; fit again with labels of these scores"
    )
    return None, [Notice(severity="warn", text=text)]
