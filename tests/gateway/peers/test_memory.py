import asyncio
import math
import random

import pytest
from structlog.testing import capture_logs

from gateway import clock
from gateway.config.settings import Backend
from gateway.peers import Memory
from gateway.peers import memory as module
from gateway.peers.memory import EVERY, JITTER, KEPT, PREFIX, STEP
from gateway.store.door import StoreDown
from gateway.upstream.fleet import Fleet
from policies.domain import Deployment
from policies.latency import ENOUGH
from tests.gateway.identity.support import come
from tests.gateway.peers.support import SLOW, Overheard

QUICK, LAME = 0.1, 0.5
"""Seconds of a first token at the replicas of these tests; their kind is thought to need less."""


class Gateway:
    """What of a gateway learns: a fleet of some replicas of one model, and its memory."""

    def __init__(self, url, count=2, places=None, every=SLOW):
        self.store = Overheard(url, deadline=5.0)
        self.fleet = Fleet()
        self.there = []
        for number in range(count):
            self.add(number, (places or {}).get(number, f"http://10.0.0.{number}:8000/v1"))
        self.memory = Memory(self.store, lambda: self.fleet.learners(self.there), lambda: 1, every=every)

    def add(self, number, url="http://10.0.0.9:8000/v1"):
        self.fleet.add(Backend(f"gpu-{number}", "vllm", url, probe_every=0))
        self.there.append(Deployment(f"gpu-{number}", "vllm", "m", None, frozenset({"text"}), None))

    def latency(self, number):
        return self.fleet.live(self.there[number]).latency

    def learn(self, calls=30, seconds=(QUICK, LAME)):
        """Have calls answered, one after the other at each replica."""
        dice, begun = random.Random(1), clock.monotonic() - calls * 0.1
        for call in range(calls):
            for number, took in enumerate(seconds):
                latency, now = self.latency(number), begun + call * 0.1
                latency.observe_first(now, took * dice.lognormvariate(0, 0.1), 50)
                latency.observe_pace(now, took / 10, 1)

    def first(self, number):
        """Return the seconds that a first token is expected to take."""
        pace = self.latency(number).pace(clock.monotonic())
        return pace.fixed + 50 * pace.prefill

    async def close(self):
        await self.memory.close()
        await self.fleet.close()
        await self.store.close()


@pytest.fixture
async def gateways(server):
    """Make gateways over an empty store; they are closed with the test."""
    made = []

    def make(*args, **options):
        made.append(Gateway(server, *args, **options))
        return made[-1]

    await make().store.send(("FLUSHALL",))
    yield make
    for gateway in made:
        await gateway.close()


async def rows(gateway):
    return dict.fromkeys(await gateway.store.keys(f"{PREFIX}*"))


async def test_a_gateway_that_starts_believes_what_another_has_learned(gateways):
    """Of each replica; before it has called one."""
    old, new, untold = gateways(), gateways(), gateways()
    old.learn()
    await old.memory.tell()
    await new.memory.read()

    for number, seconds in enumerate((QUICK, LAME)):
        assert new.first(number) == pytest.approx(old.first(number), rel=0.05)
        assert new.first(number) == pytest.approx(seconds, rel=0.4)
        assert new.latency(number).samples == (ENOUGH, ENOUGH)
    assert untold.first(0) == untold.first(1)


async def test_what_was_learned_of_another_place_or_model_is_not_taken(gateways):
    """Though it has the same name: a backend at another place is another one."""
    old, new = gateways(), gateways(places={1: "http://10.0.0.77:8000/v1"})
    old.learn()
    await old.memory.tell()
    await new.memory.read()

    assert new.latency(0).samples == (ENOUGH, ENOUGH)
    assert new.latency(1).samples == (0, 0)


async def test_what_is_reached_by_a_loopback_is_learned_by_each_host_for_itself(gateways, monkeypatch):
    """Gateways of one host learn together; what their kind has in common is everybody's."""
    places = {0: "http://127.0.0.1:8000/v1"}
    old, beside, far = gateways(places=places), gateways(places=places), gateways(places=places)
    old.learn()
    await old.memory.tell()
    await beside.memory.read()
    monkeypatch.setattr(module, "this_host", lambda: "another")
    await far.memory.read()

    assert [beside.latency(number).samples for number in (0, 1)] == [(ENOUGH, ENOUGH), (ENOUGH, ENOUGH)]
    assert [far.latency(number).samples for number in (0, 1)] == [(0, 0), (ENOUGH, ENOUGH)]
    assert far.first(0) != gateways().first(0)  # the pool's


