"""Logs hold the ids of documents and never their text, whatever goes wrong with a document."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as pds
import pytest

from confscore.config import Config, ModelConfig, ScoringConfig, parse
from confscore.errors import JobError
from confscore.guards import Guard, resolve
from confscore.manifest import Manifest
from confscore.plan import make_plan
from confscore.prompt import Prompter, Prompts
from confscore.rows import Document, Message, Score
from confscore.scorer import Scorer

pytestmark = pytest.mark.ray

SECRET = "xyzzy-5ecret-plugh"
LANGUAGES = ("../../outside", "a\0b", "/etc/x", "..")


class TellingPrompter(Prompter):
    """Raises what repeats the text, as a library may."""

    def prompts(self, document: Document, question: int | None = None) -> Prompts:
        text = document.messages[-1].content
        if "ROW" in text:
            raise ValueError(f"cannot read {text!r}\nat {text}")
        return super().prompts(document, question)


class TellingScorer(Scorer):
    """Raises what repeats the text, where nobody takes it for the fault of one row."""

    async def score(self, document: Document) -> Score:
        if document.messages and "BLOCK" in document.messages[-1].content:
            raise KeyError(document.messages[-1].content)
        return await super().score(document)


def open_telling_scorer(guard: Guard, model: ModelConfig, scoring: ScoringConfig) -> Scorer:
    from confscore.loading import load

    loaded = load(guard, model)
    room = loaded.engine.max_length - loaded.automaton.max_tokens
    prompter = TellingPrompter(guard, loaded.tokenizer, room)
    return TellingScorer(guard.codes, loaded.automaton, prompter, loaded.engine, scoring)


def lines() -> Iterator[str]:
    """Yield one row of every kind that a job can meet, each with the secret in it."""
    good = {"role": "user", "content": f"Hello {SECRET}"}
    chats = [
        [good],
        [good, {"role": "assistant", "content": SECRET}],
        [{**good, "content": f"ROW {SECRET}"}],
        [{**good, "role": SECRET}],
        [{**good, "content": [SECRET]}],
        [{**good, "content": {SECRET: SECRET}}],
        [{**good, "content": f"\ud800{SECRET}"}],
        [good, {"role": "assistant", "content": " "}],
        [SECRET],
        {SECRET: good},
        SECRET,
        json.dumps([{**good, "role": SECRET}]),
        f'[{{"role": "user", "content": "{SECRET}}}]',
    ]
    for number, chat in enumerate(chats):
        yield json.dumps({"id": f"d{number}", "chat": chat, "lang": LANGUAGES[number % len(LANGUAGES)]})
    yield f'{{"id": "broken", "chat": "{SECRET}'
    yield f'["{SECRET}"]'
    yield f'{{"id": {{"{SECRET}": 1}}, "chat": "{SECRET}"}}'
    yield json.dumps({"id": "lönely", "chat": [good], "other": f"\x1b[31m{SECRET}"})


def files_with_the_secret(folder: Path) -> list[Path]:
    """Return the files below a folder that hold the secret; a log may be written to meanwhile."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in found if path.stat().st_size < 1 << 26 and SECRET.encode() in path.read_bytes()]


def session_folder() -> Path:
    import ray

    return Path(ray._private.worker._global_node.get_session_dir_path())


def run(config: Config) -> Manifest:
    from ray.cloudpickle import register_pickle_by_value

    from confscore.pipeline import run_plan

    register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
    return run_plan(make_plan(config), lambda counts, ready: None, open_telling_scorer)


@pytest.fixture
def chats(settings: dict, tmp_path: Path) -> dict:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_bytes("\n".join(lines()).encode())
    settings["input"] |= {"format": "jsonl", "id_column": "id", "messages_column": "chat"}
    settings["output"]["partition_by"] = ["lang"]
    settings["scoring"]["max_failed_fraction"] = 1.0
    return settings


def test_no_log_no_manifest_and_no_error_repeats_a_text(
    ray_here: None, chats: dict, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = parse(chats, "test")
    manifest = run(config)
    rows = pds.dataset(config.output.path, partitioning="hive").to_table().to_pylist()
    errors = {row["doc_id"]: row["error"] for row in rows if row["error"]}
    assert (manifest.counts.read, manifest.counts.error) == (17, 15)
    assert len(errors) == 15
    assert errors["d1"] == "lang (output.partition_by) has a value that cannot be the name of a folder"
    assert {row["lang"] for row in rows} == {*LANGUAGES, None} - {"a\0b"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "scores"]
    assert errors["d2"].startswith("unexpected ValueError in confscore/")
    assert SECRET not in repr(rows)
    assert SECRET not in manifest.model_dump_json()
    assert SECRET not in "".join(capfd.readouterr())
    assert files_with_the_secret(tmp_path / "scores") == []
    assert files_with_the_secret(session_folder()) == []


def test_the_message_of_an_unexpected_error_is_told_where_it_is_asked_for(settings: dict) -> None:
    config = parse({**settings, "scoring": {"error_messages": True}}, "test")
    guard = resolve(config.guard.name)
    document = Document("d", (Message("user", f"ROW {SECRET}"),))
    for scoring, told in ((ScoringConfig(), False), (config.scoring, True)):
        score = asyncio.run(open_telling_scorer(guard, config.model, scoring).score(document))
        assert score.error is not None
        assert (SECRET in score.error) == told
        assert "\n" not in score.error


def test_an_error_that_ends_the_job_repeats_no_text(
    ray_here: None, chats: dict, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chat = [{"role": "user", "content": f"BLOCK {SECRET}"}]
    (tmp_path / "corpus" / "b.jsonl").write_text(json.dumps({"id": "b", "chat": chat}))
    with pytest.raises(JobError) as caught:
        run(parse(chats, "test"))
    assert "unexpected KeyError in confscore/actor.py" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in "".join(capfd.readouterr())
    assert files_with_the_secret(session_folder()) == []
