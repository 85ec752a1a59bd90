"""What one gateway takes: processor time a call and an event, memory a stream, a known key and a waiting call, files.

Law: a real gateway, measured from outside by the kernel's account; what is kept in memory for good, by its own objects.
"""

import asyncio
import gc
import tracemalloc
from contextlib import asynccontextmanager
from functools import partial

from gateway.config.settings import STANDARD
from gateway.config.stored import stored_plan
from gateway.identity.changes import Feed
from gateway.identity.identify import Identities
from gateway.identity.key_making import blank, create_key
from gateway.identity.last_used import LastUsed
from gateway.identity.records import Author
from gateway.identity.registry import Registry
from tests.bench.load import callers, closed_loop, request
from tests.bench.processes import cpu_us, descriptors, memory, serving
from tests.bench.scenarios import chat, set_answer
from tests.bench.streams import Served, hold, listens, settings, warm
from tests.parts.gateway import write_config

CHAT = "/v1/chat/completions"

WAITING = 200
"""Calls that wait for a place."""

ROUNDS = 5
"""Rounds of plain calls."""

RATE = 10
"""Events a second of each stream."""


async def of_gateway(here, url, folder, *, streams, seconds):
    """Return the figures of one gateway that keeps its books in the server `here`."""
    await listens(url)
    before = await _clients(here)
    async with _served(here, url, folder / "streaming") as (gateway, headers, pids):
        idle = memory(pids), descriptors(pids)
        call = await _call_us(gateway, headers, pids, seconds / 2)
        await set_answer(url, round(seconds * RATE), RATE)
        held = await hold(gateway, headers, streams, seconds / 4, seconds)
        clients = await _clients(here) - before
    async with _served(here, url, folder / "waiting") as (gateway, headers, pids):
        waiting = await _waiting(gateway, headers, pids, url)
    return {
        "call_us": call,
        "event_us": held.cpu_us,
        "stream": held.kb * 1024,
        "waiting": waiting,
        "idle": idle[0],
        "descriptors": idle[1],
        "stream_descriptors": held.descriptors,
        "connections": clients,
    }


@asynccontextmanager
async def _served(here, url, home):
    """Run a gateway that has answered some calls; yield it, a key's headers, and its processes."""
    home.mkdir()
    wanted = settings(url) | {"store": {"url": here.url, "data_dir": str(home / "data"), "deadline": 5.0}}
    wanted["backends"]["narrow"] = {"kind": "vllm", "base_url": f"{url}/v1", "max_in_flight": 1, "probe_every": 0}
    patient = {"routing": {"max_wait": 3600}, "deadlines": {"total": 7200}}
    wanted["models"]["n"] = {"deployments": [{"backend": "narrow", "model": "m"}], **patient}
    wanted["limits"] = {"waiting_calls": 3 * WAITING}
    async with Served(write_config(home, wanted)) as gateway:
        headers = {"authorization": f"Bearer {await gateway.create_key(plan='wide')}"}
        await set_answer(url)
        await warm(gateway, headers)
        yield gateway, headers, serving(gateway.pid)


async def _clients(here):
    return (await here._redis.info("clients"))["connected_clients"]


async def _call_us(gateway, headers, pids, seconds):
    """Return what a plain call takes of a core, the least of some rounds: others on the machine only add to it."""
    wire = request(gateway.url, CHAT, headers, chat("m"))
    rounds = []
    for _ in range(ROUNDS):
        used = cpu_us(pids)
        statuses, _, _ = await closed_loop(gateway.url, wire, 16, seconds / ROUNDS)
        assert set(statuses) == {200}, statuses
        rounds.append((cpu_us(pids) - used) / statuses[200])
    return min(rounds)


async def _waiting(gateway, headers, pids, url):
    """Return the bytes that a call takes which waits for a place, its connection included.

    Others wait before: what the first of them brings into memory is no call's.
    """
    await set_answer(url, 400, 20)
    wire = request(gateway.url, CHAT, headers, chat("n", stream=True))
    kept, everyone = 0, []
    for many in (WAITING // 2, WAITING):
        kept = memory(pids)
        everyone += await callers(gateway.url, wire, many, lambda caller, status: None)
        for caller in everyone[-many:]:
            caller.ask()
        async with asyncio.timeout(20):
            while (await gateway.metrics())["sluiceway_waiting_calls"] < len(everyone) - 1:  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.05)
    held = (memory(pids) - kept) / WAITING
    for caller in everyone:
        caller.transport.abort()
    return held


async def of_keys(here, count):
    """Return the bytes that a known key takes in the memory of a gateway."""
    stores = [here.store(), here.store()]
    registry, feed = Registry(stores[0]), Feed(stores[1], now=lambda: 0.0)
    identities = Identities(
        registry,
        feed,
        plans={"standard": STANDARD},
        organizations={},
        when_down="deny",
        grace=600.0,
        compile_plan=partial(stored_plan, models=None),
        last_used=LastUsed(stores[0]),
        now=lambda: 0.0,
    )
    author = Author("admin key")
    made = [
        (await create_key(registry, author, blank("acme", "team", f"key {n}", "standard")))[1] for n in range(count)
    ]
    await feed.start()

    async def know(keys):
        for key in keys:
            await identities.identify([(b"authorization", b"Bearer " + key.encode())], "127.0.0.1")

    await know(made[: count // 2])
    gc.collect()
    tracemalloc.start()
    await know(made[count // 2 :])
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    await feed.close()
    return held / (count - count // 2)
