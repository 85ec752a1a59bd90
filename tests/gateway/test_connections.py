import asyncio
import contextlib
import resource
from ipaddress import ip_network

import pytest
import structlog

from gateway import connections, wire
from gateway.config.settings import Limits
from gateway.connections import FEWEST, RESERVE, Connections, affordable
from policies.rejections import Reason
from tests.gateway.harness import eventually
from tests.gateway.wires import world


class Guest:
    def __init__(self, since=None):
        self.since, self.evicted = since, False

    def idle_since(self):
        return self.since

    def evict(self):
        self.evicted = True
        self.since = None


@pytest.fixture
def now(monkeypatch):
    """Stop the clock; a list whose one item is the time."""
    time = [1000.0]
    monkeypatch.setattr(connections.clock, "monotonic", lambda: time[0])
    return time


def test_as_many_as_allowed_are_taken_and_the_next_is_refused():
    """With the reason told, in words and as a label."""
    told = []
    house = Connections(2, told=told.append)
    guests = [Guest() for _ in range(3)]

    assert [house.enter(guest, "::1") is None for guest in guests] == [True, True, False]
    assert house.enter(guests[2], "::1").reason is Reason.OVERLOADED
    assert told == ["full", "full"]
    house.leave(guests[0])
    house.leave(guests[2])
    assert len(house) == 1
    assert house.enter(guests[0], "::1") is None


def test_the_longest_idle_makes_room_first():
    """And nobody who is busy does."""
    house = Connections(4)
    guests = [Guest(5.0), Guest(), Guest(3.0), Guest(4.0)]
    for guest in guests:
        house.enter(guest, "::1")

    newcomers = [Guest() for _ in range(4)]
    taken = [house.enter(newcomers[0], "::1") is None]
    assert [guest.evicted for guest in guests] == [False, False, True, False]
    taken += [house.enter(guest, "::1") is None for guest in newcomers[1:]]

    assert taken == [True, True, True, False]
    assert not guests[1].evicted
    assert len(house) == 4


def test_who_became_busy_since_the_last_look_is_not_evicted(now):
    """A look is not made for every newcomer, so it may be old."""
    house = Connections(3)
    guests = [Guest(1.0), Guest(2.0), Guest(3.0)]
    for guest in guests:
        house.enter(guest, "::1")
    house.enter(Guest(), "::1")
    guests[1].since = None
    guests[2].since = 9.0  # it has served, and is idle anew

    assert house.enter(Guest(), "::1") is not None
    now[0] += connections.LOOK_EVERY
    assert house.enter(Guest(), "::1") is None
    assert [guest.evicted for guest in guests] == [True, False, True]


def test_a_full_house_is_not_searched_for_every_newcomer(now):
    """A flood would make us look at everybody for each of its connections."""
    house = Connections(1)
    looks = []
    busy = Guest()
    busy.idle_since = lambda: looks.append(1)
    house.enter(busy, "::1")
    for _ in range(100):
        house.enter(Guest(), "::1")

    assert len(looks) == 1


def test_no_more_are_kept_to_be_told_than_there_is_room_for():
    """The rest are closed without a word."""
    house = Connections(0)
    guests = [Guest() for _ in range(connections.TOLD + 1)]
    for guest in guests:
        assert house.enter(guest, "::1") is not None

    assert [house.holds(guest) for guest in guests] == [True] * connections.TOLD + [False]
    house.leave(guests[0])
    assert not house.holds(guests[0])


def test_one_address_may_not_take_all_but_a_proxy_speaks_for_many():
    """Its own idle connections make room first."""
    told = []
    house = Connections(100, 2, (ip_network("10.0.0.0/8"),), told.append)
    idle, busy, other = Guest(1.0), Guest(), Guest()

    assert house.enter(idle, "192.0.2.1") is None
    assert house.enter(busy, "192.0.2.1") is None
    assert house.enter(other, "192.0.2.1") is None
    assert idle.evicted
    assert house.enter(Guest(), "192.0.2.1") is not None
    assert house.enter(Guest(), "192.0.2.2") is None
    assert all(house.enter(Guest(), "10.0.0.1") is None for _ in range(5))
    assert told == ["address"]
    for guest in (busy, other):
        house.leave(guest)
    assert house.enter(Guest(), "192.0.2.1") is None


@pytest.mark.parametrize(
    ("hard", "open_calls", "most"),
    [
        (100_000, 20_000, 25_000),
        (45_511, 20_000, 24_999),
        (20_512, 20_000, 10_000),
        (20_512, 1_000, 19_000),
        (RESERVE, 20_000, FEWEST),
        (resource.RLIM_INFINITY, 20_000, 25_000),
    ],
)
def test_connections_leave_file_descriptors_for_their_upstreams(monkeypatch, hard, open_calls, most):
    """All of the hard limit is asked for first."""
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))

    assert affordable(25_000, open_calls) == most
    assert asked == [(hard, hard)]


@pytest.mark.parametrize(("wanted", "level"), [(Limits().connections, "info"), (20_000, "warning")])
def test_only_who_has_set_a_number_is_warned_that_it_cannot_be_had(monkeypatch, wanted, level):
    """Nobody asked for the one that holds by itself, and every worker would say so at every start."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with structlog.testing.capture_logs() as told:
        most = affordable(wanted, 20_000)

    (entry,) = told
    assert (entry["log_level"], entry["wanted"], entry["connections"]) == (level, wanted, most)


def test_a_system_that_gives_no_more_file_descriptors_is_taken_as_it_is(monkeypatch):
    """As macOS, which tells a hard limit that it does not grant."""

    def refuse(*_):
        raise ValueError

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)

    assert affordable(25_000, 20_000) == (1024 - RESERVE) // 2


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_twice_as_many_silent_callers_as_there_is_room_lock_nobody_out_for_longer_than_a_head_may_take(
    pair, monkeypatch, tls
):
    """Whoever says nothing is gone by then, and its place is free."""
    affordable(25_000, 0)
    limit = 100 if tls else 1000
    monkeypatch.setattr(wire, "HEAD_DEADLINE", 2.0)
    async with world(house=Connections(limit), pair=pair if tls else None) as it, contextlib.AsyncExitStack() as stack:
        for _ in range(2 * limit):
            _, writer = await asyncio.open_connection("127.0.0.1", it.port)
            stack.callback(writer.close)
        assert len(it.house) <= limit

        async def served():
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with it.caller() as caller:
                    await caller.send(b"GET / HTTP/1.1\r\n\r\n")
                    return (await caller.answer())[0] == 200
            return False

        async with asyncio.timeout(10 * wire.HEAD_DEADLINE):
            while not await served():  # noqa: ASYNC110 - it asks, as a caller would
                await asyncio.sleep(0.05)
        assert await eventually(lambda: len(it.house) <= 1)


def test_other_bounds_hold_for_whoever_comes_and_nobody_is_thrown_out():
    """Of those who came while one address might hold any number nobody knows how many it holds."""
    house = Connections(3)
    guests = [Guest() for _ in range(6)]
    assert [house.enter(guest, "::1") is None for guest in guests[:3]] == [True] * 3
    house.bound(2, None)
    assert (len(house), house.enter(guests[3], "::1") is None) == (3, False)
    house.bound(9, 1)
    assert [house.enter(guest, "::1") is None for guest in guests[3:5]] == [True, False]
    house.bound(9, 2)
    assert house.enter(guests[5], "::1") is None
    for guest in guests:
        house.leave(guest)
    assert len(house) == 0
