"""What following records, telling one another and upkeep cost the store, and what everything takes of its memory.

Law: as of `capacity_store.py`.
"""

import asyncio
from functools import partial

from msgspec import structs

from gateway.config.settings import Backend
from gateway.identity.changes import Feed
from gateway.identity.key_making import blank, create_key
from gateway.identity.last_used import USED, LastUsed
from gateway.identity.records import PREFIX, Author, KeyRecord, OrganizationRecord, TeamRecord
from gateway.identity.registry import AUDIT, Registry
from gateway.identity.retention import AT_ONCE, Retention
from gateway.ledger import wire
from gateway.ledger.retention import retain
from gateway.peers import Peers
from gateway.roll import Roll, Row
from gateway.upstream.fleet import Fleet
from policies.domain import Deployment, Price
from tests.bench.capacity_store import KEYS, PIECES, Caller, repeat

ANN = Author("admin key", "192.0.2.1", "req_0123456789abcdef")

GATEWAYS = 20
"""Gateways that wait for changes, or say that they live, at once."""


class Busy(Fleet):
    """A fleet of so many deployments, each of which has another load at every beat."""

    def __init__(self, deployments):
        super().__init__()
        text = frozenset({"text"})
        self._turn = 0
        for number in range(deployments):
            name = f"gpu@10.0.{number}.7:8000"
            self.add(Backend(name, "vllm", "http://127.0.0.1:9/v1", probe_every=0))
            self.live(Deployment(name, "vllm", "mistral-medium-3.5", 131_072, text, Price(0, 0)))

    def loads(self):
        self._turn += 1
        return {
            name: (3 + (self._turn + place) % 7, 1_200 * self._turn % 9_999) for place, name in enumerate(self._live)
        }


async def of_peers(here, times):
    """Return what a beat costs, and what each value told and each value read adds to it."""
    small, wide, crowd = [await _beats(here, *shape, times) for shape in ((2, 10), (2, 60), (12, 60))]
    read = _part(crowd, wide, 10 * 60)
    own = _part(wide, small, 50) + read * -1
    return {"beat": small + (own + read) * -10}, {"beat_told": own, "beat_read": read}


