"""How tests are run: property tests are not timed, and what starts a cluster or an engine never runs beside another."""

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared, and some are slow.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give pytest-xdist the groups whose tests stay in one process, one after the other.

    Fixtures of a module are made once. Clusters and engines take ports, memory and cores, so they are one group.
    """
    for item in items:
        heavy = item.get_closest_marker("ray") or item.get_closest_marker("vllm")
        item.add_marker(pytest.mark.xdist_group("clusters and engines" if heavy else item.path.name))
