import asyncio

import pytest
from click.testing import CliRunner
from litestar import Litestar

from gateway.api.admin import ERROR_ANSWERS, admin_router
from gateway.cli import main
from gateway.config.settings import STANDARD
from gateway.identity.directory import Directory
from gateway.ledger import UsageTotal
from gateway.store.door import Store
from tests.gateway.identity.support import served, valkey

ADMIN_KEY = "admin-key-of-the-tests"


class Books:
    """A ledger that says what it was told to say."""

    def __init__(self):
        self.totals = {}

    async def usage(self, organization):
        return [UsageTotal(*total) for total in self.totals.get(organization, [])]


@pytest.fixture(scope="module")
def valkey_url():
    with valkey() as url:
        yield url


@pytest.fixture
def books():
    return Books()


@pytest.fixture
async def directory(valkey_url):
    store = Store(valkey_url, deadline=5.0)
    await store.send(("FLUSHALL",))
    yield Directory(store)
    await store.close()


@pytest.fixture
async def url(directory, books):
    """Serve the admin API of a gateway; return its address."""
    router = admin_router(directory, books, {"standard": STANDARD}, ADMIN_KEY)
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
