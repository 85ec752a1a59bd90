"""A whole gateway whose store comes after it: what callers get before, and what must be so by their first answer."""

import asyncio
import contextlib
import time

import httpx
import pytest
import structlog

from gateway import server as module
from gateway.config.settings import Issuer, StoreSettings
from gateway.identity.key_making import blank, create_key
from gateway.identity.records import Author, DrainRecord, PlanRecord
from gateway.identity.registry import Registry
from gateway.roll import gateways
from gateway.store.door import Store
from policies.subjects import Mapping
from tests.fakes.identity_provider import IdentityProvider
from tests.gateway.harness import Harness, eventually, settings
from tests.parts.ports import free_ports
from tests.parts.stores import Server, until

ANN = Author("admin key")
STARTS = "this gateway starts without the store and joins it when it comes"
JOINED = "the store is joined"


@pytest.fixture
def log():
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture
async def store(tmp_path):
    """Run a store for what it must hold; most tests take it away before their gateway starts."""
    server = Server(
        tmp_path / "store", free_ports(1)[0], appendonly="yes", appendfsync="always"
    )  # it is killed at once
    await server.start()
    yield server
    server.kill()


@contextlib.asynccontextmanager
async def records(server):
    """Yield the registry of a store that is there, as another gateway has it."""
    door = Store(server.url, deadline=5.0)
    try:
        yield Registry(door)
    finally:
        await door.close()


async def key_of(server, **terms):
    """Make a key as an admin of another gateway would, and then take the store away."""
    async with records(server) as registry:
        plan = terms.pop("plan", None)
        _, key = await create_key(registry, ANN, blank("acme", "team", "test", plan))
    server.kill()
    return key


@contextlib.asynccontextmanager
async def started(folder, server, upstreams, *, when_down="deny", **changes):
    """Run a gateway over that store, be it there or not."""
    store = StoreSettings(server.url, folder / "data", when_down=when_down, deadline=2.0)
    running = await module.start(settings(folder, upstreams, store=store, **changes))
    try:
        async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
            yield Harness(running, client)
    finally:
        await running.stop()


async def operator(gateway, page):
    async with httpx.AsyncClient(base_url=gateway.running.operations_url, timeout=10) as client:
        answer = await client.get(page)
        return answer.status_code, answer.text


async def joined(gateway):
    return await gateway.running.ready() is None


async def call_on(gateway, key, answers, first_yes):
    """Call again and again until somebody was served and a while longer."""
    until_then = None
    while until_then is None or time.monotonic() < until_then:
        answer = await gateway.ask(key=key)
        answers.append(answer.status_code)
        if answer.status_code == 200:
            first_yes.set()
        if first_yes.is_set() and until_then is None:
            until_then = time.monotonic() + 0.3


async def crowd(gateway, key, server):
    """Call on while the store comes; return the statuses of all answers."""
    answers, first_yes = [], asyncio.Event()
    calling = [asyncio.ensure_future(call_on(gateway, key, answers, first_yes)) for _ in range(8)]
    await server.start()
    await asyncio.wait_for(asyncio.gather(*calling), 20)
    return answers


@pytest.mark.parametrize("stance", ["deny", "local"])
async def test_until_the_store_comes_a_gateway_listens_and_serves_nobody(tmp_path, store, first, stance, log):
    """Whatever a plan says for an outage: no store has ever told this gateway what is left, or who may call."""
    key = await key_of(store)
    async with IdentityProvider() as provider:
        mapping = Mapping(organization="acme", team="research")
        issuer = Issuer(name="corp", issuer=provider.issuer, audience=("sluiceway",), mapping=mapping)
        async with started(tmp_path, store, {"a": first}, when_down=stance, issuers=(issuer,)) as gateway:
            token = provider.token(sub="ann").decode()
            answers = [await gateway.ask(key=credential) for credential in (key, token)]
            models = await gateway.client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
            admin = await gateway.client.get("/admin/v1/keys", headers={"authorization": "Bearer admin"})
            live, ready = await operator(gateway, "/livez"), await operator(gateway, "/readyz")

            assert [one.status_code for one in (*answers, models, admin)] == [503] * 4
            assert [one.json()["error"]["code"] for one in (*answers, models)] == ["store_unavailable"] * 3
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
            assert live == (200, "ok")
            assert ready[0] == 503
            assert ready[1].startswith("the store is not joined yet: the store cannot be reached: ")
            assert gateway.metric("sluiceway_store_down") == 1
            assert gateway.metric("sluiceway_ledger_local") == 0
    assert first.requests == []
    assert [entry["event"] for entry in log].count(STARTS) == 1


