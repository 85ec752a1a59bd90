import asyncio
import socket

import msgspec
import pytest

from gateway.roll import LOST, Listed, Roll, Row, gateways, reached_at
from gateway.store.door import Store
from tests.gateway.identity.support import valkey


@pytest.fixture
async def store():
    with valkey() as url:
        store = Store(url, deadline=5.0)
        yield store
        await store.close()


def row(instance, started=1, **told):
    return Row(instance=instance, config="0123456789ab", version="0.1.0", started=started, address="h:8600", **told)


async def seen(store, *instances):
    """Wait until these gateways are listed, in this order."""
    async with asyncio.timeout(20):
        while [one.instance for one in await gateways(store)] != list(instances):  # noqa: ASYNC110 - it is the store that changes
            await asyncio.sleep(0.01)


async def test_gateways_see_one_another(store):
    """The longest running first; one that ends is gone at once."""
    rolls = [Roll(store, lambda: row("b", 1)), Roll(store, lambda: row("a", 2))]
    for roll in rolls:
        roll.start()
    await seen(store, "b", "a")

    await rolls[0].close()

    assert [one.instance for one in await gateways(store)] == ["a"]
    await rolls[1].close()


async def test_a_row_is_as_it_is_at_each_beat(store, monkeypatch):
    """Its load, its configuration."""
    monkeypatch.setattr("gateway.roll.BEAT", 0.01)
    rows = iter([row("a", open_calls=number, waiting=0, refused=number == 5) for number in range(6)])
    last = row("a", open_calls=6, waiting=2, refused=False)
    roll = Roll(store, lambda: next(rows, last))
    roll.start()
    told = []
    async with asyncio.timeout(20):
        while told != [(6, 2, False)]:
            told = [(one.open_calls, one.waiting, one.refused) for one in await gateways(store)]
    await roll.close()


async def test_lag_is_how_long_ago_a_gateway_told_by_the_clock_of_the_store(store):
    """None other is asked: those of gateways may differ."""
    await store.send(("SADD", "sw:{~id}:gateways", "a", "b"))
    for instance, left_ms in (("a", 14_900), ("b", 4_000)):
        body = msgspec.json.encode(row(instance))
        await store.send(("SET", f"sw:{{~id}}:gateway:{instance}", body, "PX", left_ms))

    fresh, stale = await gateways(store)

    assert LOST - 14.9 <= fresh.lag < 2
    assert LOST - 4 <= stale.lag <= LOST


async def test_gateways_of_other_versions_are_listed_with_what_they_tell(store):
    """A rolling upgrade has both; a later one may tell more."""
    old = {"instance": "a", "config": "c", "version": "0.0.9", "started": 1, "address": "h:8600"}
    new = msgspec.to_builtins(row("b", 2, open_calls=3)) | {"colour": "red"}
    for told in (old, new):
        instance, body = told["instance"], msgspec.json.encode(told)
        await store.send(("SET", f"sw:{{~id}}:gateway:{instance}", body, "EX", LOST))
        await store.send(("SADD", "sw:{~id}:gateways", instance))

    first, second = await gateways(store)

    assert isinstance(first, Listed)
    assert (first.version, first.open_calls, first.waiting, first.refused) == ("0.0.9", None, None, None)
    assert (second.open_calls, second.waiting) == (3, None)


async def test_a_gateway_that_was_killed_vanishes_by_itself(store):
    """By the store's own clock."""
    roll = Roll(store, lambda: row("a"))
    roll.start()
    await seen(store, "a")

    (left,) = await store.send(("TTL", "sw:{~id}:gateway:a"))
    await store.send(("DEL", "sw:{~id}:gateway:a"))  # as it is after `LOST` seconds

    assert 0 < left <= LOST
    assert await gateways(store) == []
    assert await store.send(("SMEMBERS", "sw:{~id}:gateways")) == [set()]
    await roll.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_gateway_on_every_address_is_told_by_its_machines_name(host):
    """Hundreds of pods listen on 0.0.0.0: that tells none from another."""
    assert reached_at(host, 8600) == f"{socket.gethostname()}:8600"


@pytest.mark.parametrize(("host", "address"), [("10.0.0.1", "10.0.0.1:8600"), ("fd00::1", "[fd00::1]:8600")])
def test_an_address_of_its_own_is_told_as_it_is(host, address):
    """As it would stand in a URL."""
    assert reached_at(host, 8600) == address
