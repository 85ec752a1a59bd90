"""`sluiceway serve` as a process whose store comes after it."""

import asyncio
import time

import httpx
import pytest

from tests.contract.support import until
from tests.e2e.conftest import journalled
from tests.gateway.harness import eventually
from tests.parts.gateway import GatewayProcess, write_config
from tests.parts.scripted import ScriptedServer
from tests.parts.stores import one

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}


@pytest.fixture
async def store(tmp_path):
    async with one(tmp_path / "store", appendonly="yes") as server:
        yield server


@pytest.fixture
async def gateway(tmp_path, store):
    """Make a gateway over a store that is there; nobody has started it."""
    async with ScriptedServer() as upstream:
        settings = {
            "backends": {"up": {"kind": "openai", "base_url": f"{upstream.url}/v1", "api_key": "x"}},
            "models": {
                "m": {"deployments": [{"backend": "up", "model": "scripted", "price": {"input": 1, "output": 2}}]}
            },
            "plans": {"team": {"tokens_in_all": 10**9, "concurrent_requests": 50}},
            "organizations": {"acme": {"plan": "team"}},
            "store": {"url": store.url, "data_dir": str(tmp_path / "data"), "when_down": "local"},
        }
        gateway = GatewayProcess(write_config(tmp_path, settings))
        yield gateway
        gateway.kill()


async def readiness(gateway):
    async with httpx.AsyncClient(base_url=gateway.operations_url, timeout=10) as operator:
        return await operator.get("/readyz")


async def calls(gateway, key, times):
    """Return the statuses of so many calls, one after the other."""
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=20) as client:
        return [(await client.post("/v1/chat/completions", json=BODY)).status_code for _ in range(times)]


async def test_without_its_store_it_says_so_and_ends_well(gateway, store):
    """Whoever rolls out sees it in the output, the log and readiness; a signal ends it at once with 0."""
    store.kill()
    await gateway.start(page="/livez")
    ready = await readiness(gateway)

    assert ready.status_code == 503
    assert f"  not ready: {ready.text.removesuffix('.')}; until it is, calls get 503" in gateway.output
    assert f"listens on {gateway.url}" in gateway.output
    assert gateway.output.count("this gateway starts without the store") == 1
    began = time.monotonic()
    assert await gateway.terminate() == 0
    assert time.monotonic() - began < 10
    assert "Traceback" not in gateway.output


async def test_what_a_killed_gateway_had_admitted_by_itself_is_booked_before_anything_new(gateway, store, tmp_path):
    """Its journal waits with the next gateway of its folder, and the books are whole at the first call of that one."""
    await gateway.start()
    key = await gateway.create_key()
    assert await calls(gateway, key, 1) == [200]
    store.pause()
    assert await calls(gateway, key, 10) == [200] * 10
    journals = tmp_path / "data" / "journal"

    await eventually(lambda: journalled(journals) >= 20, within=20)
    await asyncio.sleep(0.3)  # and perhaps one that the store had been told and had not answered for
    gateway.kill()
    await gateway.start(page="/livez")
    assert (await readiness(gateway)).text.startswith("the store is not joined yet: the store did not answer")
    assert await calls(gateway, key, 3) == [503] * 3
    assert len(list(journals.glob("*"))) == 1

    store.go_on()

    async def it_has_joined():
        return (await readiness(gateway)).status_code == 200

    await until(it_has_joined)
    assert list(journals.glob("*")) == []
    assert sum(row["calls"] for row in await gateway.usage()) == 11
    assert await calls(gateway, key, 2) == [200] * 2

    async def nothing_is_open():
        return (await gateway.metrics())["sluiceway_open_reservations"] == 0

    await until(nothing_is_open)
    assert sum(row["calls"] for row in await gateway.usage()) == 13
    assert (await gateway.admin("GET", "/ledger/check"))["differences"] == []
    assert gateway.output.count("the store is joined") == 1
    assert await gateway.terminate() == 0
