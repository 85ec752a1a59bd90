import asyncio
import hashlib
import time

import pytest
import structlog

from gateway.store import door
from gateway.store.door import NoScriptError, Store, StoreDown
from gateway.store.embedded import embedded
from tests.parts.gateway import STORE_DEADLINE
from tests.parts.ports import free_ports
from tests.parts.stores import one, until

SCRIPT = b"return redis.call('incr', KEYS[1])"
SHA = hashlib.sha1(SCRIPT).hexdigest()


@pytest.fixture
async def server(tmp_path):
    async with one(tmp_path) as server:
        yield server


@pytest.fixture
async def store(server):
    store = Store(server.url, deadline=STORE_DEADLINE)
    yield store
    await store.close()


@pytest.fixture
def log():
    with structlog.testing.capture_logs() as entries:
        yield entries


async def is_back(store):
    async def back():
        return store.down is None

    await until(back)


async def refused(store, *command):
    """Send a command that fails; return why."""
    with pytest.raises(StoreDown) as caught:
        await store.send(command)
    return str(caught.value)


async def test_all_commands_of_a_call_share_one_round_trip(store):
    before = store.round_trips

    replies = await store.send(["SET", "a", 1], ["GET", "a"], ["GET", b"none"])

    assert replies == [True, b"1", None]
    assert store.round_trips == before + 1


@pytest.mark.parametrize("error", [ConnectionRefusedError("nobody is there"), TimeoutError()])
async def test_connections_that_cannot_be_renewed_are_a_store_that_is_down(store, monkeypatch, error):
    """As with a cluster of which no node can say who the others are."""

    async def fails():
        raise error

    monkeypatch.setattr(store._client, "renew", fails)
    with pytest.raises(StoreDown, match=r"nobody is there|did not answer"):
        await store.renew()


async def test_a_store_that_cannot_be_reached_is_down_until_it_answers(tmp_path, log):
    (port,) = free_ports(1)
    store = Store(f"redis://127.0.0.1:{port}", deadline=STORE_DEADLINE)

    assert "cannot be reached" in await refused(store, "PING")
    assert "cannot be reached" in store.down
    assert store.down_since <= time.monotonic()
    async with one(tmp_path, port=port):
        await is_back(store)
        assert await store.send(["PING"]) == [True]
        assert store.down_since is None
    await store.close()

    assert [entry["event"] for entry in log] == ["the store is down", "the store is back"]


async def test_a_silent_store_is_down_after_the_deadline_and_its_late_replies_are_nobody_elses(
    server, store, monkeypatch
):
    await asyncio.gather(*(store.send(["PING"]) for _ in range(5)))  # connections to be left with a late reply
    monkeypatch.setattr(store, "_deadline", 0.25)
    server.pause()
    calls = [store.send(["ECHO", f"late {number}"]) for number in range(5)]
    for failure in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(failure, StoreDown)
        assert str(failure) == "the store did not answer within 250 ms"
    server.go_on()
    await is_back(store)

    calls = [store.send(["ECHO", f"mine {number}"]) for number in range(20)]
    assert await asyncio.gather(*calls) == [[f"mine {number}".encode()] for number in range(20)]


async def test_nobody_waits_for_a_store_that_is_down_and_only_the_prober_touches_it(monkeypatch, log):
    """A server that takes connections and says nothing."""
    monkeypatch.setattr(door, "PATIENCE", 0.05)
    taken = []

    async def silent(reader, writer):
        taken.append(writer)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listener:
        store = Store(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}", deadline=0.05)
        await refused(store, "PING")
        before, began = len(taken), time.process_time()
        for _ in range(100):
            assert "did not answer" in await refused(store, "PING")
            await asyncio.sleep(0.005)
        spent, probes = time.process_time() - began, len(taken) - before
        await store.close()
        after = len(taken)
        await asyncio.sleep(0.2)

        assert 1 <= probes <= 15  # in half a second or more, and not a hundred
        assert spent < 0.5  # of CPU: it does not spin
        assert [entry["event"] for entry in log] == ["the store is down"]
        assert len(taken) == after  # it has ended


