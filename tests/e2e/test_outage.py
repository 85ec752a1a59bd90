"""The store is gone for three seconds under callers: what they get, what operators see, what the books say then."""

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

AWAY = 3.0
"""Seconds."""

DEADLINE = 1.0
"""Seconds that the store may take: no busy disk or core is taken for an outage of its own."""

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}


@pytest.fixture
async def store(tmp_path):
    async with one(tmp_path / "store", appendonly="yes") as server:
        yield server


@pytest.fixture
async def gateway(tmp_path, store, stance):
    async with ScriptedServer() as upstream:
        settings = {
            "backends": {"up": {"kind": "openai", "base_url": f"{upstream.url}/v1", "api_key": "x"}},
            "models": {
                "m": {"deployments": [{"backend": "up", "model": "scripted", "price": {"input": 1, "output": 2}}]}
            },
            "plans": {"team": {"tokens_in_all": 10**9, "budget_per_day": 1000, "concurrent_requests": 50}},
            "organizations": {"acme": {"plan": "team", "teams": {"research": {"plan": "team"}}}},
            "store": {
                "url": store.url,
                "data_dir": str(tmp_path / "data"),
                "when_down": stance,
                "deadline": DEADLINE,
            },
        }
        async with GatewayProcess(write_config(tmp_path, settings)) as process:
            yield process


class Callers:
    """Callers that go on and on. `answers`: (seconds when it began, status, retry-after) of each call."""

    def __init__(self, gateway, key):
        self.answers = []
        self._over = False
        self._gateway, self._key = gateway, key

    async def call_on(self, number):
        headers = {"authorization": f"Bearer {self._key}"}
        async with httpx.AsyncClient(base_url=self._gateway.url, headers=headers, timeout=20) as client:
            while not self._over:
                begun = time.monotonic()
                answer = await client.post("/v1/chat/completions", json=BODY | {"stream": bool(number % 2)})
                self.answers.append((begun, answer.status_code, answer.headers.get("retry-after")))
                await asyncio.sleep(0.02)

    def stop(self):
        self._over = True


async def an_outage(gateway, store):
    """Stop the store under callers; return them, what operators saw meanwhile, and when it was away."""
    callers = Callers(gateway, await gateway.create_key())
    running = [asyncio.ensure_future(callers.call_on(number)) for number in range(4)]
    await asyncio.sleep(1.0)
    store.pause()
    begun = time.monotonic()
    await asyncio.sleep(AWAY - 0.5)
    async with httpx.AsyncClient(base_url=gateway.operations_url, timeout=10) as operator:
        seen = await operator.get("/readyz"), await gateway.metrics(), await operator.get("/livez")
    await asyncio.sleep(0.5)
    ended = time.monotonic()
    store.go_on()
    await asyncio.sleep(2.0)
    callers.stop()
    await asyncio.gather(*running)
    return callers, seen, (begun, ended)


async def books_of(gateway):
    """Return calls booked and what the audit finds, once nothing is open."""

    async def nothing_is_open():
        return (await gateway.metrics())["sluiceway_open_reservations"] == 0

    await until(nothing_is_open)
    check = await gateway.admin("GET", "/ledger/check")
    return sum(row["calls"] for row in await gateway.usage()), check["differences"]


@pytest.mark.parametrize("stance", ["local"])
async def test_with_local_plans_an_outage_fails_no_call_and_the_books_are_whole_again(gateway, store, tmp_path):
    callers, (ready, metrics, live), (begun, ended) = await an_outage(gateway, store)

    assert {status for _, status, _ in callers.answers} == {200}
    assert len([at for at, *_ in callers.answers if begun + 0.5 < at < ended]) > 50
    assert (ready.status_code, live.status_code) == (200, 200)
    assert ready.text.startswith("ok, but for ")
    assert "s without the store (the store did not answer within 1000 ms): plans that say local" in ready.text
    assert metrics["sluiceway_store_down"] == 1
    assert metrics["sluiceway_ledger_local"] > 0
    assert await books_of(gateway) == (len(callers.answers), [])
    after = await gateway.metrics()
    assert (after["sluiceway_store_down"], after["sluiceway_ledger_lost"]) == (0, 0)
    assert list((tmp_path / "data").glob("journal/*")) == []
    assert gateway.output.count("the store is down") == gateway.output.count("the store is back") == 1


@pytest.mark.parametrize("stance", ["deny"])
async def test_with_plans_that_deny_callers_are_told_when_to_come_back(gateway, store):
    callers, (ready, metrics, live), (begun, ended) = await an_outage(gateway, store)

    during = [(status, after) for at, status, after in callers.answers if begun + 0.5 < at < ended - 0.5]
    assert len(during) > 50
    assert {status for status, _ in during} == {503}
    assert all(int(after) >= 1 for _, after in during)
    assert {status for at, status, _ in callers.answers if at < begun - 0.5 or at > ended + 1.2} == {200}
    assert (ready.status_code, live.status_code) == (503, 200)
    assert "did not answer" in ready.text
    assert (metrics["sluiceway_store_down"], metrics["sluiceway_ledger_local"]) == (1, 0)
    served = [status for _, status, _ in callers.answers].count(200)
    assert await books_of(gateway) == (served, [])


@pytest.mark.parametrize("stance", ["local"])
async def test_a_gateway_killed_in_an_outage_is_put_right_by_its_next_start(gateway, store, tmp_path):
    key = await gateway.create_key()
    async with httpx.AsyncClient(base_url=gateway.url, headers={"authorization": f"Bearer {key}"}) as client:
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 200
        store.pause()
        answers = [await client.post("/v1/chat/completions", json=BODY, timeout=20) for _ in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 10
    await eventually(lambda: journalled(tmp_path / "data" / "journal") >= 20, within=20)
    await asyncio.sleep(0.3)  # and perhaps one that the store had been told and had not answered for
    gateway.kill()
    assert len(list((tmp_path / "data").glob("journal/*"))) == 1

    store.go_on()
    await gateway.start()

    assert await books_of(gateway) == (11, [])
    assert list((tmp_path / "data").glob("journal/*")) == []
    await gateway.terminate()
    await gateway.start()
    assert await books_of(gateway) == (11, [])
