"""A whole gateway whose store turns bad under it: is killed, or must not keep the books any more."""

import asyncio
import os
import signal

import httpx
import pytest
from msgspec.structs import replace

from gateway.config.settings import StoreSettings
from gateway.identity.keys import parse
from gateway.identity.mirror import TRUST
from gateway.store.door import Store
from tests.gateway.harness import eventually, running
from tests.parts.gateway import STORE_DEADLINE, contents


def over(folder, upstream, stance):
    """Run a gateway over an embedded store with this stance."""
    store = StoreSettings("embedded", folder / "data", when_down=stance, deadline=STORE_DEADLINE)
    return running(folder, {"a": upstream}, store=store)


async def configure(gateway, *settings):
    """Set something of the store itself, as its operator may at any moment, and have the gateway look."""
    door = Store(gateway.gateway.store._url, deadline=5.0)
    try:
        await door.send(("CONFIG", "SET", *settings))
    finally:
        await door.close()
    gateway.gateway.upkeep._back.set()


async def process_of(gateway):
    """Return the process of the store, once it answers."""
    door = Store(gateway.gateway.store._url, deadline=5.0)
    try:
        (info,) = await door.send(("INFO", "server"))
    finally:
        await door.close()
    return info["process_id"]


async def readyz(gateway):
    async with httpx.AsyncClient(base_url=gateway.running.operations_url, timeout=10) as client:
        answer = await client.get("/readyz")
        return answer.status_code, answer.text


def written(data_dir, key):
    """Say whether an embedded store's file has a key: what is told it again is what is booked."""
    return any(parse(key).encode() in content for content in contents(data_dir / "appendonlydir").values())


async def call_until(gateway, key, over, statuses):
    while not over.is_set():
        statuses.append((await gateway.ask(key=key)).status_code)


async def test_a_store_that_is_killed_under_calls_comes_back_with_every_booking(tmp_path, first):
    """Whoever comes meanwhile is told 503; whoever was served is booked once."""
    async with over(tmp_path, first, "deny") as gateway:
        key, done, statuses = await gateway.key(), asyncio.Event(), []
        assert await eventually(lambda: written(tmp_path / "data", key), within=20)
        calling = [asyncio.ensure_future(call_until(gateway, key, done, statuses)) for _ in range(4)]
        for _ in range(2):
            served = statuses.count(200)
            assert await eventually(lambda served=served: statuses.count(200) > served + 10, within=20)
            era = gateway.gateway.store._breaker.era  # it may be back before anybody has looked whether it went
            os.kill(await process_of(gateway), signal.SIGKILL)
            assert await eventually(lambda era=era: gateway.gateway.store._breaker.era > era, within=20)
        served = statuses.count(200)
        assert await eventually(lambda: statuses.count(200) > served + 10, within=20)
        done.set()
        await asyncio.gather(*calling)

        assert set(statuses) == {200, 503}
        assert sum(row.requests for row in await gateway.usage()) == statuses.count(200)
        assert gateway.gateway.ledger.open_reservations == 0
        assert await readyz(gateway) == (200, "ok")


@pytest.mark.parametrize("stance", ["deny", "local"])
async def test_a_store_that_may_forget_is_treated_as_away_by_each_plans_stance(tmp_path, first, stance):
    """From when that is seen to when it is mended; nothing is counted twice, or not at all."""
    async with over(tmp_path, first, stance) as gateway:
        assert (await gateway.ask()).status_code == 200
        await configure(gateway, "maxmemory", "1gb", "maxmemory-policy", "allkeys-lru")
        assert await eventually(lambda: gateway.gateway.store.down is not None)

        why = "has maxmemory-policy allkeys-lru: when it is full it drops counters"
        status, text = await readyz(gateway)
        assert (status, why in text) == ({"deny": 503, "local": 200}[stance], True)
        answers = [await gateway.ask() for _ in range(3)]
        served = {"deny": 0, "local": 3}[stance]
        assert [answer.status_code for answer in answers] == [200 if served else 503] * 3
        assert gateway.metric("sluiceway_ledger_local") == served
        assert gateway.metric("sluiceway_store_down") == 1

        await configure(gateway, "maxmemory-policy", "noeviction")
        assert await eventually(lambda: gateway.gateway.store.down is None)
        assert (await gateway.ask()).status_code == 200
        assert sum(row.requests for row in await gateway.usage()) == 2 + served
        assert await readyz(gateway) == (200, "ok")


async def test_a_store_that_could_forget_nothing_yet_is_used_on_and_told(tmp_path, first):
    """It evicts only where something bounds its memory; a start refuses it all the same."""
    async with over(tmp_path, first, "deny") as gateway:
        await configure(gateway, "maxmemory-policy", "allkeys-lru")
        assert await eventually(lambda: gateway.gateway.upkeep.unfit is not None)

        assert (await gateway.ask()).status_code == 200
        status, text = await readyz(gateway)
        assert status == 200
        assert text.startswith("ok, but the store has to be mended (the store at unix://")


async def test_a_gateway_that_knows_nobody_any_more_is_not_ready_whatever_its_plans_say(tmp_path, first):
    """It would answer 503 to everybody, and sooner than the others answer anything."""
    async with over(tmp_path, first, "local") as gateway:
        assert (await gateway.ask()).status_code == 200
        await gateway.gateway.feed.close()  # it is cut off: what changes of keys and tenants it does not hear either
        gateway.gateway.store.hold("nobody answers")
        status, text = await readyz(gateway)
        assert (status, text.startswith("ok, but for ")) == (200, True)
        assert (await gateway.ask()).status_code == 200

        before = gateway.gateway.settings
        await gateway.gateway.take(replace(before, store=replace(before.store, identity_grace=0.1)))
        assert await eventually(lambda: gateway.gateway.knows_nobody)
        assert await readyz(gateway) == (503, "nobody answers; no caller is known any more (store.identity_grace)")
        await asyncio.sleep(TRUST)  # for which whoever has just called is believed
        assert (await gateway.ask()).status_code == 503
        gateway.gateway.store.free()
        assert (await readyz(gateway))[0] == 200
