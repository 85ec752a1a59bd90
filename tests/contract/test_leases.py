"""Lost gateways: what they held comes back, charged as last told, and is put right if they live after all."""

import asyncio

import pytest

from gateway.ledger.records import Amounts, What
from gateway.ledger.reports import By
from policies.domain import Reservation, Usage
from policies.rejections import Rejection
from tests.contract.support import (
    BUDGET,
    DAILY,
    DAY_US,
    HOUR_US,
    IN_ALL,
    MINUTE_US,
    SLOTS,
    bill,
    claim,
    differences,
    level,
    meter,
    period,
    settled,
    until,
    usage,
)

QUICK = {"heartbeat": 0.1, "lost_after": 0.6}


async def all_is_back(server):
    return not await server.reservations() and not await server.slots("key:k1")


async def fallen_silent(gateway, server, *, told=None, slots=10, many=3):
    """Leave reservations of a gateway that then falls silent; the first has told `told`."""
    lost = await gateway("lost", **QUICK)
    asked = claim(
        level("key", meter(SLOTS, slots), meter(IN_ALL, 10_000), meter(BUDGET, 100)), tokens=(40, 60), money=9
    )
    held = [await lost.admit(asked) for _ in range(many)]
    if told is not None:
        lost.follow(held[0], lambda: told)
        await until(lambda: server.redis.strlen("sw:{acme}:counts:lost"))
        await asyncio.sleep(0.15)
    lost._beating.cancel()
    return lost, held, asked


async def reaped(server, gateway, *, told=None):
    """Let another gateway end what a silent one holds; return both, and what it held."""
    lost, held, asked = await fallen_silent(gateway, server, told=told)
    other = await gateway("other", **QUICK)
    other.settle(await other.admit(asked), bill(0, 0))
    await until(lambda: all_is_back(server))
    return lost, other, held


TOLD = [
    (None, (120, 180, 27)),
    (bill(40, 30, 4, deployment="a/m"), (120, 150, 22)),
    (bill(25, 0, 1), (105, 120, 19)),
]


@pytest.mark.parametrize(("told", "charged"), TOLD)
async def test_a_lost_gateway_gives_all_back_charged_to_its_last_heartbeat(server, gateway, told, charged):
    prompt, completion, money = charged
    _, other, held = await reaped(server, gateway, told=told)

    total = (await usage(other))[("k1", "m")]
    assert total == Amounts(4, prompt, 0, completion, 0, money, prompt + completion)
    assert other.figures.reaped == 3
    assert await server.redis.hkeys("sw:{acme}:gateways") == [b"other", b"other#"]
    assert await server.redis.exists("sw:{acme}:counts:lost") == 0
    assert await server.used("key:k1", IN_ALL) == prompt + completion
    assert await server.used("key:k1", BUDGET) == money
    records = {record.head.id: record for record in await server.records() if record.head.what is What.EXPIRED}
    assert records.keys() == {one.id for one in held}
    assert {record.outcome for record in records.values()} == {"gateway_lost"}
    assert records[held[0].id].deployment == (told.deployment if told else "")
    assert await differences(other) == []


@pytest.mark.parametrize("told", [None, bill(40, 30, 4, deployment="a/m")])
@pytest.mark.parametrize("estimated", [False, True])
async def test_a_gateway_that_lives_after_all_settles_by_difference(server, gateway, told, estimated):
    lost, other, held = await reaped(server, gateway, told=told)

    lost.settle(held[0], bill(44, 33, 7, estimated=estimated, deployment="a/m", request_id="req_1"))
    lost.settle(held[1], bill(0, 0, 0))
    await settled(lost, left=1)

    total = (await usage(other))[("k1", "m")]
    estimates = 100 + (77 if estimated else 0)
    assert total == Amounts(4, 44 + 40, 0, 33 + 60, 0, 7 + 9, estimates)
    assert await server.used("key:k1", IN_ALL) == 77 + 100
    assert await server.used("key:k1", BUDGET) == 7 + 9
    assert await server.slots("key:k1") == 0
    corrected = [record for record in await server.records() if record.head.what is What.CORRECTED]
    charged = (40, 30, 4) if told else (40, 60, 9)
    heads = {record.head.id: (record.head.input, record.head.output, record.head.money) for record in corrected}
    assert heads == {
        held[0].id: (44 - charged[0], 33 - charged[1], 7 - charged[2]),
        held[1].id: (-40, -60, -9),
    }
    assert await differences(other) == []


async def test_what_failed_attempts_cost_is_booked_by_a_gateway_that_lives_after_all(server, gateway):
    """As by any other: it is the operator's own account, and nobody has booked it yet."""
    lost, other, held = await reaped(server, gateway)
    wasted = Usage(30, 5, estimated=True)

    lost.settle(held[0], bill(44, 33, 7, wasted=wasted, wasted_money=11))
    await settled(lost, left=2)

    rows = await usage(other, By.KEY)
    assert rows[("(platform)",)] == Amounts(0, 30, 0, 5, 0, 11, 35)


