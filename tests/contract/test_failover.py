"""A store that is silent, or comes back without its last second: nothing is lost, and nothing counts twice."""

import asyncio
import random

import pytest

from gateway.ledger.records import Amounts, What
from gateway.store.door import StoreDown
from policies.domain import MeterKind, Reservation
from policies.meters import SORTS
from tests.contract.support import (
    BUDGET,
    IN_ALL,
    MONTHLY,
    REQUESTS,
    SLOTS,
    USD,
    bill,
    claim,
    differences,
    level,
    meter,
    settled,
    until,
    usage,
)

HOURLY = MeterKind.REQUESTS_PER_HOUR


async def test_settlements_made_while_the_store_is_stopped_are_booked_once_on_its_return(server, gateway):
    ledger = await gateway()
    asked = claim(level("key", meter(SLOTS, 50), meter(REQUESTS, 600), meter(IN_ALL, 1000)))
    reservations = [await ledger.admit(asked) for _ in range(40)]

    server.pause()
    for reservation in reservations:
        ledger.settle(reservation, bill(4, 7))
    await asyncio.sleep(0.8)  # several deadlines: what was sent will be read late, and is sent again
    assert ledger.open_reservations == 40
    server.resume()
    await settled(ledger)

    assert await usage(ledger) == {("k1", "m"): Amounts(40, 160, 0, 280)}
    assert await server.slots("key:k1") == 0
    assert await server.used("key:k1", IN_ALL) == 440
    assert len(await server.records()) == 40


async def test_an_admission_that_the_store_answers_too_late_leaves_nothing_behind(server, gateway):
    ledger = await gateway(heartbeat=0.1, lost_after=0.5)
    asked = claim(level("key", meter(SLOTS, 50), meter(IN_ALL, 1000)))
    await ledger.admit(claim())

    server.pause()
    outcomes = await asyncio.gather(*(ledger.admit(asked) for _ in range(40)), return_exceptions=True)
    server.resume()

    assert all(isinstance(outcome, StoreDown) for outcome in outcomes)

    async def all_are_released():
        return len(await server.reservations()) == 1 and not await server.slots("key:k1")

    await until(all_are_released)
    assert await server.used("key:k1", IN_ALL) == 0
    assert await usage(ledger) == {}


async def test_callers_behind_a_silent_store_are_all_told_within_one_deadline(server, gateway):
    ledger = await gateway()
    loop = asyncio.get_running_loop()
    server.pause()
    start = loop.time()

    outcomes = await asyncio.gather(*(ledger.admit(claim()) for _ in range(500)), return_exceptions=True)

    assert all(isinstance(outcome, StoreDown) for outcome in outcomes)
    assert loop.time() - start < 2.0


class Callers:
    """Callers over several gateways, and what the store must know of them."""

    def __init__(self, ledgers, seed):
        self._ledgers = ledgers
        self._dice = random.Random(seed)
        self.asked = claim(
            level("organization", meter(SLOTS, 1000), meter(BUDGET, 1000 * USD)),
            level("team", meter(MONTHLY, 10**6), meter(IN_ALL, 10**6, model="m")),
            level("key", meter(IN_ALL, 10**6), meter(HOURLY, 3600, 1000)),
            money=50,
        )
        self.running = []  # [ledger, reservation, output, money]
        self.booked = {}  # id -> (input, output, money)

    async def work(self, calls):
        """Admit so many calls, and let some of all that run grow and some end."""
        await asyncio.gather(*(self.admit(self._dice.choice(self._ledgers)) for _ in range(calls)))
        await asyncio.gather(*(self.grow(one) for one in self.running if self._dice.random() < 0.4))
        for one in [one for one in self.running if self._dice.random() < 0.5]:
            self.end(one)
        await settled(*self._ledgers, left=len(self.running))

    async def finish(self):
        for one in list(self.running):
            self.end(one)
        await settled(*self._ledgers)

    async def admit(self, ledger):
        reservation = await ledger.admit(self.asked)
        assert isinstance(reservation, Reservation)
        self.running.append([ledger, reservation, 6, 50])

    async def grow(self, one):
        ledger, reservation, *_ = one
        tokens, money = self._dice.randrange(1, 50), self._dice.randrange(50)
        assert await ledger.grow(reservation, tokens, money) is None
        one[2:] = one[2] + tokens, one[3] + money

    def end(self, one):
        self.running.remove(one)
        ledger, reservation, *_ = one
        self.booked[reservation.id] = 4, self._dice.randrange(100), self._dice.randrange(100)
        ledger.settle(reservation, bill(*self.booked[reservation.id]))


