import pytest
from redis.asyncio import Redis

from gateway.store.door import Store
from gateway.store.preconditions import LAYOUT, Told, UnfitStore, examine, judge, wrong_layout
from tests.parts.gateway import STORE_DEADLINE
from tests.parts.ports import free_ports
from tests.parts.stores import MASTER, Server, one

FIT = {
    "redis_version": "7.4.0",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
    "rdb_saves": 0,
}
VALKEY = {"redis_version": "7.2.4", "server_name": "valkey", "server_mode": "standalone"}


def judged(save="", *, clustered=False, allow_eviction=False, **info):
    return judge(Told("here", FIT | info, save), clustered=clustered, allow_eviction=allow_eviction)


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"redis_version": "7.0.0"},
        {"redis_version": "255.255.255"},
        VALKEY | {"valkey_version": "8.0.1"},
        VALKEY | {"valkey_version": "10.1.0"},
    ],
)
def test_a_store_that_is_fit_has_nothing_said_of_it(info):
    verdict = judged(**info)

    assert (verdict.errors, verdict.warnings) == ([], [])


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"redis_version": "6.2.14"}, "the store at here is Redis 6.2.14, which is too old: it takes Redis 7.0 or"),
        (VALKEY | {"valkey_version": "7.2.9"}, "the store at here is Valkey 7.2.9, which is too old"),
        ({"redis_version": "unstable"}, "does not say which version it is ('unstable')"),
        (
            {"role": "slave", "master_host": "there", "master_port": 6380},
            "is a replica of there:6380 and takes no writes: name that one in store.url",
        ),
        ({"redis_mode": "sentinel"}, "is a Sentinel and keeps no data: write store.url as redis+sentinel://"),
        ({"redis_mode": "cluster"}, "is a node of a cluster: write store.url as redis+cluster://"),
        (VALKEY | {"valkey_version": "9.1.2", "server_mode": "cluster"}, "is a node of a cluster"),
        ({"maxmemory_policy": "allkeys-lru"}, "has maxmemory-policy allkeys-lru: when it is full it drops counters"),
    ],
)
def test_what_would_make_the_books_wrong_is_an_error(info, message):
    (error,) = judged(**info).errors

    assert message in error


@pytest.mark.parametrize(
    ("info", "harmless"),
    [
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 0}, True),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 1 << 30}, False),
        ({"maxmemory_policy": "volatile-ttl"}, False),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 0, "redis_version": "6.2.14"}, False),
        ({"role": "slave", "maxmemory": 0}, False),
    ],
)
def test_eviction_costs_whoever_is_there_nothing_where_nothing_bounds_the_memory(info, harmless):
    verdict = judged(**info)

    assert verdict.errors
    assert verdict.harmless is harmless


def test_a_node_of_a_cluster_that_the_url_names_as_one_is_fit():
    assert judged(clustered=True, redis_mode="cluster").errors == []


def test_a_store_that_may_not_be_asked_says_what_to_allow():
    verdict = judge(Told("here", {}, None), clustered=False, allow_eviction=False)

    assert "allow its user the command INFO" in verdict.errors[0]
    assert verdict.harmless, "of what nobody tells nothing is known to be lost"


def test_eviction_that_is_allowed_is_a_warning():
    verdict = judged(maxmemory_policy="volatile-ttl", allow_eviction=True)

    assert verdict.errors == []
    assert "maxmemory-policy volatile-ttl" in verdict.warnings[0]
    assert "store.allow_eviction is on" in verdict.warnings[0]


@pytest.mark.parametrize(
    ("info", "save", "warned"),
    [
        ({"aof_enabled": 0}, "3600 1 300 100", False),
        ({"aof_enabled": 0}, "", True),
        ({"aof_enabled": 0}, None, True),
        ({"aof_enabled": 0, "rdb_saves": 3}, None, False),
        ({"aof_enabled": 1}, "", False),
    ],
)
def test_a_store_that_keeps_nothing_over_a_restart_is_a_warning(info, save, warned):
    verdict = judged(save, **info)

    assert verdict.errors == []
    assert ["keeps nothing over a restart" in warning for warning in verdict.warnings] == [True] * warned


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (str(LAYOUT + 1).encode(), f"of version {LAYOUT + 1}, from a newer Sluiceway; this one reads version {LAYOUT}"),
        (b"1", "of version 1, from an older Sluiceway"),
        (b"apples", "which no Sluiceway wrote"),
        (None, "which no Sluiceway wrote"),
    ],
)
def test_data_of_another_version_are_refused_with_what_to_do(found, message):
    error = wrong_layout(found)

    assert message in error
    assert "store.url" in error


