import pytest

from gateway.upstream import pool as module
from gateway.upstream.pool import Pool
from tests.gateway.harness import eventually
from tests.parts.scripted import ScriptedServer


@pytest.fixture
async def upstream():
    async with ScriptedServer() as server:
        yield server


async def test_the_last_one_given_back_is_taken_first(upstream):
    """So that under a falling load the others go idle."""
    pool = Pool("127.0.0.1", upstream.port, None)
    one, other = [await pool.open(1.0) for _ in range(2)]
    pool.give(one)
    pool.give(other)

    assert await pool.take(1.0) is other
    assert await pool.take(1.0) is one
    assert len(pool) == 0
    one.abort()
    other.abort()


async def test_idle_ones_expire_oldest_first(upstream, monkeypatch):
    """And one that is used in time does not."""
    monkeypatch.setattr(module, "KEEP_ALIVE", 0.15)
    pool = Pool("127.0.0.1", upstream.port, None)
    pool.give(await pool.open(1.0))
    assert await eventually(lambda: len(pool) == 0, within=2.0)

    kept = await pool.open(1.0)
    pool.give(kept)
    assert await pool.take(1.0) is kept
    pool.give(kept)
    pool.close()
    assert await eventually(lambda: not upstream.connections)


async def test_closing_closes_what_is_idle(upstream):
    """Nothing stays open."""
    pool = Pool("127.0.0.1", upstream.port, None)
    pool.give(await pool.open(1.0))
    pool.close()

    assert await eventually(lambda: not upstream.connections)
