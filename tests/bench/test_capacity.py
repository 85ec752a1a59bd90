"""The coefficients of README's section on capacity, measured again: none has become much more."""

import pytest
import uvloop

from tests.bench.capacity import measure
from tests.bench.capacity_model import Cost, load, of_beat, of_heartbeat

GROWN = 1.5
"""How many times a coefficient that is counted may be what the page has."""

SLOWER = 2.5
"""The same of processor time, by the yardstick of the same run: caches and neighbours are another matter each time."""

NOISE = Cost(5, 20, 5, 5, 0)
"""What is too little to be told apart."""


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    """All of them, from a small run."""
    folder = tmp_path_factory.mktemp("capacity")
    return uvloop.run(measure(folder, times=96, count=200, streams=100, seconds=2.0))


@pytest.fixture(scope="module")
def kept():
    return load()


def worked(figures):
    """Return what each operation costs by itself, and at the size at which its growth was measured."""
    return {
        **{name: figures.costs[name] for name in figures.costs},
        "a heartbeat that looks at 100 gateways": figures.costs["heartbeat"] + figures.slopes["heartbeat_gateway"] * 99,
        "a heartbeat with 100 open calls": of_heartbeat(figures, 1, 100),
        "a beat of 12 gateways with 60 deployments": of_beat(figures, 12, 60),
    }


@pytest.mark.ci
@pytest.mark.timeout(300)
def test_what_is_counted_is_what_the_page_says(now, kept):
    """Commands, bytes on the wire, bytes in the store and in a gateway, descriptors."""
    before, after = worked(kept), worked(now)
    sizes = kept.sizes | kept.gateway
    counted = {name for name in sizes if not name.endswith("_us")}

    assert {name for name in before if after[name].commands > before[name].commands * 1.05} <= {"use", "together"}
    for way in ("received", "sent"):
        of = {name: (getattr(after[name], way), getattr(before[name], way)) for name in before}
        assert {name: pair for name, pair in of.items() if pair[0] > GROWN * pair[1] + getattr(NOISE, way)} == {}
    measured = now.sizes | now.gateway
    assert {name: measured[name] for name in counted if measured[name] > GROWN * sizes[name]} == {}


@pytest.mark.ci
@pytest.mark.timeout(300)
def test_processor_time_is_what_the_page_says(now, kept):
    """Of the store's core and of a gateway's, each in yardsticks of its own kind."""
    before, after = worked(kept), worked(now)
    here = {kind: now.yards[kind] / kept.yards[kind] for kind in kept.yards}

    for who, yard in (("us", here["store"]), ("ours", here["ours"])):
        of = {name: (getattr(after[name], who), yard * getattr(before[name], who)) for name in before}
        assert {name: pair for name, pair in of.items() if pair[0] > SLOWER * pair[1] + getattr(NOISE, who)} == {}
    for name in ("call_us", "event_us"):
        assert now.gateway[name] <= SLOWER * here["ours"] * kept.gateway[name], name
