import pytest

from gateway.store.door import Store
from gateway.store.preconditions import LAYOUT, Told, UnfitStore, examine, judge, wrong_layout
from tests.parts.stores import one

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


def test_a_node_of_a_cluster_that_the_url_names_as_one_is_fit():
    assert judged(clustered=True, redis_mode="cluster").errors == []


def test_a_store_that_may_not_be_asked_says_what_to_allow():
    verdict = judge(Told("here", {}, None), clustered=False, allow_eviction=False)

    assert "allow its user the command INFO" in verdict.errors[0]


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
        store = Store(server.url)
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
        store = Store(server.url)
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
        store = Store(server.url)
        try:
            assert await examine(store, allow_eviction=False) == []
        finally:
            await store.close()


async def test_a_replica_named_by_mistake_is_told_with_its_master(tmp_path):
    async with one(tmp_path / "a") as master, one(tmp_path / "b", replicaof=f"127.0.0.1 {master.port}") as replica:
        store = Store(replica.url)
        try:
            with pytest.raises(UnfitStore, match=f"is a replica of 127.0.0.1:{master.port}"):
                await examine(store, allow_eviction=False)
        finally:
            await store.close()
