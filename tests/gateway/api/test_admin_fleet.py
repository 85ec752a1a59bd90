import asyncio

import pytest

from gateway.roll import LOST, Roll, Row

pytestmark = pytest.mark.asyncio(loop_scope="module")


def row(number):
    started, address = 1000 + number, f"10.0.0.{number}:8600"
    load = {"open_calls": 3, "waiting": 1, "refused": False}
    return Row(f"i{number}", "0123456789ab", "0.1.0", started, address, **load)


async def test_the_gateways_that_live_are_listed(admin, store):
    """With what each told last, and when that was."""
    assert (await admin.get("/gateways")).json() == {"gateways": []}
    rolls = [Roll(store, lambda number=number: row(number)) for number in range(2)]
    for roll in rolls:
        roll.start()
    async with asyncio.timeout(10):
        while len((told := (await admin.get("/gateways")).json())["gateways"]) < 2:  # noqa: ASYNC110 - their first beats tell nobody
            await asyncio.sleep(0.01)
    lag = told["gateways"][0].pop("lag")
    assert told["gateways"][0] == {
        "instance": "i0",
        "config": "0123456789ab",
        "version": "0.1.0",
        "started": 1000,
        "address": "10.0.0.0:8600",
        "open_calls": 3,
        "waiting": 1,
        "refused": False,
    }
    assert 0 <= lag < LOST
    for roll in rolls:
        await roll.close()
    assert (await admin.get("/gateways")).json() == {"gateways": []}
