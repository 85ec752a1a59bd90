import asyncio
from types import SimpleNamespace

import pytest

from gateway.growth import NEVER, Growing
from gateway.metrics import Metrics
from gateway.store.door import StoreDown
from policies.claims import LEAST_STEP, cost
from policies.domain import Claim, Level, Meter, MeterKind, Price, Reservation, Usage
from policies.estimates import Estimates
from tests.gateway.books import Books, refused
from tests.gateway.harness import eventually
from tests.policies.builders import FREE, HOSTED, request

ONE = Price(1000, 1000)
TOKENS = Meter(MeterKind.TOKENS_PER_DAY, 10**6, 10**6)


class Call:
    """A growing reservation of 100 input and 1000 output tokens, made at the price of 1 a token."""

    def __init__(self, *, meters=(TOKENS,), overrun="finish", **members):
        self.books, self.metrics = Books(), Metrics()
        services = SimpleNamespace(ledger=self.books, metrics=self.metrics, estimates=Estimates())
        levels = (Level("key", "key:k", meters, overrun),)
        claim = Claim("acme", "t", "k", "m", levels, 100, 1000, cost(ONE, 100, 1000))
        self.growing = Growing(services, request(stream=True, **members), Reservation("r", claim))
        self.growing.watch(ONE)

    async def outgrow(self, events=1001, told=None):
        """Say so many events and wait for what the books say to it."""
        assert self.growing.outgrown(events, told) is None
        await eventually(lambda: self.growing.at != NEVER)

    def count(self, outcome):
        return self.metrics.registry.get_sample_value("sluiceway_growths_total", {"outcome": outcome})


async def test_a_stream_within_its_reservation_asks_for_nothing():
    """The first event past it does."""
    assert Call().growing.at == 1001


async def test_a_stream_that_outgrows_its_reservation_grows_it_by_half_and_its_money_along():
    """Then the next half; each is watched for from its end."""
    call = Call()

    await call.outgrow()
    assert call.growing.at == 1501
    await call.outgrow(1501)

    assert call.books.grown == [(500, 500), (750, 750)]
    assert call.growing.at == 2251
    assert call.count("granted") == 2


async def test_money_grows_at_the_price_of_who_serves():
    """Also where that was not who the claim was priced for."""
    dear, cheap = Call(), Call()
    dear.growing.watch(Price(1000, 3000))
    cheap.growing.watch(FREE)

    await dear.outgrow()
    await cheap.outgrow()

    assert dear.books.grown == [(500, 100 + 3 * 1500 - 1100)]
    assert cheap.books.grown == [(500, 0)]


async def test_one_growth_is_under_way_at_a_time_and_nobody_waits_for_it():
    """The stream goes on while the store is slow."""
    call = Call()
    call.books.open.clear()

    assert call.growing.outgrown(1001, None) is None
    await asyncio.sleep(0)
    assert call.growing.at == NEVER
    call.books.open.set()
    await eventually(lambda: call.growing.at != NEVER)

    assert call.books.grown == [(500, 500)]


async def test_a_refused_stream_finishes_where_its_level_says_so():
    """And asks again a step later, since limits refill."""
    call = Call()
    call.books.growths.append(refused("tokens_per_day"))

    await call.outgrow()
    assert call.growing.at == 1502
    await call.outgrow(1502)

    assert call.growing.at > 1502
    assert (call.count("refused"), call.count("granted")) == (1, 1)


async def test_a_refused_stream_is_cut_where_its_level_says_so():
    """At its next chunk, with the refusal."""
    call = Call(overrun="cut")
    no = refused("tokens_per_day")
    call.books.growths.append(no)

    await call.outgrow()

    assert call.growing.at == 0
    assert call.growing.outgrown(1002, None) is no


async def test_another_levels_refusal_cuts_nothing():
    """Each level has its own say."""
    call = Call(overrun="cut")
    call.books.growths.append(refused("tokens_per_day", "team"))

    await call.outgrow()

    assert call.growing.at > 1001


async def test_a_store_that_is_gone_cuts_nothing_and_is_asked_again():
    """A step later."""
    call = Call(overrun="cut")
    call.books.growths.append(StoreDown("gone"))

    await call.outgrow()
    assert call.growing.at == 1502
    await call.outgrow(1502)

    assert call.books.grown[0] == (500, 500)
    assert (call.count("store_unavailable"), call.count("granted")) == (1, 1)


async def test_what_the_upstream_tells_of_more_tokens_than_events_counts():
    """Several tokens may come in one event; the next step is watched for at that density."""
    call = Call()

    await call.outgrow(1001, Usage(100, 4004, estimated=False))

    assert call.books.grown[0][0] == 3004 + LEAST_STEP
    assert call.growing.at == 4260 * 1001 // 4004 + 1


async def test_nothing_grows_beyond_the_callers_bound_or_where_no_meter_counts_it():
    """The store is not asked in vain."""
    bounded, unmetered = Call(max_tokens=1000), Call(meters=())

    assert bounded.growing.outgrown(1001, None) is unmetered.growing.outgrown(1001, None) is None

    assert bounded.growing.at == unmetered.growing.at == NEVER
    await asyncio.sleep(0)
    assert bounded.books.grown == unmetered.books.grown == []


async def test_a_dearer_deployment_costs_the_difference_first():
    """For what is set aside by then; once paid, or cheaper, it costs nothing more."""
    call = Call()

    assert await call.growing.covers(HOSTED) is None
    assert await call.growing.covers(HOSTED) is None
    assert await call.growing.covers(FREE) is None
    assert await call.growing.covers(None) is None

    assert call.books.grown == [(0, cost(HOSTED, 100, 1000) - 1100)]


@pytest.mark.parametrize(("answer", "reason"), [(refused(), "budget"), (StoreDown("gone"), "store_unavailable")])
async def test_a_dearer_deployment_that_cannot_be_paid_says_why(answer, reason):
    """Whoever cannot be asked has not said yes; what is set aside stays what it was."""
    call = Call()
    call.books.growths.append(answer)

    assert await call.growing.covers(HOSTED) == reason
    assert await call.growing.covers(HOSTED) is None
    assert call.books.grown[0] == call.books.grown[1]


async def test_a_growth_that_outlives_its_stream_is_watched_for_in_the_next_one():
    """The next deployment goes on from as many tokens as were counted when it was asked for."""
    call = Call()
    call.books.open.clear()
    assert call.growing.outgrown(1001, None) is None
    await asyncio.sleep(0)

    call.growing.watch(ONE, 1001)
    call.books.open.set()
    await eventually(lambda: call.growing.at == 1500 - 1001 + 1)


async def test_only_one_growth_is_under_way_whoever_serves():
    """The next deployment's stream does not ask beside one that is not answered yet."""
    call = Call()
    call.books.open.clear()
    assert call.growing.outgrown(1001, None) is None
    await asyncio.sleep(0)

    call.growing.watch(ONE, 1001)
    assert call.growing.at == NEVER
    call.books.open.set()
    await eventually(lambda: call.growing.at != NEVER)
    assert len(call.books.grown) == 1
