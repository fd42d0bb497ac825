"""What the documentation shows is what the program takes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from typer.main import get_command

from confscore.cli import app
from confscore.config import Config, parse
from confscore.guards import REGISTRY, resolve
from confscore.rows import Columns, score_schema

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def test_the_readmes_configuration_is_valid_and_shows_the_defaults() -> None:
    (shown,) = [block for block in blocks(ROOT / "README.md", "yaml") if "input:" in block]
    config = parse(yaml.safe_load(shown), "README.md")
    default = Config.model_validate({"input": {"path": "a"}, "model": {"source": "b"}, "output": {"path": "c"}})
    assert config.scoring == default.scoring
    assert config.cluster == default.cluster
    assert config.guard == default.guard
    assert config.model.engine == default.model.engine


def test_the_guard_of_the_documentation_is_valid(tmp_path: Path) -> None:
    (shown,) = blocks(ROOT / "docs" / "guards.md", "yaml")
    path = tmp_path / "my-guard.yaml"
    path.write_text(shown)
    guard = resolve(str(path))
    assert guard.codes == ("C1", "C2")
    assert guard.answer.unsafe == "yes,"


def test_the_documentation_names_every_registered_guard() -> None:
    text = (ROOT / "docs" / "guards.md").read_text()
    assert all(f"| `{name}` |" in text for name in REGISTRY)


def test_the_documented_columns_are_those_of_the_schema() -> None:
    text = (ROOT / "docs" / "score-table.md").read_text()
    rows = re.findall(r"^\| (`[^|]+) \| ", text, re.M)
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    schema = score_schema(Columns(("S1",), bounds=True, estimators=("conditional", "joint"), top_answers=True))
    actual = {name.replace("S1", "<code>") for name in schema.names}
    assert documented == actual


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_shown_exists_with_its_options(page: Path) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"\$ (confscore .*)", page.read_text()) + re.findall(r"`(confscore [a-z].*?)`", page.read_text())
    for line in lines:
        name, *words = line.split("#")[0].split()[1:]
        assert name in commands, line
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert all((page.parent / link).exists() for link in links if "://" not in link), links


def test_every_make_target_that_is_shown_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {name for page in PAGES for name in re.findall(r"make ([a-z]+)", page.read_text())}
    assert {"demo", "test", "check", "bench"} <= targets
    shown = {name for name in targets if name in {"setup", "demo", "test", "check", "bench", "format", "clean"}}
    assert all(re.search(rf"^{name}:", makefile, re.M) for name in shown)


def keys_of(model: type[BaseModel], before: str = "") -> dict[str, object]:
    """Return every key of a configuration with its default; those without one map to None."""
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found |= keys_of(annotation, f"{before}{name}.")
        else:
            found[before + name] = None if field.is_required() else field.get_default(call_default_factory=True)
    return found


def test_every_key_of_the_configuration_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \|(.*?)\|", text, re.M))
    actual = keys_of(Config)
    assert set(rows) == set(actual) | {"guard"}
    in_words = {"input.text_column": "text", "guard.order": None}
    for key, built_in in actual.items():
        shown = rows[key].strip(" `")
        default = in_words.get(key, built_in)
        if default in (None, (), {}):
            assert shown in ("", "none", "the guard's"), key
        else:
            assert yaml.safe_load(shown) == (list(default) if isinstance(default, tuple) else default), key


def test_the_small_configuration_is_valid() -> None:
    (shown,) = blocks(ROOT / "docs" / "configuration.md", "yaml")
    config = parse(yaml.safe_load(shown), "configuration.md")
    assert (ROOT / config.model.source / "config.json").exists()


def test_the_paper_calculation_is_what_its_script_prints() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "on_paper.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in (ROOT / "docs" / "scale.md").read_text()
