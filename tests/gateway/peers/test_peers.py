import asyncio
import random
from contextlib import asynccontextmanager

import pytest
import structlog

from gateway import clock
from gateway.peers import Peers
from gateway.peers.peers import ALONE, BEAT, LOST, MET, MOST_TURN, PATIENCE, PREFIX, STEP, TURN
from gateway.store.door import Store
from gateway.upstream.fleet import Fleet
from policies.affinity import KEPT
from policies.breaker import THRESHOLD, State
from tests.gateway.identity.support import come
from tests.gateway.peers.support import SLOW, Gateway
from tests.parts import stores


@asynccontextmanager
async def gateways(url, count, beat=SLOW):
    """Run so many that know one another."""
    them = [Gateway(url, name, beat) for name in "abcdefghij"[:count]]
    try:
        await beats(*them, *them)
        yield them
    finally:
        for gateway in them:
            await gateway.peers.close()
            await gateway.store.close()


async def beats(*gateways, now=0.0):
    for gateway in gateways:
        await gateway.beat(now)


@pytest.fixture
async def url(server):
    store = Store(server, deadline=5.0)
    await store.send(("FLUSHALL",))
    await store.close()
    return server


@pytest.fixture
async def two(url):
    async with gateways(url, 2) as them:
        yield them


@pytest.fixture
async def three(url):
    async with gateways(url, 3) as them:
        yield them


def key(name):
    return f"{PREFIX}{name}"


async def store_time(gateway):
    """Return the store's time in milliseconds."""
    ((seconds, micros),) = await gateway.store.send(("TIME",))
    return int(seconds) * 1000 + int(micros) // 1000


async def silence(gateway, ms, of):
    """Let the store take a gateway for lost since so many milliseconds."""
    now = await store_time(gateway)
    await gateway.store.send(("ZADD", key("alive"), now - ms, of.name))


async def test_each_gateway_sees_the_load_of_all_the_others(three):
    """Together, without its own; what ends is gone with the next beat."""
    a, b, c = three
    a.part.here = {"gpu/m": (3, 1200)}
    b.part.here = {"gpu/m": (1, 0), "gpu/n": (2, 10)}
    await beats(a, b, c, a, b)

    assert a.part.elsewhere == {"gpu/m": (1, 0), "gpu/n": (2, 10)}
    assert b.part.elsewhere == {"gpu/m": (3, 1200)}
    assert c.part.elsewhere == {"gpu/m": (4, 1200), "gpu/n": (2, 10)}
    b.part.here = {"gpu/m": (1, 0)}
    await beats(b, c)
    assert c.part.elsewhere == {"gpu/m": (4, 1200)}


async def test_only_what_has_changed_is_sent_and_read(two):
    """Of a hundred deployments with load the one that changed; of none, nothing: and nothing is written."""
    a, b = two
    a.part.here = {f"gpu/m{number}": (1, 100) for number in range(100)}
    await beats(a, b)
    (first, _), (_, (read, _)) = a.last(), b.last()
    await a.store.send(("CONFIG", "RESETSTAT"))
    await beats(a, b)
    (again, _), (_, (unchanged, _)) = a.last(), b.last()
    (stats,) = await a.store.send(("INFO", "commandstats"))
    a.part.here["gpu/m7"] = (2, 200)
    await beats(a, b)
    (one, _), (_, (changed, _)) = a.last(), b.last()

    assert (again[0], unchanged) == (b"", [])
    assert not {"cmdstat_xadd", "cmdstat_hset", "cmdstat_hdel", "cmdstat_hgetall"} & stats.keys()
    assert len(one[0]) * 50 < len(first[0])
    assert len(changed[2]) * 50 < len(read[2])
    assert b.part.elsewhere["gpu/m7"] == (2, 200)
    assert len(b.part.elsewhere) == 100


