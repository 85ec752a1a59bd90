import asyncio

import pytest

from gateway.following import Following
from gateway.identity.changes import Feed
from gateway.identity.records import Author, DrainRecord, PlanRecord
from gateway.identity.registry import Registry
from gateway.store.door import Store
from tests.gateway.harness import eventually
from tests.gateway.identity.support import valkey

ANN = Author("admin key")


@pytest.fixture
async def store():
    with valkey() as url:
        store = Store(url, deadline=5.0)
        yield store
        await store.close()


@pytest.fixture
async def followed(store):
    """Follow the drains of `registry`; what was told is a list of lists of names."""
    registry, feed, told = Registry(store), Feed(store), []
    following = Following(registry, feed, DrainRecord, lambda drains: told.append([one.backend for one in drains]))
    await following.start()
    await feed.start()
    yield registry, told
    following.close()
    await feed.close()


async def test_all_records_are_told_at_the_start_and_at_every_change(followed):
    """Changes of other kinds are nobody's business here."""
    registry, told = followed
    assert told[0] == []

    await registry.put(PlanRecord(name="p", plan={}), ANN, action="create", expected=0)
    for name in ("b", "a"):
        await registry.put(DrainRecord(backend=name), ANN, action="drain", expected=0)
    assert await eventually(lambda: told[-1] == ["a", "b"])
    await registry.remove(DrainRecord(backend="a"), ANN, expected=None)

    assert await eventually(lambda: told[-1] == ["b"])
    assert [] not in told[told.index(["a", "b"]) :]


async def test_after_a_doubt_everything_is_read_again(followed, store):
    """What was changed while nobody listened is found."""
    registry, told = followed
    await registry.put(DrainRecord(backend="a"), ANN, action="drain", expected=0)
    assert await eventually(lambda: told[-1] == ["a"])
    before = len(told)

    await store.send(("DEL", "sw:{~id}:version"), ("DEL", "sw:{~id}:changes"))

    assert await eventually(lambda: len(told) > before)
    assert told[-1] == ["a"]


async def test_a_record_that_nobody_can_read_hides_no_other(followed, store):
    """It is logged, and the rest is followed on."""
    registry, told = followed
    await store.send(("HSET", "sw:{~id}:drain:bad", "v", 1, "b", "{}"), ("ZADD", "sw:{~id}:all:drain", 0, "bad"))

    await registry.put(DrainRecord(backend="a"), ANN, action="drain", expected=None)

    assert await eventually(lambda: told[-1] == ["a"])


async def test_they_are_read_by_another_door_while_their_own_is_held(store):
    """And followed by their own, once."""
    over, told = store.another(), []
    await Registry(over).put(DrainRecord(backend="a"), ANN, action="drain", expected=0)
    store.hold("not yet")
    feed = Feed(over)
    following = Following(Registry(store), feed, DrainRecord, lambda drains: told.append([d.backend for d in drains]))
    try:
        for _ in range(2):
            await following.start(Registry(over))
        assert told == [["a"]] * 2
        assert [task.get_name() for task in asyncio.all_tasks()].count("follow every drain") == 1
        store.free()
        await feed.start()
        await Registry(over).put(DrainRecord(backend="b"), ANN, action="drain", expected=0)

        assert await eventually(lambda: told[-1] == ["a", "b"])
    finally:
        following.close()
        await feed.close()
        await over.close()
