import asyncio
import json

from gateway.roll import Roll, Row
from tests.gateway.cli.cells import cells

ROW = Row("0123456789ab", "abcdef012345", "0.1.0", 1_790_000_000, "127.0.0.1:8600")


async def listed(sluiceway):
    """Return the gateways once there is one: the first beat is on its way."""
    while True:
        found = json.loads((await sluiceway("gateways", "ls", "--json")).stdout)
        if found:
            return found


async def test_gateways_are_listed_with_what_each_runs_on(sluiceway, store):
    """One with another configuration shows at a glance."""
    roll = Roll(store, ROW)
    roll.start()
    (found,) = await asyncio.wait_for(listed(sluiceway), 10)
    told = cells((await sluiceway("gateways", "ls")).stdout)
    await roll.close()

    assert found["config"] == "abcdef012345"
    assert told == [
        ["gateway", "address", "version", "configuration", "started"],
        ["0123456789ab", "127.0.0.1:8600", "0.1.0", "abcdef012345", "2026-09-21 14:13"],
    ]
