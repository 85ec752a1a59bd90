"""Growth: a reservation that turns out too small takes more, or is told which meter refuses."""

import asyncio

import pytest

from gateway.store.door import StoreDown
from policies.domain import MeterKind, Reservation
from policies.rejections import Reason
from tests.contract.support import (
    BUDGET,
    DAILY,
    HOUR_US,
    IN_ALL,
    REQUESTS,
    SLOTS,
    TOKENS,
    USD,
    bill,
    callers,
    claim,
    differences,
    level,
    meter,
    period,
    settled,
)


async def test_a_reservation_grows_at_every_level_by_tokens_and_money(server, gateway):
    ledger = await gateway()
    levels = (
        level("organization", meter(IN_ALL, 1000), meter(BUDGET, USD)),
        level("team", meter(MeterKind.OUTPUT_TOKENS_PER_HOUR, 3600, 1000), meter(REQUESTS, 60), meter(SLOTS, 1)),
        level("key", meter(IN_ALL, 1000, model="m"), meter(IN_ALL, 1000, model="other")),
    )
    reservation = await ledger.admit(claim(*levels, tokens=(10, 20), money=500))

    assert await ledger.grow(reservation, 100, 7000) is None
    assert await ledger.grow(reservation, 0, 300) is None
    assert await ledger.grow(reservation, 40, 0) is None

    (head,) = (await server.reservations()).values()
    assert head[:4] == [10, 160, 7800, 3]
    organization, team, key = [await server.level(name) for name in ("org", "team:t1", "key:k1")]
    assert (organization[IN_ALL.value][0], organization[BUDGET.value][0]) == (170, 7800)
    assert 158 * HOUR_US // 1000 < team["output_tokens_per_hour"][0] <= 160 * HOUR_US // 1000
    assert team[REQUESTS.value][0] <= 60_000_000
    assert team[SLOTS.value][0] == 1
    assert {field: state[0] for field, state in key.items()} == {f"{IN_ALL}|m": 170}
    ledger.settle(reservation, bill(10, 155, 7750))
    await settled(ledger)
    assert (await server.used("org", IN_ALL), await server.used("org", BUDGET)) == (165, 7750)
    assert await differences(ledger) == []


REFUSALS = [
    (TOKENS, Reason.RATE_LIMITED, True),
    (MeterKind.OUTPUT_TOKENS_PER_MINUTE, Reason.RATE_LIMITED, True),
    (DAILY, Reason.RATE_LIMITED, True),
    (MeterKind.BUDGET_PER_MONTH, Reason.RATE_LIMITED, True),
    (IN_ALL, Reason.SPENT, False),
    (BUDGET, Reason.SPENT, False),
]


@pytest.mark.parametrize(("kind", "reason", "comes_back"), REFUSALS)
async def test_growth_that_a_meter_refuses_names_it_and_changes_nothing(server, gateway, kind, reason, comes_back):
    ledger = await gateway()
    levels = level("organization", meter(IN_ALL, 10_000)), level("team", meter(kind, 100))
    reservation = await ledger.admit(claim(*levels, tokens=(0, 50), money=50))
    before = [await server.level(name) for name in ("org", "team:t1")], await server.reservations()

    refused = await ledger.grow(reservation, 60, 60)

    assert (refused.level, refused.meter, refused.reason) == ("team", kind.value, reason)
    assert (refused.retry_after_us is not None) is comes_back
    assert ([await server.level(name) for name in ("org", "team:t1")], await server.reservations()) == before
    assert await ledger.grow(reservation, 50, 50) is None


async def test_growth_beyond_a_whole_bucket_is_too_large_for_it(gateway):
    ledger = await gateway()
    reservation = await ledger.admit(claim(level("key", meter(TOKENS, 100))))

    refused = await ledger.grow(reservation, 101, 0)

    assert (refused.level, refused.meter, refused.reason) == ("key", TOKENS.value, Reason.TOO_LARGE_FOR_LIMIT)


async def test_a_shadow_and_a_spent_budget_let_grow_what_costs_nothing(server, gateway):
    ledger = await gateway()
    levels = level("organization", meter(BUDGET, 100)), level("key", meter(IN_ALL, 10, enforce=False))
    spent = await ledger.admit(claim(*levels, money=100))
    free = await ledger.admit(claim(*levels, money=0))

    assert await ledger.grow(free, 1000, 0) is None
    assert (await ledger.grow(spent, 10, 1)).meter == BUDGET.value
    assert await server.used("key:k1", IN_ALL) == 1020


async def test_what_is_settled_needs_no_growth(server, gateway):
    ledger = await gateway()
    reservation = await ledger.admit(claim(level("key", meter(IN_ALL, 100))))
    ledger.settle(reservation, bill())

    assert await ledger.grow(reservation, 1000, 0) is None

    await settled(ledger)
    assert await server.used("key:k1", IN_ALL) == 10


async def test_a_call_that_runs_into_the_next_day_grows_in_the_day_that_admitted_it(server, gateway, noon):
    ledger = await gateway()
    asked = claim(level("key", meter(DAILY, 100)))
    reservation = await ledger.admit(asked)
    await server.set_clock(period("day", noon).end_us + HOUR_US)
    assert isinstance(await ledger.admit(asked), Reservation)

    assert await ledger.grow(reservation, 80, 0) is None
    refused = await ledger.grow(reservation, 11, 0)

    assert (refused.level, refused.meter) == ("key", DAILY.value)
    (state,) = (await server.level("key:k1")).values()
    assert (state[0], state[5]) == (10, 90)


async def test_64_callers_grow_into_what_is_left_and_no_further(server, gateway):
    ledgers = [await gateway("g1"), await gateway("g2")]
    asked = claim(level("organization", meter(IN_ALL, 2005)), level("key", meter(BUDGET, USD)), money=1)
    grown = 0

    async def one(ledger):
        nonlocal grown
        reservation = await ledger.admit(asked)
        steps = 0
        while (refused := await ledger.grow(reservation, 10, 1)) is None:
            steps += 1
        assert (refused.level, refused.meter) == ("organization", IN_ALL.value)
        grown += steps
        ledger.settle(reservation, bill(4, 6 + 10 * steps, 1 + steps))

    await callers(64, ledgers, one)
    await settled(*ledgers)

    assert await server.used("org", IN_ALL) == 640 + 10 * grown == 2000
    assert await server.used("key:k1", BUDGET) == 64 + grown
    assert await differences(ledgers[0]) == []


async def test_growth_that_the_store_answers_too_late_is_made_good_by_the_settlement(server, gateway):
    ledger = await gateway()
    reservation = await ledger.admit(claim(level("key", meter(IN_ALL, 100), meter(BUDGET, 100)), money=5))

    server.pause()
    with pytest.raises(StoreDown):
        await ledger.grow(reservation, 50, 50)
    server.resume()
    ledger.settle(reservation, bill(4, 7, 6))
    await settled(ledger)

    assert await server.used("key:k1", IN_ALL) == 11
    assert await server.used("key:k1", BUDGET) == 6
    assert await differences(ledger) == []


async def test_growth_of_a_caller_that_left_is_made_good_by_the_settlement(server, gateway):
    ledger = await gateway()
    reservation = await ledger.admit(claim(level("key", meter(IN_ALL, 100))))
    task = asyncio.ensure_future(ledger.grow(reservation, 50, 0))
    await asyncio.sleep(0)

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    ledger.settle(reservation, bill(4, 7))
    await settled(ledger)

    assert await server.used("key:k1", IN_ALL) == 11
    assert await differences(ledger) == []
