import httpx
import pytest
import pytest_asyncio
from litestar import Litestar, get

from gateway.api.admin import ERROR_ANSWERS, admin_router
from gateway.identity.directory import Directory
from gateway.store.door import Store
from tests.gateway.api.support import ADMIN_KEY, PLANS, ZONES
from tests.gateway.identity.support import served, valkey


@pytest.fixture(scope="module")
def valkey_url():
    with valkey() as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_store(valkey_url):
    store = Store(valkey_url, deadline=5.0)
    yield store
    await store.close()


@pytest_asyncio.fixture(loop_scope="module")
async def store(whole_store):
    await whole_store.send(("FLUSHALL",))
    return whole_store


@pytest.fixture
def directory(store):
    return Directory(store)


@get("/broken")
async def broken() -> None:
    """Fail as a bug would."""
    raise RuntimeError("a secret detail")


@pytest.fixture(scope="module")
def app(whole_store):
    routes = [admin_router(Directory(whole_store), whole_store, PLANS, ZONES, ADMIN_KEY), broken]
    return Litestar(routes, exception_handlers=ERROR_ANSWERS, logging_config=None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(app):
    async with served(app) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def admin(url, store):
    """Return a client of the admin API that holds its key, over an empty store."""
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(base_url=f"{url}/admin/v1", headers=headers, verify=False) as client:
        yield client
