"""What a report rests on, and what it took."""

from __future__ import annotations

from confscore.audit.labels_in import Audited
from confscore.audit.lake import Lake
from confscore.audit.nights import TableNight
from confscore.audit.record import Artefact, Cost, SampleDrawn
from confscore.audit.tally import NightCounts
from confscore.manifest import Provenance
from confscore.run_folder import read_manifests


def cost_of(scores: TableNight, counts: NightCounts) -> Cost:
    """Return what scoring took; of runs over several nights, the night's share by documents."""
    runs = [manifest for manifest in read_manifests(scores.path) if manifest.run_id in counts.runs]
    documents, read = counts.scored + counts.failed, sum(run.counts.read for run in runs)
    share = min(documents / read, 1.0) if read else None
    startup = scoring = held = None
    if share is not None:
        startup = share * sum(run.startup_seconds for run in runs)
        scoring = share * sum(run.scoring_seconds for run in runs)
        engine = [run.engine_seconds for run in runs if run.engine_seconds is not None]
        held = share * sum(engine) / 3600 if len(engine) == len(runs) else None
    return Cost(
        runs=counts.runs,
        requests=counts.requests,
        prompt_tokens=counts.prompt_tokens,
        startup_seconds=startup,
        scoring_seconds=scoring,
        actor_hours=held,
        documents_per_second=counts.scored / scoring if scoring else None,
    )


def artefacts_of(
    lake: Lake,
    scores: TableNight,
    signature: str,
    provenance: Provenance,
    sample: SampleDrawn | None,
    audited: Audited | None,
    fit: tuple[str, str] | None,
) -> tuple[Artefact, ...]:
    """Return what the numbers rest on; ``fit`` is its path and SHA-256."""
    found = [
        Artefact(name="score table", path=scores.path, sha256=None),
        Artefact(name="scores of this night (names and sizes)", path=", ".join(scores.runs), sha256=scores.signature),
        Artefact(name="model", path=provenance.model, sha256=provenance.model_hash),
        Artefact(name="tokenizer", path=provenance.model, sha256=provenance.tokenizer_hash),
        Artefact(name="guard", path=provenance.guard, sha256=provenance.guard_hash),
        Artefact(name="prompt", path=provenance.guard, sha256=provenance.prompt_hash),
    ]
    if signature != scores.signature:
        found.append(Artefact(name="corpus of this night (names, sizes and times)", path="", sha256=signature))
    if fit is not None:
        found.append(Artefact(name="fit", path=fit[0], sha256=fit[1]))
    if sample is not None:
        found.append(Artefact(name="sample", path=lake.place(sample.path), sha256=None))
    if audited is not None:
        found += [Artefact(name="labels", path=path, sha256=None) for path in audited.labels.files]
    return tuple(found)
