"""No limit is ever exceeded: 64 callers on two gateways, judged by the records and the store's own clock."""

import asyncio
import random
from itertools import pairwise

import pytest

from policies.domain import MeterKind, Reservation
from policies.meters import SORTS, Measure
from policies.rejections import Reason
from tests.contract.support import (
    BUDGET,
    IN_ALL,
    MONTHLY,
    SECOND_US,
    SLOTS,
    USD,
    bill,
    callers,
    claim,
    differences,
    level,
    meter,
    settled,
)

EACH = {Measure.REQUESTS: 1, Measure.INPUT: 4, Measure.OUTPUT: 6, Measure.TOKENS: 10, Measure.MONEY: USD}
"""What a claim costs by each measure."""

STILL = SECOND_US // 10
"""Microseconds between two admissions of which no more counts as time in which callers asked."""

RATES = [kind for kind, sort in SORTS.items() if sort.period_us]
STOCKS = [kind for kind, sort in SORTS.items() if not sort.period_us and kind is not SLOTS]


def fullest(admissions, each, meter):
    """Fill a bucket by the moments of admissions; return the most that it held, in its smallest units."""
    sort = SORTS[meter.kind]
    held = most = at = 0
    for moment in sorted(admissions):
        tick = moment // sort.tick_us
        held = max(0, held - (tick - at) * meter.limit) + each * sort.ticks
        most, at = max(most, held), tick
    return most


@pytest.mark.parametrize("kind", RATES)
async def test_a_rate_admits_its_bucket_and_its_refill_and_never_more(server, gateway, kind):
    ledgers = [await gateway("g1"), await gateway("g2")]
    each, sort = EACH[SORTS[kind].measure], SORTS[kind]
    a_second = sort.period_us // SECOND_US
    limited = meter(kind, 100 * each * a_second, 50 * each)
    asked = claim(level("team", limited), level("key", meter(SLOTS, 64)))
    start = await server.now()

    async def one(ledger):
        while await server.now() < start + 700_000:
            answer = await ledger.admit(asked)
            if isinstance(answer, Reservation):
                ledger.settle(answer, bill())
            else:
                assert answer.reason is Reason.RATE_LIMITED
                await asyncio.sleep(random.uniform(0, 0.02))

    await callers(64, ledgers, one)
    await settled(*ledgers)

    admissions = sorted(record.head.admitted_us for record in await server.records())
    assert fullest(admissions, each, limited) <= limited.burst * sort.ticks
    # One is admitted every 10 ms: where a busy machine stood still nobody asked.
    went_on = sum(min(later - one, STILL) for one, later in pairwise(admissions))
    assert len(admissions) >= 50 + 0.5 * 100 * went_on / SECOND_US


@pytest.mark.parametrize("kind", STOCKS)
async def test_what_a_stock_has_is_given_out_once_and_never_more(server, gateway, noon, kind):
    """What callers hold and have used is counted here after each grant and before each settlement: never too high."""
    ledgers = [await gateway("g1"), await gateway("g2")]
    each = EACH[SORTS[kind].measure]
    limit = 100 * each + each // 2
    asked = claim(level("organization", meter(kind, limit)), level("key", meter(SLOTS, 64)), money=USD)
    taken = most = 0
    dice = random.Random(1)

    async def one(ledger):
        nonlocal taken, most
        while isinstance(answer := await ledger.admit(asked), Reservation):
            taken += each
            most = max(most, taken)
            await asyncio.sleep(0)
            if dice.random() < 0.5:
                ledger.settle(answer, bill(money=USD))
            else:
                taken -= each
                ledger.settle(answer, bill(0, 0))
        assert (answer.level, answer.meter) == ("organization", kind.value)

    await callers(64, ledgers, one)
    await settled(*ledgers)

    assert limit - each < most <= limit
    assert await server.used("org", kind) == taken
    assert await differences(ledgers[0]) == []


async def test_slots_are_never_taken_above_the_limit(server, gateway):
    ledgers = [await gateway("g1"), await gateway("g2")]
    asked = claim(level("organization", meter(SLOTS, 5)), level("key", meter(SLOTS, 50)))

    async def one(ledger):
        for _ in range(20):
            answer = await ledger.admit(asked)
            if isinstance(answer, Reservation):
                await asyncio.sleep(0)
                ledger.settle(answer, bill())
            else:
                assert (answer.level, answer.meter, answer.retry_after_us) == ("organization", SLOTS.value, SECOND_US)

    await callers(64, ledgers, one)
    await settled(*ledgers)

    heads = [record.head for record in await server.records()]
    changes = sorted([(head.settled_us, -1) for head in heads] + [(head.admitted_us, 1) for head in heads])
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    assert (most, running) == (5, 0)
    assert len(heads) > 50
    assert (await server.slots("org"), await server.slots("key:k1")) == (0, 0)


async def test_all_keepings_at_once_hold_together(server, gateway):
    """Whatever refuses a call, no other meter keeps anything of it."""
    ledgers = [await gateway("g1"), await gateway("g2")]
    levels = (
        level("organization", meter(SLOTS, 7), meter(BUDGET, 150 * USD)),
        level("team", meter(MONTHLY, 1800), meter(MeterKind.REQUESTS_PER_SECOND, 200, 20)),
        level("key", meter(IN_ALL, 1700), meter(MeterKind.TOKENS_PER_HOUR, 3_600_000, 300)),
    )
    asked = claim(*levels, money=USD)
    refusing = set()

    async def one(ledger):
        while True:
            answer = await ledger.admit(asked)
            if isinstance(answer, Reservation):
                await asyncio.sleep(0)
                ledger.settle(answer, bill(money=USD))
                continue
            refusing.add(answer.meter)
            if answer.reason is Reason.SPENT:
                return
            await asyncio.sleep(0.005)

    await callers(64, ledgers, one)
    await settled(*ledgers)

    assert {BUDGET.value, SLOTS.value} <= refusing
    assert len(await server.records()) == 150
    assert await server.used("org", BUDGET) == 150 * USD
    assert await server.used("team:t1", MONTHLY) == await server.used("key:k1", IN_ALL) == 1500
    assert await differences(ledgers[0]) == []
