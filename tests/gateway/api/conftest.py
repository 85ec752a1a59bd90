from functools import partial

import httpx
import pytest
import pytest_asyncio
from litestar import Litestar, get
from litestar.openapi import OpenAPIConfig

from gateway.api.admin import CREDENTIALS, ERROR_ANSWERS, BodySchemas, Parts, admin_router
from gateway.api.admin_explain import dry_run
from gateway.config.stored import stored_plan
from gateway.identity.changes import Feed
from gateway.identity.identify import Identities
from gateway.identity.registry import Registry
from gateway.store.door import Store
from tests.gateway.api.support import ADMIN_KEY, BACKENDS, ORGANIZATIONS, PLANS, fleet_services
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
def registry(store):
    return Registry(store)


@get("/broken")
async def broken() -> None:
    """Fail as a bug would."""
    raise RuntimeError("a secret detail")


def parts_over(store, callers):
    """Return what the admin API needs, over a store."""
    services = fleet_services()
    return Parts(
        registry=Registry(store),
        store=store,
        callers=callers,
        admin_key=ADMIN_KEY,
        plans=PLANS,
        organizations=ORGANIZATIONS,
        issuers=["sso"],
        compile_plan=partial(stored_plan, models=None),
        backends=lambda: BACKENDS,
        dry_run=partial(dry_run, services),
        catalog=lambda: services.catalog,
        serves_without_store=lambda: False,
    )


class Current:
    """Whatever identities a test has: the app outlives them, as it would be slow to make."""

    identities = None

    async def identify(self, headers, address):
        return await self.identities.identify(headers, address)


@pytest.fixture(scope="module")
def current():
    return Current()


@pytest_asyncio.fixture(loop_scope="module")
async def identities(valkey_url, store, current):
    """Return the real thing, which learns of every change from the store."""
    listening = Store(valkey_url, deadline=5.0)
    feed = Feed(listening)
    await feed.start()
    current.identities = Identities(
        Registry(store),
        feed,
        plans=PLANS,
        organizations=ORGANIZATIONS,
        when_down="deny",
        grace=600,
        compile_plan=partial(stored_plan, models=None),
    )
    yield current.identities
    current.identities = None
    await feed.close()
    await listening.close()


@pytest.fixture(scope="module")
def parts(whole_store, current):
    return parts_over(whole_store, current)


@pytest.fixture(scope="module")
def app(parts):
    return app_over(parts)


def app_over(parts):
    """Return an app of the admin API alone, and of a route that fails."""
    return Litestar(
        [admin_router(parts), broken],
        exception_handlers=ERROR_ANSWERS,
        plugins=[BodySchemas()],
        openapi_config=OpenAPIConfig("Sluiceway", "0", components=CREDENTIALS),
        logging_config=None,
    )


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