async def _beats(here, gateways, deployments, times):
    await here.ask("FLUSHALL")
    store = here.store()
    them = [Peers(store, Busy(deployments), f"{number:012x}") for number in range(gateways)]

    async def turn(_):
        for each in them:
            await each.beat(0.0)

    await repeat(turn, 3)
    return await here.cost(turn, max(PIECES, times // gateways), [store], each=gateways)


async def of_identity(here, times):
    """Return what waiting for changes, reading a key, noting uses, forgetting them and the roll cost."""
    store = here.store()
    registry = Registry(store)
    keys = [(await create_key(registry, ANN, blank("acme", "research", f"key {n}", "standard")))[0] for n in range(4)]
    read = [(KeyRecord, keys[0].record.id)]
    used = LastUsed(store)

    async def use(_):
        for number in range(times):
            used.touch(f"{number:012x}")
        await used.flush()

    return {
        "key_read": await here.cost(lambda _: registry.fenced(read), times, [store]),
        "use": await here.cost(use, PIECES, [store], each=times),
        "forget": await _forget(here, store, times),
        "roll": await _rolls(here),
        "poll": await _polls(here),
    }


async def _forget(here, store, times):
    """Return what one look for what is to be forgotten costs, where there are many uses and all stay."""
    used, retention = LastUsed(store), Retention(store)
    for number in range(10 * AT_ONCE):
        used.touch(f"corp:{number:012x}")
    await used.flush()
    return await here.cost(lambda _: retention.step(), times, [store])


async def _rolls(here):
    """Return what it costs that one gateway says once that it lives."""
    store = here.store()
    row = Row("", "0123456789abcdef", "1.0.0", 1_800_000_000, "10.0.0.7:8600", open_calls=1_000, waiting=0)
    rolls = [Roll(store, partial(structs.replace, row, instance=f"{number:012x}")) for number in range(GATEWAYS)]

    async def say(_):
        for roll in rolls:
            roll.start()
        async with asyncio.timeout(5):
            while await here.ask("SCARD", f"{PREFIX}gateways") < GATEWAYS:  # noqa: ASYNC110 - what they say
                await asyncio.sleep(0.01)

    cost = await here.cost(say, 1, [store], each=GATEWAYS, pieces=1)
    for roll in rolls:
        await roll.close()
    return cost


async def _polls(here):
    """Return what one look at the changes costs, of many gateways that wait for them at once."""
    stores = [here.store() for _ in range(GATEWAYS)]
    feeds = [Feed(store) for store in stores]
    for feed in feeds:
        await feed.start()
    polls = await here.cost(lambda _: asyncio.sleep(0.6), 2, stores, each=0, pieces=2)
    for feed in feeds:
        await feed.close()
    return polls


async def of_upkeep(here, times):
    """Return what looking after one organization's records costs, of which there are some."""
    store = here.store()
    return {"upkeep": await here.cost(lambda _: retain(store, "acme"), times, [store])}


async def sizes(here, folder, count):
    """Return what one of each takes of the store's memory, in bytes."""
    await here.ask("FLUSHALL")
    store = here.store()
    return await _of_records(here, Registry(store), count) | await _of_books(here, store, folder, count)


async def _of_records(here, registry, count):
    async def key(number):
        return (await create_key(registry, ANN, blank("acme", "research", f"key {number}", "standard")))[0].record.id

    async def organization(number):
        await registry.put(OrganizationRecord(name=f"org-{number:04}", plan="lab"), ANN, action="create", expected=0)
        team = TeamRecord(organization=f"org-{number:04}", name="research", plan="lab")
        await registry.put(team, ANN, action="create", expected=0)

    shared = [f"{PREFIX}all:key", f"{PREFIX}keys:acme", AUDIT]
    names = [await key(number) for number in range(count)]
    before = [await here.size(one) for one in shared]
    names = [await key(number) for number in range(count)]
    grown = sum([await here.size(one) for one in shared]) - sum(before)
    records = sum([await here.size(f"{PREFIX}key:{name}") for name in names])

    shared = [f"{PREFIX}all:organization", f"{PREFIX}all:team", AUDIT]
    await repeat(organization, count)
    before = sum([await here.size(one) for one in shared])
    for number in range(count, 2 * count):
        await organization(number)
    tenants = sum([await here.size(one) for one in shared]) - before
    for number in range(count, 2 * count):
        tenants += await here.size(f"{PREFIX}organization:org-{number:04}")
        tenants += await here.size(f"{PREFIX}team:org-{number:04}/research")

    used = LastUsed(registry._store)
    for number in range(2 * count):
        used.touch(f"{number:012x}")
    await used.flush()
    return {
        "key": (grown + records) / count,
        "organization": tenants / count,
        "use": await here.size(USED) / (2 * count),
    }


async def _of_books(here, store, folder, count):
    stem = wire.stem("acme")
    one = Caller(store, "f00000000001", folder)
    await one.warm()
    await repeat(one.admit, KEYS)
    few = await here.size(f"{stem}:level:key:{5:012x}")
    await repeat(one.admit, count)
    open_key, counts = f"{stem}:reservations:f00000000001", f"{stem}:counts:f00000000001"
    crowded = []
    for slots in (20, 40):
        await repeat(lambda _: one.admit(KEYS // 2), slots)
        crowded.append(await here.size(f"{stem}:level:key:{KEYS // 2:012x}"))
    one.follow()
    await one.beat()
    held = await here.size(open_key), await here.size(counts)
    await repeat(one.admit, count)
    one.follow()
    await one.beat()
    more = await here.size(open_key), await here.size(counts)
    records = f"{stem}:records"
    await repeat(one.settle, count)
    booked = await here.size(records)
    await repeat(one.settle, count)
    hour = min(await store.keys(f"{stem}:hour:*"))
    known = {bytes(field)[:-1] for field in await here.ask("HKEYS", hour)}
    return {
        "reservation": (more[0] - held[0]) / count,
        "count": (more[1] - held[1]) / count,
        "slot": (crowded[1] - crowded[0]) / 40,
        "level": few,
        "record": (await here.size(records) - booked) / count,
        "sum": await here.size(hour) / len(known),
    }


def _part(more, less, count):
    return (more + less * -1) * (1 / count)
