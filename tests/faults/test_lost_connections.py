"""A call that is cancelled at any step loses no connection: each counts for `max_connections` ever after."""

import asyncio
import contextlib

import httpx
import pytest

from tests.faults.theatre import busy
from tests.gateway.harness import eventually
from tests.parts.scripted import ScriptedServer, sse, usage
from tests.parts.transports import opened

STEPS = 60
"""Turns of the loop after which a call is cancelled: more than a whole call has."""


async def call(transport, url):
    """Make a call and read its answer to the end."""
    answer = await transport.post(httpx.URL(url + "/x"), [(b"host", b"x")], b"{}", lambda: None)
    try:
        while await answer.read() is not None:
            pass
    finally:
        answer.close()


@pytest.mark.parametrize("kind", ["pooled", "httpx"])
async def test_a_call_that_is_cancelled_at_any_step_loses_no_connection(kind):
    """Over a fresh connection and over one that was used before."""
    transport = opened(kind)
    async with ScriptedServer() as upstream:
        upstream.default = sse("a", "b", told=usage(1, 2))
        for turns in range(STEPS):
            for _ in range(2):
                task = asyncio.ensure_future(call(transport, upstream.url))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
        with contextlib.suppress(TimeoutError):
            await eventually(lambda: busy(transport) == 0, within=2.0)
        lost = busy(transport)
        await transport.aclose()

    assert lost == 0
