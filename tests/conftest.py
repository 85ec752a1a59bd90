import os

from hypothesis import HealthCheck, settings

# How fast a busy machine draws examples, or runs one, says nothing about what is tested. The lanes that must not be
# flaky try the same examples every time; `soak` draws new ones.
settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("SLUICEWAY_LANE") != "soak",
)
settings.load_profile("suite")


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
