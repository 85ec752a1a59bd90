import os

import pytest
from hypothesis import HealthCheck, settings

SOAK = os.environ.get("SLUICEWAY_LANE") == "soak"

# How fast a busy machine draws examples, or runs one, says nothing about what is tested. The lanes that must not be
# flaky try the same examples every time, so that many of them find no more than some; `soak` draws new ones, and more.
settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=not SOAK,
    max_examples=300 if SOAK else 60,
)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Make a folder for modules that child processes compile, for those that would else each compile them all."""
    return tmp_path_factory.mktemp("compiled")


def pytest_collection_modifyitems(config, items):
    """Leave out what needs parts that do not come with the suite, but where it is asked for."""
    left_out = set()
    if os.environ.get("SLUICEWAY_LANE") != "ci":
        left_out.add("ci")
    if "engines" not in config.option.markexpr:
        left_out.add("engines")
    kept, gone = [], []
    for item in items:
        (gone if any(item.get_closest_marker(name) for name in left_out) else kept).append(item)
    config.hook.pytest_deselected(items=gone)
    items[:] = kept
