import asyncio

import httpx
import pytest

from tests.conformance.engines.conftest import ASK, CONTEXT, ENGINES, MESSAGE
from tests.parts.vllm import VllmServer

pytestmark = ENGINES

LONG = {
    "/v1/chat/completions": ASK | {"max_tokens": CONTEXT - 100},
    "/v1/responses": {"model": "m", "input": "the river", "max_output_tokens": CONTEXT - 100},
    "/v1/messages": MESSAGE | {"max_tokens": CONTEXT - 100},
}
"""For each API a call for all that the window holds: half a minute's work."""


async def leave(front, api, *, streamed):
    """Go away from a long call once the engine is at work."""
    key = await front.process.create_key(plan="wide")
    body, headers = LONG[api] | {"stream": streamed}, {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=front.process.url, trust_env=False, timeout=60) as client:
        if streamed:
            async with client.stream("POST", api, json=body, headers=headers) as answer:
                lines = answer.aiter_lines()
                for _ in range(20):
                    await anext(lines)
            return
        call = asyncio.ensure_future(client.post(api, json=body, headers=headers))
        while not await front.engine.running():  # noqa: ASYNC110 - only the engine knows
            await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.wait([call])


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("api", LONG)
async def test_a_caller_who_leaves_stops_vllm(front_vllm, api, streamed):
    """Within a second by its own count, long before it could have said what was asked for."""
    before = await front_vllm.engine.generated()

    await leave(front_vllm, api, streamed=streamed)
    await front_vllm.engine.wait_idle(within=1.0)

    row = await front_vllm.row()
    assert await front_vllm.engine.generated() - before < CONTEXT - 100
    assert row["estimated_tokens"] > 0


@pytest.mark.parametrize("api", ["/v1/chat/completions", "/v1/responses"])
async def test_a_caller_who_leaves_a_stream_stops_transformers(front_transformers, api):
    """Seen by its processor time: it has no figures of its own. A plain call it finishes, whoever has left."""
    await leave(front_transformers, api, streamed=True)

    await front_transformers.engine.wait_idle(within=1.0)
    assert (await front_transformers.row())["estimated_tokens"] > 0


async def test_a_stream_never_ends_cleanly_when_vllm_dies_in_it(over, mistral):
    """Its own words for it differ by API: an error and a `[DONE]`, an error event, or a torn connection."""
    async with VllmServer(mistral, context=CONTEXT) as engine:
        front = await over("vllm", engine)
        calls = {api: asyncio.ensure_future(front.raw(api, body | {"stream": True})) for api, body in LONG.items()}
        while await engine.running() < len(calls):  # noqa: ASYNC110 - only the engine knows
            await asyncio.sleep(0.01)
        engine.kill_core()
        ends = {api: (await call).text.rstrip().rsplit("\n\n", 1)[1] for api, call in calls.items()}

        await front.booked()
        rows = await front.process.usage()
    assert [api for api, end in ends.items() if "error" not in end] == []
    assert ends["/v1/messages"].startswith("event: error\n")
    assert len([row for row in rows if row["estimated_tokens"] > 0]) == len(calls)
