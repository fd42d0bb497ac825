"""How tests are run: property tests are not timed, and what starts a cluster or an engine never runs beside another."""

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
    """Keeps the tests of a file in one process, and of all files with clusters or engines in the same one.

    Those take ports, memory and cores. The file is read, because here only the names of tests are known.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "clusters and engines" if _is_heavy(file) else file


@cache
def _is_heavy(file: str) -> bool:
    source = (ROOT / file).read_text(encoding="utf-8")
    return "pytest.mark.ray" in source or "pytest.mark.vllm" in source


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Return the scheduler of several processes."""
    return Apart(config, log)
