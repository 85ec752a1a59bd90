import asyncio
import math

import pytest
from msgspec.structs import replace

from gateway import clock
from gateway.config.settings import Backend
from gateway.planning import plan, ranked
from gateway.succession import CHANGED, Succession
from policies import queueing
from policies.breaker import Breaker
from policies.domain import Price
from policies.failures import Failure, FailureKind
from policies.needs import needs_any
from policies.terms import RoutingTerms
from tests.gateway.harness import TEXT, eventually, running, settings
from tests.parts.scripted import Close, ScriptedServer, Until, error, plain, sse

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
RESET = Failure(FailureKind.RESET, "x")


class Covers:
    """Whoever sets aside what another deployment costs more: `why` not."""

    def __init__(self, why=None):
        self.why = why

    async def covers(self, price):
        return self.why


@pytest.fixture
def max_wait():
    return 0.0


@pytest.fixture
async def gateway(tmp_path, first, second, max_wait):
    (model,) = settings(tmp_path, {"a": first, "b": second}).models
    bounded = tuple(replace(one, max_in_flight=1) for one in model.deployments)
    model = replace(model, deployments=bounded, routing=RoutingTerms(max_wait=max_wait))
    async with running(tmp_path, {"a": first, "b": second}, models=(model,)) as harness:
        yield harness


async def after_a(gateway, covers=None, meanwhile=lambda: None, failure=RESET, times=1):
    """Return the succession of a call that failed on `a` so many times, and whoever follows.

    `meanwhile` comes after its ranking.
    """
    services, who = gateway.services, await gateway.who()
    planned = plan(services, who, "chat", BODY, {}, 0.0)
    now = clock.monotonic()
    route = ranked(services, planned, now)
    meanwhile()
    succession = Succession(services, planned, covers or Covers())
    budget = services.budget("m", now)
    return succession, await succession.after(route, [(route.order[0], failure)] * times, now + 60.0, budget)


def live(gateway, name):
    (model,) = gateway.services.catalog.models
    return gateway.services.fleet.live(next(one for one in model.deployments if one.backend == name))


async def test_the_next_one_is_returned_with_its_place(gateway):
    """Which is held."""
    succession, following = await after_a(gateway)
    candidate, ticket = following

    assert candidate.deployment.backend == "b"
    assert live(gateway, "b").in_flight == 1
    assert succession.told() == ()
    ticket.close()


@pytest.mark.parametrize("why", ["drained by an operator", "budget", "full"])
async def test_whoever_cannot_be_had_is_passed_over_with_the_reason(gateway, why):
    """And told once."""

    def meanwhile():
        if why == "full":
            live(gateway, "b").in_flight = 1
        elif why != "budget":
            gateway.services.fleet.drain(frozenset({"b"}))

    succession, following = await after_a(gateway, Covers(why if why == "budget" else None), meanwhile)

    assert following is None
    assert succession.told() == (f"b ({why})",)
    assert succession.told() == ()
    assert [one.dropped for one in succession.skipped.values()] == [why]


async def test_a_limit_of_its_own_that_is_used_up_gives_the_place_back(gateway):
    """Nothing is held for a call that goes nowhere."""
    other = live(gateway, "b")
    other.allowance.per_minute = other.allowance.limit = 1
    home = gateway.services.fleet.homes["b"]
    assert await gateway.services.allowances.take(other, home) == 0.0
    _, following = await after_a(gateway)

    assert following is None
    assert other.in_flight == 0


async def test_a_retry_that_is_not_made_is_left_to_others(gateway):
    """However many were asked whether they can be had."""
    budget = gateway.services.budget("m", clock.monotonic())
    left = budget._left
    succession, following = await after_a(gateway, Covers("budget"), times=2)

    assert following is None
    assert budget._left >= left
    assert [one.dropped for one in succession.skipped.values()] == ["budget"]


async def test_one_that_said_when_it_is_back_and_is_full_then_is_tried_once(gateway):
    """Not again and again until the deadline, for it would say the same."""
    limited = Failure(FailureKind.RATE_LIMITED, "x", 429, 0.0)
    asked = []

    class Counts(Covers):
        async def covers(self, price):
            asked.append(price)
            return await super().covers(price)

    def meanwhile():
        for name in "ab":
            live(gateway, name).in_flight = 1

    succession, following = await after_a(gateway, Counts(), meanwhile, limited)

    assert following is None
    assert succession.told() == ("b (full)", "a (full)")
    assert len(asked) == 2


async def test_nobody_is_passed_over_twice(gateway):
    """What is told first holds."""
    succession, _ = await after_a(gateway, Covers("budget"))
    succession._skip(succession.skipped["b/scripted"], "full")

    assert succession.told() == ("b (budget)",)
    assert succession.skipped["b/scripted"].dropped == "budget"


