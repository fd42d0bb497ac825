"""How tests are run: property tests are not timed, clusters never run beside each other, and neither do engines."""

from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# Machines are shared, and some are slow.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

ROOT = Path(__file__).parents[1]


class Apart(LoadScopeScheduling):
    """Keeps the tests of a file in one process, of all files with clusters in one, and of those with engines in one.

    Those take ports, memory and cores. The file is read, because here only the names of tests are known.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _starts(file) or file


@cache
def _starts(file: str) -> str:
    source = (ROOT / file).read_text(encoding="utf-8")
    kinds = {"pytest.mark.ray": "clusters", "pytest.mark.vllm": "engines"}
    return next((kind for mark, kind in kinds.items() if mark in source), "")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Return the scheduler of several processes."""
    return Apart(config, log)
