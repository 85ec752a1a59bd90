import asyncio

import pytest
import structlog
from redis.asyncio import Redis

from gateway.store import joining as module
from gateway.store.door import Store, StoreDown
from gateway.store.joining import Joining
from gateway.store.preconditions import UnfitStore, examine
from tests.parts.gateway import STORE_DEADLINE
from tests.parts.ports import free_ports
from tests.parts.scripted import ScriptedServer
from tests.parts.stores import MASTER, SLOTS, Server, until


@pytest.fixture
async def server(tmp_path):
    """Make a store that is not there yet."""
    server = Server(tmp_path / "store", free_ports(1)[0], appendonly="yes")
    yield server
    server.kill()


@pytest.fixture
def log():
    with structlog.testing.capture_logs() as entries:
        yield entries


class Way:
    """The way of one gateway to its store. `did`: what was done on it, and whether the store was down then."""

    def __init__(self, url):
        self.store = Store(url, deadline=STORE_DEADLINE)
        self.did = []
        self.error = self.fault = None
        self.joining = Joining(self.store, self._prepare, self._begin)

    async def _prepare(self, over):
        self.did.append(("prepare", self.store.down is not None))
        if self.error is not None:
            raise self.error
        await examine(over, allow_eviction=False)

    async def _begin(self):
        self.did.append(("begin", self.store.down is not None))
        self.told = self.joining.why
        if self.fault is not None:
            raise self.fault

    async def joined(self):
        return self.joining.why is None and self.did[-1][0] == "begin"


@pytest.fixture
async def way(server):
    way = Way(server.url)
    yield way
    await way.joining.close()
    await way.store.close()


async def test_a_store_that_is_there_is_joined_at_once(server, way, log):
    """Everybody else is let in when all is prepared; nothing of it is worth a line in the log."""
    await server.start()
    await way.joining.start()

    assert way.did == [("prepare", True), ("begin", False)]
    assert (way.told, way.joining.why) == (module.NOT_YET, None)
    assert await way.store.send(["GET", "sw:layout"]) == [b"2"]
    assert [entry["event"] for entry in log] == []


async def test_without_a_store_it_goes_on_and_joins_when_the_store_comes(server, way, log):
    """Until then the store is down for everybody, and nobody but the one who joins asks it."""
    await way.joining.start()
    assert way.joining.why.startswith("the store is not joined yet: the store cannot be reached: ")
    assert way.store.down_since is not None
    with pytest.raises(StoreDown, match="the store is not joined yet: the store cannot be reached"):
        await way.store.send(["PING"])
    assert way.store.round_trips == 0

    await server.start()
    await until(way.joined)

    assert way.did[-2:] == [("prepare", True), ("begin", False)]
    assert way.did.count(("begin", False)) == 1
    assert (way.store.down, way.store.down_since) == (None, None)
    assert await way.store.send(["PING"])
    events = [entry["event"] for entry in log]
    assert events.count("this gateway starts without the store and joins it when it comes") == 1
    assert events.count("the store is joined") == 1
    assert next(entry for entry in log if "waited_s" in entry)["waited_s"] > 0


async def test_a_store_that_is_there_and_must_not_be_used_is_an_error(server, way):
    """Somebody has to mend it, and is looking."""
    await server.start()
    await server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")

    with pytest.raises(UnfitStore, match="maxmemory-policy allkeys-lru"):
        await way.joining.start()
    assert way.store.down is not None


async def test_a_store_that_comes_later_and_must_not_be_used_is_joined_once_it_is_mended(server, way, log, monkeypatch):
    """It is told once what is wrong, however often it was asked."""
    monkeypatch.setattr(module, "AGAIN", 0.02)
    await way.joining.start()
    await server.start("maxmemory-policy allkeys-lru\n")

    async def it_is_unfit():
        return "allkeys-lru" in way.joining.why

    await until(it_is_unfit)
    tries = len(way.did)

    async def it_was_asked_again():
        return len(way.did) > tries + 3

    await until(it_was_asked_again)
    with pytest.raises(StoreDown, match="allkeys-lru"):
        await way.store.send(["PING"])
    assert [entry["event"] for entry in log].count("the store cannot be joined") == 1

    await server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await until(way.joined)


async def test_an_error_that_nobody_foresaw_does_not_keep_the_store_away_for_good(server, way, log, monkeypatch):
    """It is told, and tried again."""
    monkeypatch.setattr(module, "AGAIN", 0.02)
    await way.joining.start()
    way.error = KeyError("a bug")
    await server.start()

    async def it_was_told():
        return any(entry["event"].endswith("it is tried again") for entry in log)

    await until(it_was_told)
    assert way.joining.why == "the store is not joined yet: 'a bug'"
    way.error = None
    await until(way.joined)


