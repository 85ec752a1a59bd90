import asyncio
from functools import partial

import pytest
from msgspec.structs import replace

from gateway import clock
from gateway.places import enter, place
from gateway.planning import plan
from policies.deadlines import EXPIRED
from policies.rejections import Reason
from policies.terms import RoutingTerms
from tests.gateway.harness import eventually, running
from tests.policies.builders import candidate

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'


@pytest.fixture
async def gateway(tmp_path, first):
    async with running(tmp_path, {"a": first}) as harness:
        yield harness


@pytest.fixture
async def planned(gateway):
    return plan(gateway.services, await gateway.who(), "chat", BODY, {}, 0.0)


@pytest.fixture
def of(gateway):
    """Return the only deployment, as it is without a bound."""
    (model,) = gateway.services.catalog.models
    return model.deployments[0]


def nothing():
    """Find no place."""


async def test_how_long_a_call_would_wait_is_told_by_what_its_places_are_worth(gateway, planned, of):
    """Eight places that are held for 4 s each become free every half second; so do two that are held for 1 s."""
    of = replace(of, max_in_flight=8)
    terms = RoutingTerms(max_wait=0.2)

    no = await place(gateway.services, planned, terms, [candidate(of, seconds=4.0)], 60.0, nothing)
    more = await place(gateway.services, planned, terms, [candidate(of, seconds=400.0)], 60.0, nothing)

    assert 0 < no.retry_after_us < more.retry_after_us


async def test_a_limit_of_a_deployments_own_is_so_many_places_a_minute(gateway, planned, of):
    """Where it has no bound of ours."""
    gateway.services.fleet.live(of).allowance.limit = 6

    no = await place(gateway.services, planned, RoutingTerms(max_wait=1.0), [candidate(of)], 60.0, nothing)

    assert 5_000_000 <= no.retry_after_us <= 20_000_000


def waits(gateway, outcome):
    return gateway.metric("sluiceway_waits_total", model="m", outcome=outcome)


def timed(gateway):
    return gateway.metric("sluiceway_wait_seconds_count", priority="normal")


async def test_a_place_that_is_free_is_taken_at_once(gateway, planned, of):
    """Whatever the patience; that is no wait."""
    terms, one = RoutingTerms(max_wait=0.0), candidate(of)
    held = await place(gateway.services, planned, terms, [one], 0.0, partial(enter, gateway.services, planned, one))

    assert held.candidate is one
    assert (waits(gateway, "placed"), timed(gateway)) == (0.0, 0.0)
    held.drop()


async def test_only_those_that_waited_are_timed_each_once(gateway, planned, of):
    """However often the limit has said no meanwhile; one that may not wait is counted as refused."""
    services, one = gateway.services, candidate(replace(of, max_in_flight=1))
    live, terms = services.fleet.live(of), RoutingTerms()
    live.allowance.limit = live.allowance.per_minute = 6000
    answers = [1.0, 1.0, 0.0]

    async def says(*_):
        await asyncio.sleep(0)
        return answers.pop(0)

    services.allowances.take = says
    there = enter(services, planned, one)
    attempt = partial(enter, services, planned, one)
    task = clock.spawn(place(services, planned, terms, [one], 60.0, attempt), "a call")
    assert await eventually(lambda: services.room.waiting == 1)
    no = await place(services, planned, RoutingTerms(max_wait=0.0), [one], 60.0, attempt)
    there.drop()
    held = await task

    assert answers == []
    assert (held.candidate, no.reason) == (one, Reason.OVERLOADED)
    assert (waits(gateway, "placed"), waits(gateway, "refused"), timed(gateway)) == (1.0, 1.0, 1.0)
    held.drop()


@pytest.mark.parametrize("of_token", [False, True])
async def test_a_wait_that_the_deadline_ends_says_so(gateway, planned, of, of_token):
    """In the words of what it was for."""
    of = replace(of, max_in_flight=100)
    planned = replace(planned, deadlines=replace(planned.deadlines, of_token=of_token))
    no = await place(gateway.services, planned, RoutingTerms(), [candidate(of)], 0.1, nothing)
    own = await place(gateway.services, planned, RoutingTerms(max_wait=0.1), [candidate(of)], 60.0, nothing)

    assert (no.reason, no.message == EXPIRED) == (Reason.DEADLINE, of_token)
    assert own.reason is Reason.OVERLOADED


async def test_whoever_holds_a_place_of_a_limit_counts_until_it_has_asked(gateway, planned, of):
    """Two of a burst of two, and no third; whoever gives its place back makes room, once."""
    services, one = gateway.services, candidate(of)
    live = services.fleet.live(of)
    live.allowance.limit = live.allowance.per_minute = 20
    first, second = (enter(services, planned, one) for _ in range(2))

    assert enter(services, planned, one) is None
    assert (live.in_flight, live.allowance.held) == (2, 2)
    first.drop()
    first.drop()
    third = enter(services, planned, one)
    assert (live.in_flight, live.allowance.held) == (2, 2)
    assert [await second.asked(), await third.asked()] == [True, True]
    assert (live.in_flight, live.allowance.held) == (2, 0)
    assert enter(services, planned, one) is None


async def test_a_place_that_cannot_be_asked_for_is_given_back(gateway, planned, of):
    """Whatever ends the question."""
    services, one = gateway.services, candidate(of)
    live = services.fleet.live(of)
    live.allowance.limit = 20

    async def breaks(*_):
        raise OSError("broken")

    services.allowances.take = breaks
    held = enter(services, planned, one)
    with pytest.raises(OSError, match="broken"):
        await held.asked()

    assert (live.in_flight, live.allowance.held) == (0, 0)


async def test_where_no_limit_is_known_a_place_is_certain(gateway, planned, of):
    """And counted as sent: what a limit is looked for with, once one is met."""
    held = enter(gateway.services, planned, candidate(of))
    allowance = gateway.services.fleet.live(of).allowance

    assert (held.certain(), allowance.held, allowance.in_a_minute(clock.monotonic())) == (True, 0, 1)
    held.drop()