async def test_a_gateway_of_many_deployments_tells_of_all(two):
    """More than a script may give one command at once."""
    a, b = two
    a.part.here = {f"gpu/m{number}": (number, 0) for number in range(1, 5001)}
    await beats(a, b)
    assert len(b.part.elsewhere) == 5000
    await silence(a, 1, b)
    await beats(b)  # it reads the row, not the changes

    assert len(b.part.elsewhere) == 5000
    a.part.here = {}
    await beats(a, b)
    assert b.part.elsewhere == {}


async def test_a_beat_is_one_round_trip(two):
    """Whatever there is to tell and to hear."""
    a, b = two
    before = a.store.round_trips
    a.part.here = {"gpu/m": (1, 2)}
    a.part.fresh.append(("gpu/m", (1, 2)))
    b.part.here = {"gpu/m": (1, 2)}
    await beats(b, a, a)

    assert a.store.round_trips == before + 2


async def test_one_that_is_alone_tells_nothing_but_that_it_lives(url):
    """The first that comes gets everything."""
    async with gateways(url, 1) as (a,):
        a.part.here = {"gpu/m": (1, 100)}
        a.part.fresh.append(("gpu/m", (1,)))
        await beats(a)
        assert a.last() == ((b"", b""), ([], []))
        assert await a.store.send(("EXISTS", key("row:a"))) == [0]
        b = Gateway(url, "b")
        await beats(b, a, a, b)

        assert b.part.elsewhere == {"gpu/m": (1, 100)}
        await b.peers.close()
        await b.store.close()
        await beats(a, a)
        assert a.part.elsewhere == {}
        assert await a.store.send(("EXISTS", key("row:a"))) == [0]


async def test_beats_become_rarer_as_gateways_become_more(url):
    """So that all together beat a hundred times a second at most; one that is alone waits longest."""
    async with gateways(url, 1, BEAT) as (a,):
        assert a.peers.every == ALONE
        for number in range(40):
            a.peers._rows.take(str(number), b"", whole=True)
            assert a.peers.every == max(BEAT, STEP * (number + 2))
            assert a.peers.count == number + 2


async def test_no_gateway_is_lost_for_a_moments_silence(url):
    """Three beats are 0.3 s, and a large body or a slow store takes longer."""
    async with gateways(url, 2, BEAT) as (a, b):
        b.part.here = {"gpu/m": (2, 20)}
        await beats(b, a)
        (left,) = await a.store.send(("ZSCORE", key("alive"), "b"))
        assert left - await store_time(a) > (PATIENCE - 1) * 1000
        a.peers._answered = 10.0
        a.peers._unanswered(10.0 + LOST * BEAT)
        assert a.part.elsewhere == {"gpu/m": (2, 20)}
        a.peers._unanswered(10.0 + PATIENCE)
        assert a.part.elsewhere == {}


async def test_a_gateway_that_is_silent_for_three_beats_is_not_counted_with(three):
    """Its calls may have died with it, and what it had told is no longer so."""
    a, b, c = three
    b.part.here = c.part.here = {"gpu/m": (2, 20)}
    await beats(b, c, a)
    (left,) = await a.store.send(("ZSCORE", key("alive"), "b"))
    assert 0 < left - await store_time(a) <= LOST * SLOW * 1000
    await silence(a, 1, b)
    await beats(a)

    assert a.part.elsewhere == {"gpu/m": (2, 20)}
    assert len(a.peers._rows) == 1


async def test_one_that_was_silent_tells_all_anew(two):
    """It was only slow; what it would tell as a change is no longer enough."""
    a, b = two
    b.part.here = {"gpu/m": (1, 10), "gpu/n": (1, 10)}
    await beats(b, a)
    await silence(a, 1, b)
    await beats(a)
    assert a.part.elsewhere == {}
    b.part.here["gpu/n"] = (2, 20)
    await beats(b, a)

    assert a.part.elsewhere == {"gpu/m": (1, 10), "gpu/n": (2, 20)}


