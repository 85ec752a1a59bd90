import asyncio
import math

import pytest

from gateway.identity.changes import EPOCHS_KEPT, FRESH, Feed
from gateway.identity.fence import VERSION
from gateway.identity.records import DrainRecord, KeyRecord, OrganizationRecord
from gateway.identity.registry import CHANGES, Registry
from gateway.store.door import Store, StoreDown
from tests.gateway.identity.support import Time, come, put, remove
from tests.parts import stores

ACME = OrganizationRecord(name="acme")
KEY = KeyRecord(key_id="k", organization="acme", team="t", name="n", digest="aa", created=1)


class Heard:
    """What a feed tells."""

    def __init__(self, feed):
        self.changes, self.epochs = [], []
        feed.on_change(lambda *change: self.changes.append(change))
        feed.on_epoch(lambda: self.epochs.append(feed.epoch))

    @property
    def last(self):
        return self.changes[-1][2] if self.changes else 0


@pytest.fixture
def heard(feed):
    return Heard(feed)


async def test_every_change_is_told_once_in_order(feed, heard, registry):
    """Whoever keeps a record in memory hears of each that is made from then on, and of its end."""
    assert feed.trusted
    assert feed.epoch == 1

    await put(registry, ACME)
    await put(registry, KEY)
    last = await remove(registry, ACME)
    await come(lambda: heard.last == last)

    assert heard.changes == [("organization", "acme", 1), ("key", "k", 2), ("organization", "acme", 3)]
    assert feed.trusted
    assert heard.epochs == []


async def test_what_was_changed_before_the_start_is_not_told(store, listening, registry):
    """Nobody can have read it before."""
    await put(registry, ACME)
    feed = Feed(listening)
    heard = Heard(feed)
    await feed.start()
    await put(registry, KEY)
    await come(lambda: heard.changes)

    assert heard.changes == [("key", "k", 2)]
    assert heard.epochs == [1]
    await feed.close()


async def test_many_changes_at_once_are_all_told(feed, heard, registry):
    """A tenant file that is applied may change hundreds of records."""
    await asyncio.gather(*(put(registry, DrainRecord(backend=f"b{number}")) for number in range(300)))
    await come(lambda: heard.last == 300)

    assert [version for _, _, version in heard.changes] == list(range(1, 301))
    assert feed.epoch == 1


async def test_a_feed_that_hears_nothing_is_trusted_for_a_second_from_its_last_question(store, listening):
    """A change that was made after that question may be in force everywhere else."""
    time = Time()
    feed = Feed(listening, now=time)
    await feed.start()
    await feed.close()

    time.now += FRESH - 0.01
    assert feed.trusted
    time.now += 0.01
    assert not feed.trusted
    assert feed.proven(feed.epoch) == pytest.approx(time.now - FRESH)


async def test_a_server_that_falls_silent_is_not_trusted_and_changes_made_meanwhile_end_the_epoch(tmp_path):
    """As where a cable is pulled: nothing is closed, nothing comes."""
    async with stores.one(tmp_path) as server:
        feed = Feed(Store(server.url, deadline=0.8))
        await feed.start()
        assert feed.trusted
        server.pause()
        await come(lambda: not feed.trusted)
        server.go_on()
        await come(lambda: feed.trusted)

        assert feed.epoch == 2
        await feed.close()
        await feed._store.close()


async def test_with_the_store_away_it_starts_all_the_same_and_goes_on_when_it_comes(tmp_path):
    """A gateway that starts before its store must not need a hand."""
    [port] = stores.free_ports(1)
    feed = Feed(Store(f"redis://127.0.0.1:{port}/0", deadline=0.8))
    heard = Heard(feed)
    await feed.start()
    assert not feed.trusted
    assert feed.proven(0) == -math.inf
    async with stores.one(tmp_path, port=port):
        await come(lambda: feed.trusted)
        assert heard.epochs == [1]
        await feed.close()
        await feed._store.close()


