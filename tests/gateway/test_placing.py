"""Calls whose places are bounded, through a whole gateway over backends that hold their calls."""

import asyncio

import pytest
from msgspec.structs import replace

from gateway import clock, placing, waiting
from gateway.config.settings import Limits
from gateway.placing import Placing
from gateway.planning import plan
from policies import queueing
from policies.allowance import Allowance
from policies.breaker import State
from policies.domain import Price
from policies.explaining import explained
from policies.rejections import Reason, Rejection
from policies.terms import RoutingTerms
from tests.gateway.harness import eventually, running, settings
from tests.parts.scripted import Bytes, Hang, Reset, Status, Until

JSON = {"content-type": "application/json"}
ANSWER = b'{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":5,"completion_tokens":1}}'


def held(gate):
    """Answer once the gate opens."""
    return [Until(gate), Status(200, JSON), Bytes(ANSWER)]


def bounded(folder, upstreams, most, **terms):
    (model,) = settings(folder, upstreams).models
    deployments = tuple(replace(one, max_in_flight=most) for one in model.deployments)
    return replace(model, deployments=deployments, routing=RoutingTerms(**terms))


async def test_a_call_waits_for_a_place_and_is_served_when_one_is_free(tmp_path, first):
    """No more are there at once than it takes; all are served, and what each set aside is settled."""
    gate = asyncio.Event()
    for _ in range(6):
        first.enqueue(held(gate))
    async with running(tmp_path, {"a": first}, models=(bounded(tmp_path, {"a": first}, 2),)) as gateway:
        calls = [clock.spawn(gateway.ask(), "a call") for _ in range(6)]
        assert await eventually(lambda: gateway.services.room.waiting == 4 and len(first.requests) == 2)
        await asyncio.sleep(0.05)
        assert (gateway.services.room.waiting, len(first.requests)) == (4, 2)
        gate.set()
        answers = await asyncio.gather(*calls)

        assert [answer.status_code for answer in answers] == [200] * 6
        assert len(first.requests) == 6
        assert (await gateway.usage())[0].requests == 6
        assert (
            gateway.services.room.waiting
            == gateway.services.fleet.live(gateway.services.catalog.models[0].deployments[0]).in_flight
            == 0
        )


async def test_who_would_wait_too_long_is_told_so_at_once(tmp_path, first):
    """With the wait as `retry-after`; nothing is booked."""
    gate = asyncio.Event()
    first.enqueue(held(gate))
    async with running(tmp_path, {"a": first}, models=(bounded(tmp_path, {"a": first}, 1, max_wait=0.0),)) as gateway:
        there = clock.spawn(gateway.ask(), "a call")
        assert await eventually(lambda: len(first.requests) == 1)
        refused = await gateway.ask()
        gate.set()
        assert (await there).status_code == 200

        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert (await gateway.usage())[0].requests == 1


async def test_who_leaves_while_waiting_gives_everything_back(tmp_path, first):
    """The place in line and the reservation, at once."""
    gate = asyncio.Event()
    first.enqueue(held(gate))
    async with running(tmp_path, {"a": first}, models=(bounded(tmp_path, {"a": first}, 1),)) as gateway:
        there = clock.spawn(gateway.ask(), "a call")
        assert await eventually(lambda: len(first.requests) == 1)
        leaving = clock.spawn(gateway.ask(), "a call")
        assert await eventually(lambda: gateway.services.room.waiting == 1)
        leaving.cancel()
        assert await eventually(lambda: gateway.services.room.waiting == 0)
        assert await eventually(lambda: gateway.gateway.ledger.open_reservations == 1)
        gate.set()
        assert (await there).status_code == 200
        assert (await gateway.usage())[0].requests == 1


