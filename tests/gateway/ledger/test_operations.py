import asyncio
import gc

import pytest

from gateway.ledger import wire
from gateway.ledger.holdings import Holding, Open
from gateway.ledger.operations import Admission, Growth, OtherPeriod, Settlement
from gateway.ledger.plans import pack
from gateway.store.door import StoreDown
from policies.domain import Bill, Claim, Level, Meter, MeterKind, Reservation, Standing, Usage
from policies.rejections import Reason
from tests.gateway.ledger.support import DOWN, GRANTED

MINUTE = 60_000_000
NOW = 1_772_625_600_000_000
"""Noon of a day in UTC."""

REQUESTS = Meter(MeterKind.REQUESTS_PER_MINUTE, 60, 60)
TOKENS = Meter(MeterKind.TOKENS_PER_MINUTE, 10, 20)
BUDGET = Meter(MeterKind.BUDGET_IN_ALL, 1000, 1000)
SHADOW = Meter(MeterKind.TOKENS_PER_DAY, 100, 100, enforce=False)
LEVELS = (
    Level("organization", "org", (Meter(MeterKind.TOKENS_PER_MINUTE, 1, 1, model="other"),)),
    Level("team", "team:t", (SHADOW,)),
    Level("key", "key:1", (REQUESTS, TOKENS, BUDGET)),
)
CLAIM = Claim("acme", "t", "k", "m", LEVELS, 2, 3, 100, 1.5)
PACKED = pack(CLAIM, NOW)
BILL = Bill(Usage(3, 4, estimated=True), 5, "a/m")


def answer(outcome, place=0, wait=0, *, requests=(0, 0), tokens=(0, 0), tightest=(0, 0), shadows=()):
    """Return what the script says; the shadow is at place 1, then requests, tokens and budget."""
    return [outcome, place, wait, *requests, *tokens, *tightest, list(shadows)]


@pytest.fixture
def holding():
    return Holding("acme")


@pytest.fixture
def released():
    return []


@pytest.fixture
async def admission(holding, released):
    release = lambda organization, id_: released.append((organization, id_))  # noqa: E731 - what it notes
    return Admission("1f", "g1-1f", CLAIM, PACKED, holding, release=release)


@pytest.fixture
async def growths():
    """Return four growths of one reservation."""
    one = Open(PACKED)
    return [Growth("1f", CLAIM, one, 7, 9) for _ in range(4)]


async def test_an_admission_tells_what_the_call_asks_for_and_its_plan(admission):
    arguments = wire.Arguments()

    assert admission.body(arguments) == (wire.ADMIT, "1f", False, 2, 3, 100, 1_500_000, 5)
    assert arguments.values == [PACKED.blob]


async def test_a_grant_is_open_and_tells_the_standings(admission, holding):
    admission.answered(answer(wire.DONE, requests=(2, MINUTE), tokens=(3, 15 * MINUTE), tightest=(4, 900)), now_us=NOW)

    assert await admission.outcome == Reservation(
        "g1-1f",
        CLAIM,
        requests=Standing("key", REQUESTS, 60, 59, 1_000_000),
        tokens=Standing("key", TOKENS, 10, 5, 90_000_000),
        tightest=Standing("key", BUDGET, 1000, 100, None),
    )
    assert set(holding.open) == {"1f"}
    assert (holding.open["1f"].packed, holding.open["1f"].admitted_us) == (PACKED, NOW)


async def test_a_grant_tells_the_shadows_that_would_have_refused(admission):
    admission.answered(answer(wire.DONE, shadows=[1]), now_us=NOW)

    assert (await admission.outcome).shadows == (("team", MeterKind.TOKENS_PER_DAY),)


async def test_a_refusal_names_the_level_and_meter_of_its_place_in_the_plan(admission, holding):
    admission.answered(answer(wire.REFUSED, 3, 1500, tokens=(3, 20 * MINUTE), tightest=(3, 20 * MINUTE)), now_us=NOW)

    rejection = await admission.outcome
    assert (rejection.level, rejection.meter, rejection.retry_after_us) == ("key", "tokens_per_minute", 1500)
    empty = Standing("key", TOKENS, 10, 0, 120_000_000)
    assert (rejection.requests, rejection.tokens, rejection.tightest) == (None, empty, empty)
    assert rejection.reason == Reason.RATE_LIMITED
    assert holding.open == {}


async def test_what_is_larger_than_the_bucket_has_no_time(admission):
    admission.answered(answer(wire.TOO_LARGE, 3), now_us=NOW)

    rejection = await admission.outcome
    assert (rejection.reason, rejection.retry_after_us) == (Reason.TOO_LARGE_FOR_LIMIT, None)


