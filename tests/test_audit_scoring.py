"""An audit that scores its nights itself: which nights are handed to a job, how, and what follows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import month
import pytest
import yaml

from confscore.audit.run import Outcome, Span, audit
from confscore.audit.scoring import Jobs, provenance_hash
from confscore.audit.settings import AuditConfig
from confscore.config import Config, load
from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.errors import ConfigError, ConfscoreError, GuardError, JobError
from confscore.guards import resolve
from confscore.manifest import Provenance
from confscore.plan import find_provenance
from confscore.run_folder import read_manifests

TODAY = date(2026, 10, 4)


def provenance_of_job(job: Config) -> Provenance:
    return find_provenance(job, resolve(job.guard.name, job.guard.order))


class World:
    """Stands where jobs are run: publishes a night's made-up scores where the job would have put its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: list[Config] = []
        self.fail_on = ""
        self.seed = 4
        self.settings: dict[str, object] = {
            "input": {"path": str(root / "corpus"), "id_column": "doc_id"},
            "guard": str(GUARD_YAML),
            "model": {"source": str(GUARD_FOLDER)},
            "cluster": {"gpus_per_actor": 0},
            "output": {"path": str(root / "not-used")},
        }

    def add(self, number: int) -> Path:
        return month.write_corpus(self.root / "corpus", month.make_night(number, 100, self.seed))

    def run(self, path: str) -> int | None:
        config = load(path)
        self.seen.append(config)
        spelled = config.input.where["date"]
        if spelled == self.fail_on:
            return 3
        number = (date.fromisoformat(spelled) - month.FIRST).days + 1
        night = month.make_night(number, 100, self.seed)
        (part,) = (self.root / "corpus" / f"date={spelled}").iterdir()
        for manifest in read_manifests(config.output.path) if Path(config.output.path).exists() else []:
            if any(file.path == str(part) for file in manifest.input_files):
                shutil.rmtree(Path(config.output.path) / f"run={manifest.run_id}")
                shutil.rmtree(Path(config.output.path) / "_confscore" / manifest.run_id)
        month.write_scores(Path(config.output.path), night, part)
        return 1 if number == 2 else 0  # some rows failed: the run is committed all the same

    def audit(self, first: date | None = None, last: date | None = None, **changes: object) -> Outcome:
        job = self.root / "score.yaml"
        job.write_text(yaml.safe_dump(self.settings))
        settings = {"score": str(job), "output": str(self.root / "audit"), "sample": {"budget": 20}, **changes}
        config = AuditConfig.model_validate(settings)
        jobs = Jobs(provenance_of_job, self.run)
        return audit(config, Span(first, last, TODAY), lambda said: None, jobs)


@pytest.fixture
def jobs(tmp_path: Path) -> World:
    made = World(tmp_path)
    for number in (1, 2, 3):
        made.add(number)
    return made


def scored(jobs: World) -> list[str]:
    return [config.input.where["date"] for config in jobs.seen]


def test_new_nights_are_scored_once_each_into_one_table(jobs: World) -> None:
    outcome = jobs.audit()
    assert [record.night for record in outcome.records] == ["2026-10-01", "2026-10-02", "2026-10-03"]
    assert scored(jobs) == ["2026-10-01", "2026-10-02", "2026-10-03"]
    kind = provenance_hash(provenance_of_job(load(jobs.root / "score.yaml")))
    for config in jobs.seen:
        assert config.output.path == str(jobs.root / "audit" / "scores" / kind)
        assert (config.output.partition_by, config.output.replace_changed) == (("date",), True)
        assert config.input.path == str(jobs.root / "corpus")
    assert not (jobs.root / "not-used").exists()
    assert jobs.audit().records == ()
    assert len(jobs.seen) == 3
    jobs.add(4)
    assert [record.night for record in jobs.audit().records] == ["2026-10-04"]
    assert len(jobs.seen) == 4


def test_a_changed_partition_is_scored_again_and_no_other(jobs: World) -> None:
    jobs.audit()
    jobs.seen.clear()
    jobs.seed = 5
    jobs.add(2)
    outcome = jobs.audit()
    assert scored(jobs) == ["2026-10-02"]
    assert outcome.status == 1
    assert "and its files have changed since" in outcome.line


def test_a_night_that_cannot_be_scored_ends_the_audit_and_keeps_the_nights_before_it(jobs: World) -> None:
    jobs.fail_on = "2026-10-02"
    with pytest.raises(JobError, match="night 2026-10-02 could not be scored, for the reason above; nights before it"):
        jobs.audit()
    kept = jobs.root / "audit" / "nights"
    assert [path.stem for path in kept.glob("*.json")] == ["2026-10-01"]
    jobs.fail_on = ""
    assert [record.night for record in jobs.audit().records] == ["2026-10-02", "2026-10-03"]
    assert scored(jobs) == ["2026-10-01", "2026-10-02", "2026-10-02", "2026-10-03"]


