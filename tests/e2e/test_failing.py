"""A replica dies, a caller leaves, the gateway is stopped: what is lost, what is paid, what is told."""

import asyncio

import openai
import pytest

from tests.e2e.conftest import over
from tests.parts.llamacpp import LlamaServer
from tests.parts.scripted import Hang, ScriptedServer, sse

TALK = {"messages": [{"role": "user", "content": "Talk."}], "model": "tiny"}


async def call(client, *, stream):
    """Make one call; return (kind, attempts, seen tokens, whether a cut was told)."""
    asked = {**TALK, "max_tokens": 300, "stream": stream}
    seen = attempts = 0
    try:
        raw = await client.chat.completions.with_raw_response.create(**asked)
        attempts = int(raw.headers["x-sluiceway-attempts"])
        answer = raw.parse()
        if not stream:
            return "plain", attempts, answer.usage.completion_tokens, True
        async for chunk in answer:
            seen += bool(chunk.choices and chunk.choices[0].delta.content)
    except openai.APIError as error:
        if not seen:
            return f"failed: {error}", attempts, 0, False
        return "cut", attempts, seen, "broke off" in str(error)
    return "stream", attempts, seen, True


async def test_a_replica_killed_under_load_fails_no_call_that_nobody_had_seen(site, replicas):
    """Plain calls and uncommitted streams move on; committed ones are told in-band, and counted."""
    client = await site.client()
    outcomes, over = [], asyncio.Event()

    async def keep_calling(number):
        while not over.is_set():
            outcomes.append(await call(client, stream=bool(number % 2)))

    callers = [asyncio.ensure_future(keep_calling(number)) for number in range(18)]
    victim = replicas[0]
    async with asyncio.timeout(30):
        while (await victim.metrics())["requests_processing"] < 4:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.005)
    before = len(outcomes)
    victim.kill()
    while len(outcomes) < before + 30:  # noqa: ASYNC110 - callers append
        await asyncio.sleep(0.05)
    over.set()
    await asyncio.gather(*callers)

    assert [outcome for outcome in outcomes if outcome[0].startswith("failed")] == []
    cut = [outcome for outcome in outcomes if outcome[0] == "cut"]
    assert all(told for *_, told in cut)
    assert max(attempts for _, attempts, *_ in outcomes) >= 2
    metrics = await site.process.metrics()
    causes = ("reset", "truncated")
    assert sum(metrics.total("sluiceway_streams_cut_total", cause=cause) for cause in causes) == len(cut)
    assert (await site.booked())[2] == len(outcomes)


async def test_a_caller_who_leaves_stops_the_engine_and_pays_for_what_it_saw(start, models, store):
    """Idle within a second, far from the end; charged at least what was seen, at most what was made."""
    async with LlamaServer(models["slow"], alias="slow", parallel=2) as engine:
        site = await start(over([engine], model="slow") | store)
        client = await site.client()
        asked = {**TALK, "model": "slow", "max_tokens": 3000, "stream": True}
        seen = 0
        async with await client.chat.completions.create(**asked) as stream:
            async for chunk in stream:
                seen += bool(chunk.choices and chunk.choices[0].delta.content)
                if seen == 60:
                    break
        idle_after = await engine.wait_idle(within=5.0)
        made = await engine.generated()
        prompt, charged, _ = await site.booked()

    assert idle_after < 1.0
    assert made < 0.2 * 3000
    assert seen <= charged <= made
    assert prompt > 0


async def test_sigterm_with_streams_open_leaves_no_reservation(start, replicas, store_for_two):
    """They finish within the grace, the books are closed, the exit code is 0."""
    site = await start(over(replicas) | store_for_two)
    client = await site.client()
    asked = {**TALK, "max_tokens": 400, "stream": True}
    streams = [await client.chat.completions.create(**asked) for _ in range(12)]
    more = [asyncio.ensure_future(client.chat.completions.create(**asked)) for _ in range(8)]
    await asyncio.sleep(0.05)

    async def read(stream):
        return [chunk async for chunk in stream][-1].choices[0].finish_reason

    reading = [asyncio.ensure_future(read(stream)) for stream in streams]
    exit_code = asyncio.ensure_future(site.process.terminate())
    ends = await asyncio.gather(*reading)
    late = await asyncio.gather(*more, return_exceptions=True)
    ends += [await read(stream) for stream in late if not isinstance(stream, Exception)]

    assert await exit_code == 0
    assert set(ends) == {"length"}
    other = await start(over(replicas) | store_for_two)
    rows = await other.process.usage()
    assert sum(row["calls"] for row in rows) == len(ends)
    assert sum(row["output_tokens"] for row in rows) == 400 * len(ends)
    assert await _open_reservations(store_for_two["store"]["url"]) == 0


async def _open_reservations(url):
    from redis.asyncio import Redis

    async with Redis.from_url(url) as redis:
        keys = [key async for key in redis.scan_iter("sw:{acme}:reservations:*")]
        return sum([await redis.hlen(key) for key in keys])


@pytest.mark.parametrize("stream", [False, True])
async def test_without_any_replica_the_caller_is_told(start, replicas, store, stream):
    """One 502 in the API's own shape, and nothing is charged but the request."""
    site = await start(over(replicas) | store)
    client = await site.client()
    for replica in replicas:
        replica.kill()
    with pytest.raises(openai.InternalServerError) as failed:
        await client.chat.completions.create(**TALK, max_tokens=5, stream=stream)

    assert failed.value.status_code == 502
    assert failed.value.code == "upstream_failed"
    assert (await site.booked()) == (0, 0, 1)


@pytest.mark.ci
async def test_what_a_killed_gateway_held_comes_back_though_nobody_asks(start, store_for_two):
    """A gateway that starts watches over every organization: slots return, the streams are charged."""
    async with ScriptedServer() as upstream:
        backend = {"kind": "vllm", "base_url": f"{upstream.url}/v1"}
        settings = {
            "backends": {"a": backend},
            "models": {"tiny": {"deployments": [{"backend": "a", "model": "scripted"}]}},
            "plans": {"four": {"concurrent_requests": 4}},
            **store_for_two,
        }
        upstream.default = [*sse("one", "two", end=False), Hang()]
        killed = await start(settings)
        client = await killed.client(plan="four")
        streams = [await client.chat.completions.create(**TALK, stream=True) for _ in range(4)]
        for stream in streams:
            await anext(stream)
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(**TALK)
        killed.process.kill()
        for stream in streams:
            await stream.close()
        survivor = await start(settings)
        url = store_for_two["store"]["url"]
        async with asyncio.timeout(60):
            while await _open_reservations(url):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.25)
        upstream.default = None
        client = client.with_options(base_url=f"{survivor.process.url}/v1")
        answer = await client.chat.completions.with_raw_response.create(**TALK)

    assert answer.status_code == 200
    assert (await survivor.booked())[2] == 5
    (total,) = await survivor.process.usage()
    assert total["estimated_tokens"] > 0
