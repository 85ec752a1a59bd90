"""Families of another file, as it is prepared and taken."""

import asyncio

import pytest
import structlog
from msgspec.structs import replace

from gateway.upstream import discovery
from tests.gateway.harness import eventually
from tests.gateway.upstream.test_scanning import named, served_by
from tests.gateway.upstream.test_scanning_reloaded import RACK, short


class Names:
    """A resolver whose answers a test changes; of the hosts in `unknown` nobody knows."""

    def __init__(self, *addresses, unknown=()):
        self.answer = addresses
        self.unknown = unknown
        self.held = asyncio.Event()
        self.held.set()

    async def __call__(self, host, port):
        await self.held.wait()
        if host in self.unknown:
            raise OSError("Name or service not known")
        return list(self.answer)


async def test_a_family_that_comes_is_served_from_its_first_moment(keep, first):
    """Its replicas are known before a call can be sent there: also where it had been one place alone."""
    names = Names("127.0.0.1")
    one = f"gpu@127.0.0.1:{first.port}"
    family = named(first, probe_every=0)
    kept = await keep([replace(family, discover=None)], [short("gpu")], resolve=names)
    assert kept.served == {"m": ["gpu"]}
    names.held.clear()
    preparing = asyncio.ensure_future(kept.scanning.prepare([family], [short("gpu")]))
    await asyncio.sleep(0.02)
    assert (kept.served, kept.present) == ({"m": ["gpu"]}, ["gpu"])
    names.held.set()
    await preparing
    kept.scanning.take([family], [short("gpu")])

    assert all(served_by([catalog]) in ({"m": ["gpu"]}, {"m": [one]}) for catalog in kept.published)
    assert kept.served == {"m": [one]}
    assert kept.present == [one]


async def test_a_file_that_is_being_prepared_changes_nothing_that_calls_go_by(keep, first, monkeypatch):
    """Not the replicas of a family that moves, not the listings; nor does one that comes to nothing leave a trace."""
    monkeypatch.setattr(discovery, "LOOK_EVERY", 1000.0)  # the file before goes on as it was told
    names = Names("127.0.0.1")
    family = named(first, probe_every=0)
    kept = await keep([family, RACK], [short("gpu", "rack")], resolve=names)
    moved = replace(family, base_url=f"http://cloud.example:{first.port}/v1", api_key="new", told_hosted=True)
    more = replace(family, name="more", base_url=f"http://more.local:{first.port}/v1")
    before = kept.state
    names.answer = ["127.0.0.2"]
    await kept.scanning.prepare([moved, more, replace(RACK, base_url=f"{first.url}/v1")], None)
    assert kept.state == before
    names.held.clear()
    preparing = asyncio.ensure_future(kept.scanning.prepare([moved, more], [short("gpu", "more")]))
    await asyncio.sleep(0.02)
    preparing.cancel()
    await asyncio.wait([preparing])
    assert kept.state == before
    names.held.set()
    await kept.take([moved, more], [short("gpu", "more")])

    assert kept.served == {"m": [f"gpu@127.0.0.2:{first.port}", f"more@127.0.0.2:{first.port}"]}
    assert len(kept.published) == before[2] + 1


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("to", ["a name", "a list", "the same name, now their own"])
async def test_a_family_that_moves_leaves_its_old_replicas_behind(keep, first, tmp_path, to, late):
    """A prompt that is to stay on own machines never goes to those that the old source had found."""
    names = Names("127.0.0.1", unknown=("own.local",))
    family = replace(named(first, probe_every=0), told_hosted=True)
    kept = await keep([family], [short("gpu", total=900.0)], resolve=names)
    own, path = replace(family, told_hosted=False), tmp_path / "replicas"
    if to == "a name":
        own = replace(own, base_url=f"http://own.local:{first.port}/v1")
    elif to == "a list":
        own = replace(own, base_url="", discover=None, list_file=path)
    names.unknown = ("own.local", "gpu.local")
    if late and to != "a list":
        names.held.clear()
    await kept.take([own], [short("gpu")])

    assert (kept.served, kept.present) == ({"m": ["gpu"]}, [])
    assert kept.fleet.homes["gpu"].condition.absent == "no replicas"
    assert kept.fleet.leaves(f"gpu@127.0.0.1:{first.port}")
    names.held.set()
    names.unknown, names.answer = (), ["127.0.0.2"]
    path.write_text(f"http://127.0.0.2:{first.port}/v1\n")
    await eventually(lambda: kept.served == {"m": [f"gpu@127.0.0.2:{first.port}"]}, 10)
    assert kept.present == [f"gpu@127.0.0.2:{first.port}"]


