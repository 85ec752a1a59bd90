"""Real gateways behind a real load balancer, restarted one after the other under streams: nothing is lost."""

import asyncio
import itertools
import json
import signal
import ssl

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.e2e.conftest import shared_store
from tests.faults import rolling
from tests.faults.books import calls, settled, until
from tests.faults.rolling import ENDLESS, PLAIN, TALK, Load
from tests.parts import stores
from tests.parts.certificates import self_signed

pytestmark = pytest.mark.ci

STREAMS = 100

SOON = 1.0
"""Seconds of grace, for those who shall not be waited for."""

CLIENTS = 40
"""Callers directly on a gateway, who need a new connection for each call once it asks them to leave."""


@pytest.fixture
async def valkey(tmp_path):
    async with stores.one(tmp_path / "store") as store:
        yield store.url


@pytest.fixture
def redis():
    with shared_store("redis-server") as url:
        yield url


def kept(seen, streams=STREAMS):
    """Return the promises that were broken; all that was seen is told with them."""
    return [name for name, good in rolling.promises(seen, streams) if not good]


async def test_five_restarts_under_a_hundred_streams_lose_nothing(tmp_path, valkey):
    """By haproxy without one retry, over connections that it uses again for whoever comes."""
    seen = await rolling.rolling(tmp_path, valkey, restarts=5, streams=STREAMS)

    assert (kept(seen), seen.restarts) == ([], 5), seen
    assert seen.noticed < rolling.PAUSE


async def test_a_balancer_that_checks_no_health_loses_nothing_either(tmp_path, redis):
    """By nginx, which finds out by a refused connection, and in the pause by answers that end theirs."""
    seen = await rolling.rolling(tmp_path, redis, restarts=2, streams=STREAMS // 2, kind="nginx")

    assert (kept(seen, STREAMS // 2), seen.restarts) == ([], 2), seen


async def test_streams_that_outlive_the_grace_end_in_band_and_are_booked(tmp_path, valkey):
    """Each is told why, has no clean end, and pays for what it was sent."""
    async with rolling.site(tmp_path, valkey, count=1, grace=SOON) as where:
        (gateway,) = where.gateways
        load = Load(where.balancer.url, where.key)
        load.begin(ENDLESS, 20)
        await until(lambda: _all_talk(where, 20), 20.0)
        gateway.send(signal.SIGTERM)
        load.going = False
        code = await gateway.ended(within=30.0)
        await load.end()
        await gateway.start(within=30.0)
        await settled([gateway])
        booked = calls(await where.books.records())
        held = await where.books.reservations(), await where.books.slots()
        differences = (await gateway.admin("GET", "/ledger/check"))["differences"]

    assert code == 0
    assert len(load.answers) == len(booked) == 20
    for answer in load.answers:
        events = [line for line in answer.text.split(b"\n") if line.startswith(b"data: ")]
        assert json.loads(events[-1].removeprefix(b"data: "))["error"]["code"] == "overloaded"
        assert b"[DONE]" not in answer.text
        head = booked[answer.id].head
        assert (head.estimated, head.output >= answer.text.count(b'"tok "')) == (True, True)
    assert sum(sum(each.values()) for each in held) == 0
    assert differences == []


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_whoever_calls_a_gateway_directly_loses_no_call_that_was_sent(tmp_path, valkey, scheme):
    """Asked to leave in the pause, they come back over new connections until one is refused: then nothing was sent."""
    pair = self_signed(tmp_path / "tls") if scheme == "https" else None
    trust = ssl.create_default_context(cafile=pair[0]) if pair else True
    async with rolling.site(tmp_path, valkey, kind=None, count=1, pair=pair) as where:
        (gateway,) = where.gateways
        numbers, failures, done = itertools.count(), [], []

        async def call_on(client):
            for number in numbers:
                shape = (PLAIN, TALK)[number % 8 == 0]
                asked = json.loads(rolling.body(shape)) | {"extra_headers": {"x-request-id": f"{shape}-{number}"}}
                try:
                    answer = await client.chat.completions.create(**asked)
                    if shape == TALK:
                        assert [chunk async for chunk in answer][-1].usage is not None
                except openai.APIConnectionError as error:
                    failures.append(error)
                    return
                done.append(f"{shape}-{number}")

        async with httpx.AsyncClient(verify=trust, limits=httpx.Limits(max_connections=None)) as web:
            url = f"{gateway.url}/v1"
            client = AsyncOpenAI(base_url=url, api_key=where.key, max_retries=0, http_client=web)
            callers = [asyncio.ensure_future(call_on(client)) for _ in range(CLIENTS)]
            await asyncio.sleep(1.0)
            gateway.send(signal.SIGTERM)
            await asyncio.gather(*callers)
        code = await gateway.ended(within=30.0)
        booked = calls(await where.books.records())

    assert code == 0
    assert [error.__cause__ for error in failures if not isinstance(error.__cause__, httpx.ConnectError)] == []
    assert booked.keys() == set(done)
    assert len(done) > CLIENTS


async def _all_talk(where, count):
    return len(where.upstream.calls) == count and all(call.tokens for call in where.upstream.calls)
