"""Quotas and budgets: what a day, a week, a month or a lifetime holds, for all models or for one, enforced or not."""

from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from gateway import clock
from policies.domain import MeterKind, Reservation, Standing
from policies.meters import SORTS
from policies.rejections import Reason, Rejection
from tests.contract.support import (
    BUDGET,
    DAILY,
    DAY_US,
    HOUR_US,
    IN_ALL,
    MONTHLY,
    REQUESTS,
    SECOND_US,
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

MONTH_BUDGET = MeterKind.BUDGET_PER_MONTH
KOLKATA = "Asia/Kolkata"


async def spend(ledger, asked, **told):
    """Admit and settle."""
    ledger.settle(await ledger.admit(asked), bill(**told))
    await settled(ledger)


# A coding agent: a prompt of 100,000 tokens and leave for 32,000 more, at 3 and 15 USD a million.
AGENT = {"tokens": (100_000, 32_000), "money": 780_000_000}


@pytest.mark.parametrize("kind", [BUDGET, MONTH_BUDGET])
async def test_a_budget_of_which_nothing_is_spent_admits_a_coding_agent(gateway, kind):
    ledger = await gateway()

    answer = await ledger.admit(claim(level("key", meter(kind, 25 * USD)), **AGENT))

    assert isinstance(answer, Reservation)
    assert answer.tightest.remaining == 25 * USD - 780_000_000


async def test_a_budget_in_all_that_is_spent_refuses_without_a_time(server, gateway):
    ledger = await gateway()
    asked = claim(level("team", meter(BUDGET, 25 * USD)), **AGENT)
    await spend(ledger, asked, money=25 * USD)

    refused = await ledger.admit(asked)

    assert (refused.reason, refused.retry_after_us) == (Reason.SPENT, None)
    assert (refused.level, refused.meter) == ("team", BUDGET.value)
    assert (refused.tightest.remaining, refused.tightest.reset_us) == (0, None)
    assert "25 USD" in refused.message
    assert await server.reservations() == {}


async def test_a_budget_in_all_admits_whatever_still_fits(gateway):
    ledger = await gateway()
    levels = (level("key", meter(BUDGET, 25 * USD)),)
    await spend(ledger, claim(*levels, money=USD), money=24_500_000_000)

    assert (await ledger.admit(claim(*levels, **AGENT))).reason is Reason.SPENT
    assert isinstance(await ledger.admit(claim(*levels, money=500_000_000)), Reservation)


@pytest.mark.parametrize("zone", ["UTC", KOLKATA, "America/New_York"])
@pytest.mark.parametrize("kind", [kind for kind, sort in SORTS.items() if sort.calendar])
async def test_a_period_that_is_spent_refuses_until_its_end(server, gateway, noon, kind, zone):
    """Microseconds, exactly, by the organization's time zone; then the next one is whole again."""
    ledger = await gateway()
    asked = claim(level("organization", meter(kind, 10)), money=10, zone=zone)
    await spend(ledger, asked, money=10)

    refused = await ledger.admit(asked)
    ends = period(SORTS[kind].calendar, noon, ZoneInfo(zone)).end_us

    assert (refused.reason, refused.retry_after_us) == (Reason.RATE_LIMITED, ends - noon)
    assert (refused.level, refused.meter) == ("organization", kind.value)
    assert refused.tightest == Standing("organization", meter(kind, 10), 10, 0, ends - noon)
    await server.set_clock(ends - 1)
    assert (await ledger.admit(asked)).retry_after_us == 1
    await server.set_clock(ends)
    assert (await ledger.admit(asked)).tightest.remaining == 0


async def test_a_claim_larger_than_a_whole_period_is_refused_without_a_time(gateway):
    ledger = await gateway()

    refused = await ledger.admit(claim(level("key", meter(DAILY, 100)), tokens=(100, 1)))

    assert (refused.reason, refused.retry_after_us) == (Reason.TOO_LARGE_FOR_LIMIT, None)


@pytest.mark.parametrize("kind", [BUDGET, MONTH_BUDGET])
async def test_what_costs_nothing_passes_a_budget_that_is_spent(server, gateway, noon, kind):
    ledger = await gateway()
    levels = level("organization", meter(kind, USD)), level("key", meter(IN_ALL, 100))
    await spend(ledger, claim(*levels, money=USD), money=3 * USD)
    assert isinstance(await ledger.admit(claim(*levels, money=1)), Rejection)

    answer = await ledger.admit(claim(*levels, money=0))

    assert isinstance(answer, Reservation)
    assert await server.used("org", kind) == 3 * USD
    assert await server.used("key:k1", IN_ALL) == 20


async def test_debt_of_a_period_opens_the_next_one(server, gateway, noon):
    """Two and a half days' worth was used in one: the next is spent before it begins, and half of the one after."""
    ledger = await gateway()
    asked = claim(level("key", meter(DAILY, 100)))
    await spend(ledger, asked, prompt=50, completion=200)
    second, third = (period("day", noon).end_us + days * DAY_US for days in (0, 1))
    assert (await ledger.admit(asked)).retry_after_us == third - noon

    await server.set_clock(second)
    assert (await ledger.admit(asked)).retry_after_us == DAY_US

    await server.set_clock(third)
    answer = await ledger.admit(asked)
    assert answer.tightest.remaining == 40
    ledger.settle(answer, bill())
    await settled(ledger)
    assert await server.used("key:k1", DAILY) == 60
    assert await differences(ledger) == []


async def test_a_reservation_belongs_to_the_period_that_admitted_it(server, gateway, noon):
    ledger = await gateway()
    asked = claim(level("key", meter(DAILY, 100)), tokens=(10, 20))
    held = [await ledger.admit(asked) for _ in range(2)]
    await server.set_clock(period("day", noon).end_us + HOUR_US)
    assert (await ledger.admit(asked)).tightest.remaining == 70

    ledger.settle(held[0], bill(10, 5))  # 45 of the day before are used now
    await settled(ledger, left=2)
    assert await server.used("key:k1", DAILY) == 30
    ledger.settle(held[1], bill(10, 105))  # and now 130
    await settled(ledger, left=1)

    (state,) = (await server.level("key:k1")).values()
    assert state == [60, *state[1:4], 30, 130, state[1] - 1]
    assert [record.head.admitted_us for record in await server.records()] == [noon, noon]
    assert await differences(ledger) == []


async def test_a_meter_of_one_model_counts_its_calls_alone(server, gateway):
    ledger = await gateway()
    meters = meter(IN_ALL, 100), meter(IN_ALL, 20, model="large"), meter(REQUESTS, 60, 1, model="small")
    levels = level("team", *meters), level("key", meter(SLOTS, 5, model="other"))
    for model in ("large", "large", "small", "other"):
        await spend(ledger, claim(*levels, model=model))

    answers = {model: await ledger.admit(claim(*levels, model=model)) for model in ("large", "small", "other")}

    assert (answers["large"].reason, answers["large"].meter) == (Reason.SPENT, IN_ALL.value)
    assert "for model 'large'" in answers["large"].message
    assert (answers["small"].reason, answers["small"].meter) == (Reason.RATE_LIMITED, REQUESTS.value)
    assert isinstance(answers["other"], Reservation)
    team = await server.level("team:t1")
    assert team.keys() == {IN_ALL.value, f"{IN_ALL}|large", f"{REQUESTS}|small"}
    assert (team[IN_ALL.value][0], team[f"{IN_ALL}|large"][0]) == (50, 20)
    assert await server.used("key:k1", f"{SLOTS}|other") == 1
    ledger.settle(answers["other"], bill())
    await settled(ledger)
    assert await differences(ledger) == []


SHADOWS = [meter(REQUESTS, 60, 1), meter(TOKENS, 60, 10), meter(DAILY, 10), meter(BUDGET, 10), meter(SLOTS, 1)]


@pytest.mark.parametrize("shadow", SHADOWS, ids=[shadow.kind.value for shadow in SHADOWS])
async def test_a_shadow_counts_and_tells_and_refuses_nothing(server, gateway, noon, shadow):
    ledger = await gateway()
    kind = shadow.kind
    asked = claim(level("organization", replace(shadow, enforce=False)), level("key", meter(IN_ALL, 1000)), money=10)

    answers = [await ledger.admit(asked) for _ in range(3)]

    assert [answer.shadows for answer in answers] == [(), (("organization", kind),), (("organization", kind),)]
    assert [answer.tightest.meter.kind for answer in answers] == [IN_ALL] * 3
    assert {answer.requests for answer in answers} == {None}
    each = {REQUESTS: 60_000_000, TOKENS: 600_000_000, SLOTS: 1}.get(kind, 10)
    times = 1 if kind is REQUESTS else 3  # of requests, those that it would have let in
    assert await server.used("org", kind) == times * each


async def test_slots_come_back_at_the_earliest_predicted_end(server, gateway, noon):
    ledger = await gateway()
    levels = (level("key", meter(SLOTS, 3)),)
    held = {seconds: await ledger.admit(claim(*levels, seconds=seconds)) for seconds in (5.0, 3.0, 9.0)}

    waits = [(await ledger.admit(claim(*levels))).retry_after_us]
    ledger.settle(held[3.0], bill())
    assert isinstance(await ledger.admit(claim(*levels, seconds=7.25)), Reservation)
    waits.append((await ledger.admit(claim(*levels))).retry_after_us)
    await server.set_clock(noon + 6 * SECOND_US)  # the call of 5 seconds is late: nobody knows when it ends
    waits.append((await ledger.admit(claim(*levels))).retry_after_us)
    await server.set_clock(noon + 20 * SECOND_US)
    waits.append((await ledger.admit(claim(*levels))).retry_after_us)

    assert waits == [3 * SECOND_US, 5 * SECOND_US, SECOND_US, SECOND_US]


OFF = [(-45, "UTC"), (-2, "UTC"), (-2, KOLKATA), (2, "UTC"), (2, KOLKATA), (45, "UTC")]
"""How many days a gateway's clock is off, and where the organization is."""


@pytest.mark.parametrize("off", OFF)
async def test_a_gateway_whose_clock_is_wrong_counts_in_the_stores_period(server, gateway, noon, monkeypatch, off):
    """Beside one whose clock is right, whose limit it shares."""
    days, zone = off
    wrong, right = await gateway("wrong"), await gateway("right")
    asked = claim(level("key", meter(MONTHLY, 100), meter(DAILY, 1000)), zone=zone)

    for ledger, by in ((wrong, days), (right, 0), (wrong, days)):
        monkeypatch.setattr(clock, "wall", lambda by=by: noon / SECOND_US + by * 86_400)
        answer = await ledger.admit(asked)
        assert isinstance(answer, Reservation)
        ledger.settle(answer, bill())
        await settled(ledger)

    kept = await server.level("key:k1")
    for calendar, kind in (("month", MONTHLY), ("day", DAILY)):
        assert kept[kind.value][:2] == [30, period(calendar, noon, ZoneInfo(zone)).ordinal]
    assert answer.tightest.reset_us == period("month", noon, ZoneInfo(zone)).end_us - noon
    assert [record.head.admitted_us for record in await server.records()] == [noon] * 3


async def test_two_gateways_turn_a_period_once(server, gateway, noon):
    """64 callers meet a new day on two gateways: what the last one owed is taken off once."""
    ledgers = [await gateway("g1"), await gateway("g2")]
    asked = claim(level("key", meter(DAILY, 300)))
    await spend(ledgers[0], asked, prompt=100, completion=300)
    await server.set_clock(period("day", noon).end_us)
    admitted = 0

    async def one(ledger):
        nonlocal admitted
        answer = await ledger.admit(asked)
        if isinstance(answer, Reservation):
            admitted += 1
            ledger.settle(answer, bill())

    await callers(64, ledgers, one)
    await settled(*ledgers)

    assert admitted == 20
    assert await server.used("key:k1", DAILY) == 300
    assert await differences(ledgers[0]) == []