async def test_when_the_store_comes_the_gateway_joins_it(tmp_path, store, first, log):
    """Calls are served and booked, changes are followed, and the others see it; the log says how long it took."""
    key = await key_of(store)
    async with started(tmp_path, store, {"a": first}) as gateway:
        assert (await gateway.ask(key=key)).status_code == 503
        await store.start()
        await until(lambda: joined(gateway))

        assert (await gateway.ask(key=key)).status_code == 200
        assert gateway.gateway.feed.trusted
        assert await operator(gateway, "/readyz") == (200, "ok")
        assert sum(row.requests for row in await gateway.usage()) == 1

        async def is_on_the_roll():
            (row,) = await gateways(gateway.gateway.store)
            return row.open_calls == 0 and row.refused is False

        await until(is_on_the_roll)
    told = [entry for entry in log if entry["event"] == JOINED]
    assert len(told) == 1
    assert told[0]["waited_s"] > 0
    assert [entry["event"] for entry in log].count(STARTS) == 1


async def test_a_drain_is_in_force_before_the_first_call_is_let_in(tmp_path, store, first, second, monkeypatch):
    """However slowly the drains are read: the cheapest backend is out of order."""
    async with records(store) as registry:
        await registry.put(DrainRecord(backend="b"), ANN, action="drain", expected=0)
    key = await key_of(store)
    every = Registry.every

    async def slowly(*arguments, **options):
        await asyncio.sleep(0.3)
        return await every(*arguments, **options)

    async with started(tmp_path, store, {"b": second, "a": first}) as gateway:
        monkeypatch.setattr(Registry, "every", slowly)
        answers = await crowd(gateway, key, store)

    assert set(answers) == {200, 503}
    assert second.requests == []
    assert len(first.requests) == answers.count(200)


async def test_a_stored_plan_binds_the_first_call(tmp_path, store, first):
    """The gateway's file knows nothing of it."""
    async with records(store) as registry:
        plan = PlanRecord(name="two", plan={"requests_per_hour": {"limit": 1, "burst": 2}})
        await registry.put(plan, ANN, action="create", expected=0)
    key = await key_of(store, plan="two")
    async with started(tmp_path, store, {"a": first}) as gateway:
        answers = await crowd(gateway, key, store)

    assert answers.count(200) == 2
    assert set(answers) == {200, 429, 503}


async def test_a_store_that_comes_later_and_must_not_be_used_serves_nobody_until_it_is_mended(tmp_path, store, first):
    """Readiness says what to mend."""
    key = await key_of(store)
    async with started(tmp_path, store, {"a": first}) as gateway:
        await store.start("maxmemory-policy allkeys-lru\n")

        async def it_is_told():
            return "allkeys-lru" in (await operator(gateway, "/readyz"))[1]

        await until(it_is_told)
        answer = await gateway.ask(key=key)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")

        await store.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await until(lambda: joined(gateway))
        assert (await gateway.ask(key=key)).status_code == 200


async def test_after_it_was_joined_a_store_that_goes_is_away_as_any_is(tmp_path, store, first):
    """Plans that say local are served from then on."""
    key = await key_of(store)
    async with started(tmp_path, store, {"a": first}, when_down="local") as gateway:
        await store.start()
        await until(lambda: joined(gateway))
        assert (await gateway.ask(key=key)).status_code == 200
        store.kill()

        assert [(await gateway.ask(key=key)).status_code for _ in range(3)] == [200] * 3
        assert gateway.metric("sluiceway_ledger_local") == 3
        await store.start()
        assert await eventually(lambda: gateway.gateway.ledger.open_reservations == 0, within=10)
        assert sum(row.requests for row in await gateway.usage()) == 4


async def test_a_gateway_that_waits_for_its_store_stops_at_once(tmp_path, store, first):
    """It has nothing to settle, and nobody to tell that it goes."""
    store.kill()
    async with started(tmp_path, store, {"a": first}) as gateway:
        assert await gateway.running.ready() is not None
        began = time.monotonic()
        await gateway.running.stop()

        assert time.monotonic() - began < 3