PATIENT = pytest.mark.parametrize("max_wait", [30.0])


@PATIENT
async def test_one_that_is_drained_meanwhile_is_waited_for_no_more(gateway):
    """The tick finds out; its place is free then, but not for new calls."""
    other = live(gateway, "b")
    other.in_flight = 1
    task = clock.spawn(after_a(gateway), "a call")
    assert await eventually(lambda: gateway.services.room.waiting == 1)
    gateway.services.fleet.drain(frozenset({"b"}))
    other.in_flight = 0
    succession, following = await task

    assert following is None
    assert succession.told() == ("b (drained by an operator)",)
    assert other.in_flight == 0


class Ejected(Breaker):
    """It lets nobody through."""

    def passes(self, now):
        return False


@PATIENT
async def test_one_that_is_ejected_meanwhile_gives_no_place_until_it_is_back(gateway):
    """A call that waits does not go where others fail."""
    other = live(gateway, "b")
    other.in_flight = 1
    task = clock.spawn(after_a(gateway), "a call")
    assert await eventually(lambda: gateway.services.room.waiting == 1)
    breaker, other.breaker = other.breaker, Ejected()
    other.in_flight = 0
    for _ in range(3):
        gateway.services.room.freed()
        await asyncio.sleep(0)
    assert other.in_flight == 0
    other.breaker = breaker
    _, (candidate, ticket) = await task

    assert candidate.deployment.backend == "b"
    ticket.close()


@PATIENT
async def test_a_race_for_a_limit_that_is_lost_is_not_the_end(gateway, monkeypatch):
    """The next call of the limit is waited for."""
    answers = [1.0, 1.0, 0.0]

    async def says(*_):
        await asyncio.sleep(0)
        return answers.pop(0)

    monkeypatch.setattr(gateway.services.allowances, "take", says)
    other = live(gateway, "b")
    other.allowance.per_minute = other.allowance.limit = 6000
    _, (_, ticket) = await after_a(gateway)

    assert (answers, other.in_flight) == ([], 1)
    ticket.close()
    assert other.in_flight == 0


@PATIENT
async def test_a_failed_call_goes_before_nobody(gateway):
    """While others wait for its model it joins them, even if a place is free this moment."""
    other = live(gateway, "b")
    other.in_flight = 1
    first = clock.spawn(after_a(gateway), "first")
    assert await eventually(lambda: gateway.services.room.waiting == 1)
    gateway.services.room._rounds["m"].at = math.inf  # a round has just been
    other.in_flight = 0
    second = clock.spawn(after_a(gateway), "second")
    assert await eventually(lambda: gateway.services.room.waiting == 2)
    gateway.services.room._rounds["m"].at = 0.0
    gateway.services.room.freed()
    _, (_, ticket) = await first

    assert not second.done()
    ticket.close()
    _, (_, ticket) = await second
    ticket.close()


@PATIENT
@pytest.mark.parametrize("spent", [0.0, 30.0])
async def test_a_failed_call_has_the_place_that_nobody_in_line_can_use(gateway, spent):
    """In the next round, however long the line is and however little of its patience is left."""
    services, who = gateway.services, await gateway.who()
    room, picky = services.room, {"priority": "normal", "work": 1.0, "needs": needs_any(["c/scripted"])}
    for number in range(100):
        room.join("m", lambda: None, tenant=f"x{number}", pace=1.0, max_wait=600.0, **picky)
    planned, now = plan(services, who, "chat", BODY, {}, 0.0), clock.monotonic()
    planned.waits.spent = spent
    route = ranked(services, planned, now)
    room._rounds["m"].at = clock.monotonic()  # a round has just been
    tried = [(route.order[0], RESET)]
    following = await Succession(services, planned, Covers()).after(route, tried, now + 60.0, services.budget("m", now))

    assert following is not None
    assert (following[0].deployment.backend, room.waiting) == ("b", 100)
    following[1].close()


@pytest.mark.parametrize("max_wait", [0.2])
async def test_all_waits_of_a_call_are_bounded_together(gateway, monkeypatch):
    """Its terms say how long a call may wait, in whichever attempt."""
    monkeypatch.setattr(queueing, "LONGEST", 0.0)  # all that come wait
    other = live(gateway, "b")
    other.in_flight = 1
    services, who = gateway.services, await gateway.who()
    planned = plan(services, who, "chat", BODY, {}, 0.0)
    route = ranked(services, planned, clock.monotonic())
    succession = Succession(services, planned, Covers())
    await succession._wait(route, route.order[1:], math.inf)
    waited = planned.waits.spent
    await succession._wait(route, route.order[1:], math.inf)

    assert waited > 0.1
    assert planned.waits.spent - waited < waited / 2


