"""A flood of keys that nobody gave out: it costs callers little, the store less, and the gateway's memory nothing."""

import asyncio
import json
import os
import statistics
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import httpx
import pytest
import uvloop

from gateway.identity import keys
from gateway.identity.key_making import blank, create_key
from gateway.identity.records import Author
from gateway.identity.registry import Registry
from gateway.identity.strangers import RATE
from gateway.store.door import Store
from tests.bench.load import callers, request
from tests.parts.fast import fast_upstream
from tests.parts.gateway import STORE_DEADLINE, GatewayProcess, write_config
from tests.parts.stores import one

pytestmark = pytest.mark.ci

STRANGERS = 50_000
"""Requests with keys that are well formed and were never given out, as fast as they are refused."""

CROWD = 64
"""Connections that they come over."""

PACE = 1_000
"""Strangers a second beside whom good callers are timed: an eighth of a core is theirs."""

ROUNDS, WINDOW = 7, 1.5
"""Of a quiet window, one of strangers and one of garbage: so the machine's own moods are in all alike. Seconds each."""

CALLERS, EACH = 20, 10
"""Good callers, and the calls of each a second."""

OTHERS = 50
"""Round trips a second that a gateway makes by itself, at most: heartbeats, and waiting for changes."""

GROWN = 10 << 20
"""Bytes by which the gateway's memory may grow, once it has seen a first flood."""

SLOWER = 2.0
"""How much longer the good callers' slowest hundredth may take."""

