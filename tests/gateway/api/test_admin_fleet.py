import asyncio

import pytest

from gateway.roll import Roll, Row

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_gateways_that_live_are_listed(admin, store):
    assert (await admin.get("/gateways")).json() == {"gateways": []}
    rows = [Row(f"i{number}", "0123456789ab", "0.1.0", 1000 + number, f"10.0.0.{number}:8600") for number in range(2)]
    rolls = [Roll(store, row) for row in rows]
    for roll in rolls:
        roll.start()
    async with asyncio.timeout(10):
        while len((told := (await admin.get("/gateways")).json())["gateways"]) < 2:  # noqa: ASYNC110 - their first beats tell nobody
            await asyncio.sleep(0.01)
    assert told["gateways"][0] == {
        "instance": "i0",
        "config": "0123456789ab",
        "version": "0.1.0",
        "started": 1000,
        "address": "10.0.0.0:8600",
    }
    for roll in rolls:
        await roll.close()
    assert (await admin.get("/gateways")).json() == {"gateways": []}