def publish(gateway, **changes):
    """Have the catalog's deployment on `b` changed; no `changes`: have it gone."""
    catalog = gateway.services.catalog
    (model,) = catalog.models
    kept = [one for one in model.deployments if one.backend != "b"]
    changed = [replace(one, **changes) for one in model.deployments if one.backend == "b" and changes]
    gateway.services.catalog = type(catalog)([replace(model, deployments=(*kept, *changed))])


CHANGES = [
    {},
    {"hosted": True},
    {"price": Price(5 * 10**9, 0)},
    {"price": None},
    {"kind": "vllm"},
    {"model": "another"},
    {"modalities": TEXT | {"image"}},
    {"tokenizer": "mistral"},
]


@pytest.mark.parametrize("changes", CHANGES)
async def test_whoever_is_no_longer_what_the_call_was_planned_for_is_passed_over(gateway, changes):
    """A name is no promise: a prompt that may not leave the house would, or be paid by an old price."""
    succession, following = await after_a(gateway, meanwhile=lambda: publish(gateway, **changes))

    assert following is None
    assert succession.told() == (f"b ({CHANGED})",)
    assert live(gateway, "a").in_flight == 0


@pytest.mark.parametrize("changes", [{"context_window": 9}, {"max_in_flight": 7}, {"weight": 3}])
async def test_what_only_ranks_a_deployment_may_change(gateway, changes):
    """Engines tell their windows whenever they are asked."""
    _, (candidate, ticket) = await after_a(gateway, meanwhile=lambda: publish(gateway, **changes))

    assert candidate.deployment.backend == "b"
    ticket.close()


async def test_whoever_changes_while_its_price_is_set_aside_is_passed_over(gateway):
    """The store is asked for that; in between a file may be taken."""

    class Meanwhile(Covers):
        async def covers(self, price):
            publish(gateway, hosted=True)

    succession, following = await after_a(gateway, Meanwhile())

    assert following is None
    assert succession.told() == (f"b ({CHANGED})",)


@PATIENT
async def test_whoever_changes_while_it_is_waited_for_is_passed_over(gateway):
    """Its place is another's."""
    live(gateway, "b").in_flight = 1
    task = clock.spawn(after_a(gateway), "a call")
    assert await eventually(lambda: gateway.services.room.waiting == 1)
    publish(gateway, hosted=True)
    live(gateway, "b").in_flight = 0
    succession, following = await task

    assert following is None
    assert succession.told() == (f"b ({CHANGED})",)


async def test_where_a_model_has_gone_nobody_follows(gateway):
    """What it was made of says nothing of who has these names now."""

    def meanwhile():
        gateway.services.catalog = type(gateway.services.catalog)([])

    succession, following = await after_a(gateway, meanwhile=meanwhile)

    assert following is None
    assert succession.told() == (f"b ({CHANGED})",)


@pytest.mark.parametrize("gone", [False, True], ids=["the model stays", "the model goes"])
@pytest.mark.parametrize("stream", [False, True], ids=["a retry", "a continuation"])
async def test_a_prompt_of_the_house_stays_there_when_a_name_becomes_a_hosted_backends(
    tmp_path, first, second, stream, gone
):
    """Planned over two own machines; while the first fails, the second's name is given to somebody else's."""
    go_on = asyncio.Event()
    first.enqueue([*sse("one", "two", end=False), Until(go_on), Close()] if stream else [Until(go_on), *error(503)])
    (model,) = settings(tmp_path, {"a": first, "b": second}).models
    model = replace(model, on_stream_failure="continue")
    async with ScriptedServer() as cloud, running(tmp_path, {"a": first, "b": second}, models=(model,)) as gateway:
        key = await gateway.key(local_only=True)
        call = asyncio.ensure_future(gateway.ask(key=key, stream=stream))
        assert await eventually(lambda: first.calls)
        before = gateway.gateway.settings
        hosted = Backend("b", "openai", f"{cloud.url}/v1", "secret", probe_every=0, told_hosted=True)
        places = tuple(replace(one, hosted=one.backend == "b") for one in model.deployments)
        taken = replace(model, name="other" if gone else "m", aliases=(), deployments=places)
        await gateway.gateway.take(replace(before, backends=(before.backends[0], hosted), models=(taken,)))
        go_on.set()
        answer = await call

        assert (len(first.calls), len(second.calls), len(cloud.calls)) == (1, 0, 0)
        assert stream or (answer.status_code, "b: not tried" in answer.text) == (502, True)
        first.enqueue(error(503))
        cloud.enqueue(plain())
        anybody = await gateway.ask(key=await gateway.key(), model=taken.name)
        assert (anybody.headers["x-sluiceway-backend"], len(cloud.calls)) == ("b", 1)
