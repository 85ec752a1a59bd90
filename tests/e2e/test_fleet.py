"""Two gateways over one store: limits hold over both, and cost few round trips."""

import asyncio
import time

import httpx
from redis.asyncio import Redis

from tests.e2e.conftest import over
from tests.parts.scripted import ScriptedServer

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}


async def store_now(url):
    async with Redis.from_url(url) as redis:
        seconds, us = await redis.time()
        return seconds + us / 1e6


async def hammer(client, url, until, counts):
    while time.monotonic() < until:
        answer = await client.post(f"{url}/v1/chat/completions", json=BODY)
        counts[answer.status_code] = counts.get(answer.status_code, 0) + 1


async def test_64_callers_on_two_gateways_get_the_bucket_and_its_refill_and_no_more(start, store_for_two):
    """600 requests a minute, by the store's own clock."""
    plans = {"limited": {"requests_per_minute": 600}}
    async with ScriptedServer() as upstream:
        settings = over([upstream]) | store_for_two | {"plans": plans}
        sites = [await start(settings), await start(settings)]
        key = await sites[0].process.create_key(plan="limited")
        url = store_for_two["store"]["url"]
        counts = {}
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}, limits=limits, timeout=30) as client:
            begun = await store_now(url)
            until = time.monotonic() + 6.0
            await asyncio.gather(*(hammer(client, sites[n % 2].process.url, until, counts) for n in range(64)))
            elapsed = await store_now(url) - begun

    assert set(counts) == {200, 429}
    assert counts[200] <= 600 + elapsed * 10
    assert counts[200] >= 600


async def test_32_callers_cost_at_most_three_round_trips_in_ten_calls(start, store):
    """Admissions and settlements share their way."""
    async with ScriptedServer() as upstream:
        site = await start(over([upstream]) | store)
        key = await site.process.create_key(plan="wide")
        counts = {}
        before = (await site.process.metrics())["sluiceway_store_round_trips"]
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=30) as client:
            until = time.monotonic() + 3.0
            await asyncio.gather(*(hammer(client, site.process.url, until, counts) for _ in range(32)))
        round_trips = (await site.process.metrics())["sluiceway_store_round_trips"] - before

    assert set(counts) == {200}
    assert round_trips / counts[200] <= 0.3