async def test_what_a_lost_gateway_left_is_removed(two):
    """By whoever beats then, half a minute later."""
    a, b = two
    b.part.here = {"gpu/m": (1, 10)}
    await beats(b, a)
    await silence(a, 29_000, b)
    await beats(a)
    assert await a.store.send(("EXISTS", key("row:b"))) == [1]
    await silence(a, 31_000, b)
    await beats(a)

    assert await a.store.send(("EXISTS", key("row:b")), ("ZRANGE", key("alive"), 0, -1)) == [0, [b"a"]]
    assert a.part.elsewhere == {}


async def test_one_that_ends_is_gone_at_once(two):
    """With the next beat of each of the others."""
    a, b = two
    b.part.here = {"gpu/m": (1, 10)}
    await beats(b, a)
    await b.peers.close()
    await beats(a)

    assert a.part.elsewhere == {}
    assert await a.store.send(("EXISTS", key("row:b"))) == [0]


async def test_a_gateway_without_the_store_counts_with_nobody_after_three_beats(tmp_path):
    """What it knew is too old; when the store is back, empty, everybody is there again."""
    async with stores.one(tmp_path) as server, gateways(server.url, 2) as (a, b):
        a.part.here = b.part.here = {"gpu/m": (1, 10)}
        await beats(a, b, a)
        server.kill()
        await a.beat(2.9 * SLOW)
        assert a.part.elsewhere == {"gpu/m": (1, 10)}
        await beats(a, b, now=3.0 * SLOW)
        assert a.part.elsewhere == b.part.elsewhere == {}
        await server.start()
        await come(lambda: not a.store.down and not b.store.down)
        await beats(a, b, a, b, a, b, now=4.0 * SLOW)

        assert a.part.elsewhere == b.part.elsewhere == {"gpu/m": (1, 10)}


@pytest.mark.parametrize("lost", [("FLUSHALL",), ("DEL", key("changes")), ("XTRIM", key("changes"), "MAXLEN", 0)])
async def test_what_the_store_has_lost_is_told_and_read_again(three, lost):
    """Within three beats: a failover to a replica that was behind, a stream that was cut past what we had read."""
    a, b, c = three
    for number, gateway in enumerate(three, 1):
        gateway.part.here = {"gpu/m": (number, 0)}
    await beats(a, b, c, a, b)
    await a.store.send(lost, ("SCRIPT", "FLUSH"))
    await beats(a, b, c, a, b, c, a, b, c)

    assert [one.part.elsewhere for one in three] == [{"gpu/m": (5, 0)}, {"gpu/m": (4, 0)}, {"gpu/m": (3, 0)}]


async def test_a_row_of_another_version_is_not_there_and_hurts_nobody(two):
    """During an upgrade both run."""
    a, b = two
    b.part.here = {"gpu/m": (1, 10)}
    await beats(b)
    entry = ("gateway", "b", "kind", "some", "values", b"\xc1")
    await a.store.send(("XADD", key("changes"), "*", *entry), ("XADD", key("marks"), "*", "gateway", "b", "marks", "?"))
    await beats(a)

    assert a.part.elsewhere == {"gpu/m": (1, 10)}
    assert a.part.told == []


async def test_beginnings_are_heard_once_by_each_of_the_others(three):
    """Not by whoever told, and not again while they are believed."""
    a, b, c = three
    for _ in range(3):
        a.part.fresh.append(("gpu/m", (1, 2, 3)))
        await beats(a, b, c)
    assert [one.part.told for one in three] == [[], [("gpu/m", (1, 2, 3))], [("gpu/m", (1, 2, 3))]]
    a.part.fresh.append(("gpu/m", (1, 2, 3, 4)))
    await beats(a, b, now=1.0)
    assert b.part.told[1:] == [("gpu/m", (4,))]
    a.part.fresh.append(("gpu/m", (1, 2, 3, 4)))
    await beats(a, b, now=KEPT / 4)

    assert b.part.told[2:] == [("gpu/m", (1, 2, 3))]


