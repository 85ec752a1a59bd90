import os


def pytest_collection_modifyitems(config, items):
    """Leave out what needs Debian parts, but in the lane that installs them."""
    if os.environ.get("SLUICEWAY_LANE") == "ci":
        return
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("ci")])
    items[:] = [item for item in items if not item.get_closest_marker("ci")]
