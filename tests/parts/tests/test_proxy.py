import asyncio

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError  # noqa: A004 - the client's, as everywhere in it

from tests.parts.proxy import LAG, StoreProxy
from tests.parts.stores import one


@pytest.fixture
async def store(tmp_path):
    async with one(tmp_path / "store") as server:
        yield server


@pytest.fixture
async def proxy(store):
    async with StoreProxy(store.port) as between:
        yield between


async def follow(client, last="0"):
    """Wait for what the stream holds after `last`."""
    return await client.execute_command("XREAD", "BLOCK", 2000, "STREAMS", "news", last)


@pytest.mark.parametrize("link", ["slow", "blackholed", "reset"])
async def test_only_the_connection_that_waits_for_news_is_spoiled(store, proxy, link):
    """The others have their answers, each the right one."""
    await store.ask("XADD", "news", "1-0", "word", "first")
    async with Redis.from_url(proxy.url) as feed, Redis.from_url(proxy.url) as other:
        assert await follow(feed)
        proxy.spoil(link)
        begun = asyncio.get_running_loop().time()
        following = asyncio.ensure_future(follow(feed))
        await asyncio.wait({following}, timeout=3 * LAG if link == "blackholed" else 10)
        assert await other.set("a", "1") is True
        assert following.done() is (link != "blackholed")
        if link == "slow":
            assert following.result()
            assert asyncio.get_running_loop().time() - begun >= 2 * LAG
        following.cancel()
        await asyncio.wait({following})
        assert link != "reset" or isinstance(following.exception(), ConnectionError)
    assert b"\r\nXREAD\r\n" in proxy.sent
