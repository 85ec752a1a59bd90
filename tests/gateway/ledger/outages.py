"""A store that is stopped and killed under ledgers that serve without it, and what the books must say then."""

import asyncio
import random
from contextlib import asynccontextmanager, suppress

import pytest
from redis.asyncio import Redis

from gateway.ledger import Ledger
from gateway.store.door import Store, StoreDown
from policies.domain import Level, Reservation
from tests.contract.conftest import Restartable
from tests.contract.support import (
    BUDGET,
    DAILY,
    IDS,
    IN_ALL,
    REQUESTS,
    SLOTS,
    bill,
    claim,
    differences,
    meter,
    settled,
    until,
    usage,
)
from tests.parts import stores

QUICK = {"heartbeat": 0.1, "lost_after": 1.0}


def local(kind, *meters, stance="local"):
    return Level(kind, IDS[kind], meters, when_down=stance)


WIDE = claim(
    local("organization", meter(SLOTS, 1000), meter(IN_ALL, 10**6)),
    local("key", meter(REQUESTS, 60_000), meter(DAILY, 10**6), meter(BUDGET, 10**9)),
    money=50,
)


class Books(Restartable):
    """A store that can be stopped, killed and started again."""

    def pause(self):
        self._process.pause()

    def resume(self):
        self._process.go_on()

    async def start(self):
        await self._process.start()


@asynccontextmanager
async def store(folder):
    """Run a store; yield `Books`."""
    async with (
        stores.one(folder / "store", appendonly="yes") as process,
        Redis(port=process.port, protocol=3) as redis,
    ):
        yield Books(process, redis)


@asynccontextmanager
async def ledgers(books, folder):
    """Yield what starts ledgers with a journal in `folder`; all are closed at the end."""
    opened = []

    async def started(name="a1", **options):
        ledger = Ledger(Store(books.url), name, **(QUICK | {"journal": folder / "journal"} | options))
        ledger.store = ledger._store
        opened.append(ledger)
        await ledger.start()
        return ledger

    try:
        yield started
    finally:
        books.resume()
        for ledger in opened:
            await ended(ledger)


async def ended(ledger, *, settle=True):
    """Close a ledger, or (`settle` false) leave everything as a killed process would."""
    if ledger._beating is not None:
        ledger._beating.cancel()
    if settle:
        await ledger.close()
    else:
        for timer in (ledger._batches._retry, ledger._batches._lingering):
            if timer is not None:
                timer.cancel()
        await ledger._local._journal.flushed()
        await ledger._local.close()
    await ledger.store.close()


async def touch(asked, *ledgers):
    """Let every ledger have served one such call, and know of all the others."""
    for ledger in ledgers:
        ledger.settle(await ledger.admit(asked), bill(0, 0))
    await settled(*ledgers)

    async def all_are_known():
        return all(
            not ledger._local or ledger._local._frozen[asked.organization].live == len(ledgers) for ledger in ledgers
        )

    await until(all_are_known)


async def gone(books, *ledgers):
    """Stop the store and wait until everybody knows."""
    books.pause()
    for ledger in ledgers:
        with pytest.raises(StoreDown):
            await ledger.store.send(["PING"])


async def back(books, *ledgers):
    books.resume()

    async def everybody_is_back():
        return all(ledger.store.down is None for ledger in ledgers)

    await until(everybody_is_back)


async def admitted(ledger, asked, times):
    """Ask so often, one after the other; return the reservations."""
    answers = [await ledger.admit(asked) for _ in range(times)]
    return [answer for answer in answers if isinstance(answer, Reservation)]


class Callers:
    """Callers over several gateways whose store comes and goes, and what it must know of them in the end."""

    def __init__(self, ledgers, seed):
        self._ledgers = ledgers
        self._dice = random.Random(seed)
        self._running = []
        self.booked = {}
        self.failed = 0

    async def work(self, calls, *, keep=0.4):
        await asyncio.gather(*(self._call(keep) for _ in range(calls)))

    async def _call(self, keep):
        ledger = self._dice.choice(self._ledgers)
        await asyncio.sleep(self._dice.random() * 0.05)
        try:
            one = await ledger.admit(WIDE)
        except StoreDown:
            self.failed += 1
            return
        assert isinstance(one, Reservation)
        if self._dice.random() < keep:
            self._running.append((ledger, one))
            return
        await asyncio.sleep(self._dice.random() * 0.05)
        if self._dice.random() < 0.3:
            with suppress(StoreDown):  # a stream goes on without
                await ledger.grow(one, 5, 5)
        self._end(ledger, one)

    def end_half(self):
        self._dice.shuffle(self._running)
        half, self._running = self._running[::2], self._running[1::2]
        for one in half:
            self._end(*one)

    async def finish(self):
        while self._running:
            self.end_half()
        await settled(*self._ledgers)

    def _end(self, ledger, one):
        self.booked[one.id] = 4, self._dice.randrange(50), self._dice.randrange(100)
        ledger.settle(one, bill(*self.booked[one.id]))


async def assert_booked_once(books, ledger, did, *, before=0):
    """Compare the store with what callers did; `before`: calls that used nothing."""
    records = {record.head.id: record for record in await books.records()}
    assert len(records) == len(await books.records())
    told = {id_: (one.head.input, one.head.output, one.head.money) for id_, one in records.items()}
    missing = {id_: used for id_, used in did.booked.items() if told.get(id_) != used}
    assert missing == {}
    assert len(told) == len(did.booked) + before
    tokens = sum(prompt + completion for prompt, completion, _ in did.booked.values())
    money = sum(one[2] for one in did.booked.values())
    assert await books.reservations() == {}
    assert await books.slots("org") == 0
    assert await books.used("org", IN_ALL) == tokens
    assert await books.used("key:k1", DAILY) == tokens
    assert await books.used("key:k1", BUDGET) == money
    (total,) = (await usage(ledger)).values()
    assert (total.calls, total.input + total.output, total.money) == (len(told), tokens, money)
    assert await differences(ledger) == []


async def back_again(*ledgers):
    async def everybody_is_back():
        return all(ledger.store.down is None for ledger in ledgers)

    await until(everybody_is_back)


async def storming(did, rounds):
    for _ in range(rounds):
        await did.work(20)