async def test_a_family_that_is_renamed_is_served_though_nobody_can_look_it_up(keep, first):
    """Its source is the one whose replicas are known; they are reached as the new file says."""
    names = Names("127.0.0.1", "127.0.0.2")
    family = named(first, probe_every=0)
    kept = await keep([family], [short("gpu", total=900.0)], resolve=names)
    names.held.clear()
    with structlog.testing.capture_logs() as told:
        await kept.take([replace(family, name="two", api_key="new")], [short("two")])

    places = [f"two@127.0.0.{number}:{first.port}" for number in (1, 2)]
    assert (kept.served, kept.present) == ({"m": places}, places)
    assert {kept.fleet.homes[name].backend.api_key for name in places} == {"new"}
    assert {kept.fleet.homes[name].backend.address for name in places} == {"127.0.0.1", "127.0.0.2"}
    assert kept.fleet.leaves(f"gpu@127.0.0.1:{first.port}")
    assert [entry for entry in told if entry["log_level"] == "warning"] == []


async def test_a_backend_that_becomes_a_family_is_waited_for(keep, first, monkeypatch):
    """The file before serves meanwhile: no call is refused because a lookup takes long."""
    monkeypatch.setattr(discovery, "MORE", 60.0)
    names = Names("127.0.0.1")
    names.held.clear()
    family = named(first, probe_every=0)
    kept = await keep([replace(family, discover=None)], [short("gpu")], resolve=names)
    taking = asyncio.ensure_future(kept.take([family], [short("gpu")]))
    await asyncio.sleep(1.2)
    assert (kept.served, kept.present) == ({"m": ["gpu"]}, ["gpu"])
    names.held.set()
    await taking

    assert kept.served == {"m": [f"gpu@127.0.0.1:{first.port}"]}


async def test_a_family_that_nobody_can_find_holds_nothing_up_for_long(keep, first):
    """The rest of the file is in force, and the family exists."""
    names = Names()
    names.held.clear()
    kept = await keep([RACK], [short("rack")], resolve=names)
    with structlog.testing.capture_logs() as told:
        await asyncio.wait_for(kept.take([RACK, named(first, probe_every=0)], [short("rack", "gpu")]), 5)

    assert [entry["backends"] for entry in told if entry["log_level"] == "warning"] == [["gpu"]]
    assert kept.served == {"m": ["rack", "gpu"]}
    assert kept.fleet.homes["gpu"].condition.absent == "no replicas"
    names.answer = ["127.0.0.1"]
    names.held.set()
    await eventually(lambda: kept.served == {"m": ["rack", f"gpu@127.0.0.1:{first.port}"]})


async def test_a_family_that_goes_takes_its_replicas_along(keep, first):
    """And is looked for no more, whatever its name becomes."""
    names = Names("127.0.0.1")
    family, one = named(first, probe_every=0), f"gpu@127.0.0.1:{first.port}"
    kept = await keep([RACK, family], [short("rack", "gpu")], resolve=names)
    assert kept.served == {"m": ["rack", one]}
    await kept.take([RACK], [short("rack")])
    assert (kept.served, kept.present) == ({"m": ["rack"]}, ["rack"])
    names.answer = ["127.0.0.1", "127.0.0.2"]

    await eventually(lambda: set(kept.forgotten) == {"gpu", one})
    assert set(kept.fleet.homes) == {"rack"}


async def test_a_familys_new_key_is_its_replicas_at_once_and_no_lookup_is_waited_for(keep, first):
    """A resolver that is away must not keep an old credential in use."""
    names = Names("127.0.0.1")
    family, one = named(first, probe_every=0), f"gpu@127.0.0.1:{first.port}"
    kept = await keep([family], [short("gpu")], resolve=names)
    old = kept.fleet.homes[one]
    names.held.clear()
    await kept.take([replace(family, api_key="new")], [short("gpu")])

    assert kept.fleet.homes[one].backend == replace(old.backend, api_key="new")
    assert kept.served == {"m": [one]}
    names.held.set()
    await eventually(lambda: kept.fleet.homes[one].condition.unreached.__name__ == "set")
    known = kept.fleet.homes[one]
    await kept.take([replace(family, api_key="new", max_in_flight=3)], [short("gpu")])
    assert kept.fleet.homes[one] is known
    assert known.backend.max_in_flight == 3


async def test_a_list_that_was_edited_along_with_the_file_is_read_before_it_is_taken(keep, first, tmp_path):
    """A new key is not sent to a replica that the list no longer has; a list that cannot be read keeps those it had."""
    path = tmp_path / "replicas"
    path.write_text("http://127.0.0.1:8/v1\n")
    family = replace(named(first, probe_every=0), base_url="", discover=None, list_file=path)
    kept = await keep([family], [short("gpu", total=900.0)])
    path.write_text("http://127.0.0.1:9/v1\n")
    await kept.take([replace(family, api_key="new")], [short("gpu")])
    assert kept.served == {"m": ["gpu@127.0.0.1:9"]}
    path.unlink()
    await kept.take([replace(family, name="two")], [short("two")])

    assert kept.served == {"m": ["two@127.0.0.1:9"]}