async def test_only_what_has_news_is_told_and_what_was_heard_is_none(gateways):
    """Two round trips, whatever there is to tell; none where there is nothing."""
    one, other = gateways(), gateways()
    one.learn()
    await one.memory.tell()
    await other.memory.tell()
    before = one.store.round_trips, other.store.round_trips
    await one.memory.tell()
    await other.memory.tell()
    assert (one.store.round_trips, other.store.round_trips) == before
    one.latency(1).observe_first(clock.monotonic(), LAME, 50)
    await one.memory.tell()

    told = [command for command, _ in one.store.calls if command[0] == "SET"]
    assert one.store.round_trips == before[0] + 2
    assert len(told) == 3 + 2  # a pool and two replicas; then the pool and the one that was called


async def test_what_was_heard_twice_at_once_is_no_news(gateways):
    """At a start two read: whoever starts, and the task that sees replicas appear. What is old is not told anew."""
    old, new = gateways(), gateways()
    old.learn()
    await old.memory.tell()
    await asyncio.gather(new.memory.read(), new.memory.read())
    await new.memory.tell()

    assert new.latency(1).samples == (ENOUGH, ENOUGH)
    assert not [command for command, _ in new.store.calls if command[0] == "SET"]


async def test_what_is_told_ends_by_itself(gateways):
    """Of a replica that is gone nothing stays; nobody has to tidy up."""
    one = gateways()
    one.learn()
    await one.memory.tell()
    keys = await rows(one)
    left = await one.store.send(*(("TTL", key) for key in keys))

    assert len(keys) == 3
    assert all(KEPT - 60 < seconds <= KEPT for seconds in left)


async def test_what_is_old_is_taken_as_that_old(gateways):
    """By the time that the store says is left of it."""
    old, new = gateways(), gateways()
    old.learn()
    await old.memory.tell()
    for key in await rows(old):
        await old.store.send(("EXPIRE", key, KEPT - 7200))
    await new.memory.read()

    assert new.latency(1)._fading.heard_at == pytest.approx(clock.monotonic() - 7200, abs=60)


async def test_what_two_gateways_have_learned_comes_together(gateways):
    """Neither's word takes the other's away, and what one tells twice does not count twice."""
    one, other, new = gateways(), gateways(), gateways()
    one.learn(seconds=(QUICK, QUICK))
    other.learn(seconds=(4 * QUICK, 4 * QUICK))
    await one.memory.read()
    await other.memory.read()
    await one.memory.tell()
    await other.memory.tell()
    await new.memory.read()
    assert 1.3 * QUICK < new.first(0) < 3.2 * QUICK
    for _ in range(3):
        other.learn()
        await other.memory.tell()
    last = gateways()
    await last.memory.read()

    assert last.first(0) == pytest.approx(other.first(0), rel=0.02)


@pytest.mark.parametrize(
    "row",
    [
        b"",
        b"\xc1\xff",
        b"null",
        b"[]",
        b"[[30,[9,9,9,9]]]",
        b"[[30,[NaN,NaN,NaN,NaN]],[30,[0,0,0,0]]]",
        b"[[30,[1e999,0,0,0]],[30,[0,0,0,0]]]",
        b"[[-30,[0.1,0.1,0.1,0.1]],[-1,[0.1,0.1,0.1,0.1]]]",
        b"[[25,[5,5,5,5,5,5,5]],[25,[5]]]",
        b"[[25,[700.0,5,5,5]],[25,[5,5,5,5]]]",
        b"[[25,[5,5,5]],[25,[5,5]]," + b"[" * 100_000,
        None,
    ],
)
async def test_a_row_that_no_gateway_can_have_written_is_not_there(gateways, row):
    """It teaches nobody anything, hinders nobody, and the next word is in its place."""
    old, new, untold, last = (gateways() for _ in range(4))
    old.learn()
    await old.memory.tell()
    for key in await rows(old):
        broken = ("SET", key, row) if row is not None else ("LPUSH", key, "x")
        await old.store.send(("DEL", key), broken)
    await new.memory.read()
    assert [new.first(number) for number in (0, 1)] == [untold.first(number) for number in (0, 1)]
    new.learn()
    await new.memory.tell()
    await last.memory.read()

    assert last.first(1) == pytest.approx(new.first(1), rel=0.05)
    assert all(math.isfinite(new.first(number)) for number in (0, 1))