async def test_a_real_store_is_examined_and_its_data_given_their_version(tmp_path):
    async with one(tmp_path, appendonly="yes") as server:
        store = Store(server.url, deadline=STORE_DEADLINE)
        try:
            assert await examine(store, allow_eviction=False) == []
            assert await examine(store, allow_eviction=False) == []
            assert await store.send(("GET", "sw:layout")) == [b"2"]

            await store.send(("SET", "sw:layout", "3"))
            with pytest.raises(UnfitStore, match="of version 3, from a newer Sluiceway"):
                await examine(store, allow_eviction=False)
        finally:
            await store.close()


async def test_a_real_store_that_is_unfit_gets_no_data(tmp_path):
    async with one(tmp_path, maxmemory="100mb", maxmemory_policy="allkeys-lfu") as server:
        store = Store(server.url, deadline=STORE_DEADLINE)
        try:
            with pytest.raises(UnfitStore, match=f"127.0.0.1:{server.port}/0 has maxmemory-policy allkeys-lfu"):
                await examine(store, allow_eviction=False)
            assert await store.keys("*") == []

            keeps_nothing, evicts = await examine(store, allow_eviction=True)
            assert "keeps nothing over a restart" in keeps_nothing
            assert "store.allow_eviction is on" in evicts
        finally:
            await store.close()


async def test_a_user_that_may_not_ask_for_the_configuration_is_no_obstacle(tmp_path):
    async with one(tmp_path, appendonly="yes", user="default on nopass ~sw:* +@all -config") as server:
        store = Store(server.url, deadline=STORE_DEADLINE)
        try:
            assert await examine(store, allow_eviction=False) == []
        finally:
            await store.close()


async def test_a_replica_named_by_mistake_is_told_with_its_master(tmp_path):
    async with one(tmp_path / "a") as master, one(tmp_path / "b", replicaof=f"127.0.0.1 {master.port}") as replica:
        store = Store(replica.url, deadline=STORE_DEADLINE)
        try:
            with pytest.raises(UnfitStore, match=f"is a replica of 127.0.0.1:{master.port}"):
                await examine(store, allow_eviction=False)
        finally:
            await store.close()


async def unfit(url):
    """Return why the store at `url` must not be used."""
    store = Store(url, deadline=STORE_DEADLINE)
    try:
        with pytest.raises(UnfitStore) as caught:
            await examine(store, allow_eviction=False)
        return str(caught.value)
    finally:
        await store.close()


async def test_a_database_that_a_server_does_not_have_is_told_with_those_it_has(tmp_path):
    """By a path, a parameter, or behind Sentinels; and where nobody may ask how many there are."""
    async with one(tmp_path / "store", databases="4") as server:
        there = f"redis://127.0.0.1:{server.port}"
        why = "has no database 9 (databases 0 to 3): name one that it has in store.url"
        assert await unfit(f"{there}/9") == f"the store at {there}/9 {why}"
        assert await unfit(f"{there}/0?db=9") == f"the store at {there}/0 {why}"
        sentinel = Server(tmp_path / "sentinel", free_ports(1)[0], sentinel=True)
        try:
            await sentinel.start(f"sentinel monitor {MASTER} 127.0.0.1 {server.port} 1\n")
            assert why in await unfit(f"redis+sentinel://127.0.0.1:{sentinel.port}/{MASTER}/9")
        finally:
            sentinel.kill()

        store = Store(f"{there}/3", deadline=STORE_DEADLINE)
        try:
            assert len(await examine(store, allow_eviction=False)) == 1, "that it keeps nothing over a restart"
            assert await store.send(("GET", "sw:layout")) == [b"2"]
        finally:
            await store.close()
        async with Redis(port=server.port) as first:
            assert await first.keys("*") == []
        await server.ask("ACL", "SETUSER", "default", "-config")
        assert "has no database 9 (the first is 0): name one" in await unfit(f"{there}/9")
        await server.ask("ACL", "SETUSER", "default", "-select")
        assert "does not let us choose database 3: allow its user the command SELECT" in await unfit(f"{there}/3")


async def test_a_database_of_a_clusters_node_is_told_as_the_cluster_it_is(tmp_path):
    port, bus = free_ports(2)
    node = Server(tmp_path / "node", port, cluster_enabled="yes", cluster_port=bus)
    try:
        await node.start()
        why = await unfit(f"redis://127.0.0.1:{port}/3")
        assert "is a node of a cluster: write store.url as redis+cluster://" in why
    finally:
        node.kill()


async def test_a_server_that_refuses_info_in_every_database_is_told_what_to_allow(tmp_path):
    async with one(tmp_path) as server:
        await server.ask("ACL", "SETUSER", "default", "-info")
        assert "allow its user the command INFO" in await unfit(f"redis://127.0.0.1:{server.port}/3")
