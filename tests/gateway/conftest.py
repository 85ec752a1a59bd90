import asyncio

import pytest
import uvloop

from tests.gateway.harness import running
from tests.gateway.wires import world
from tests.parts.certificates import self_signed
from tests.parts.scripted import ScriptedServer


@pytest.fixture
async def first():
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def second():
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def gateway(tmp_path, first, second):
    async with running(tmp_path, {"a": first, "b": second}) as harness:
        yield harness


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def play(request):
    """Run a scene (an async function of a World and a Caller) on one of the two loops."""

    async def played(scene, terms):
        async with world(**terms) as it, it.caller() as caller:
            await scene(it, caller)

    def run(scene, **terms):
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(played(scene, terms), 60))

    return run


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Make a certificate for localhost and 127.0.0.1, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))