async def test_a_newcomer_hears_what_was_told_lately(two, url):
    """And is told everything from then on: it has heard nothing of before."""
    a, b = two
    a.part.fresh.append(("gpu/m", (1, 2)))
    await beats(a, b)
    c = Gateway(url, "c")
    await beats(c, a)
    assert c.part.told == [("gpu/m", (1, 2))]
    a.part.fresh.append(("gpu/m", (1, 2)))
    await beats(a, c)

    assert c.part.told[1:] == [("gpu/m", (1, 2))]
    await c.peers.close()
    await c.store.close()


async def test_one_that_is_back_is_told_nothing_twice(two):
    """It has heard it; only who was never here has not."""
    a, b = two
    a.part.fresh.append(("gpu/m", (1, 2)))
    await beats(a, b)
    await silence(a, 1, b)
    await beats(a, b, a)
    a.part.fresh.append(("gpu/m", (1, 2, 3)))
    await beats(a, b)

    assert b.part.told == [("gpu/m", (1, 2)), ("gpu/m", (3,))]
    for number in range(MET + 1):
        a.peers._meet(str(number))
    assert len(a.peers._met) == MET


async def test_breakers_are_looked_at_no_more_often_for_more_deployments(two):
    """A thousand loads that change in a beat would else hold up every call."""
    a, b = two
    looks = []
    for many in (1, 1000):
        b.part.here = {f"gpu/m{number}": (many, 0) for number in range(many)}
        await beats(b)
        before = a.part.looks
        await beats(a)
        looks.append(a.part.looks - before)

    assert looks[0] == looks[1]
    for _ in range(THRESHOLD):
        b.part.breaker.failed(0.0, probe=False)
    before = a.part.looks
    await beats(b, a)
    assert a.part.looks - before == looks[0] + 1


async def test_a_flood_of_beginnings_costs_the_store_a_bounded_number_of_bytes(three):
    """A hundred prompts of a hundred marks each a beat: each tells its part, and nobody reads more than 32 KB."""
    for number in range(20):
        for which, gateway in enumerate(three):
            begins = random.Random(number * 3 + which).randrange(2**31)
            gateway.part.fresh.extend(
                ("gpu/m", tuple(range(begins + at, begins + at + 100))) for at in range(0, 10**4, 100)
            )
            await gateway.beat()
            (_, marks), (_, heard) = gateway.last()
            assert len(marks) < 7000
            assert sum(map(len, heard)) <= 32768
    (length,) = await three[0].store.send(("XLEN", key("marks")))
    assert length <= 400


EACH = 2.0
"""Seconds between two beats as the scenes below play them; the store, whose time is real, sees no silence of three."""


class Scene:
    """Gateways whose upstream is ill: they beat in turn, and those of `calling` have a call at every moment."""

    def __init__(self, gateways, calling):
        self.gateways = gateways
        self.calling = calling
        self.now = 0.0
        self.probes = []
        self.most = 0
        self._under_way = {}

    def opened(self, moments):
        """Let each gateway find out by itself."""
        for gateway, moment in zip(self.gateways, moments, strict=True):
            for _ in range(THRESHOLD):
                gateway.part.breaker.failed(moment, probe=False)

    async def play(self, until, well=False):
        """Go on to that moment; `well`: how probes end, one beat after they began."""
        while self.now < until:
            for gateway in self.gateways:
                self.now += EACH / len(self.gateways)
                await gateway.beat(self.now)
                self._end(well)
                for one in self.calling:
                    if one.part.breaker.state is not State.CLOSED and one.part.breaker.sent(self.now):
                        self._under_way[one] = self.now
                        self.probes.append(one.name)
                self.most = max(self.most, len(self._under_way))

    def _end(self, well):
        for one, begun in list(self._under_way.items()):
            if self.now - begun >= EACH:
                del self._under_way[one]
                if well:
                    one.part.breaker.succeeded(self.now)
                else:
                    one.part.breaker.failed(self.now, probe=True)


