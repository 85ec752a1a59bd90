"""What every test of a transport has: an upstream that does as scripted, and a watch over what is left behind.

Tests run over the product's loop, and over asyncio's own where their module asks for both by `LOOPS`.
"""

import asyncio

import pytest
import uvloop

from tests.gateway.harness import eventually
from tests.parts.scripted import ScriptedServer
from tests.parts.transports import certified, connections, leaving_nothing, opened

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def pytest_asyncio_loop_factories(config, item):
    return {name: LOOPS[name] for name in getattr(item.module, "LOOPS", ["uvloop"])}


@pytest.fixture(autouse=True)
async def nothing_is_left():
    """Hold every test to what it opened."""
    async with leaving_nothing():
        yield


@pytest.fixture(params=["pooled", "httpx"])
async def transport(request):
    started = opened(request.param)
    yield started
    await started.aclose()
    assert await eventually(lambda: connections(started) == 0, within=2.0)


@pytest.fixture
async def pooled():
    started = opened("pooled")
    yield started
    await started.aclose()
    assert await eventually(lambda: connections(started) == 0, within=2.0)


@pytest.fixture
async def upstream():
    async with ScriptedServer() as started:
        yield started


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return certified(tmp_path_factory.mktemp("certificates"))
