import asyncio

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway import upkeep as module
from gateway.store.door import Store, StoreDown
from gateway.store.preconditions import UnfitStore
from gateway.upkeep import Upkeep
from tests.parts.stores import one, until


class Organizations:
    """What upkeep wants of a ledger."""

    def __init__(self, *names):
        self.organizations = list(names)


@pytest.fixture
async def server(tmp_path):
    async with one(tmp_path / "store", appendonly="yes") as server:
        yield server


@pytest.fixture
async def keep(server):
    """Make upkeeps of that server; each is closed."""
    made = []

    def make(*names, allow_eviction=False, every=0.02):
        store = Store(server.url)
        made.append((Upkeep(store, Organizations(*names), allow_eviction=allow_eviction, every=every), store))
        made[-1][0].store = store
        return made[-1][0]

    yield make
    for upkeep, store in made:
        upkeep.close()
        await store.close()


async def test_nothing_starts_on_an_unfit_store(server, keep):
    await server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")

    with pytest.raises(UnfitStore, match="maxmemory-policy allkeys-lru"):
        await keep().start()

    with capture_logs() as logs:
        await keep(allow_eviction=True).start()
    assert [entry["log_level"] for entry in logs] == ["warning"]


async def test_nothing_starts_on_a_store_that_is_not_there(server, keep):
    server.kill()

    with pytest.raises(StoreDown):
        await keep().start()


async def test_a_store_that_becomes_unfit_is_told_once_and_may_become_fit_again(server, keep):
    upkeep = keep()
    await upkeep.start()
    assert upkeep.unfit is None

    with capture_logs() as logs:
        await server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")

        async def it_is_unfit():
            return upkeep.unfit is not None

        await until(it_is_unfit)
        await asyncio.sleep(0.1)
    assert "allkeys-lru" in upkeep.unfit
    assert [entry["event"] for entry in logs] == ["the store is not fit to keep the books"]

    await server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")

    async def it_is_fit():
        return upkeep.unfit is None

    await until(it_is_fit)


async def test_a_warning_is_logged_when_it_is_new(server, keep):
    await server.ask("CONFIG", "SET", "appendonly", "no")
    with capture_logs() as logs:
        upkeep = keep()
        await upkeep.start()
        await asyncio.sleep(0.1)
        assert len(logs) == 1
        await server.ask("CONFIG", "SET", "appendonly", "yes")
        await asyncio.sleep(0.2)
        await server.ask("CONFIG", "SET", "appendonly", "no")
        await asyncio.sleep(0.2)

    assert [entry["event"] for entry in logs] == ["the store could be better"] * 2


async def test_old_records_of_every_organization_go(server, keep):
    async with Redis(port=server.port) as redis:
        for name in ("acme", "bolt", "other"):
            for number in range(300):
                await redis.xadd(f"sw:{{{name}}}:records", {"r": "x"}, id=f"{number + 1}-0")
        await keep("acme", "bolt").start()

        async def old_ones_are_gone():
            lengths = [await redis.xlen(f"sw:{{{name}}}:records") for name in ("acme", "bolt")]
            return max(lengths) <= 100  # it takes whole nodes

        await until(old_ones_are_gone)
        assert await redis.xlen("sw:{other}:records") == 300


async def test_a_store_that_is_away_and_an_error_end_no_rounds(server, keep, monkeypatch):
    upkeep = keep()
    await upkeep.start()
    rounds, examine = [], module.examine

    async def examined(*arguments, **options):
        rounds.append(1)
        if len(rounds) == 2:
            raise ValueError("a bug")
        return await examine(*arguments, **options)

    monkeypatch.setattr(module, "examine", examined)
    with capture_logs() as logs:
        server.kill()
        with pytest.raises(StoreDown):
            await upkeep.store.send(["PING"])
        await server.start()

        async def it_goes_on():
            return len(rounds) > 5 and upkeep.store.down is None

        await until(it_goes_on)

    assert [entry["event"] for entry in logs if "upkeep" in entry["event"]] == ["the upkeep failed; it is tried again"]
    await server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")

    async def it_is_unfit():
        return upkeep.unfit is not None

    await until(it_is_unfit)


async def test_a_close_ends_the_rounds(keep, monkeypatch):
    upkeep = keep()
    await upkeep.start()
    upkeep.close()
    await asyncio.sleep(0)
    rounds = []
    monkeypatch.setattr(module, "examine", lambda *_, **__: rounds.append(1))

    await asyncio.sleep(0.1)
    assert rounds == []
    keep().close()  # one that was never started