async def test_the_room_is_bounded(tmp_path, first):
    """By the file; whoever finds it full is told."""
    gate = asyncio.Event()
    for _ in range(2):
        first.enqueue(held(gate))
    model = bounded(tmp_path, {"a": first}, 1)
    async with running(tmp_path, {"a": first}, models=(model,), limits=Limits(waiting_calls=2)) as gateway:
        calls = [clock.spawn(gateway.ask(), "a call") for _ in range(2)]
        assert await eventually(lambda: gateway.services.room.waiting == 1)
        refused = await gateway.ask()
        gate.set()

        assert refused.status_code == 503
        assert "limits.waiting_calls" in refused.json()["error"]["message"]
        assert [(await call).status_code for call in calls] == [200, 200]


async def test_a_call_goes_where_there_is_room_though_it_is_dearer(tmp_path, first, second):
    """It spills over before it waits."""
    gate = asyncio.Event()
    first.enqueue(held(gate))
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        (model,) = gateway.services.catalog.models
        one, two = model.deployments
        spilling = replace(model, deployments=(replace(one, max_in_flight=1), two))
        gateway.services.catalog = type(gateway.services.catalog)([spilling])
        there = clock.spawn(gateway.ask(), "a call")
        assert await eventually(lambda: len(first.requests) == 1)
        answer = await gateway.ask()
        gate.set()
        await there

        assert answer.headers["x-sluiceway-backend"] == "b"
        assert answer.headers["x-sluiceway-attempts"] == "1"


async def test_a_failed_call_waits_for_the_one_that_is_left(tmp_path, first, second):
    """Under load a fault of one replica must not become an error of its calls because the other is full."""
    gate = asyncio.Event()
    second.enqueue(held(gate))
    first.enqueue([Status(500, JSON), Bytes(b"{}")])
    model = bounded(tmp_path, {"a": first, "b": second}, 1)
    async with running(tmp_path, {"a": first, "b": second}, models=(model,)) as gateway:
        one, two = model.deployments
        only_b = replace(model, name="only-b", aliases=(), deployments=(two,))
        gateway.services.catalog = type(gateway.services.catalog)([model, only_b])
        there = clock.spawn(gateway.ask(model="only-b"), "a call")
        assert await eventually(lambda: len(second.requests) == 1)
        moving = clock.spawn(gateway.ask(), "a call")
        assert await eventually(lambda: gateway.services.room.waiting == 1)
        assert len(first.requests) == 1
        gate.set()
        gate_free = await asyncio.gather(there, moving)

        assert [answer.status_code for answer in gate_free] == [200, 200]
        assert gate_free[1].headers["x-sluiceway-backend"] == "b"
        assert one.id != two.id


async def test_a_call_that_has_waited_and_failed_has_less_patience_left(tmp_path, first, second, monkeypatch):
    """What it has waited for its first place is no longer to be had for the second, which is predicted by that too."""
    first.enqueue([Status(500, JSON), Bytes(b"{}")])
    model = bounded(tmp_path, {"a": first, "b": second}, 1, max_wait=30.0)
    async with running(tmp_path, {"a": first, "b": second}, models=(model,)) as gateway:
        room, joined = gateway.services.room, []
        lives = [gateway.services.fleet.live(one) for one in model.deployments]
        monkeypatch.setattr(
            room, "join", lambda *args, **how: joined.append(how) or type(room).join(room, *args, **how)
        )
        for live in lives:
            live.in_flight = 1
        call = clock.spawn(gateway.ask(), "a call")
        for number, live in enumerate(lives, 1):
            assert await eventually(lambda number=number: room.waiting == 1 and len(joined) == number)
            await asyncio.sleep(0.05)
            live.in_flight = 0
            room.freed(live.name)
        answer = await call

        assert answer.headers["x-sluiceway-backend"] == "b"
        assert [how["waited"] >= 0.05 for how in joined] == [False, True]
        assert [how["max_wait"] + how["waited"] for how in joined] == pytest.approx([30.0, 30.0])