async def test_what_is_spent_for_good_has_no_time_either(admission):
    admission.answered(answer(wire.SPENT, 4), now_us=NOW)

    rejection = await admission.outcome
    assert (rejection.reason, rejection.retry_after_us) == (Reason.SPENT, None)
    assert rejection.meter == "budget_in_all"


async def test_a_plan_of_another_period_is_told_with_the_stores_clock(admission, holding):
    admission.answered([wire.STALE], now_us=NOW)

    with pytest.raises(OtherPeriod) as told:
        await admission.outcome
    assert told.value.now_us == NOW
    assert holding.open == {}


async def test_an_admission_whose_caller_is_gone_is_not_wanted_and_its_grant_is_released(admission, holding, released):
    assert admission.wanted()
    admission.outcome.cancel()

    assert not admission.wanted()
    admission.answered(answer(wire.REFUSED, 3, 1500), now_us=NOW)
    admission.answered([wire.STALE], now_us=NOW)
    assert released == []
    admission.answered(GRANTED, now_us=NOW)
    assert released == [("acme", "1f")]
    assert holding.open == {}


@pytest.mark.parametrize("sent", [True, False])
async def test_a_lost_admission_is_told_and_released_if_it_may_have_been_granted(admission, released, sent):
    admission.sent = sent

    assert admission.failed(DOWN) is False

    with pytest.raises(StoreDown, match="away"):
        await admission.outcome
    assert released == ([("acme", "1f")] if sent else [])


async def test_an_admission_is_lost_quietly_when_its_caller_is_gone(admission, released):
    admission.sent = True
    admission.outcome.cancel()

    assert admission.failed(DOWN) is False
    assert released == [("acme", "1f")]


async def test_a_loss_that_its_caller_did_not_wait_for_is_not_reported(admission):
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    admission.failed(DOWN)

    admission.outcome = None
    gc.collect()

    assert reports == []


async def test_each_growth_is_the_next_step_of_its_reservation(growths):
    bodies = [growth.body(wire.Arguments()) for growth in growths]

    assert bodies == [(wire.GROW, "1f", step, 7, 9) for step in (1, 2, 3, 4)]
    assert growths[0].body(wire.Arguments()) == bodies[0]


async def test_growth_tells_what_the_script_says_or_that_the_store_is_down(growths):
    granted, expired, lost, gone = growths

    granted.answered(answer(wire.DONE, tokens=(3, MINUTE)), now_us=NOW)
    expired.answered([wire.REFUSED, 0], now_us=NOW)
    assert lost.failed(DOWN) is False
    gone.outcome.cancel()
    gone.answered(GRANTED, now_us=NOW)

    assert await granted.outcome is None
    assert await expired.outcome is None  # its settlement will tell all
    with pytest.raises(StoreDown):
        await lost.outcome
    assert not gone.wanted()


async def test_growth_that_is_refused_names_the_meter_and_the_standings(growths):
    refused = growths[0]

    refused.answered(answer(wire.REFUSED, 3, 1500, tokens=(3, 20 * MINUTE), tightest=(4, 1000)), now_us=NOW)

    rejection = await refused.outcome
    assert (rejection.level, rejection.meter, rejection.retry_after_us) == ("key", "tokens_per_minute", 1500)
    assert rejection.tokens == Standing("key", TOKENS, 10, 0, 120_000_000)
    assert rejection.tightest == Standing("key", BUDGET, 1000, 0, None)
    assert "needs 7 tokens" in rejection.message


def test_a_settlement_is_known_until_it_is_answered_and_is_repeated_until_then(holding):
    settlement = Settlement("1f", BILL, holding)

    assert settlement.urgent is False
    assert holding.settling == {"1f"}
    assert settlement.body(wire.Arguments()) == wire.settlement("1f", BILL)
    assert settlement.failed(DOWN) is True
    assert holding.settling == {"1f"}
    settlement.answered([wire.REFUSED], NOW)
    assert holding.settling == set()


@pytest.mark.parametrize(
    ("bill", "outcome", "lost"),
    [
        (BILL, wire.UNKNOWN, 1),
        (BILL, wire.DONE, 0),
        (BILL, wire.REFUSED, 0),
        (None, wire.UNKNOWN, 0),  # a release of what was never granted
    ],
)
def test_a_bill_for_what_the_store_knows_nothing_of_is_counted_as_lost(holding, bill, outcome, lost):
    Settlement("1f", bill, holding).answered([outcome], NOW)

    assert holding.lost == lost


def test_a_release_books_nothing(holding):
    assert Settlement("1f", None, holding).body(wire.Arguments()) == wire.settlement("1f", None)
