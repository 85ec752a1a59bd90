"""Many callers, many changes, connections that break: nobody is ever judged by what was replaced a second ago."""

import asyncio
import contextlib
import itertools
import random

from msgspec.structs import replace

from gateway import clock
from gateway.identity.changes import Feed
from gateway.identity.records import OrganizationRecord
from gateway.identity.registry import Registry
from gateway.store.door import Store, StoreDown
from policies.domain import Principal
from tests.gateway.identity.support import bearer, come, made, put
from tests.gateway.identity.world import HERE, identities

SECONDS = 4.0
WITHIN = 1.0


async def again(work):
    """Do what a broken connection may have stopped until it is done: this is not about the store's absence."""
    while True:
        try:
            return await work()
        except StoreDown:
            await asyncio.sleep(0.01)


class Patient(Registry):
    """A registry that reads again where its own connection was broken, and whose answers may take their time."""

    async def fenced(self, wanted):
        found = await again(lambda: super(Patient, self).fenced(wanted))
        await asyncio.sleep(len(wanted) % 3 * 0.03)
        return found

    async def existing(self, key_ids):
        return await again(lambda: super(Patient, self).existing(key_ids))


class Cuttable(Store):
    """A store whose connection can be cut without anybody noticing before the deadline."""

    cut = False

    async def send(self, *commands):
        if self.cut:
            await asyncio.sleep(0.8)
            raise StoreDown("nothing came")
        return await super().send(*commands)


class Writer:
    """Writes a record again and again, numbering what it writes; `replaced[n]` is when n was certainly no more."""

    def __init__(self, registry, numbered):
        self._registry, self._numbered = registry, numbered
        self.replaced = []

    async def write(self):
        await again(lambda: put(self._registry, self._numbered(len(self.replaced) + 1)))
        self.replaced.append(clock.monotonic())

    def check(self, number, asked):
        assert number >= len(self.replaced) or self.replaced[number] >= asked - WITHIN, "what was replaced was believed"


def numbers(found):
    """Return the numbers of the key's and the organization's record that a principal was made of."""
    assert isinstance(found, Principal), found
    return int(found.name), int(found.reach.models[0][0])


async def call(known, key, writers, dice):
    """Call as somebody would, now and again."""
    while True:
        asked = clock.monotonic()
        found = known.cached(bearer(key), HERE) or await known.identify(bearer(key), HERE)
        for number, writer in zip(numbers(found), writers, strict=True):
            writer.check(number, asked)
        await asyncio.sleep(dice.random() * 0.02)


async def change(writers, dice):
    """Change one record after the other, for a while."""
    until = clock.monotonic() + SECONDS
    while clock.monotonic() < until:
        await dice.choice(writers).write()
        await asyncio.sleep(dice.random() * 0.05)


async def disturb(store, feeds, dice):
    """Break every connection now and then, and cut one gateway's feed or the other's."""
    for feed in itertools.cycle(feeds):
        await store.send(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
        await asyncio.sleep(dice.random() * 0.4)
        feed._store.cut = True
        await asyncio.sleep(0.3 + dice.random())
        feed._store.cut = False


async def test_nobody_is_judged_by_what_was_replaced_a_second_ago(valkey_url, store):
    """Neither by a fill that a change overtook, nor by a feed that was cut, nor by a history with a hole."""
    dice = random.Random(20)
    steady, registry = Store(valkey_url, deadline=5.0), Registry(store)
    tenant = Writer(registry, lambda n: OrganizationRecord(name="acme", models=(str(n),)))
    await tenant.write()
    keys = []
    for _ in range(4):
        stored, key = await made(registry, name="1")
        keys.append((key, Writer(registry, lambda n, record=stored.record: replace(record, name=str(n)))))
        await keys[-1][1].write()
    async with contextlib.AsyncExitStack() as stack:
        feeds, gateways = [], []
        for _ in range(2):
            feed = Feed(Cuttable(valkey_url, deadline=0.8))
            stack.push_async_callback(feed._store.close)
            await feed.start()
            stack.push_async_callback(feed.close)
            feeds.append(feed)
            gateways.append(identities(Patient(store), feed))
        callers = [call(known, key, (writer, tenant), dice) for known in gateways for key, writer in keys * 3]
        tasks = [clock.spawn(work, "history") for work in (*callers, disturb(steady, feeds, dice))]
        changing = clock.spawn(change([tenant, *(writer for _, writer in keys)], dice), "history")
        await asyncio.wait({changing, *tasks}, timeout=SECONDS, return_when=asyncio.FIRST_EXCEPTION)
        await changing
        assert [task.exception() for task in tasks if task.done()] == []
        tasks.pop().cancel()
        for feed in feeds:
            feed._store.cut = False
        await asyncio.sleep(WITHIN)  # the last change is in force by now, and stays so
        for known in gateways:
            for key, writer in keys:
                found = numbers(await known.identify(bearer(key), HERE))
                assert found == (len(writer.replaced), len(tenant.replaced))
        assert sum(len(writer.replaced) for _, writer in keys) > 20
        await come(lambda: all(feed.trusted and feed.epoch > 1 for feed in feeds))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await steady.close()