async def test_another_connection_begins_another_epoch(feed, heard, store, registry):
    """It may lead to a server that has forgotten what the one before was told."""
    await store.send(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
    await come(lambda: feed.epoch > 1 and feed.trusted)
    version = await put(registry, ACME)
    await come(lambda: heard.last == version)

    assert heard.epochs[0] == 2


@pytest.mark.parametrize(
    "commands",
    [
        [("FLUSHALL",)],
        [("FLUSHALL",), ("SET", VERSION, "5"), ("XADD", CHANGES, "5-0", "kind", "key", "name", "k")],
        [("SET", VERSION, "3")],
        [("DEL", VERSION)],
        [("SET", VERSION, "40")],
        [("XADD", CHANGES, "9-0", "kind", "key", "name", "k"), ("SET", VERSION, "9")],
        [("DEL", CHANGES), ("INCR", VERSION)],
    ],
    ids=["emptied", "emptied and filled", "counter back", "counter lost", "counter ahead", "a gap", "changes lost"],
)
async def test_a_history_that_does_not_go_on_begins_another_epoch(feed, heard, store, registry, commands):
    """Something may have been changed that was not told, as by a failover that lost it, or an old backup."""
    for _ in range(5):
        last = await put(registry, ACME)
    await come(lambda: heard.last == last)
    await store.send(*commands)
    await come(lambda: feed.epoch > 1)

    for _ in range(100):  # what is put before the epoch began is not told in it
        version = await put(registry, KEY)
        await asyncio.sleep(0.05)
        if heard.changes[-1] == ("key", "k", version):
            break
    assert heard.changes[-1] == ("key", "k", version)
    assert feed.trusted


async def test_a_connection_that_was_opened_quietly_begins_another_epoch(feed, listening):
    """A client opens another by itself where it finds the one in its pool closed."""
    listening._client.connects += 1
    await come(lambda: feed.epoch == 2)

    assert feed.trusted


async def test_another_server_behind_the_same_connection_begins_another_epoch(tmp_path):
    """A cluster's replica that takes over may be one that we were connected to all along."""
    async with stores.one(tmp_path) as server:
        feed = Feed(Store(server.url, deadline=5.0))
        await feed.start()
        await server.ask("DEBUG", "CHANGE-REPL-ID")
        await come(lambda: feed.epoch == 2)

        assert feed.trusted
        await feed.close()
        await feed._store.close()


async def test_a_replica_is_not_believed(tmp_path):
    """A master that was set down answers as before, and hears of nothing."""
    async with stores.one(tmp_path) as server:
        feed = Feed(Store(server.url, deadline=0.8))
        await feed.start()
        await server.ask("REPLICAOF", "127.0.0.1", stores.free_ports(1)[0])
        await come(lambda: not feed.trusted)
        assert feed.epoch == 1
        await server.ask("REPLICAOF", "NO", "ONE")
        await come(lambda: feed.trusted)

        assert feed.epoch == 2
        await feed.close()
        await feed._store.close()


async def test_a_listener_that_fails_ends_the_epoch_and_not_the_feed(feed, registry):
    """It may have missed what it was told, so what it has read proves nothing."""
    failures = []

    def fail(kind, name, version):
        failures.append(version)
        if len(failures) == 1:
            raise ZeroDivisionError

    feed.on_change(fail)
    await put(registry, ACME)
    await come(lambda: feed.epoch == 2)
    await put(registry, ACME)
    await come(lambda: failures == [1, 2])
    assert feed.trusted


async def test_the_ends_of_epochs_are_remembered_within_bounds(feed):
    """A connection that breaks each second must not fill the memory."""
    for _ in range(EPOCHS_KEPT + 10):
        feed._last = None
        await feed._turn()

    assert len(feed._proven) == EPOCHS_KEPT
    assert feed.proven(1) == -math.inf
    assert feed.proven(feed.epoch) > feed.proven(feed.epoch - 1)


@pytest.mark.parametrize("deployment", [stores.one, stores.sentinels, stores.cluster])
async def test_it_follows_a_store_of_every_deployment(tmp_path, deployment):
    """Its keys are of one slot; a poll is one pipeline to one server, over one connection."""
    async with deployment(tmp_path) as servers:
        store, listening = Store(servers.url, deadline=5.0), Store(servers.url, deadline=5.0)
        feed, registry = Feed(listening), Registry(store)
        heard = Heard(feed)
        await feed.start()
        await come(lambda: feed.trusted)
        epoch, polls = feed.epoch, listening.round_trips
        await put(registry, ACME)
        version = await put(registry, KEY)
        await come(lambda: heard.last == version)
        await come(lambda: listening.round_trips > polls + 5)

        assert [change[1] for change in heard.changes] == ["acme", "k"]
        assert feed.epoch == epoch
        await come(lambda: feed.trusted)
        await feed.close()
        await store.close()
        await listening.close()


@pytest.mark.parametrize("deployment", [stores.sentinels, stores.cluster])
async def test_a_failover_begins_another_epoch_and_is_followed(tmp_path, deployment):
    """The new master may lack the last changes, and give their numbers to others."""
    async with deployment(tmp_path) as servers:
        store, listening = Store(servers.url, deadline=0.8), Store(servers.url, deadline=0.8)
        feed, registry = Feed(listening), Registry(store)
        heard = Heard(feed)
        await feed.start()
        await come(lambda: feed.trusted)
        await put(registry, ACME)
        await come(lambda: heard.last == 1)
        epoch = feed.epoch
        await _end_master(servers, listening)
        await come(lambda: feed.epoch > epoch and feed.trusted, 60.0)
        version = await _put_when_it_is_back(registry)
        await come(lambda: heard.last == version)
        await feed.close()
        await store.close()
        await listening.close()


async def _end_master(servers, listening):
    """Kill whichever server has the records."""
    if isinstance(servers, stores.Sentinels):
        servers.master.kill()
        return
    slot = (await listening.send(("CLUSTER KEYSLOT", VERSION)))[0]
    servers.masters[min(slot // (stores.SLOTS // 3), 2)].kill()


async def _put_when_it_is_back(registry):
    for _ in range(1000):
        try:
            return await put(registry, KEY)
        except StoreDown:
            await asyncio.sleep(0.02)
    raise AssertionError("the store did not come back")