async def assert_equal(books, ledger, did):
    """Compare the store with what callers did."""
    held = {id_: head[:3] for id_, head in (await books.reservations()).items()}
    assert held == {one.id: [4, output, money] for _, one, output, money in did.running}
    records = await books.records()
    assert [record.head.what for record in records] == [What.SETTLED] * len(records)
    told = {record.head.id: (record.head.input, record.head.output, record.head.money) for record in records}
    assert len(told) == len(records)
    assert told == did.booked
    tokens = sum(head[0] + head[1] for head in [*held.values(), *did.booked.values()])
    money = sum(head[2] for head in [*held.values(), *did.booked.values()])
    assert await books.used("org", BUDGET) == money
    assert await books.used("team:t1", MONTHLY) == await books.used("team:t1", f"{IN_ALL}|m") == tokens
    assert await books.used("key:k1", IN_ALL) == tokens
    assert await books.slots("org") == len(did.running)
    (total,) = (await usage(ledger)).values()
    sums = [sum(column) for column in zip(*did.booked.values(), strict=True)]
    assert total == Amounts(len(did.booked), sums[0], 0, sums[1], 0, sums[2])
    assert await differences(ledger) == []


async def hourly(books):
    """Return how many requests a meter that gives one back each second knows of, rounded up."""
    return -(-await books.used("key:k1", HOURLY) // SORTS[HOURLY].ticks)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lost", ["nothing", "the last second", "everything of the call's organization"])
async def test_a_store_that_was_killed_gets_back_what_it_lost(restartable, healing, lost, seed):
    """Both gateways notice that it is gone."""
    start = await restartable.now()
    ledgers = [await healing(name, heartbeat=0.1, lost_after=15.0) for name in ("g1", "g2")]
    size = restartable.written()
    did = Callers(ledgers, seed)
    await did.work(40)
    if lost == "the last second":
        size = restartable.written()
    await did.work(40)
    if lost == "nothing":
        size = restartable.written()

    restartable.kill()
    for ledger in ledgers:
        with pytest.raises(StoreDown):
            await ledger.admit(did.asked)
    await restartable.start_with(size)

    async def both_have_told_again():
        return all(ledger.figures.repeated for ledger in ledgers)

    await until(both_have_told_again)
    await settled(*ledgers, left=len(did.running))
    await assert_equal(restartable, ledgers[0], did)
    elapsed = (await restartable.now() - start) / 1_000_000
    assert 80 - elapsed <= await hourly(restartable) <= 80
    await did.work(20)
    await assert_equal(restartable, ledgers[0], did)
    await did.finish()
    await assert_equal(restartable, ledgers[1], did)
    assert [ledger.figures.lost for ledger in ledgers] == [0, 0]


async def patiently(call, *arguments):
    """Repeat a call that is told that the store is away: nothing of it counts."""
    while True:
        try:
            return await call(*arguments)
        except StoreDown:
            await asyncio.sleep(0.02)


FIRST = [{"admission"}, {"growth"}, {"settlement"}, {"settlement", "growth", "admission"}]


@pytest.mark.parametrize("first", FIRST, ids=["admission", "growth", "settlement", "all of them"])
async def test_a_store_that_was_restarted_between_two_calls_gets_back_what_it_lost(restartable, healing, first):
    """Whatever call comes next, what came before it is told before it: else its number would shut out theirs."""
    ledgers = [await healing(name, heartbeat=60.0) for name in ("g1", "g2")]
    did = Callers(ledgers, seed=1)
    await did.work(40)
    size = restartable.written()
    await did.work(40)

    restartable.kill()
    await restartable.start_with(size)
    for ledger in ledgers:
        ended, growing = [one for one in did.running if one[0] is ledger][-2:]
        calls = []
        if "settlement" in first:
            did.end(ended)
        if "growth" in first:
            calls.append(patiently(did.grow, growing))
        if "admission" in first:
            calls.append(patiently(did.admit, ledger))
        await asyncio.gather(*calls)
    await settled(*ledgers, left=len(did.running))

    assert all(ledger.figures.repeated for ledger in ledgers)
    await assert_equal(restartable, ledgers[0], did)
    await did.finish()
    await assert_equal(restartable, ledgers[0], did)
    assert [ledger.figures.lost for ledger in ledgers] == [0, 0]


async def test_endings_alone_that_were_lost_between_two_calls_are_told_again_by_a_heartbeat(restartable, healing):
    """No number tells that they are gone: whoever is behind the address is looked at soon after."""
    ledgers = [await healing(name, heartbeat=0.3, lost_after=15.0) for name in ("g1", "g2")]
    did = Callers(ledgers, seed=2)
    await did.work(60)
    size = restartable.written()
    for one in did.running[::2]:
        did.end(one)
    await settled(*ledgers, left=len(did.running))

    restartable.kill()
    await restartable.start_with(size)
    await asyncio.gather(*(patiently(did.admit, ledger) for ledger in ledgers))

    async def both_have_told_again():
        return all(ledger.figures.repeated for ledger in ledgers)

    await until(both_have_told_again)
    await settled(*ledgers, left=len(did.running))
    await assert_equal(restartable, ledgers[0], did)


async def test_limits_hold_while_a_store_gets_back_what_it_lost(restartable, healing):
    """A limit that was used up by what the store lost is used up when it is asked next."""
    ledgers = [await healing(name, heartbeat=0.1, lost_after=15.0) for name in ("g1", "g2")]
    asked = claim(level("key", meter(SLOTS, 10), meter(BUDGET, 100)), money=10)
    await ledgers[0].admit(claim())
    size = restartable.written()
    held = [await ledgers[number % 2].admit(asked) for number in range(10)]
    assert all(isinstance(one, Reservation) for one in held)

    restartable.kill()
    for ledger in ledgers:
        with pytest.raises(StoreDown):
            await ledger.admit(asked)
    await restartable.start_with(size)

    async def both_have_told_again():
        return all(ledger.figures.repeated for ledger in ledgers)

    await until(both_have_told_again)
    assert [(await ledger.admit(asked)).meter for ledger in ledgers] == [BUDGET.value] * 2
    assert await restartable.slots("key:k1") == 10
    assert await restartable.used("key:k1", BUDGET) == 100


async def test_what_is_older_than_the_ring_and_lost_is_counted(restartable, healing, monkeypatch):
    """It cannot be told again: its settlement finds nothing, and says so."""
    ledger = await healing(heartbeat=0.1, lost_after=15.0)
    asked = claim(level("key", meter(SLOTS, 10), meter(IN_ALL, 1000)))
    await ledger.admit(claim())
    size = restartable.written()
    reservation = await ledger.admit(asked)
    monkeypatch.setattr("gateway.ledger.ring.STALE", 0.0)

    restartable.kill()
    with pytest.raises(StoreDown):
        await ledger.admit(asked)
    await restartable.start_with(size)
    await until(lambda: goes_on(ledger))
    ledger.settle(reservation, bill())
    await settled(ledger, left=1)

    assert ledger.figures.lost == 1
    assert await restartable.records() == []
    assert await restartable.used("key:k1", IN_ALL) == 0
    assert await differences(ledger) == []


async def goes_on(ledger):
    return ledger.store.down is None
