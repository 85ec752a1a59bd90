import asyncio
import contextlib
from concurrent.futures import Future
from functools import partial
from threading import Thread

import pytest
from click.testing import CliRunner
from litestar import Litestar

from gateway.api.admin import ERROR_ANSWERS, BackendView, Parts, admin_router
from gateway.api.admin_explain import dry_run
from gateway.cli import main
from gateway.config.settings import STANDARD, Organization
from gateway.config.stored import stored_plan
from gateway.identity.changes import Feed
from gateway.identity.identify import Identities
from gateway.identity.issuers import Issuers
from gateway.identity.last_used import LastUsed
from gateway.identity.registry import Registry
from gateway.store.door import Store
from policies.domain import Meter, MeterKind, Plan
from tests.gateway.api.support import fleet_services
from tests.gateway.identity.support import served, valkey

ADMIN_KEY = "admin-key-of-the-tests"
SILVER = Plan("silver", (Meter(MeterKind.TOKENS_PER_DAY, limit=9, burst=9),))
PLANS = {"standard": STANDARD, "silver": SILVER}
ORGANIZATIONS = {"filed": Organization(SILVER, {"desk": None}, "Europe/Berlin")}
"""What the gateway's file has."""

BACKENDS = (
    BackendView(
        name="gpu", kind="vllm", hosted=False, up=True, why=None, in_flight=3, models=("mistral-medium", "small")
    ),
    BackendView(
        name="hosted",
        kind="nvidia",
        hosted=True,
        up=None,
        why="large off: the upstream answered 401 (for 5 min more)",
        in_flight=0,
        models=("large", "larger"),
        unlisted=("larger",),
    ),
)


@pytest.fixture(scope="module")
def valkey_url():
    with valkey() as url:
        yield url


@pytest.fixture
async def store(valkey_url):
    store = Store(valkey_url, deadline=5.0)
    await store.send(("FLUSHALL",))
    yield store
    await store.close()


@pytest.fixture
def registry(store):
    return Registry(store)


@pytest.fixture(scope="module")
def gateway_url(valkey_url):
    """Serve the admin API of a gateway from a thread of its own, as it is elsewhere than `sluiceway`."""
    loop, enough, up = asyncio.new_event_loop(), asyncio.Event(), Future()

    async def serve():
        async with _gateway(valkey_url) as url:
            up.set_result(url)
            await enough.wait()

    thread = Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    try:
        yield up.result(10)
    finally:
        loop.call_soon_threadsafe(enough.set)
        thread.join(10)
        loop.close()


@pytest.fixture
def url(gateway_url, store):
    """Return the address of a gateway's admin API over an empty store."""
    return gateway_url


async def stamped(message, _):
    """Tell, as every answer of a gateway does, which configuration is in force: nobody else's answer has that."""
    if message["type"] == "http.response.start":
        message["headers"] = [*message["headers"], (b"x-sluiceway-config", b"0123456789ab")]


@contextlib.asynccontextmanager
async def _gateway(valkey_url):
    store, listening = (Store(valkey_url, deadline=5.0) for _ in range(2))
    registry = Registry(store)
    file = {"plans": PLANS, "organizations": ORGANIZATIONS, "compile_plan": partial(stored_plan, models=None)}
    callers = Identities(
        registry,
        Feed(listening),
        when_down="deny",
        grace=600,
        issuers=Issuers(()),
        last_used=LastUsed(store),
        **file,
    )
    services = fleet_services()
    parts = Parts(
        registry=registry,
        store=store,
        callers=callers,
        admin_key=ADMIN_KEY,
        issuers=("corp",),
        backends=lambda: BACKENDS,
        dry_run=partial(dry_run, services),
        catalog=lambda: services.catalog,
        serves_without_store=lambda: False,
        **file,
    )
    app = Litestar([admin_router(parts)], exception_handlers=ERROR_ANSWERS, before_send=[stamped], logging_config=None)
    async with served(app) as url:
        yield url
    await store.close()
    await listening.close()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run `sluiceway` in an empty folder, and in a thread, so that others in this one go on."""
    monkeypatch.chdir(tmp_path)

    async def run(*arguments, stdin=None, **environment):
        usual = {"SLUICEWAY_URL": None, "SLUICEWAY_ADMIN_KEY": ADMIN_KEY, "COLUMNS": "200"}
        return await asyncio.to_thread(CliRunner().invoke, main, arguments, input=stdin, env=usual | environment)

    return run


@pytest.fixture
def sluiceway(run, url):
    """Run `sluiceway` against the gateway; return what it printed, having checked that it ended well."""

    async def sluiceway(*arguments, stdin=None):
        result = await run(*arguments, stdin=stdin, SLUICEWAY_URL=url)
        assert result.exit_code == 0, result.output
        return result

    return sluiceway


@pytest.fixture
def refused(run, url):
    """Run `sluiceway` against the gateway; return the one line with which it failed, as it should."""

    async def refused(*arguments, stdin=None, **environment):
        result = await run(*arguments, stdin=stdin, **({"SLUICEWAY_URL": url} | environment))
        assert result.exit_code == 1, result.output
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        return result.stderr

    return refused
