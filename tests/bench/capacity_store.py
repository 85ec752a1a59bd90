"""What one operation costs the store, and what one thing takes of its memory: counted by a real Valkey.

Law: the gateway's own code asks, the server's own counters answer: the processor time of its main thread, the bytes of
its sockets, the memory of its keys. No clock on a wall is read.
"""

import asyncio
import math
import statistics
import time
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise

from redis.asyncio import Redis

from gateway.ledger import Ledger
from gateway.ledger.leases import TOGETHER
from gateway.store.door import Store
from policies.domain import Bill, Claim, Level, Meter, MeterKind, Usage
from tests.bench.capacity_model import Cost
from tests.parts import stores

DEADLINE = 5.0
"""Seconds that a round trip may take here: what is measured is not how long it waits."""

PIECES = 8
"""Pieces in which something is measured."""

YARD = """#!lua
local seen = {}
for number = 1, 400 do seen[number % 64 + 1] = cmsgpack.pack({number, 'word', number * 1.5}) end
for number = 1, 20 do redis.call('SET', KEYS[1], seen[number]) end
return cmsgpack.pack(seen)"""
"""A fixed piece of work for the store that no change of ours makes faster."""

LEVELS = {
    "organization": {
        MeterKind.REQUESTS_PER_MINUTE: 6_000_000,
        MeterKind.TOKENS_PER_DAY: 10**12,
        MeterKind.BUDGET_PER_MONTH: 10**15,
    },
    "team": {MeterKind.TOKENS_PER_DAY: 10**12},
    "key": {
        MeterKind.REQUESTS_PER_MINUTE: 6_000_000,
        MeterKind.TOKENS_PER_MINUTE: 10**8,
        MeterKind.CONCURRENT_REQUESTS: 10_000,
    },
}
"""The meters of a caller here, by level: seven, as a company might have them, with limits that no call meets."""

KEYS = 100
"""Keys whose calls are measured, in turn: a few open calls each, as it is in life."""

MANY = 99
"""Gateways that call for one organization besides the one that is measured."""

ORGANIZATIONS = ("acme", *(f"co{number:02}" for number in range(1, TOGETHER)))
"""As many as a gateway beats for at once; the calls are of the first."""


def claim(number, organization="acme"):
    """Return the claim of one call of the key of that number."""
    key = f"{number:012x}"
    names = {"organization": "org", "team": "team:research", "key": f"key:{key}"}
    levels = tuple(
        Level(kind, names[kind], tuple(Meter(meter, most, most) for meter, most in meters.items()))
        for kind, meters in LEVELS.items()
    )
    return Claim(organization, "research", key, "mistral-medium-3.5", levels, 1_200, 400, 4_800_000, 30.0)


def bill(number):
    """Return what such a call came to."""
    usage = Usage(1_187, 391, estimated=False, cached_tokens=640)
    replica = f"10.0.{number % 200}.7:8000"
    return Bill(usage, 4_713_000, "gpu/mistral-medium-3.5", "ok", f"req_{number:016x}", replica=replica)


class Counted(Store):
    """A store that counts the commands that are sent to it."""

    commands = 0

    async def send(self, *commands):
        self.commands += len(commands)
        return await super().send(*commands)


