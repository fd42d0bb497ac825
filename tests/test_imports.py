"""Who may import whom. Read from the source, so that nothing has to be loaded to find out."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import confscore

ROOT = Path(confscore.__file__).parent

# Each room may import itself and the rooms above it.
ROOMS: list[tuple[str, ...]] = [
    ("errors", "words", "model_size", "openmp"),
    ("rows", "plain_yaml", "memory"),
    ("settings",),
    ("config",),
    ("guards", "gpus"),
    ("render", "token_walk", "plain_text"),
    ("skeleton",),
    ("prompt", "automaton"),
    ("vocabulary", "trust"),
    ("bounds",),
    ("steps",),
    ("answer_tree",),
    ("confidence",),
    ("baselines", "paper"),
    ("engines",),
    ("scorer",),
    ("loading",),
    ("check", "rivals"),
]
# Left of the score table: may load a tokenizer, an engine or Ray.
ONLINE = {"render", "prompt", "vocabulary", "scorer", "loading", "check", "engines", "actor", "pipeline", "plan"}
ONLINE |= {"trust", "plain_text", "skeleton", "rivals", "reproduce", "cli", "console", "demo"}
# Right of it, and what it stands on: works on a machine that has none of these libraries.
OFFLINE = [
    "rows",
    "config",
    "guards",
    "token_walk",
    "automaton",
    "bounds",
    "steps",
    "answer_tree",
    "confidence",
    "baselines",
    "score_table",
    "publication",
    "table_formats",
    "verify",
    "manifest",
    "run_folder",
    "calibration",
    "thresholds",
    "curves",
    "weights",
    "identity",
    "labelled",
    "policy",
    "score_counts",
    "choosing",
    "reliability",
    "fitted",
    "fitting",
    "fit_report",
    "rules",
    "apply",
    "sql",
    "sampling",
    "population",
    "designs",
    "intervals",
    "sample",
    "sample_file",
    "sample_text",
    "estimation",
    "weighted",
    "decisions",
    "audit",
    "report",
    "labels",
    "ranking",
    "metrics",
    "figures",
    "evaluate",
]
HEAVY = ("ray", "vllm", "torch", "transformers")


def modules() -> dict[str, Path]:
    """Return every module of the package by its name without the package's."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(ROOT.rglob("*.py"))
        if path != ROOT / "__init__.py"
    }


def imports(path: Path, *, at_run_time: bool = True) -> Iterator[str]:
    """Yield the dotted names a module imports anywhere, those for type checkers left out if ``at_run_time``."""
    stack: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while stack:
        node = stack.pop()
        if at_run_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            stack += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        stack += ast.iter_child_nodes(node)


def importers(library: str, *, at_run_time: bool = True) -> set[str]:
    return {
        name
        for name, path in modules().items()
        if any(found.split(".")[0] == library for found in imports(path, at_run_time=at_run_time))
    }


def test_one_module_imports_vllm() -> None:
    assert importers("vllm", at_run_time=False) == {"engines.vllm"}


def test_one_module_imports_ray() -> None:
    assert {name.split(".")[0] for name in importers("ray", at_run_time=False)} == {"pipeline"}


def test_one_module_imports_each_table_format() -> None:
    assert importers("pyiceberg", at_run_time=False) == {"table_formats.iceberg"}
    assert importers("deltalake", at_run_time=False) == {"table_formats.delta"}


def test_one_engine_imports_torch() -> None:
    assert importers("torch", at_run_time=False) - {"demo.train"} == {"engines.transformers"}


def test_one_engine_imports_transformers_models() -> None:
    found = {
        name: {found for found in imports(path) if found.startswith("transformers.")}
        for name, path in modules().items()
    }
    models = {
        name
        for name, names in found.items()
        if any("Model" in each or each.endswith(("ForCausalLM", "Config")) for each in names)
    }
    assert models - {"demo.train"} == {"engines.transformers"}
    assert {name for name, names in found.items() if names} <= {
        "vocabulary",
        "trust",
        "engines.transformers",
        *(name for name in found if name.startswith("demo.")),
    }


@pytest.mark.parametrize("room", [room for shelf in ROOMS for room in shelf])
def test_rooms_import_only_rooms_above_them(room: str) -> None:
    place = next(i for i, shelf in enumerate(ROOMS) if room in shelf)
    allowed = {room, *(name for shelf in ROOMS[:place] for name in shelf)}
    for name, path in modules().items():
        if name.split(".")[0] == room:
            inside = {found.split(".")[1] for found in imports(path) if found.startswith("confscore.")}
            assert inside <= allowed, f"{name} imports {sorted(inside - allowed)} from below"


def test_engines_do_not_import_each_other() -> None:
    for name, path in modules().items():
        if name.startswith("engines."):
            inside = {found for found in imports(path) if found.startswith("confscore.engines.")}
            assert {found.split(".")[2] for found in inside} <= {"base"}, name


def test_guards_that_ship_are_data() -> None:
    for name, path in modules().items():
        if name.startswith("guards.") and name.split(".")[1] not in (
            "grammar",
            "answers",
            "spec",
            "ambiguity",
            "reading",
        ):
            inside = {found.rsplit(".", 1)[0] for found in imports(path)}
            assert inside <= {"__future__", "confscore.guards.answers", "confscore.guards.spec"}, name


def existing(names: list[str]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(f"confscore.{name}") is not None]


@pytest.mark.parametrize("name", existing(OFFLINE))
def test_offline_modules_import_no_online_ones(name: str) -> None:
    for module, path in modules().items():
        if module.split(".")[0] == name:
            found = {each.split(".")[1] for each in imports(path) if each.startswith("confscore.")}
            assert not found & ONLINE, f"{module} imports {sorted(found & ONLINE)}"


def test_offline_modules_load_neither_ray_nor_vllm_nor_torch() -> None:
    names = [f"confscore.{name}" for name in existing(OFFLINE)]
    script = f"import sys, {', '.join(names)}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", existing(["cli", "engines.table", "prompt", "vocabulary", "scorer", "console"]))
def test_what_loads_a_library_loads_it_late(name: str) -> None:
    script = f"import sys, confscore.{name}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []
