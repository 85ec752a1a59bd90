"""Gateways under load over one store: limits hold over all of them, and cost few round trips."""

import asyncio

from redis.asyncio import Redis

from tests.e2e.conftest import WIDE
from tests.parts.fast import fast_upstream, hammer


def over_fast(upstream, **changes):
    return {
        "backends": {"fast": {"kind": "vllm", "base_url": f"{upstream}/v1"}},
        "models": {"fast": {"deployments": [{"backend": "fast", "model": "fast"}]}},
        **changes,
    }


async def store_now(url):
    async with Redis.from_url(url) as redis:
        seconds, us = await redis.time()
        return seconds + us / 1e6


async def test_64_callers_on_two_gateways_get_the_bucket_and_its_refill_and_no_more(start, store_for_two):
    """600 requests a minute, by the store's own clock."""
    async with fast_upstream() as upstream:
        settings = over_fast(upstream, plans={"limited": {"requests_per_minute": 600}}) | store_for_two
        sites = [await start(settings), await start(settings)]
        key = await sites[0].process.create_key(plan="limited")
        url = store_for_two["store"]["url"]
        begun = await store_now(url)
        counts = await asyncio.gather(*(hammer(s.process.url, key, callers=32, seconds=5.0) for s in sites))
        elapsed = await store_now(url) - begun

    served, refused = (sum(count[status] for count in counts) for status in (200, 429))
    assert set(counts[0] | counts[1]) == {200, 429}
    assert 600 <= served <= 600 + elapsed * 10
    assert refused > served


async def test_32_callers_cost_at_most_three_round_trips_in_ten_calls(start, store):
    """Admissions and settlements share their way."""
    async with fast_upstream() as upstream:
        wide = {name: 60_000_000 for name in WIDE if name != "concurrent_requests"} | {"concurrent_requests": 200}
        site = await start(over_fast(upstream, plans={"wide": wide}) | store)
        key = await site.process.create_key(plan="wide")
        before = (await site.process.metrics())["sluiceway_store_round_trips"]
        counts = await hammer(site.process.url, key, callers=32, seconds=3.0)
        round_trips = (await site.process.metrics())["sluiceway_store_round_trips"] - before

    assert set(counts) == {200}
    assert round_trips / counts[200] <= 0.3
