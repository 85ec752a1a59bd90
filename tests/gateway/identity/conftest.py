import pytest
from redis import Redis

from gateway.identity.changes import Feed
from gateway.identity.registry import Registry
from gateway.store.door import Store
from tests.fakes.identity_provider import IdentityProvider
from tests.gateway.identity.support import Time, valkey


@pytest.fixture(scope="module")
def valkey_url():
    with valkey() as url:
        yield url


@pytest.fixture
async def store(valkey_url):
    with Redis.from_url(valkey_url) as redis:
        redis.flushall()
    store = Store(valkey_url, deadline=5.0)
    yield store
    await store.close()


@pytest.fixture
async def listening(valkey_url):
    """Open the same store over connections of its own."""
    store = Store(valkey_url, deadline=5.0)
    yield store
    await store.close()


@pytest.fixture
def registry(store):
    return Registry(store)


@pytest.fixture
async def feed(store, listening):
    """Begin a feed."""
    feed = Feed(listening)
    await feed.start()
    yield feed
    await feed.close()


@pytest.fixture
def time():
    return Time()


@pytest.fixture
async def idp():
    async with IdentityProvider() as provider:
        yield provider
