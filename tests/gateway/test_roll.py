import asyncio

import pytest

from gateway.roll import LOST, Roll, Row, gateways
from gateway.store.door import Store
from tests.gateway.identity.support import valkey


@pytest.fixture
async def store():
    with valkey() as url:
        store = Store(url, deadline=5.0)
        yield store
        await store.close()


def row(instance, started=1):
    return Row(instance=instance, config="0123456789ab", version="0.1.0", started=started, address="http://h:8600")


async def seen(store, *instances):
    async with asyncio.timeout(5):
        while [one.instance for one in await gateways(store)] != list(instances):  # noqa: ASYNC110 - it is the store that changes
            await asyncio.sleep(0.01)


async def test_gateways_see_one_another(store):
    """The longest running first; one that ends is gone at once."""
    rolls = [Roll(store, row("b", 1)), Roll(store, row("a", 2))]
    for roll in rolls:
        roll.start()
    await seen(store, "b", "a")

    await rolls[0].close()

    assert await gateways(store) == [row("a", 2)]
    await rolls[1].close()


async def test_a_gateway_that_was_killed_vanishes_by_itself(store):
    """By the store's own clock."""
    roll = Roll(store, row("a"))
    roll.start()
    await seen(store, "a")

    (left,) = await store.send(("TTL", "sw:{~id}:gateway:a"))
    await store.send(("DEL", "sw:{~id}:gateway:a"))  # as it is after `LOST` seconds

    assert 0 < left <= LOST
    assert await gateways(store) == []
    assert await store.send(("SMEMBERS", "sw:{~id}:gateways")) == [set()]
    await roll.close()
