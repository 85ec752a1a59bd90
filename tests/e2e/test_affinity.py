"""Long conversations over two real llama.cpp replicas: what the engine says of its cache proves where they went."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.e2e.conftest import over
from tests.parts.llamacpp import LlamaServer
from tests.parts.tiny_model import WORDS

TURNS, SESSIONS = 3, 4


@pytest.fixture
async def two(models):
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(LlamaServer(models["tiny"])) for _ in range(2)]


def said(session, turn):
    """Return about ten thousand bytes that no other session says."""
    return " ".join(WORDS[(session * 7 + turn * 3 + at * (session + 1)) % len(WORDS)] for at in range(1_500))


@pytest.mark.ci
async def test_conversations_stay_on_the_replica_that_has_them_in_its_cache(start, two):
    """None of them names a session; each turn but the first finds most of its prompt in the engine's cache."""
    site = await start(over(two))
    client = await site.client()

    async def turn(session, number):
        messages = [{"role": "user", "content": said(session, before)} for before in range(number + 1)]
        raw = await client.chat.completions.with_raw_response.create(model="tiny", messages=messages, max_tokens=4)
        return raw.headers["x-sluiceway-backend"], raw.parse().usage

    first = await asyncio.gather(*(turn(session, 0) for session in range(SESSIONS)))  # at once, so that they spread
    places, shares = [place for place, _ in first], []
    for number in range(1, TURNS):
        for session in range(SESSIONS):
            place, usage = await turn(session, number)
            assert place == places[session]
            shares.append(usage.prompt_tokens_details.cached_tokens / usage.prompt_tokens)

    print(f"in the cache: {min(shares):.2f} to {max(shares):.2f} of the prompts")
    assert set(places) == {"gpu-a", "gpu-b"}
    assert min(shares) > 0.3
