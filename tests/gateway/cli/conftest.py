import asyncio

import pytest
from click.testing import CliRunner
from litestar import Litestar

from gateway.api.admin import ERROR_ANSWERS, admin_router
from gateway.cli import main
from gateway.config.settings import STANDARD
from gateway.identity.directory import Directory
from gateway.store.door import Store
from tests.gateway.identity.support import served, valkey

ADMIN_KEY = "admin-key-of-the-tests"


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
def directory(store):
    return Directory(store)


@pytest.fixture
async def url(directory, store):
    """Serve the admin API of a gateway; return its address."""
    router = admin_router(directory, store, {"standard": STANDARD}, {}, ADMIN_KEY)
    async with served(Litestar([router], exception_handlers=ERROR_ANSWERS, logging_config=None)) as url:
        yield url


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run `sluiceway` in an empty folder, and in a thread, as the server is here."""
    monkeypatch.chdir(tmp_path)

    async def run(*arguments, **environment):
        usual = {"SLUICEWAY_URL": None, "SLUICEWAY_ADMIN_KEY": ADMIN_KEY, "COLUMNS": "160"}
        return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=usual | environment)

    return run


@pytest.fixture
def sluiceway(run, url):
    """Run `sluiceway` against the gateway; return what it printed, having checked that it ended well."""

    async def sluiceway(*arguments):
        result = await run(*arguments, SLUICEWAY_URL=url)
        assert result.exit_code == 0, result.output
        return result

    return sluiceway
