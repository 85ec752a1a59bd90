import pytest
from redis import Redis

from gateway.identity.directory import Directory
from gateway.store.door import Store
from tests.gateway.identity.support import valkey


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
def directory(store):
    return Directory(store)
