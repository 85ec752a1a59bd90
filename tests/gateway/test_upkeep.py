import asyncio

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway import upkeep as module
from gateway.store.door import Store, StoreDown
from gateway.store.preconditions import UnfitStore
from gateway.upkeep import Upkeep
from tests.parts.gateway import STORE_DEADLINE
from tests.parts.proxy import StoreProxy
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
        store = Store(server.url, deadline=STORE_DEADLINE)
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


async def test_a_warning_is_logged_when_it_is_new(server, keep, monkeypatch):
    upkeep, looks = keep(), []
    look = upkeep._look

    async def noted():
        await look()
        looks.append(None)

    async def looked():
        seen = len(looks)

        async def again():
            return len(looks) >= seen + 2  # one may have been under way

        await until(again)

    monkeypatch.setattr(upkeep, "_look", noted)
    await server.ask("CONFIG", "SET", "appendonly", "no")
    with capture_logs() as logs:
        await upkeep.start()
        await looked()
        assert len(logs) == 1
        for appends in ("yes", "no"):
            await server.ask("CONFIG", "SET", "appendonly", appends)
            await looked()

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


async def test_old_lines_of_the_audit_and_uses_of_keys_that_are_gone_go(server, keep):
    async with Redis(port=server.port) as redis:
        for number in (1, 2):
            await redis.xadd("sw:{~id}:audit", {"at": number}, id=f"{number}-0")
        await redis.hset("sw:{~id}:used", "0123456789ab", 1)
        await keep().start()

        async def they_are_gone():
            return await redis.xlen("sw:{~id}:audit") == 1 and not await redis.exists("sw:{~id}:used")

        await until(they_are_gone)


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


async def test_a_start_that_is_repeated_looks_again_and_begins_no_second_rounds(server, keep):
    """By another door, as long as its own is not open."""
    upkeep = keep("acme", every=60.0)
    upkeep.store.hold("not yet")
    over = upkeep.store.another()
    try:
        await upkeep.start(over)
        (rounds,) = (task for task in asyncio.all_tasks() if task.get_name() == "upkeep")
        await server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        with pytest.raises(UnfitStore):
            await upkeep.start(over)

        assert [task for task in asyncio.all_tasks() if task.get_name() == "upkeep"] == [rounds]
    finally:
        await over.close()


async def down(upkeep):
    return upkeep.store.down is not None


async def test_a_store_that_may_forget_at_any_moment_is_away_until_it_is_mended(server, keep):
    """Only by what could not be forgotten yet it is used on; whoever waits for its return is called then."""
    upkeep, returns = keep(), []
    upkeep.store.on_return(lambda: returns.append(upkeep.unfit))
    await upkeep.start()
    with capture_logs() as logs:
        await server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")

        async def it_is_unfit():
            return upkeep.unfit is not None

        await until(it_is_unfit)
        assert upkeep.harmless
        assert await upkeep.store.send(["PING"])

        await server.ask("CONFIG", "SET", "maxmemory", "1gb")
        await until(lambda: down(upkeep))
        assert not upkeep.harmless
        with pytest.raises(StoreDown, match="has maxmemory-policy allkeys-lru: when it is full it drops counters"):
            await upkeep.store.send(["PING"])
        await asyncio.sleep(0.1)
        assert (await down(upkeep), returns) == (True, [])

        await server.ask("CONFIG", "SET", "maxmemory", "0")

        async def it_is_used_on():
            return upkeep.store.down is None

        await until(it_is_used_on)
        assert "allkeys-lru" in upkeep.unfit
        await server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await until(lambda: fit(upkeep))

    told = [(entry["event"], entry.get("used_on")) for entry in logs]
    unfit = "the store is not fit to keep the books"
    assert told == [(unfit, True), (unfit, False), (unfit, True), ("the store is fit to keep the books again", None)]
    assert len(returns) == 1


async def fit(upkeep):
    return upkeep.unfit is None and upkeep.store.down is None


async def test_a_replica_that_would_take_writes_is_away(server, keep, tmp_path):
    """They are gone with its next word of its master; one that refuses them is away by that alone."""
    upkeep = keep()
    await upkeep.start()
    async with one(tmp_path / "master", appendonly="yes") as master:
        await server.ask("CONFIG", "SET", "replica-read-only", "no")
        await server.ask("REPLICAOF", "127.0.0.1", master.port)
        await until(lambda: down(upkeep))
        assert f"is a replica of 127.0.0.1:{master.port} and takes no writes" in upkeep.store.down

        await server.ask("REPLICAOF", "NO", "ONE")
        await until(lambda: fit(upkeep))


async def test_a_store_that_keeps_nothing_over_a_restart_is_used_on(server, keep):
    upkeep = keep()
    await upkeep.start()
    with capture_logs() as logs:
        await server.ask("CONFIG", "SET", "appendonly", "no")

        async def it_is_told():
            return any("keeps nothing over a restart" in entry.get("why", "") for entry in logs)

        await until(it_is_told)
    assert (upkeep.unfit, upkeep.store.down) == (None, None)


async def test_a_store_that_is_back_is_looked_at_at_once(server, keep):
    """It may be another one."""
    upkeep = keep(every=60.0)
    await upkeep.start()
    server.kill()
    with pytest.raises(StoreDown):
        await upkeep.store.send(["PING"])
    await server.start("maxmemory 1gb\nmaxmemory-policy allkeys-lru\n")

    async def it_is_unfit():
        return "allkeys-lru" in (upkeep.store.down or "")

    await until(it_is_unfit)


async def test_a_store_that_goes_and_comes_all_the_time_is_rid_of_what_is_old_all_the_same(keep, monkeypatch):
    """Each return is looked at, and puts nothing off: not even where it is back before each look is over."""
    upkeep, done = keep(every=0.3), []

    def noting(name):
        async def note():
            done.append(name)
            await asyncio.sleep(0.01)
            upkeep._back.set()

        return note

    for name in ("look", "forget"):
        monkeypatch.setattr(upkeep, f"_{name}", noting(name))
    await upkeep.start()
    upkeep._back.set()

    async def it_is_rid():
        return done.count("forget") >= 2

    await until(it_is_rid)
    assert done.count("look") > 2 * done.count("forget")


async def test_one_that_goes_while_it_must_not_be_used_is_let_in_when_it_comes_back_fit(server, keep):
    upkeep = keep()
    await upkeep.start()
    await server.ask("CONFIG", "SET", "maxmemory", "1gb", "maxmemory-policy", "allkeys-lru")
    await until(lambda: down(upkeep))
    server.kill()
    await asyncio.sleep(0.1)
    assert "allkeys-lru" in upkeep.store.down
    await server.start()

    await until(lambda: fit(upkeep))
    assert await upkeep.store.send(["PING"])


async def test_one_is_mended_by_another_in_its_place_while_it_runs_on(server, tmp_path):
    """Connections from before lead to the old one for as long as that lives: nobody uses them again."""
    async with one(tmp_path / "other", appendonly="yes") as other, StoreProxy(server.port) as place:
        store = Store(place.url, deadline=STORE_DEADLINE)
        upkeep = Upkeep(store, Organizations(), allow_eviction=False, every=0.02)
        upkeep.store = store
        try:
            await upkeep.start()
            await server.ask("CONFIG", "SET", "maxmemory", "1gb", "maxmemory-policy", "allkeys-lru")
            await until(lambda: down(upkeep))
            place._store = other.port

            await until(lambda: fit(upkeep))
            await store.send(["SET", "n", "1"])
            assert [await each.ask("EXISTS", "n") for each in (server, other)] == [0, 1]
        finally:
            upkeep.close()
            await store.close()
