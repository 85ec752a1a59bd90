import pytest

from tests.gateway.harness import running
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
