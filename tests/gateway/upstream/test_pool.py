import asyncio
import gc
import random
import socket

import httpx
import pytest
import uvloop

from gateway.upstream import pool as module
from gateway.upstream.pool import Pool
from tests.gateway.harness import eventually
from tests.parts.scripted import ScriptedServer
from tests.parts.wire import REQUEST


@pytest.fixture
async def upstream():
    async with ScriptedServer() as server:
        yield server


def pool_of(upstream, most=None):
    return Pool("127.0.0.1", upstream.port, None, most)


async def taken(pool, within=1.0):
    """Take a connection and make one call over it, so that it may be given back."""
    connection = await pool.take(within)
    try:
        await connection.send(REQUEST, b"{}")
        await connection.answer()
        while await connection.read() is not None:
            pass
    except BaseException:  # it broke, or its caller left
        pool.give(connection)
        raise
    return connection


async def test_the_last_one_given_back_is_taken_first(upstream):
    """So that under a falling load the others go idle."""
    pool = pool_of(upstream)
    one, other = [await taken(pool) for _ in range(2)]
    pool.give(one)
    pool.give(other)

    assert await pool.take(1.0) is other
    assert await pool.take(1.0) is one
    assert (len(pool), pool.open) == (0, 2)
    pool.give(one)
    pool.give(other)
    pool.close()
    assert pool.open == 0


async def test_idle_ones_expire_oldest_first(upstream, monkeypatch):
    """And one that is used in time does not."""
    monkeypatch.setattr(module, "KEEP_ALIVE", 0.15)
    pool = pool_of(upstream)
    pool.give(await taken(pool))
    assert await eventually(lambda: len(pool) == 0, within=2.0)
    assert pool.open == 0

    kept = await taken(pool)
    pool.give(kept)
    assert await taken(pool) is kept
    pool.give(kept)
    pool.close()
    assert await eventually(lambda: not upstream.connections)


async def test_closing_closes_what_is_idle_and_what_comes_back_later(upstream):
    """Nothing stays open."""
    pool = pool_of(upstream)
    idle, busy = [await taken(pool) for _ in range(2)]
    pool.give(idle)
    pool.close()
    assert pool.open == 1
    pool.give(busy)

    assert pool.open == 0
    assert await eventually(lambda: not upstream.connections)


class TestABound:
    """`most` connections and no more."""

    async def test_whoever_waits_longest_is_served_first(self, upstream):
        """With the connection that came free, or with the place of one that broke."""
        pool = pool_of(upstream, 1)
        held = await taken(pool)
        served = []

        async def call(number):
            connection = await taken(pool)
            served.append(number)
            if number % 2 == 0:
                connection.abort()
            pool.give(connection)

        calls = []
        for number in range(6):
            calls.append(asyncio.ensure_future(call(number)))
            await asyncio.sleep(0)
        pool.give(held)
        await asyncio.gather(*calls)

        assert served == list(range(6))
        assert pool.open == 1
        pool.close()

    async def test_waiting_ends_with_the_deadline(self, upstream):
        """And leaves nothing in the queue."""
        pool = pool_of(upstream, 1)
        held = await taken(pool)
        with pytest.raises(httpx.PoolTimeout, match="all 1"):
            await pool.take(0.02)
        assert not pool._queue
        pool.give(held)
        assert await pool.take(0.02) is held
        pool.give(held)

    async def test_a_connect_that_fails_gives_its_place_to_the_next(self, upstream):
        """Who fails or is cut off while connecting holds nothing."""
        pool = pool_of(upstream, 1)
        await upstream.stop()
        calls = [asyncio.ensure_future(pool.take(1.0)) for _ in range(3)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        await upstream.start()

        assert [type(result) for result in results] == [httpx.ConnectError] * 3
        assert pool.open == 0

    async def test_who_leaves_in_the_moment_of_the_hand_over_loses_nothing(self, upstream):
        """Neither by leaving nor by the deadline; the next in the queue gets it."""
        pool = pool_of(upstream, 1)
        held = await taken(pool)
        leaving, staying = [asyncio.ensure_future(pool.take(1.0)) for _ in range(2)]
        await asyncio.sleep(0)
        pool.give(held)  # handed to the first, which has not woken yet
        leaving.cancel()

        assert await staying is held
        with pytest.raises(asyncio.CancelledError):
            await leaving
        pool.give(held)
        assert (pool.open, len(pool)) == (1, 1)
        pool.close()

    async def test_a_connection_that_dies_between_hand_over_and_use_is_replaced(self, upstream):
        """In its own place."""
        pool = pool_of(upstream, 1)
        held = await taken(pool)
        waiting = asyncio.ensure_future(pool.take(1.0))
        await asyncio.sleep(0)
        pool.give(held)
        held.connection_lost(None)

        fresh = await waiting
        assert fresh is not held
        assert fresh.fresh
        assert pool.open == 1
        pool.give(fresh)

    @pytest.mark.parametrize("seed", range(10))
    async def test_no_place_is_lost_or_made_whatever_happens(self, upstream, seed):
        """Callers who come, finish, break and leave at random moments."""
        dice = random.Random(seed)
        pool = pool_of(upstream, 3)

        async def call():
            connection = await taken(pool, dice.choice([0.002, 1.0]))
            try:
                await asyncio.sleep(dice.choice([0, 0.001, 0.003]))
                if dice.random() < 0.2:
                    connection.abort()
            finally:
                pool.give(connection)

        calls = []
        for _ in range(60):
            calls.append(asyncio.ensure_future(call()))
            if dice.random() < 0.3:
                await asyncio.sleep(0.001)
            if dice.random() < 0.3:
                dice.choice(calls).cancel()
            assert pool.open <= 3
        results = await asyncio.gather(*calls, return_exceptions=True)

        allowed = (httpx.PoolTimeout, httpx.ConnectTimeout, httpx.ReadError, asyncio.CancelledError)
        assert all(result is None or isinstance(result, allowed) for result in results)
        assert pool.open == len(pool)
        assert not pool._queue
        pool.close()
        assert pool.open == 0


def test_a_name_that_is_found_too_late_leaves_nothing_behind():
    """Uvloop's own connecting would go on looking, and log what nobody waits for any more."""
    told = []

    async def look():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
        pool = Pool("no.such.name.invalid", 80, None)
        for within in (0.0, 30.0):  # the second one ends after the first one's lookup
            with pytest.raises(httpx.TransportError):
                await pool.take(within)
        gc.collect()
        assert pool.open == 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(look())

    assert told == []


async def test_a_name_is_tried_at_each_of_its_addresses(upstream, monkeypatch):
    """`localhost` is two, and an engine may listen at one."""

    async def resolve(_, port, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in (2, 1)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    pool = Pool("two.example", upstream.port, None)
    pool.give(await taken(pool))

    assert len(pool) == 1
    pool.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="this system's kernel asks in its own time")
async def test_the_kernel_asks_whether_the_host_of_a_connection_is_there(upstream):
    """A host that has vanished says nothing: no call waits for it longer than the kernel takes to find out."""
    pool = pool_of(upstream)
    connection = await taken(pool)
    watched = connection._transport.get_extra_info("socket")

    assert watched.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    told = [watched.getsockopt(socket.IPPROTO_TCP, option) for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)]
    assert told == [module.SILENT, module.AGAIN]
    assert module.SILENT + module.TRIES * module.AGAIN < 30
    pool.give(connection)
    pool.close()
