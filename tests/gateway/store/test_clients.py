import asyncio
import hashlib
import time

import pytest
import structlog

from gateway.store.door import NoScriptError, Store, StoreDown
from gateway.store.preconditions import examine
from tests.parts.gateway import STORE_DEADLINE
from tests.parts.stores import cluster, one, replicates, sentinels, until

SCRIPT = b"return redis.call('incr', KEYS[1])"
SHA = hashlib.sha1(SCRIPT).hexdigest()
ORGANIZATIONS = range(12)
CALLS = [("EVALSHA", SHA, 1, f"sw:{{{number}}}:a") for number in ORGANIZATIONS]


@pytest.fixture
def log():
    with structlog.testing.capture_logs() as entries:
        yield entries


async def goes_on(store, *commands, seconds=5.0):
    """Send as the ledger does until it is answered, `seconds` at most; return the replies and the failures."""
    failures = []
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await store.send(*commands), failures
            except NoScriptError:
                await store.load(SCRIPT)
            except StoreDown as error:
                failures.append(str(error))
                await asyncio.sleep(0.01)


async def test_a_password_and_a_database_are_taken_from_the_url(tmp_path):
    async with one(tmp_path) as server:
        await server.ask("CONFIG SET", "requirepass", "secret")
        store = Store(f"redis://:secret@127.0.0.1:{server.port}/3", deadline=STORE_DEADLINE)
        stranger = Store(f"redis://:wrong@127.0.0.1:{server.port}", deadline=STORE_DEADLINE)
        nowhere = Store(f"redis://:secret@127.0.0.1:{server.port}/99", deadline=STORE_DEADLINE)
        try:
            await store.send(("SET", "a", 1))
            (replies,) = (await store.everywhere(("INFO", "keyspace"))).values()
            assert "db3" in replies[0]
            with pytest.raises(StoreDown, match=r"the user or password of store\.url: invalid username-password pair"):
                await stranger.send(("PING",))
            with pytest.raises(StoreDown, match="cannot be reached: DB index is out of range"):
                await nowhere.send(("PING",))
            assert None not in (stranger.down, nowhere.down)
        finally:
            for each in (store, stranger, nowhere):
                await each.close()


async def test_a_server_that_is_in_no_cluster_is_none(tmp_path):
    async with one(tmp_path) as server:
        store = Store(f"redis+cluster://127.0.0.1:{server.port}", deadline=STORE_DEADLINE)
        with pytest.raises(StoreDown, match="Cluster mode is not enabled"):
            await store.send(("PING",))
        await store.close()


async def test_sentinels_that_know_nothing_are_a_store_that_is_down(tmp_path):
    async with one(tmp_path) as server:
        store = Store(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{server.port}/books", deadline=STORE_DEADLINE)
        try:
            with pytest.raises(StoreDown, match="cannot be reached: unknown command"):
                await store.send(("PING",))
            assert store.down is not None
        finally:
            await store.close()


@pytest.mark.ci
@pytest.mark.parametrize("lost", ["killed", "paused"])
async def test_service_goes_on_when_the_sentinels_have_made_another_master(tmp_path, log, lost):
    async with sentinels(tmp_path) as group:
        store = Store(group.url)
        try:
            assert await goes_on(store, CALLS[0]) == ([1], [])
            await until(lambda: replicates(group.replica))
            connects, began = store.connects, time.monotonic()
            group.master.kill() if lost == "killed" else group.master.pause()

            (count,), failures = await goes_on(store, CALLS[0])
            print(f"a Sentinel failover ({lost}): {time.monotonic() - began:.2f} s")

            assert count == 2
            assert failures
            assert store.connects > connects
            assert [entry["event"] for entry in log] == ["the store is down", "the store is back"]
            assert group.replica.port in [int(name) for name in await _ports(store)]
        finally:
            await store.close()


@pytest.mark.ci
async def test_a_demoted_masters_connections_are_left_for_the_new_ones(tmp_path):
    """A planned failover: the old master lives on as a replica, and a Sentinel that is silent is passed over."""
    async with sentinels(tmp_path) as group:
        store = Store(group.url)
        try:
            await asyncio.gather(*(goes_on(store, CALLS[0]) for _ in range(4)))
            group.sentinels[0].pause()
            await group.sentinels[1].ask("SENTINEL FAILOVER", "books")
            await until(lambda: replicates(group.master), seconds=20)  # it is left a master for 8 s

            (count,), _ = await goes_on(store, CALLS[0])

            assert count == 5
            assert await _ports(store) == [group.replica.port]
        finally:
            await store.close()


async def test_a_cluster_takes_each_organizations_commands_where_they_belong(tmp_path, log):
    async with cluster(tmp_path) as group:
        store = Store(group.url, deadline=STORE_DEADLINE)
        try:
            await store.load(SCRIPT)
            assert await store.send(*CALLS, ("PING",)) == [1] * len(CALLS) + [True]
            assert await store.send(*reversed(CALLS)) == [2] * len(CALLS)
            assert len(await store.keys("sw:*")) == len(CALLS)
            assert all([await master.ask("DBSIZE") for master in group.masters])
            warnings = await examine(store, allow_eviction=False)
            assert ["keeps nothing over a restart" in warning for warning in warnings] == [True] * 3
            with pytest.raises(StoreDown, match="all keys must map to the same key slot"):
                await store.send(("MGET", "{1}", "{2}"))
            assert (store.down, log) == (None, [])
        finally:
            await store.close()


@pytest.mark.ci
@pytest.mark.parametrize("lost", ["killed", "paused"])
async def test_service_goes_on_when_a_cluster_has_lost_a_master(tmp_path, log, lost):
    async with cluster(tmp_path) as group:
        store = Store(group.url)
        try:
            await goes_on(store, *CALLS)
            connects, began = store.connects, time.monotonic()
            group.masters[1].kill() if lost == "killed" else group.masters[1].pause()

            counts, failures = await goes_on(store, *CALLS)
            print(f"a cluster's failover ({lost}): {time.monotonic() - began:.2f} s")

            assert min(counts) >= 2
            assert failures
            assert store.connects > connects
            assert [entry["event"] for entry in log] == ["the store is down", "the store is back"]
            assert len(await store.keys("sw:*")) == len(CALLS)
        finally:
            await store.close()


async def test_slots_that_move_are_followed_without_an_outage(tmp_path, log):
    """A replica takes over from its living master, which then answers MOVED."""
    async with cluster(tmp_path) as group:
        store = Store(group.url, deadline=STORE_DEADLINE)
        try:
            await goes_on(store, *CALLS)
            await group.replicas[0].ask("CLUSTER FAILOVER")
            await until(lambda: replicates(group.masters[0]))

            counts, failures = await goes_on(store, *CALLS)

            assert min(counts) == 2
            assert (failures, log) == ([], [])
        finally:
            await store.close()


@pytest.mark.ci
async def test_a_cluster_that_has_moved_to_other_nodes_is_found_by_its_url(tmp_path):
    """Every node that was known is gone; the one of the URL is back."""
    async with cluster(tmp_path) as group:
        store = Store(f"redis+cluster://127.0.0.1:{group.masters[0].port}")
        try:
            await goes_on(store, *CALLS)
            for server in group.servers:
                server.kill()
            with pytest.raises(StoreDown):
                await store.send(*CALLS)
            for server in group.servers:
                await server.start()

            await goes_on(store, *CALLS, seconds=10)
        finally:
            await store.close()


async def _ports(store):
    """Return the ports of the primaries that the store talks to."""
    replies = await store.everywhere(("CONFIG GET", "port"))
    return [int(told["port"]) for (told,) in replies.values()]