async def test_a_command_that_is_refused_is_told_and_takes_nobody_elses_store_away(store, log):
    with pytest.raises(StoreDown, match=r"refused a command: .*WRONGTYPE"):
        await store.send(["SET", "a", "1"], ["HGET", "a", "b"])
    with pytest.raises(StoreDown, match="refused a command: Error compiling script"):
        await store.send(["EVAL", "nonsense", 0])

    assert store.down is None
    assert await store.send(["GET", "a"]) == [b"1"]
    assert log == []


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        (("CONFIG SET maxmemory", "1", "0"), "is out of memory"),
        (("CONFIG SET min-replicas-to-write", "1", "0"), "has too few replicas"),
        (("REPLICAOF", "127.0.0.1 1", "NO ONE"), "is a replica and takes no writes"),
    ],
)
async def test_a_store_that_takes_no_writes_is_down_until_it_does_again(server, store, log, setting, why):
    """It answers PING all the while."""
    command, wrong, right = (words.split() for words in setting)
    await store.send(["SET", "a", 1])
    await server.ask(*command, *wrong)

    assert why in await refused(store, "SET", "a", 2)
    await asyncio.sleep(0.2)
    assert why in store.down
    await server.ask(*command, *right)
    await is_back(store)
    assert await store.send(["INCR", "a"]) == [2]

    assert [entry["event"] for entry in log] == ["the store is down", "the store is back"]


async def test_a_script_out_of_memory_is_a_store_that_is_down(server, store):
    await store.load(SCRIPT)
    await server.ask("CONFIG SET", "maxmemory", 1)

    assert "is out of memory" in await refused(store, "EVALSHA", SHA, 1, "a")
    assert store.down is not None


async def test_connections_are_counted_and_every_return_is_told(server, store):
    downs = []
    store.on_return(lambda: downs.append(store.down))
    await store.send(["PING"])
    await store.send(["PING"])
    assert store.connects == 1

    server.kill()
    await refused(store, "PING")
    await server.start()
    await is_back(store)

    assert downs == [None]
    assert store.connects == 2


async def test_a_server_that_is_restarted_unseen_shows_in_the_connections(server, store):
    await store.send(["PING"])
    server.kill()
    await server.start()

    assert await store.send(["PING"]) == [True]
    assert store.connects == 2


async def test_a_script_that_is_not_known_is_told_apart_and_can_be_loaded(store):
    with pytest.raises(NoScriptError):
        await store.send(["PING"], ["EVALSHA", SHA, 1, "a"])
    assert store.down is None

    await store.load(SCRIPT)
    assert await store.send(["EVALSHA", SHA, 1, "a"]) == [1]
    with pytest.raises(StoreDown, match="refused a command"):
        await store.load(b"nonsense")


async def test_keys_are_found_by_pattern_in_any_number(store):
    await store.send(*(["SET", f"sw:{number}:level", 1] for number in range(3000)), ["SET", "other", 1])

    found = await store.keys("sw:*:level")

    assert sorted(found) == sorted(f"sw:{number}:level".encode() for number in range(3000))


async def test_more_calls_at_once_than_connections_are_refused_and_the_store_is_not_down(server):
    store = Store(f"{server.url}?max_connections=1", deadline=STORE_DEADLINE)
    outcomes = await asyncio.gather(*(store.send(["PING"]) for _ in range(3)), return_exceptions=True)

    assert outcomes[0] == [True]
    assert {type(outcome) for outcome in outcomes[1:]} == {StoreDown}
    assert store.down is None
    await store.close()


async def test_what_is_asked_everywhere_is_answered_with_its_errors(server, store):
    (replies,) = (await store.everywhere(["PING"], ["NONSENSE"], ["ECHO", "a"])).values()

    assert (replies[0], replies[2]) == (True, b"a")
    assert "unknown command" in str(replies[1])
    server.kill()
    with pytest.raises(StoreDown, match="cannot be reached"):
        await store.everywhere(["PING"])
    assert store.down is not None


async def test_a_busy_loop_is_not_taken_for_a_store_that_is_down(tmp_path):
    """The answer came in time; nobody had read it."""
    async with embedded(tmp_path) as url:
        store = Store(url, deadline=0.25)
        await store.send(("PING",))
        asking = asyncio.ensure_future(store.send(("GET", "a")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(1.0)  # noqa: ASYNC251 - the loop is busy on purpose

        assert await asking == [None]
        assert store.down is None
        await store.close()


async def test_a_store_that_is_held_lets_nobody_in_but_by_another_door(store):
    """Which is to the same place, and has connections and troubles of its own."""
    other = store.another()
    try:
        store.hold("not yet")
        assert await refused(store, "PING") == "not yet"
        assert (store.down, store.round_trips) == ("not yet", 0)
        await other.send(["SET", "a", 1])
        store.free()

        assert await store.send(["GET", "a"]) == [b"1"]
        assert (other.connects, store.connects) == (1, 1)
    finally:
        await other.close()
