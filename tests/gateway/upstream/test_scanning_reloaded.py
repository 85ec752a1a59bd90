"""What there is to call once another file has taken the place of the one before."""

import pytest
from msgspec.structs import replace

from gateway.config.settings import Backend
from tests.gateway.harness import eventually
from tests.policies.builders import deployment, model

RACK = Backend("rack", "vllm", "http://127.0.0.1:9/v1", "key", probe_every=0)
OTHER = Backend("other", "vllm", "http://127.0.0.1:9/v1", probe_every=0)


def short(*backends, total=0.05):
    """Return a model whose calls are over soon."""
    served = model(*map(deployment, backends))
    return replace(served, deadlines=replace(served.deadlines, total=total))


async def test_a_backend_that_stays_is_the_very_same_and_a_changed_one_is_not(keep):
    """With all that was learned of its deployments; models are those of the new file."""
    kept = await keep([RACK, OTHER], [short("rack", "other")])
    rack, other = kept.fleet.homes["rack"], kept.fleet.homes["other"]
    known = [kept.fleet.live(deployment(name)) for name in ("rack", "other")]
    third = replace(OTHER, name="third")
    await kept.take(
        [RACK, replace(OTHER, base_url="http://127.0.0.1:8/v1"), third],
        [short("rack", "third"), replace(short("other"), name="n")],
    )

    assert kept.served == {"m": ["rack", "third"], "n": ["other"]}
    assert (kept.fleet.homes["rack"] is rack, kept.fleet.homes["other"] is other) == (True, False)
    assert kept.fleet.live(deployment("rack")) is known[0]
    assert kept.fleet.live(deployment("other")) is not known[1]
    assert kept.present == ["other", "rack", "third"]


async def test_a_backend_that_has_gone_is_closed_when_its_calls_are_over(keep):
    """Not a moment before: a route that was made leads there still."""
    kept = await keep([RACK, OTHER], [short("rack", "other", total=0.3)])
    gone = kept.fleet.homes["other"]
    await kept.take([RACK], [short("rack")])
    assert (kept.served, kept.present) == ({"m": ["rack"]}, ["rack"])
    assert kept.fleet.homes["other"] is gone
    assert kept.fleet.leaves("other")

    await eventually(lambda: kept.forgotten == ["other"])
    assert set(kept.fleet.homes) == {"rack"}


async def test_a_backend_that_comes_back_in_time_is_as_it_was(keep):
    """An edit that is undone costs nothing that was learned."""
    kept = await keep([RACK, OTHER], [short("rack", "other", total=900.0)])
    known = kept.fleet.live(deployment("other"))
    await kept.take([RACK], [short("rack")])
    await kept.take([RACK, OTHER], [short("rack", "other")])

    assert kept.fleet.live(deployment("other")) is known
    assert not kept.fleet.leaves("other")


async def test_authorities_that_are_gone_again_stop_it_before_anything_has_changed(keep, tmp_path):
    """Half of a file is never taken."""
    kept = await keep([RACK], [short("rack")])
    with pytest.raises(OSError, match="No such file"):
        await kept.take([replace(RACK, ca=tmp_path / "gone.pem", ca_digest="x")], [])

    assert kept.served == {"m": ["rack"]}


async def test_a_new_pace_of_probes_holds_at_once_and_none_means_none(keep):
    """Its home stays the same."""
    kept = await keep([RACK], [short("rack")])
    tasks = kept.scanning._probes._tasks
    assert tasks == {}
    home = kept.fleet.homes["rack"]
    for pause in (30.0, 60.0):
        await kept.take([replace(RACK, probe_every=pause)], [short("rack")])
        assert list(tasks) == [(home, pause)]
    await kept.take([RACK], [short("rack")])

    assert tasks == {}
