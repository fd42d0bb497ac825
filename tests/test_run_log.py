"""What a job says of itself: the same in sentences and as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from test_score_table import manifest

from confscore import run_log
from confscore.manifest import NOTHING, Counts
from confscore.memory import peak_memory
from confscore.run_folder import RunFolder
from confscore.run_log import Pace, open_log, say_failed

COUNTS = Counts(read=100, scored=90, bounded=6, error=4, requests=250, prompt_tokens=9000)


def test_the_pace_leaves_out_loading_and_what_an_earlier_start_scored() -> None:
    pace = Pace()
    before = NOTHING.model_copy(update={"read": 1000})
    assert pace.rate(before, ready=False, now=5.0) is None
    assert pace.rate(before, ready=True, now=60.0) == 0.0
    assert pace.rate(before.model_copy(update={"read": 1500}), ready=True, now=70.0) == 50.0


def test_every_line_of_a_json_log_is_an_event(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "LOG_EVERY_S", 0.0)
    log = open_log("json")
    done = manifest(RunFolder(str(tmp_path), "run-0123456789abcdef"), COUNTS, resumed=40)
    with log.following(200) as update:
        update(NOTHING, ready=False)
        update(COUNTS, ready=True)
    log.committed(done, "s3://lake/scores/")
    log.done_before(done)
    say_failed("json", 'a "quoted" reason', 3)
    said = capsys.readouterr()
    events = [json.loads(line) for line in said.out.splitlines()]
    assert [event["event"] for event in events] == ["progress", "progress", "committed", "done_before", "failed"]
    assert (events[0]["ready"], events[0]["rate"], events[0]["documents"]) == (False, None, 200)
    assert (events[1]["read"], events[1]["error"], events[1]["requests"]) == (100, 4, 250)
    assert events[2]["output_path"] == "s3://lake/scores/"
    assert events[2]["resumed"] == 40
    assert events[2]["read"] == events[2]["scored"] + events[2]["bounded"] + events[2]["error"]
    assert (events[4]["error"], events[4]["exit_status"]) == ('a "quoted" reason', 3)
    assert said.err == 'confscore: a "quoted" reason\n'


def test_a_log_of_sentences_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "LOG_EVERY_S", 0.0)
    log = open_log("text")
    with log.following(200) as update:
        update(NOTHING, ready=False)
        update(COUNTS, ready=True)
    done = manifest(RunFolder(str(tmp_path), "run-0123456789abcdef"), COUNTS, resumed=40, scoring_seconds=3.0)
    log.committed(done, "scores")
    progress, resumed, scored, committed = capsys.readouterr().out.splitlines()
    assert progress.strip() == "100 of 200 documents, 0/s, 6 bounded, 4 failed"
    assert resumed == "An earlier start had scored 40 of 100 documents."
    assert scored.startswith("Scored 60 documents in 3.0 s (20/s, after 1.0 s of start-up): 90 scored, 6 bounded, 4 ")
    assert committed == f"Committed {done.run_id} to scores"


def test_the_peak_memory_of_a_process_includes_what_runs_below_it_and_stays_when_it_is_given_back() -> None:
    import subprocess
    import sys

    before = peak_memory(descendants=True)
    assert before is not None
    own = peak_memory(descendants=False)
    assert own is not None
    words = "x = bytearray(200_000_000); del x; print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    grown = peak_memory(descendants=True)
    assert grown is not None
    assert grown - before > 200_000_000
    after = peak_memory(descendants=False)
    assert after is not None
    assert after - own < 100_000_000
    child.communicate(b"\n")
    gone = peak_memory(descendants=True)
    assert gone is not None
    assert gone - before < 100_000_000


def test_why_a_job_ends_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process of the job may write to the same stream at any time."""
    pieces: list[str] = []
    stream = io.StringIO()
    monkeypatch.setattr(stream, "write", pieces.append)
    monkeypatch.setattr("sys.stderr", stream)
    say_failed("text", "no\nroom", 3)
    assert pieces == ["confscore: no room\n"]