def test_another_kind_of_scores_goes_to_a_table_of_its_own(jobs: World) -> None:
    jobs.audit(last=date(2026, 10, 2))
    jobs.settings["scoring"] = {"normalization": "local"}
    jobs.audit()
    first, second, third = (config.output.path for config in jobs.seen)
    assert first == second != third
    jobs.audit(first=date(2026, 10, 1))
    assert [config.output.path for config in jobs.seen[3:]] == [third] * 3, "asked for, all nights become the new kind"


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda settings: settings["output"].update(format="delta"), ConfigError, "the audit keeps its scores as Parq"),
        (lambda settings: settings.update(guard="no-such-guard"), GuardError, "no-such-guard"),
    ],
)
def test_what_no_job_could_do_is_refused_before_any_night(
    jobs: World, change: Callable[[dict], None], error: type[Exception], sentence: str
) -> None:
    change(jobs.settings)
    with pytest.raises(error, match=sentence):
        jobs.audit()
    assert jobs.seen == []


def test_nights_of_three_keys(jobs: World) -> None:
    for folder in sorted((jobs.root / "corpus").iterdir()):
        year, this_month, day = folder.name.removeprefix("date=").split("-")
        target = jobs.root / "three" / f"year={year}" / f"month={int(this_month)}" / f"day={day}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, target)
    jobs.settings["input"] = {"path": str(jobs.root / "three"), "id_column": "doc_id"}
    jobs.fail_on = "2026-10-01"
    seen: list[dict[str, str]] = []

    def run(path: str) -> int:
        seen.append(load(path).input.where)
        return 3

    jobs.run = run  # type: ignore[method-assign]
    with pytest.raises(JobError, match="night 2026-10-01"):
        jobs.audit(night_column=["year", "month", "day"])
    assert seen == [{"year": "2026", "month": "10", "day": "01"}]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"alerts": [{"when": "S999.flag_rate > 1"}]}, "names S999"),
        ({"thresholds": ["S999=0.5"]}, "S999: is no category of the scores"),
        ({"output": "corpus/audit"}, "lies in the corpus"),
    ],
)
def test_what_would_stop_the_report_is_refused_before_scoring(
    jobs: World, changes: dict[str, object], sentence: str
) -> None:
    if "output" in changes:
        changes = {"output": str(jobs.root / str(changes["output"]))}
    with pytest.raises(ConfscoreError, match=sentence):
        jobs.audit(**changes)
    assert jobs.seen == []


def test_a_partition_without_documents_is_a_night_of_none_and_the_next_ones_do_not_wait(jobs: World) -> None:
    publish = jobs.run
    without = ["2026-10-01", "2026-10-03"]
    jobs.run = lambda path: 0 if load(path).input.where["date"] in without else publish(path)  # type: ignore[method-assign]
    outcome = jobs.audit()
    assert [record.night for record in outcome.records] == ["2026-10-01", "2026-10-02", "2026-10-03"]
    assert [record.metrics["overall"]["documents"] for record in outcome.records] == [0, 100, 0]
    assert len({record.kind for record in outcome.records[::2]}) == 1
    assert outcome.records[0].summary == "OK 2026-10-01: 0 documents"
    assert jobs.audit().records == ()


def test_one_night_in_two_spellings_is_refused(jobs: World) -> None:
    shutil.copytree(jobs.root / "corpus" / "date=2026-10-01", jobs.root / "corpus" / "date=20261001")
    with pytest.raises(ConfigError, match="night 2026-10-01 is spelled in two ways, 2026-10-01 and 20261001"):
        jobs.audit()


@pytest.mark.parametrize("status", [2, 3, None, -9])
def test_a_job_that_is_not_committed_is_no_night(jobs: World, status: int | None) -> None:
    jobs.run = lambda path: status  # type: ignore[method-assign]
    with pytest.raises(JobError, match="night 2026-10-01 could not be scored"):
        jobs.audit()
    assert not list((jobs.root / "audit").glob("nights/*.json"))


def test_a_partition_that_was_written_again_at_its_size_is_scored_again(jobs: World) -> None:
    jobs.audit()
    jobs.seen.clear()
    (part,) = (jobs.root / "corpus" / "date=2026-10-03").iterdir()
    os.utime(part, ns=(0, part.stat().st_mtime_ns + 1))
    jobs.audit()
    assert scored(jobs) == ["2026-10-03"]