async def test_a_callers_wishes_decide_where_its_calls_go(tmp_path, first, second):
    """One key pays for speed, the other does not."""
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        (model,) = gateway.services.catalog.models
        slow = gateway.services.fleet.live(model.deployments[0])
        for _ in range(20):
            slow.latency.observe_first(clock.monotonic(), 3.0, 0)
            slow.latency.observe_pace(clock.monotonic(), 0.5, 0)
        quick = await gateway.key(routing={"policy": "fastest"})
        cheap = await gateway.key(routing={"policy": "cheapest"})

        assert (await gateway.ask(key=quick)).headers["x-sluiceway-backend"] == "b"
        assert (await gateway.ask(key=cheap)).headers["x-sluiceway-backend"] == "a"


async def test_what_a_call_may_cost_is_kept(tmp_path, first, second):
    """The dear one is not even a last resort."""
    first.enqueue([Status(500, JSON), Bytes(b"{}")])
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        thrifty = await gateway.key(routing={"max_price": "0"})
        refused = await gateway.ask(key=thrifty)

        assert refused.status_code == 502
        assert not second.requests


@pytest.mark.parametrize("stream", [False, True])
async def test_a_limit_of_the_upstreams_own_is_kept_before_it_refuses(tmp_path, first, second, stream):
    """Of ten calls at once the burst goes to it, and all others where there is no limit."""
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        (model,) = gateway.services.catalog.models
        live = gateway.services.fleet.live(model.deployments[0])
        live.allowance.per_minute = live.allowance.limit = 20
        answers = await asyncio.gather(*(gateway.ask(stream=stream) for _ in range(10)))

        assert [answer.status_code for answer in answers] == [200] * 10
        assert len(first.requests) == 2  # a tenth of it at once
        assert len(second.requests) == 8


async def test_where_only_a_limited_one_is_left_calls_wait_for_it(tmp_path, first):
    """Up to their patience; then they are told when."""
    first.enqueue([Hang()])
    async with running(tmp_path, {"a": first}) as gateway:
        (model,) = gateway.services.catalog.models
        gateway.services.catalog = type(gateway.services.catalog)([replace(model, routing=RoutingTerms(max_wait=1.0))])
        live = gateway.services.fleet.live(model.deployments[0])
        live.allowance.per_minute = live.allowance.limit = 6
        there = clock.spawn(gateway.ask(), "a call")
        assert await eventually(lambda: len(first.requests) == 1)
        refused = await gateway.ask()
        there.cancel()

        assert refused.status_code == 503
        assert len(first.requests) == 1


BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'


async def placing_of(gateway):
    """Return one call's placing."""
    planned = plan(gateway.services, await gateway.who(), "chat", BODY, {}, 0.0)
    return Placing(gateway.services, planned)


def limited(gateway, number, per_minute=6000):
    """Have a deployment's limit known; return its live state."""
    (model,) = gateway.services.catalog.models
    live = gateway.services.fleet.live(model.deployments[number])
    live.allowance.per_minute = live.allowance.limit = per_minute
    return live


async def test_a_limit_that_says_no_at_once_is_not_asked_again_and_again(tmp_path, first, monkeypatch):
    """No turn of the loop is spent on a call that waits for it: it is ranked once a round."""
    ranked, rankings = placing.ranked, []

    def counted(*args, **more):
        rankings.append(args)
        return ranked(*args, **more)

    async def no(*_):
        return 5.0

    monkeypatch.setattr(placing, "ranked", counted)
    async with running(tmp_path, {"a": first}, terms=RoutingTerms(max_wait=0.3)) as gateway:
        live = limited(gateway, 0)
        monkeypatch.setattr(gateway.services.allowances, "take", no)
        one = await placing_of(gateway)
        one.rank()
        refused = await one.settle(60.0)

        assert refused.reason is Reason.OVERLOADED
        assert 3 <= len(rankings) <= 50  # a round each 10 ms, for 0.3 s
        assert (live.in_flight, live.allowance.held) == (0, 0)