class Server:
    """A Valkey whose counters are read over a connection of their own."""

    def __init__(self, server, stack):
        self.url = server.url
        self._stack = stack
        self._redis = Redis(port=server.port, protocol=3)
        stack.push_async_callback(self._redis.aclose)

    async def look(self):
        """Learn what asking for the counters costs, while nobody else asks for anything."""
        seen = [await self.counters() for _ in range(10)]
        self._asking = [statistics.median(b - a for a, b in pairwise(column)) for column in zip(*seen, strict=True)]

    def store(self):
        """Return another store's door."""
        made = Counted(self.url, deadline=DEADLINE)
        self._stack.push_async_callback(made.close)
        return made

    async def ask(self, *command):
        """Send one command."""
        return await self._redis.execute_command(*command)

    async def size(self, key):
        """Return what a key takes, in bytes, its name included."""
        return await self.ask("MEMORY", "USAGE", key, "SAMPLES", 0) or 0

    async def counters(self):
        """Return what was used so far: microseconds of the store's main thread and of ours, bytes to it and from it."""
        told = await self.ask("INFO", "cpu", "stats")
        used = told["used_cpu_user_main_thread"] + told["used_cpu_sys_main_thread"]
        return used * 1e6, time.process_time() * 1e6, told["total_net_input_bytes"], told["total_net_output_bytes"]

    async def cost(self, operate, times, stores=(), *, each=1, pieces=PIECES):
        """Return what each operation costs, where `operate` does `each` (0: one for every two commands sent).

        It is called so many times, in pieces. Processor time is the least of all pieces: others on the machine only add
        to it. Asking for the counters is not in it. `stores`: whose commands are counted.
        """
        spent = []
        for piece in range(pieces):
            before = await self.counters()
            asked = sum(store.commands for store in stores)
            for number in range(times // pieces):
                await operate(piece * (times // pieces) + number)
            after = await self.counters()
            asked = sum(store.commands for store in stores) - asked
            done = times // pieces * each or asked / 2
            used = [
                (last - first - asking) / done for first, last, asking in zip(before, after, self._asking, strict=True)
            ]
            spent.append((*used, asked / done))
        us, ours, *others = zip(*spent, strict=True)
        return Cost(max(0.0, min(us)), max(0.0, min(ours)), *(statistics.mean(other) for other in others))


@asynccontextmanager
async def server(folder):
    """Run a Valkey; yield `Server`."""
    async with AsyncExitStack() as stack:
        made = Server(await stack.enter_async_context(stores.one(folder / "store", appendonly="yes")), stack)
        await made.look()
        yield made


async def repeat(operate, times):
    """Do it so many times, one after the other; it gets the number of each."""
    for number in range(times):
        await operate(number)


async def yard(here, times=80):
    """Return what the yardstick costs: of the store's core, and of ours to ask for it."""
    store = here.store()
    sha = await here.ask("SCRIPT", "LOAD", YARD)
    return await here.cost(lambda _: store.send(("EVALSHA", sha, 1, "yard")), times)


class Caller:
    """One gateway's ledger, whose calls go to the store one at a time."""

    def __init__(self, store, name, folder):
        self.ledger = Ledger(store, name, heartbeat=3600.0, lost_after=7200.0, journal=folder / name)
        self.reservations = []

    async def admit(self, number):
        """Set a call aside."""
        self.reservations.append(await self.ledger.admit(claim(number % KEYS)))

    async def spread(self, number):
        """Set a call of every organization aside, in turn."""
        self.reservations.append(await self.ledger.admit(claim(0, ORGANIZATIONS[number % TOGETHER])))

    async def settle(self, number):
        """Settle the oldest of them, by itself."""
        self.ledger.settle(self.reservations.pop(0), bill(number))
        await self.told()

    async def beat(self, _number=0):
        """Beat for all organizations."""
        for holding in self.ledger._holdings.all():
            self.ledger._leases.beat(holding)
        await self.told()

    async def look(self, _number=0):
        """Beat for all organizations, and look at the others in each."""
        for holding in self.ledger._holdings.all():
            holding.again, holding.looked = True, -math.inf
        await self.beat()

    async def told(self):
        """Wait until the store knows everything."""
        self.ledger._batches._begin()
        await self.ledger._batches._idle.wait()

    async def warm(self):
        """Call for every organization once, of which the first call is dearer."""
        for number in range(TOGETHER):
            await self.spread(number)
            await asyncio.sleep(0)
            await self.settle(0)

    def follow(self):
        """Have every open call be counted in the heartbeats."""
        for reservation in self.reservations:
            self.ledger.follow(reservation, lambda: bill(7))


async def of_ledger(here, folder, times):
    """Return what admission, settlement and heartbeats cost among many gateways, and what heartbeats grow with."""
    store = here.store()
    one, *others = (Caller(store, f"{number:012x}", folder) for number in range(1 + MANY))
    await one.ledger.start()
    await one.warm()
    beats = {"times": max(PIECES, times // TOGETHER), "stores": [store], "each": TOGETHER}
    heartbeat = await here.cost(one.beat, **beats)
    await repeat(one.spread, times)
    one.follow()
    opened = await here.cost(one.beat, **beats)
    await repeat(one.settle, times)
    for other in others:
        await other.warm()
    looking = await here.cost(one.look, **beats)
    admission, settlement = [await here.cost(what, times, [store]) for what in (one.admit, one.settle)]

    async def both(number):
        one.ledger.settle(await one.ledger.admit(claim(number % KEYS)), bill(number))

    async def many(_):
        await asyncio.gather(*(both(number) for number in range(64)))
        await one.told()

    rounds = max(PIECES, times // 16)
    batched = await here.cost(many, rounds, [store], each=64)
    for each in (one, *others):
        await each.ledger.close()
    costs = {"admission": admission, "settlement": settlement, "heartbeat": heartbeat, "together": batched}
    slopes = {
        "heartbeat_gateway": _part(looking, heartbeat, MANY),
        "heartbeat_open": _part(opened, heartbeat, times / TOGETHER),
    }
    return costs, slopes


def _part(more, less, count):
    return (more + less * -1) * (1 / count)