async def test_one_probe_at_a_time_among_all_gateways(url):
    """However far apart they found out: at each pause's end the same one asks for all, and its answer is all's."""
    async with gateways(url, 3, EACH) as three:
        scene = Scene(three, three)
        scene.opened((0.0, 0.7, 1.9))
        await scene.play(200.0)
        (owner,) = set(scene.probes)

        assert len(scene.probes) == 4  # after 10, 20, 40 and 80 seconds
        assert scene.most == 1
        await scene.play(400.0, well=True)
        assert scene.probes[4] == owner
        assert sorted(scene.probes[4:]) == ["a", "b", "c"]
        assert {one.part.breaker.state for one in three} == {State.CLOSED}


async def test_another_gateway_probes_where_the_first_has_no_call(url):
    """It waits for its turn, and no longer."""
    async with gateways(url, 3, EACH) as three:
        scene = Scene(three, ())
        scene.opened((0.0, 0.0, 0.0))
        await scene.play(4 * EACH)
        _, second, third = sorted(three, key=lambda one: one.part.breaker.turn)
        assert [one.part.breaker.turn for one in (second, third)] == [TURN * EACH, 2 * TURN * EACH]
        scene.calling = (second, third)
        await scene.play(20.0 + TURN * EACH, well=True)

        assert scene.probes[0] == second.name
        assert scene.most == 1


async def test_turns_follow_who_lives(three):
    """Whose turn it was may be gone; many gateways do not make the last of them wait for ever."""
    for gateway in three:
        for _ in range(THRESHOLD):
            gateway.part.breaker.failed(0.0, probe=False)
    await beats(*three)
    first, second, third = sorted(three, key=lambda one: one.part.breaker.turn)
    assert [one.part.breaker.turn for one in (first, second, third)] == [0.0, MOST_TURN, MOST_TURN]
    await first.peers.close()
    await beats(second, third)

    assert 0.0 in (second.part.breaker.turn, third.part.breaker.turn)


async def test_gateways_that_run_find_one_another(url):
    """By themselves, and over fleets as they are."""
    fleets = [Fleet(), Fleet()]
    calls = {"gpu/m": (1, 10)}
    fleets[0].loads = lambda: calls
    heard = asyncio.Event()
    fleets[1].others = lambda elsewhere: heard.set() if "gpu/m" in elsewhere else None
    them = [Gateway(url, name, 0.01) for name in "ab"]
    for gateway, fleet in zip(them, fleets, strict=True):
        gateway.peers = Peers(gateway.store, fleet, gateway.name, beat=0.01)
        gateway.peers.start()
    await asyncio.wait_for(heard.wait(), 20)

    for gateway in them:
        await gateway.peers.close()
        await gateway.store.close()


async def test_a_beat_that_fails_is_logged_and_is_no_answer(two, monkeypatch):
    """Else this gateway would count for good with what it knew last."""
    a, b = two
    b.part.here = {"gpu/m": (1, 10)}
    await beats(b, a)
    assert a.part.elsewhere == {"gpu/m": (1, 10)}
    a.part.loads = lambda: 1 / 0
    monkeypatch.setattr(clock, "monotonic", lambda: LOST * SLOW)
    with structlog.testing.capture_logs() as told:
        a.peers.start()
        await come(lambda: told)

    assert [entry["event"] for entry in told] == ["a beat failed"]
    assert a.part.elsewhere == {}
    assert not a.peers._task.done()


async def test_a_beat_that_always_fails_is_logged_once_for_each_fault(two):
    """Not once a second."""
    a, _ = two
    faults = [RuntimeError("x"), RuntimeError("x"), KeyError("y"), RuntimeError("x")]
    with structlog.testing.capture_logs() as told:
        for fault in faults:
            a.peers._tell(fault)

    assert [repr(entry["exc_info"]) for entry in told] == [repr(fault) for fault in faults[1:]]