@pytest.mark.parametrize("pause", ["4", "1"])
async def test_after_a_refusal_nobody_spins(tmp_path, first, monkeypatch, pause):
    """The only deployment asks to be left alone: it is doubted and full, and whoever comes waits or is told when."""
    ranked, rankings = placing.ranked, []

    def counted(*args, **more):
        rankings.append(args)
        return ranked(*args, **more)

    monkeypatch.setattr(placing, "ranked", counted)
    first.enqueue([Status(429, JSON | {"retry-after": pause}), Bytes(b'{"error":{"message":"slow down"}}')])
    monkeypatch.setattr(queueing, "LONGEST", 0.0)  # all that come wait
    async with running(tmp_path, {"a": first}, total=0.5, terms=RoutingTerms(max_wait=0.3)) as gateway:
        answers = [await gateway.ask()]
        assert await eventually(lambda: gateway.services.fleet._live["a/scripted"].allowance.limit)
        answers += [await gateway.ask() for _ in range(3)]

        assert [answer.status_code for answer in answers] == [503] * 4
        assert len(rankings) <= 30
        assert len(first.requests) == 1


async def test_calls_that_wait_for_a_limit_do_not_all_ask_when_there_is_room(tmp_path, first, monkeypatch):
    """One does, and the others keep their turn."""
    monkeypatch.setattr(queueing, "LONGEST", 0.0)  # all that come wait
    async with running(tmp_path, {"a": first}, terms=RoutingTerms(max_wait=0.5)) as gateway:
        limited(gateway, 0, per_minute=10)
        allowances, asks = gateway.services.allowances, []
        ask = allowances._ask

        async def counted(*args):
            asks.append(args)
            return await ask(*args)

        monkeypatch.setattr(allowances, "_ask", counted)
        answers = await asyncio.gather(*(gateway.ask() for _ in range(20)))

        assert sorted(answer.status_code for answer in answers) == [200] + [503] * 19
        assert len(asks) == 1
        assert gateway.metric("sluiceway_waits_total", model="m", outcome="placed") == 0.0
        assert gateway.metric("sluiceway_waits_total", model="m", outcome="refused") == 19.0
        assert gateway.metric("sluiceway_wait_seconds_count", priority="normal") == 19.0


async def test_a_call_that_lost_a_race_keeps_its_turn_and_its_patience(tmp_path, first, monkeypatch):
    """The other gateways had the places; it is granted the third."""
    answers = [1.0, 1.0, 0.0]

    async def says(*_):
        await asyncio.sleep(0)
        return answers.pop(0)

    async with running(tmp_path, {"a": first}) as gateway:
        live = limited(gateway, 0)
        monkeypatch.setattr(gateway.services.allowances, "take", says)
        one = await placing_of(gateway)
        one.rank()
        assert await one.settle(60.0) is None

        assert (answers, live.in_flight, one.ticket.live) == ([], 1, live)
        one.leave()
        one.leave()
        assert live.in_flight == 0


async def test_a_missed_place_is_told_once_a_call_and_only_by_those_that_were_admitted(
    tmp_path, first, second, monkeypatch
):
    """Whoever has no money or no requests left makes nothing dear for the others."""
    missed = []
    monkeypatch.setattr(Allowance, "missed", lambda _, price, __: missed.append(price))
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        (model,) = gateway.services.catalog.models
        one, two = model.deployments
        gateway.services.catalog = type(gateway.services.catalog)(
            [replace(model, deployments=(replace(one, price=Price(10**6, 10**6)), two))]
        )
        limited(gateway, 0, per_minute=10)
        assert (await gateway.ask()).headers["x-sluiceway-backend"] == "a"
        assert missed == []
        assert (await gateway.ask()).headers["x-sluiceway-backend"] == "b"
        assert len(missed) == 1

        async def refuse(_):
            return Rejection(Reason.RATE_LIMITED, "limit of this key")

        monkeypatch.setattr(gateway.services.ledger, "admit", refuse)
        assert {(await gateway.ask()).status_code for _ in range(5)} == {429}
        assert len(missed) == 1


