"""Two real llamas, one of which is made slow: the calls go where they are answered sooner, and come back."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from gateway import clock
from tests.e2e.conftest import over
from tests.parts.llamacpp import LlamaServer

STOPPED, RUNNING = 0.27, 0.03
"""Seconds of each burst: it does a tenth of its work."""
AT_ONCE = 4


@pytest.fixture
async def two(models):
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(LlamaServer(models["tiny"])) for _ in range(2)]


@asynccontextmanager
async def slowed(llama):
    """Stop a process again and again, as a neighbour on its GPU would."""

    async def bursts():
        while True:
            llama.suspend()
            await asyncio.sleep(STOPPED)
            llama.resume()
            await asyncio.sleep(RUNNING)

    task = clock.spawn(bursts(), "bursts")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.sleep(0)
        llama.resume()


@pytest.mark.ci
@pytest.mark.timeout(420)
async def test_calls_leave_a_replica_that_becomes_slow_and_return_to_it(start, two):
    """Within twenty calls; and once it is quick again it serves its part again."""
    site = await start(over(two))
    client = await site.client()
    number = 0

    async def calls(count):
        """Make so many calls, some at once, and return how many each replica served."""
        places = Counter()

        async def caller():
            nonlocal number, count
            while count > 0:
                count -= 1
                number += 1
                raw = await client.chat.completions.with_raw_response.create(
                    model="tiny", messages=[{"role": "user", "content": f"call {number}"}], max_tokens=24
                )
                places[raw.headers["x-sluiceway-backend"]] += 1

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
        return places

    before = await calls(60)
    async with slowed(two[0]):
        shifting = await calls(20)
        after = await calls(60)
    returned, rounds = Counter(), 0
    while returned["gpu-a"] < 20 and rounds < 180:
        await asyncio.sleep(1.0)  # what is unusual fades with time, not with calls
        returned, rounds = await calls(60), rounds + 1
    print(f"before {before}, shifting {shifting}, after {after}, back after {rounds} s: {returned}")

    assert min(before.values()) > 15
    assert after["gpu-a"] < 15
    assert returned["gpu-a"] >= 20