async def test_a_replica_that_appears_begins_with_what_is_known_of_it(gateways):
    """At once, while the gateway runs; and one that has gone is not asked for again."""
    old, new = gateways(), gateways(1)
    old.learn()
    await old.memory.tell()
    await new.memory.read()
    new.memory.start()
    new.add(1, "http://10.0.0.1:8000/v1")
    new.memory.appeared()
    await come(lambda: new.latency(1).samples == (ENOUGH, ENOUGH))

    assert new.first(1) > 2 * new.first(0)
    del new.there[0]
    await new.memory.read()
    assert len(new.memory._entries) == 2


async def test_the_last_is_told_at_the_end(gateways):
    """A stop comes sooner than the next telling."""
    old, new = gateways(), gateways()
    old.memory.start()
    old.learn()
    await old.memory.close()
    await new.memory.read()

    assert new.first(1) > 2 * new.first(0)


async def test_a_gateway_tells_from_time_to_time(gateways):
    """Nobody has to ask it."""
    old, new = gateways(every=0.05), gateways()
    old.memory.start()
    old.learn()
    await come(lambda: any(command[0] == "SET" for command, _ in old.store.calls))
    await new.memory.read()

    assert new.first(1) > 2 * new.first(0)


def test_all_together_tell_once_a_second_at_most():
    """However many there are; one that is alone tells every ten seconds."""
    for count in (1, 10, 100):
        memory = Memory(None, dict, lambda count=count: count)
        pauses = [memory._pause() for _ in range(200)]
        mean = sum(pauses) / len(pauses)
        assert mean == pytest.approx(max(EVERY, STEP * count), rel=0.1)
        assert min(pauses) >= (1 - JITTER) * max(EVERY, STEP * count)


async def test_what_the_store_did_not_say_is_read_once_it_is_there(gateways):
    """Without the store it begins with the priors, and waits for nobody."""
    old, new = gateways(), gateways(every=0.05)
    old.learn()
    await old.memory.tell()
    new.store.hold("not yet")
    with pytest.raises(StoreDown):
        await new.memory.read()
    new.memory.start()
    await asyncio.sleep(0.2)
    assert new.latency(1).samples == (0, 0)
    new.store.free()
    await come(lambda: new.latency(1).samples == (ENOUGH, ENOUGH))


async def test_what_is_unread_when_the_store_is_joined_is_read_at_once(gateways):
    """And not at the next telling, which of many gateways is minutes away."""
    old, new = gateways(), gateways()
    old.learn()
    await old.memory.tell()
    new.store.hold("not joined yet")
    with pytest.raises(StoreDown):
        await new.memory.read()
    new.store.free()
    new.memory.start()

    await come(lambda: new.latency(1).samples == (ENOUGH, ENOUGH))


async def test_what_200_deployments_cost_is_as_the_page_says(gateways):
    """Bytes to and fro at the store, of one telling of everything; and the bytes that stay."""
    one, other = gateways(200), gateways(200)
    seconds = [QUICK * 1.01**number for number in range(200)]
    for gateway in (one, other):
        gateway.learn(seconds=seconds)
        await gateway.memory.tell()
    one.learn(seconds=seconds)
    before = await traffic(one)
    await one.memory.tell()
    told = await traffic(one) - before
    kept = sum(len(row) for command, _ in one.store.calls if command[0] == "SET" for row in (command[2],)) / 2

    print(f"{told} bytes to and fro, {kept:.0f} kept")
    assert told < 200 * 450
    assert kept < 200 * 65


async def traffic(gateway):
    (stats,) = await gateway.store.send(("INFO", "stats"))
    return stats["total_net_input_bytes"] + stats["total_net_output_bytes"]


async def test_a_store_that_refuses_is_told_once(gateways):
    """Its user may do less than we ask: nothing else says that nothing is shared."""
    gateway = gateways(every=0.02)
    await gateway.store.send(("ACL", "SETUSER", "default", "-mget"))
    try:
        with capture_logs() as entries:
            gateway.memory.start()
            await come(lambda: entries)
            await asyncio.sleep(0.2)
    finally:
        await gateway.store.send(("ACL", "SETUSER", "default", "+mget"))

    assert [(entry["event"], "mget" in entry["why"].lower()) for entry in entries] == [
        ("what was learned cannot be shared", True)
    ]