async def test_where_a_call_goes_is_told_when_it_is_ranked_and_when_it_is_placed(tmp_path, first, monkeypatch):
    """Not in every round in which it waits."""
    model, told = bounded(tmp_path, {"a": first}, 1), []
    monkeypatch.setattr("gateway.exchange.explained", lambda route: told.append(route) or explained(route))
    async with running(tmp_path, {"a": first}, models=(model,)) as gateway:
        live = gateway.services.fleet.live(model.deployments[0])
        live.in_flight = 1
        gateway.client.headers["x-sluiceway-explain"] = "1"
        call = clock.spawn(gateway.ask(), "a call")
        assert await eventually(lambda: gateway.services.room.waiting == 1)
        for _ in range(10):
            gateway.services.room.freed()
            await asyncio.sleep(0)
        assert len(told) == 1
        live.in_flight = 0
        gateway.services.room.freed(live.name)
        answer = await call

    assert "full" in explained(told[0])[0]
    assert answer.headers["x-sluiceway-route"] == ", ".join(explained(told[1]))
    assert len(told) == 2


async def test_a_call_that_can_go_where_nobody_is_ever_full_does_not_wait_behind_others(tmp_path, first, second):
    """Those that wait need what it does not: a place on the bounded one."""
    gate = asyncio.Event()
    for _ in range(4):
        first.enqueue(held(gate))
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        (model,) = gateway.services.catalog.models
        one, two = model.deployments
        vision = replace(one, max_in_flight=1, modalities=frozenset({"text", "image"}))
        gateway.services.catalog = type(gateway.services.catalog)([replace(model, deployments=(vision, two))])
        image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]
        looking = [clock.spawn(gateway.ask(messages=image), "a call") for _ in range(4)]
        assert await eventually(lambda: gateway.services.room.waiting == 3)
        answers = await asyncio.gather(*(gateway.ask() for _ in range(8)))
        gate.set()

        assert [answer.headers["x-sluiceway-backend"] for answer in answers] == ["b"] * 8
        assert [(await call).status_code for call in looking] == [200] * 4


async def test_who_stands_behind_many_that_need_another_place_has_its_own_at_once(tmp_path, first, second, monkeypatch):
    """A place that only texts can use goes to the first of them, though images stand before it."""
    monkeypatch.setattr(waiting, "TICK", 60.0)
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]
    gates = asyncio.Event(), asyncio.Event()
    for upstream, gate in zip((first, second), gates, strict=True):
        for _ in range(31):
            upstream.enqueue(held(gate))
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        (model,) = gateway.services.catalog.models
        one, two = (replace(of, max_in_flight=1) for of in model.deployments)
        vision = replace(one, modalities=frozenset({"text", "image"}))
        gateway.services.catalog = type(gateway.services.catalog)(
            [replace(model, deployments=(vision, two), routing=RoutingTerms(max_wait=600.0))]
        )
        looking = [clock.spawn(gateway.ask(messages=image), "a call") for _ in range(31)]
        assert await eventually(lambda: gateway.services.room.waiting == 30)
        reading = [clock.spawn(gateway.ask(), "a call") for _ in range(2)]
        assert await eventually(lambda: gateway.services.room.waiting == 31 and len(second.requests) == 1)
        needs = {(waiter.needs[0], len(waiter.needs[1])) for waiter in gateway.services.room._calls}
        assert needs == {("chat", 1), ("chat", 2)}
        gates[1].set()
        assert await eventually(lambda: all(call.done() for call in reading))

        assert [call.result().headers["x-sluiceway-backend"] for call in reading] == ["b"] * 2
        assert gateway.services.room.waiting == 30
        gates[0].set()
        assert {(await call).headers["x-sluiceway-backend"] for call in looking} == {"a"}