PATH = "/v1/chat/completions"
BODY = json.dumps({"model": "fast", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()


def asking(url, key):
    return request(url, PATH, {"authorization": f"Bearer {key}"}, BODY)


async def offer(url, requests, pace, width):
    """Send `requests`, one every 1/pace seconds whatever comes back; return statuses and latencies by schedule."""
    statuses, latencies, idle = Counter(), [], asyncio.Queue()

    def done(caller, status):
        statuses[status] += 1
        latencies.append(time.monotonic() - caller.begun)
        idle.put_nowait(caller)

    everyone = await callers(url, b"", width, done)
    for caller in everyone:
        idle.put_nowait(caller)
    begun = time.monotonic()
    for number, each in enumerate(requests):
        due = begun + number / pace
        while (wait := due - time.monotonic()) > 0:  # noqa: ASYNC110 - what is waited for is the time
            await asyncio.sleep(wait)
        caller = await idle.get()
        caller.request = each
        caller.ask(due)
    async with asyncio.timeout(30):
        for _ in everyone:
            (await idle.get()).transport.close()
    return statuses, latencies


def flood(url, requests, pace):
    """Send `requests`, so many a second; return the statuses."""
    return uvloop.run(offer(url, requests, pace, CROWD))[0]


def strangers(url, count):
    """Ask with keys that only the store knows not to exist."""
    return [asking(url, keys.new_key()[1]) for _ in range(count)]


def garbage(url, count):
    """Ask with keys that cannot exist, which a gateway sees by itself."""
    return [asking(url, f"{keys.new_key()[1][:-1]}-") for _ in range(count)]


@dataclass
class Seen:
    """What was seen in the windows of one kind; `questions` about strangers are a second's."""

    latencies: list[list[float]] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)
    refusals: Counter = field(default_factory=Counter)
    questions: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    """Seconds of a core that the gateway's process took in each window."""
    unseen: list[float] = field(default_factory=list)
    """Seconds that the first call of a good key took."""

    @property
    def p99(self):
        """Seconds, of the best window: what else the machine does only adds to it; a flood is in all of its kind."""
        return min(statistics.quantiles(window, n=100)[98] for window in self.latencies)

    def cost(self, quiet):
        """Return the seconds of a core that a refusal took, beside what the good calls take when it is `quiet`."""
        good = sum(quiet.busy) / quiet.calls * self.calls
        return (sum(self.busy) - good) / sum(self.refusals.values())

    @property
    def calls(self):
        """How many good calls there were."""
        return sum(map(len, self.latencies))

    def __str__(self):
        p50 = statistics.median(chain.from_iterable(self.latencies))
        p99s = ", ".join(f"{statistics.quantiles(window, n=100)[98] * 1000:.1f}" for window in self.latencies)
        return (
            f"{self.calls} good calls, p50 {p50 * 1000:.2f} ms, p99 {self.p99 * 1000:.2f} ms (windows: {p99s}); "
            f"{sum(self.refusals.values())} refused; at most {max(self.questions):.0f} questions about them a second"
        )


class Site:
    """A gateway over a store, and good callers; a process of its own for floods. `unseen`: keys nobody has used yet."""

    def __init__(self, gateway, store, pool, good, unseen):
        self.gateway, self.store, self.good, self.unseen = gateway, store, good, unseen
        self._pool = pool

    def memory(self):
        """Return the bytes that the gateway's process has in memory."""
        status = Path(f"/proc/{self.gateway.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) << 10

    def busy(self):
        """Return the seconds of a core that the gateway's process has taken so far."""
        fields = Path(f"/proc/{self.gateway.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def flood(self, requests, pace):
        """Send `requests` from a process of its own, so many a second; return the statuses."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, flood, self.gateway.url, requests, pace)

    async def window(self, seen, flooding=()):
        """Let the good callers call for `WINDOW` seconds, with a flood beside them."""
        good = [asking(self.gateway.url, key) for key in self.good] * round(EACH * WINDOW)
        (questions, _), begun, busy = await self.counts(), time.monotonic(), self.busy()
        refusals = [asyncio.ensure_future(self.flood(flooding, PACE))] if flooding else []
        statuses, latencies = await offer(self.gateway.url, good, CALLERS * EACH, CALLERS)
        seen.refusals += sum(await asyncio.gather(*refusals), Counter())
        took = time.monotonic() - begun
        seen.busy.append(self.busy() - busy)
        seen.statuses += statuses
        seen.latencies.append(latencies)
        seen.questions.append(((await self.counts())[0] - questions) / took)

    async def first_call(self, seen):
        """Call with a good key that the gateway has never seen."""
        key, begun = self.unseen.pop(), time.monotonic()
        async with httpx.AsyncClient(base_url=self.gateway.url, headers={"authorization": f"Bearer {key}"}) as client:
            answer = await client.post(PATH, content=BODY)
        seen.unseen.append(time.monotonic() - begun)
        seen.statuses[answer.status_code] += 1

    async def counts(self):
        """Return how often the store was asked which keys exist, and the gateway's round trips to it."""
        told = await self.store.ask("INFO", "commandstats")
        metrics = await self.gateway.metrics()
        return told.get("cmdstat_zmscore", {"calls": 0})["calls"], metrics["sluiceway_store_round_trips"]


@pytest.fixture
async def site(tmp_path):
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(one(tmp_path / "store"))
        upstream = await stack.enter_async_context(fast_upstream())
        settings = {
            "backends": {"up": {"kind": "openai", "base_url": f"{upstream}/v1", "probe_every": 0}},
            "models": {"fast": {"deployments": [{"backend": "up", "model": "fast"}]}},
            "store": {"url": store.url, "data_dir": str(tmp_path / "data"), "deadline": STORE_DEADLINE},
        }
        pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        gateway = await stack.enter_async_context(GatewayProcess(write_config(tmp_path, settings)))
        good = [await gateway.create_key(plan=None) for _ in range(CALLERS)]
        door = Store(store.url)
        stack.push_async_callback(door.close)
        made = [await create_key(Registry(door), Author("admin key"), blank("acme", "team", "new")) for _ in range(50)]
        site = Site(gateway, store, pool, good, [key for _, key in made])
        await site.flood([], PACE)  # its process is there
        await site.window(Seen())  # and what good callers need is in memory
        yield site


async def test_a_flood_of_strangers_is_next_to_nothing_to_the_store_and_to_memory(site):
    """As fast as they are refused; whoever has a good key is served, also for the first time."""
    seen, memory = Seen(), [site.memory()]
    told = strangers(site.gateway.url, STRANGERS)
    flooding = asyncio.ensure_future(site.flood(told, STRANGERS))
    begun, asked = time.monotonic(), await site.counts()
    while not flooding.done():
        await site.window(seen)
        await site.first_call(seen)
        memory.append(site.memory())
    took = time.monotonic() - begun
    questions, trips = (after - before for after, before in zip(await site.counts(), asked, strict=True))
    print(f"{STRANGERS} strangers in at most {took:.1f} s, {questions / took:.0f} questions a second; {seen}")
    print(f"memory: {', '.join(f'{size / 2**20:.1f}' for size in memory)} MB")
    print(f"first calls of good keys: {', '.join(f'{took * 1000:.1f}' for took in seen.unseen)} ms")

    assert await flooding == {401: STRANGERS}
    assert set(seen.statuses) == {200}
    assert 0 < questions <= RATE * took + 1
    assert trips <= questions + 2 * seen.calls + OTHERS * took
    assert max(memory) - memory[0] < GROWN


async def test_good_callers_hardly_notice_a_flood_of_strangers(site):
    """Quiet windows, strangers and garbage in turn, with the same good calls in all of them."""
    quiet, strange, junk = Seen(), Seen(), Seen()
    count = round(PACE * WINDOW)
    for _ in range(ROUNDS):
        await site.window(quiet)
        await site.window(strange, strangers(site.gateway.url, count))
        await site.window(junk, garbage(site.gateway.url, count))
    slower, costs = strange.p99 / quiet.p99, [seen.cost(quiet) * 1e6 for seen in (strange, junk)]
    print(f"quiet:     {quiet}\nstrangers: {strange}\ngarbage:   {junk}")
    print(f"p99: strangers / quiet {slower:.2f}, garbage / quiet {junk.p99 / quiet.p99:.2f}")
    print(f"of a core: {costs[0]:.0f} us a stranger, {costs[1]:.0f} us a piece of garbage")

    assert set(strange.refusals) == set(junk.refusals) == {401}
    assert set(quiet.statuses) == set(strange.statuses) == set(junk.statuses) == {200}
    assert max(strange.questions) <= RATE + 1
    assert max(junk.questions) == 0
    assert slower <= SLOWER
