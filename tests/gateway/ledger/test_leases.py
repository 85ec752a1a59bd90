import asyncio
import itertools

import pytest

from gateway import clock
from gateway.ledger import wire
from gateway.ledger.batches import Batches
from gateway.ledger.contact import Contact
from gateway.ledger.holdings import Holdings, Open
from gateway.ledger.leases import Leases
from gateway.ledger.plans import Packed
from gateway.store.door import StoreDown
from policies.domain import Bill, Usage
from tests.gateway.ledger.support import ScriptedStore

PACKED = Packed(b"", (), {}, 0, 1)


class World:
    """One gateway's leases over a scripted store, at a time of the test's choosing."""

    def __init__(self):
        self.time = 100.0
        self.took = 0.0
        self.store = ScriptedStore()
        self.store.answer = self.answer
        self.replies = []
        self.released = []
        self.contact = Contact(gap=10.0)
        self.holdings = Holdings()
        self.batches = Batches(self.store, "me", self.contact)
        self.leases = Leases(
            self.holdings,
            self.batches,
            self.contact,
            lambda organization, id_: self.released.append((organization, id_)),
            every=5.0,
            lost_after=15.0,
        )

    def answer(self, body):
        self.time += self.took
        return self.replies.pop(0) if self.replies else [wire.DONE, False, [], 0, False]

    def told(self):
        """Return the arguments of the last call."""
        return self.store.commands[-1][0][8:]

    async def beat(self, *, calls=False, ids=(), reaped=0, more=False):
        """Let 5 seconds pass since the last, beat, and answer that; return the bodies of the beats that were sent.

        `took`, once for all: seconds that the answer was on its way.
        """
        self.time += 5 - self.took
        self.replies.append([wire.DONE, calls, list(ids), reaped, more])
        sent = len(self.store.flushes)
        self.leases._beat(self.time, self.holdings.all())
        await self.batches.drain(5)
        return [body for flush in self.store.flushes[sent:] for _, bodies in flush for body in bodies]


@pytest.fixture
async def world(monkeypatch):
    world = World()
    monkeypatch.setattr(clock, "monotonic", lambda: world.time)
    world.holdings.get("acme")
    return world


async def test_a_gateway_is_suspected_after_15_seconds_of_seen_silence_and_unbroken_contact(world):
    suspects = [(await world.beat(calls=["me", "1", "other", "7"]))[0][4] for _ in range(4)]

    assert suspects == [{}, {}, {}, {"me": "1", "other": "7"}]


async def test_an_answer_that_took_a_while_puts_no_loss_off_to_the_next_heartbeat(world):
    world.took = 0.2

    suspects = [(await world.beat(calls=["other", "7"]))[0][4] for _ in range(4)]

    assert suspects == [{}, {}, {}, {"other": "7"}]


async def test_a_silence_that_is_shorter_by_more_than_a_round_trip_makes_nobody_suspect(world):
    world.took = 0.3

    suspects = [(await world.beat(calls=["other", "7"]))[0][4] for _ in range(5)]

    assert suspects == [{}, {}, {}, {}, {"other": "7"}]


async def test_a_call_of_the_other_begins_its_silence_anew(world):
    suspects = [(await world.beat(calls=["other", last]))[0][4] for last in "7778888"]

    assert suspects == [{}, {}, {}, {"other": "7"}, {}, {}, {"other": "8"}]


async def test_a_break_in_contact_begins_every_silence_anew(world):
    for _ in range(3):
        await world.beat(calls=["other", "7"])
    world.contact.lost()

    suspects = [(await world.beat(calls=["other", "7"]))[0][4] for _ in range(4)]

    assert suspects == [{}, {}, {}, {"other": "7"}]


async def test_our_own_sleep_makes_nobody_suspect(world):
    await world.beat(calls=["other", "7"])
    world.time += 3600
    world.holdings.get("acme").touched = world.time

    suspects = [(await world.beat(calls=["other", "7"]))[0][4] for _ in range(4)]

    assert suspects == [{}, {}, {}, {"other": "7"}]


async def looking(world, *seen):
    """Beat, and be told the other's last call each time, or (False) nothing; return the suspects and the musts."""
    world.holdings.get("acme").open["a"] = Open(PACKED)
    beats = [(await world.beat(calls=last and ["other", last]))[0] for last in seen]
    return [beat[4] for beat in beats], [beat[5] for beat in beats]


async def test_whoever_has_looked_in_its_turn_looks_once_more(world):
    """Two beats later, when all that live have called."""
    _, musts = await looking(world, False, False, "7", False, "8", False, False, False)

    assert musts == [*[False] * 4, True, *[False] * 3]