async def test_a_call_that_expired_in_a_calendar_period_is_corrected_in_that_one(server, gateway, noon):
    lost = await gateway("lost", **QUICK)
    asked = claim(level("key", meter(DAILY, 100)), tokens=(10, 80))
    held = await lost.admit(asked)
    lost._beating.cancel()
    other = await gateway("other", **QUICK)
    ends = period("day", noon).end_us
    await server.set_clock(ends - HOUR_US)
    elsewhere = claim(level("team", meter(IN_ALL, 10)), tokens=(0, 0))

    async def has_expired():
        other.settle(await other.admit(elsewhere), bill(0, 0))
        return other.figures.reaped == 1

    await until(has_expired)
    await server.set_clock(ends + HOUR_US)
    assert isinstance(await other.admit(asked), Reservation)

    lost.settle(held, bill(10, 105))
    await settled(lost)

    (state,) = (await server.level("key:k1")).values()
    assert (state[0], state[5]) == (90 + 15, 115)
    assert state[2] == ends
    assert await differences(other) == []
    assert ends == period("day", ends - DAY_US).end_us


async def test_it_goes_on_as_before_after_it_was_taken_for_lost(server, gateway):
    lost, other, held = await reaped(server, gateway)
    asked = claim(*held[0].claim.levels, tokens=(40, 60), money=9)

    new = await lost.admit(asked)
    assert await lost.grow(held[0], 10, 1) is None  # it has expired: its settlement tells all
    for reservation in (*held, new):
        lost.settle(reservation, bill(1, 2, 3))
    await settled(lost)

    total = (await usage(other))[("k1", "m")]
    assert total == Amounts(5, 4, 0, 8, 0, 12)
    assert await server.used("key:k1", IN_ALL) == 12
    assert await server.slots("key:k1") == 0
    assert await differences(other) == []


async def test_slots_that_a_lost_gateway_holds_come_back_to_one_that_could_not_get_any(server, gateway):
    _, _, asked = await fallen_silent(gateway, server, slots=3)
    other = await gateway("other", **QUICK)
    assert isinstance(await other.admit(asked), Rejection)

    async def admitted():
        return isinstance(await other.admit(asked), Reservation)

    await until(admitted)


async def test_a_gateway_that_held_very_many_is_ended_in_pages(server, gateway):
    lost = await gateway("lost", **QUICK)
    asked = claim(level("key", meter(SLOTS, 10_000), meter(IN_ALL, 100_000)))
    await asyncio.gather(*(lost.admit(asked) for _ in range(1300)))
    lost._beating.cancel()
    other = await gateway("other", **QUICK)
    await other.admit(claim())

    async def all_are_reaped():
        return other.figures.reaped == 1300

    await until(all_are_reaped)
    assert await server.slots("key:k1") == 0
    assert await server.used("key:k1", IN_ALL) == 13_000
    assert len(await server.records()) == 1300
    assert await differences(other) == []


async def test_an_orphan_in_the_store_is_released(server, gateway):
    ledger = await gateway(heartbeat=0.05, lost_after=5.0)
    asked = claim(level("key", meter(SLOTS, 2), meter(IN_ALL, 100)))
    kept, orphan = await ledger.admit(asked), await ledger.admit(asked)
    del ledger._holdings.get("acme").open[orphan.id.rpartition("-")[2]]

    async def one_is_left():
        return (await server.reservations()).keys() == {kept.id}

    await until(one_is_left)

    assert await server.slots("key:k1") == 1
    assert await server.used("key:k1", IN_ALL) == 10
    assert await server.records() == []
    ledger.settle(kept, bill())


async def test_nobody_is_lost_because_the_store_was_away(server, gateway):
    ledgers = [await gateway(name, heartbeat=0.1, lost_after=0.5) for name in ("g1", "g2")]
    asked = claim(level("key", meter(SLOTS, 10)))
    held = [await ledger.admit(asked) for ledger in ledgers]
    await asyncio.sleep(0.8)

    server.pause()
    await asyncio.sleep(1.5)
    server.resume()
    await asyncio.sleep(1.0)

    assert await server.slots("key:k1") == 2
    assert [ledger.figures.reaped for ledger in ledgers] == [0, 0]
    for ledger, reservation in zip(ledgers, held, strict=True):
        ledger.settle(reservation, bill())


async def test_nobody_is_lost_because_the_clock_jumped(server, gateway):
    ledgers = [await gateway(name, heartbeat=0.1, lost_after=0.5) for name in ("g1", "g2")]
    asked = claim(level("key", meter(SLOTS, 10)))
    held = [await ledger.admit(asked) for ledger in ledgers]
    await asyncio.sleep(0.8)

    await server.set_clock(await server.now() + 10 * MINUTE_US)
    await asyncio.sleep(1.5)

    assert await server.slots("key:k1") == 2
    for ledger, reservation in zip(ledgers, held, strict=True):
        ledger.settle(reservation, bill())
