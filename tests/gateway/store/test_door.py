import asyncio
import contextlib
import os
import signal
import time

import pytest

from gateway.store.door import NoScriptError, Store, StoreDown
from gateway.store.embedded import embedded


@pytest.fixture
async def store(tmp_path):
    async with embedded(tmp_path) as url:
        store = Store(url)
        yield store
        await store.close()


@contextlib.asynccontextmanager
async def paused(store):
    (info,) = await store.send(["INFO", "server"])
    os.kill(info["process_id"], signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(info["process_id"], signal.SIGCONT)


async def test_all_commands_of_a_call_share_one_round_trip(store):
    before = store.round_trips

    replies = await store.send(["SET", "a", 1], ["GET", "a"], ["GET", b"none"])

    assert replies == [True, b"1", None]
    assert store.round_trips == before + 1


async def test_a_store_that_cannot_be_reached_is_down(tmp_path):
    store = Store(f"unix://{tmp_path}/nothing")

    with pytest.raises(StoreDown, match="cannot be reached"):
        await store.send(["PING"])


async def test_a_silent_store_is_down_after_the_deadline_and_its_late_reply_is_nobody_elses(store):
    async with paused(store):
        with pytest.raises(StoreDown, match="did not answer within 250 ms"):
            await store.send(["SET", "late", "1"])
    await asyncio.sleep(0.05)

    assert await store.send(["ECHO", "mine"]) == [b"mine"]


async def test_a_command_that_is_refused_is_a_store_that_is_down(store):
    with pytest.raises(StoreDown, match=r"refused a command: .*WRONGTYPE"):
        await store.send(["SET", "a", "1"], ["HGET", "a", "b"])


async def test_a_script_that_is_not_known_is_told_apart(store):
    with pytest.raises(NoScriptError):
        await store.send(["PING"], ["EVALSHA", "0" * 40, 0])


async def test_a_busy_loop_is_not_taken_for_a_store_that_is_down(tmp_path):
    """The answer came in time; nobody had read it."""
    async with embedded(tmp_path) as url:
        store = Store(url, deadline=0.05)
        await store.send(("PING",))
        asking = asyncio.ensure_future(store.send(("GET", "a")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(0.2)  # noqa: ASYNC251 - the loop is busy on purpose

        assert await asking == [None]
        await store.close()