async def test_where_every_beat_looks_that_is_enough(world):
    _, musts = await looking(world, *"12345678")

    assert musts == [False] * 8


async def test_one_that_has_not_called_between_two_looks_is_suspected_as_soon_as_if_every_beat_looked(world):
    suspects, musts = await looking(world, "7", False, "7", False, False)

    assert suspects == [{}, {}, {}, {"other": "7"}, {"other": "7"}]
    assert musts == [False, False, True, True, True]


async def test_one_that_has_called_between_two_looks_is_not_suspected_however_long_nobody_looks(world):
    suspects, _ = await looking(world, "7", False, "8", *[False] * 9)

    assert suspects == [{}] * 12


async def test_what_is_unknown_twice_in_a_row_is_released(world):
    holding = world.holdings.get("acme")
    holding.open["mine"] = Open(PACKED)
    holding.settling.add("ending")

    await world.beat(ids=["mine", "ending", "a", "b"])
    assert world.released == []
    await world.beat(ids=["mine", "b", "c"])
    assert world.released == [("acme", "b")]
    await world.beat(ids=["a"])
    assert world.released == [("acme", "b")]


async def test_a_beat_tells_what_is_known_and_what_was_counted(world):
    holding = world.holdings.get("acme")
    holding.open = {"a": Open(PACKED), "b": Open(PACKED)}
    holding.settling.add("c")
    bill = Bill(Usage(3, 4, estimated=True), money=7, deployment="a/m")
    holding.open["a"].so_far = lambda: bill

    (beat,) = await world.beat()

    assert beat == list(wire.heartbeat(5, 3, 15_000_000, {}, must_look=False))
    assert world.told() == [wire.pack_counts({"a": bill})]


async def test_where_nothing_is_counted_nothing_is_told_but_once_that_nothing_is_left(world):
    holding = world.holdings.get("acme")
    bill = Bill(Usage(3, 4, estimated=True), money=7, deployment="a/m")
    told = []
    for bills in (False, True, False, False):
        holding.open = {"a": Open(PACKED)}
        if bills:
            holding.open["a"].so_far = lambda: bill
        (beat,) = await world.beat()
        told.append((beat[1], world.told()))

    assert told == [(False, []), (5, [wire.pack_counts({"a": bill})]), (5, [wire.pack_counts({})]), (False, [])]


async def test_that_nothing_is_left_is_told_until_it_has_arrived(world):
    """A beat whose answer was lost may have told something."""
    holding = world.holdings.get("acme")
    holding.open = {"a": Open(PACKED)}
    holding.open["a"].so_far = lambda: Bill(Usage(3, 4, estimated=True))
    told = []
    for _ in range(3):
        world.store.failures = [StoreDown("away")] if len(told) < 2 else []
        await world.beat()
        told.append(world.told())
        holding.open.clear()

    assert told[1:] == [[wire.pack_counts({})]] * 2


async def test_a_large_estate_is_reaped_without_waiting_for_the_next_beat(world):
    world.replies.append([wire.DONE, [], [], 500, True])

    beats = await world.beat(reaped=3)

    assert len(beats) == 2
    assert world.leases.reaped == 503


async def test_an_estate_that_cannot_be_reaped_is_left_to_the_next_beat(world):
    assert len(await world.beat(reaped=0, more=True)) == 1


async def test_an_organization_is_beaten_for_while_it_is_open_and_a_minute_after_its_last_call(world):
    held = world.holdings.get("held")
    held.open["a"] = Open(PACKED)

    organizations = []
    for _ in range(14):
        await world.beat()
        organizations.append([stem for stem, _ in world.store.flushes[-1]])

    assert organizations[10] == ["sw:{acme}", "sw:{held}"]
    assert organizations[12] == ["sw:{held}"]
    assert world.holdings.all() == [held]


async def test_a_beat_that_is_lost_is_not_repeated(world):
    world.store.down = "away"
    world.leases._beat(world.time, world.holdings.all())

    world.store.come_back()
    await world.batches.drain(5)

    assert world.store.flushes == []


async def test_the_heartbeat_goes_on_by_itself_until_it_is_cancelled(world):
    world.leases._every = 0.01
    ticks = itertools.count(100)
    world.store.answer = lambda body: [wire.DONE, ["other", str(next(ticks))], [], 0, False]
    beating = clock.spawn(world.leases.run(), "beats")
    while len(world.store.flushes) < 3:  # noqa: ASYNC110 - it is the beat that is waited for
        await asyncio.sleep(0.01)

    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)

    assert beating.cancelled()