async def test_a_store_that_refuses_one_command_is_asked_again(server, way, log, monkeypatch):
    """Nobody tells that a user has been allowed more since, as somebody does when a store is back."""
    monkeypatch.setattr(module, "AGAIN", 0.02)
    await server.start()
    await server.ask("ACL", "SETUSER", "default", "-set")
    await way.joining.start()
    assert "the store refused a command: " in way.joining.why

    await server.ask("ACL", "SETUSER", "default", "+set")
    await until(way.joined)
    assert "the store cannot be joined" not in [entry["event"] for entry in log]


@pytest.fixture
async def towards():
    """Make ways to any address; they are closed."""
    made = []

    def make(url):
        made.append(Way(url))
        return made[-1]

    yield make
    for way in made:
        await way.joining.close()
        await way.store.close()


async def test_a_wrong_password_is_waited_out(server, towards):
    """Passwords are rotated in any order; whoever has the new one already joins once the store has it."""
    await server.start()
    await server.ask("CONFIG", "SET", "requirepass", "old")
    way = towards(server.url.replace("redis://", "redis://:new@"))
    await way.joining.start()
    assert "the store refuses the user or password of store.url: " in way.joining.why

    async with Redis(port=server.port, password="old") as redis:
        await redis.config_set("requirepass", "new")
    await until(way.joined)


async def test_a_password_that_is_missing_is_waited_out_too(server, towards):
    """A store that was given one before its gateways."""
    await server.start()
    await server.ask("CONFIG", "SET", "requirepass", "new")
    way = towards(server.url)
    await way.joining.start()

    assert "the store refuses the user or password of store.url: " in way.joining.why


async def test_something_else_at_the_address_is_no_store(towards):
    """It may be gone when the store comes."""
    async with ScriptedServer() as other:
        way = towards(other.url.replace("http://", "redis://"))
        await way.joining.start()

    assert "the store is not joined yet: the store cannot be reached: " in way.joining.why


async def test_sentinels_without_a_master_are_a_store_that_is_not_there_yet(server, towards, tmp_path):
    """They may have been started before it, too."""
    sentinel = Server(tmp_path / "sentinel", free_ports(1)[0], sentinel=True)
    try:
        await sentinel.start()
        way = towards(f"redis+sentinel://127.0.0.1:{sentinel.port}/{MASTER}")
        await way.joining.start()
        assert "the store is not joined yet: the store cannot be reached: " in way.joining.why

        await server.start()
        await sentinel.ask("SENTINEL MONITOR", MASTER, "127.0.0.1", server.port, 1)
        await until(way.joined)
    finally:
        sentinel.kill()


async def test_a_cluster_that_is_not_whole_yet_is_not_there_yet(towards, tmp_path):
    """Its nodes answer before they have their slots."""
    port, bus = free_ports(2)
    node = Server(tmp_path / "node", port, cluster_enabled="yes", cluster_port=bus)
    try:
        await node.start()
        way = towards(f"redis+cluster://127.0.0.1:{port}")
        await way.joining.start()
        assert way.joining.why.startswith("the store is not joined yet: the store ")

        await node.ask("CLUSTER ADDSLOTSRANGE", 0, SLOTS - 1)
        await until(way.joined)
    finally:
        node.kill()


async def test_who_stops_waiting_asks_no_more(server, way, monkeypatch):
    """Nor does a store that comes then let anybody in."""
    monkeypatch.setattr(module, "AGAIN", 0.02)
    await way.joining.start()
    await way.joining.close()
    tries = len(way.did)
    await server.start()
    await asyncio.sleep(0.2)

    assert len(way.did) == tries
    assert way.store.down is not None


async def test_a_door_that_cannot_be_closed_keeps_nothing_from_beginning(server, way, log, monkeypatch):
    """A gateway without the stream of changes and the other gateways would look like one that has both."""
    monkeypatch.setattr(module, "AGAIN", 0.02)
    await way.joining.start()
    close = way.joining._over.close

    async def broken():
        await close()
        raise OSError("a socket that would not end")

    way.joining._over.close = broken
    await server.start()
    await until(way.joined)
    way.joining._over.close = close

    assert way.did.count(("begin", False)) == 1
    events = [entry["event"] for entry in log]
    assert events.count("a connection to the store could not be closed; it is of no use any more") == 1
    assert events.count("the store is joined") == 1


async def test_who_could_not_begin_has_not_joined_and_says_so(server, way, log, monkeypatch):
    """Nobody sends calls to who is not ready; what was half begun only a restart mends."""
    monkeypatch.setattr(module, "AGAIN", 0.02)
    way.fault = RuntimeError("a bug")
    await way.joining.start()
    await server.start()

    async def it_was_told():
        return any(entry["event"] == "the store cannot be joined: restart this gateway" for entry in log)

    await until(it_was_told)
    assert way.joining.why == "the store is not joined yet, and cannot be before a restart: RuntimeError('a bug')"
    assert "the store is joined" not in [entry["event"] for entry in log]