async def test_calls_that_were_alike_need_not_be_so_by_another_catalog(tmp_path, first, second):
    """One that cannot use what has come is passed over by those that can: they have waited for it."""
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        (model,) = gateway.services.catalog.models
        one, two = (replace(of, max_in_flight=4) for of in model.deployments)
        vision = replace(one, modalities=frozenset({"text", "image"}))
        catalogs = [
            type(gateway.services.catalog)([replace(model, deployments=of, routing=RoutingTerms(max_wait=600.0))])
            for of in ((vision,), (vision, two))
        ]
        gateway.gateway._publish(catalogs[0])
        gateway.services.fleet.live(vision).in_flight = 4
        looking = clock.spawn(gateway.ask(messages=image), "a call")
        assert await eventually(lambda: gateway.services.room.waiting == 1)
        reading = [clock.spawn(gateway.ask(), "a call") for _ in range(3)]
        assert await eventually(lambda: gateway.services.room.waiting == 4)
        assert len({waiter.needs for waiter in gateway.services.room._calls}) == 1
        gateway.gateway._publish(catalogs[1])
        answers = await asyncio.wait_for(asyncio.gather(*reading), 5.0)

        assert [answer.headers["x-sluiceway-backend"] for answer in answers] == ["b"] * 3
        assert gateway.services.room.waiting == 1
        looking.cancel()


async def test_who_may_pay_for_a_place_only_while_its_prompt_is_cached_speaks_for_no_other(tmp_path, first, second):
    """What was cached is forgotten while calls wait; the place goes to the next one whose prompt still is."""
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        services = gateway.services
        (model,) = services.catalog.models
        one, two = (replace(of, max_in_flight=4) for of in model.deployments)
        caches, free = replace(one, price=Price(1_000_000, 0, cached_input=100_000)), replace(two, price=Price(0, 0))
        terms = RoutingTerms(max_wait=600.0, max_price=1_000_000)  # of some 2,500 tokens
        services.catalog = type(services.catalog)([replace(model, deployments=(caches, free), routing=terms)])
        lives, now = [services.fleet.live(of) for of in (caches, free)], clock.monotonic()
        lives[0].prefilled.tells = True
        calls = []
        for letter in (b"x", b"y"):
            planned = plan(services, await gateway.who(), "chat", BODY.replace(b"hi", letter * 10_000), {}, 0.0)
            lives[0].prefilled.note(planned.begins, now)
            calls.append(Placing(services, planned))
        for live in lives:
            live.in_flight = 4
        for call in calls:
            call.rank()
        waiting_for = [clock.spawn(call.settle(60.0), "a call") for call in calls]
        assert await eventually(lambda: services.room.waiting == 2)
        lives[0].prefilled.unnote(calls[0]._planned.begins, now)
        lives[0].in_flight = 0
        services.room.freed(lives[0].name)
        assert await eventually(lambda: services.room.waiting == 1)

        assert await waiting_for[1] is None
        assert (calls[0].ticket, calls[1].ticket.live) == (None, lives[0])
        waiting_for[0].cancel()


async def test_those_that_wait_are_not_all_thrown_at_one_that_has_just_been_ejected(tmp_path, first):
    """They have patience: only its probe is sent there."""
    gate = asyncio.Event()
    for _ in range(20):
        first.enqueue([Until(gate), Reset()])
    async with running(tmp_path, {"a": first}, models=(bounded(tmp_path, {"a": first}, 1, max_wait=600.0),)) as gateway:
        live = gateway.services.fleet.live(gateway.services.catalog.models[0].deployments[0])
        calls = [clock.spawn(gateway.ask(), "a call") for _ in range(12)]
        assert await eventually(lambda: gateway.services.room.waiting == 11)
        gate.set()
        assert await eventually(lambda: live.breaker.state is State.OPEN and not live.in_flight)
        await asyncio.sleep(0.3)  # some rounds of the tick, which must find no place

        assert len(first.requests) == 3
        assert gateway.services.room.waiting == 9
        for call in calls:
            call.cancel()
