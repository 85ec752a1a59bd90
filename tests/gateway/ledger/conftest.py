import asyncio
from itertools import count

import pytest
from redis import Redis

from gateway.ledger import batches, wire
from gateway.ledger.batches import Batches
from gateway.ledger.contact import Contact
from gateway.store.embedded import embedded
from tests.gateway.ledger.support import ScriptedStore

_organizations = count()


@pytest.fixture(scope="session")
def store_url(tmp_path_factory):
    with asyncio.Runner() as runner:
        server = embedded(tmp_path_factory.mktemp("store"))
        yield runner.run(server.__aenter__())
        runner.run(server.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def redis(store_url):
    with Redis.from_url(store_url, protocol=3) as redis:
        redis.script_load(wire.SCRIPT.decode())
        yield redis


@pytest.fixture
def organization():
    return f"org{next(_organizations)}"


@pytest.fixture
async def store():
    return ScriptedStore()


@pytest.fixture
async def contact():
    return Contact(gap=10.0)


@pytest.fixture
async def line(store, contact, monkeypatch):
    monkeypatch.setattr(batches, "FIRST_RETRY", 0.01)
    return Batches(store, "g1", contact)
