"""What was found by fuzzing holds, and whatever comes holds for as long as one likes to try."""

from __future__ import annotations

import importlib
from pathlib import Path

import harness
import pytest

TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in Path(__file__).parent.glob("fuzz_*.py"))
FOUND = [(target, path) for target in TARGETS for path in harness.found(target)]


def test_every_target_has_inputs_to_begin_with() -> None:
    assert {target for target, _ in FOUND} == set(TARGETS)


@pytest.mark.parametrize(("target", "path"), FOUND, ids=lambda value: value if isinstance(value, str) else value.name)
def test_what_was_found_holds(target: str, path: Path) -> None:
    with harness.limited():
        importlib.import_module(f"fuzz_{target}").check(path.read_bytes())


@pytest.mark.fuzz
@pytest.mark.parametrize("target", TARGETS)
def test_whatever_comes_holds(target: str) -> None:
    module = importlib.import_module(f"fuzz_{target}")
    harness.search(target, module.check, module.inputs)
