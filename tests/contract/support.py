"""Claims and waits for the contract suite."""

import asyncio

from policies.domain import Claim, Level, Meter, MeterKind

MINUTE = 60_000_000
REQUESTS = MeterKind.REQUESTS_PER_MINUTE
TOKENS = MeterKind.TOKENS_PER_MINUTE
SLOTS = MeterKind.CONCURRENT_REQUESTS


def meter(kind, limit, burst=None):
    return Meter(kind, limit, burst or limit, 0 if kind is SLOTS else MINUTE)


def level(kind, *meters):
    return Level(kind, f"{kind}:1", tuple(meters))


def claim(*levels, tokens=10, prompt=4, organization="acme", model="m"):
    return Claim(organization, "k1", model, levels, tokens, prompt)


async def until(condition, seconds=20.0):
    """Wait until an async condition holds; fail when it does not in all that time."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the condition is in another process
            await asyncio.sleep(0.01)
