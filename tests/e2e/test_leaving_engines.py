"""A caller who leaves stops every engine that can be stopped, at any moment of any API, and pays for what it had."""

import asyncio
import contextlib

import httpx
import pytest

from tests.conformance.fleets import Place, fleet
from tests.e2e.conftest import over
from tests.fakes.lmstudio import LmStudioServer
from tests.fakes.nim import NimServer
from tests.fakes.nvidia import NvidiaServer
from tests.fakes.sglang import ABORT_SECONDS, SglangServer
from tests.gateway.harness import eventually
from tests.parts.llamacpp import LlamaServer

pytestmark = pytest.mark.ci

APIS = {
    "chat/completions": ("messages", "max_tokens", '"content":" '),
    "completions": ("prompt", "max_tokens", '"text":" '),
    "responses": ("input", "max_output_tokens", "response.output_text.delta"),
    "messages": ("messages", "max_tokens", "content_block_delta"),
}
"""Of each API the names of the prompt and of the bound, and what stands in each event that has words."""
SIMULATED = {"sglang": SglangServer, "lmstudio": LmStudioServer, "nim": NimServer}
"""Those that stop."""
MOST = 3000
"""Tokens of output that are asked for: half a minute."""
SEEN = 20
PREFILL = 6000
"""Tokens of a prompt that takes the engine long to read."""
LOOKS = 1.2
"""Seconds in which it looks once whether the caller of an answer that has not begun is there, if it is left in peace
(`LlamaServer.wait_idle`): a plain answer begins at its end."""


def body(api, words, *, stream):
    prompt, bound, _ = APIS[api]
    given = [{"role": "user", "content": words}] if prompt == "messages" else words
    return {"model": "slow", prompt: given, bound: MOST, "stream": stream}


class Caller:
    """One call that is left, over a connection of its own. `seen`: events with words that it has read."""

    def __init__(self, site, key, api, words, *, stream):
        self.seen = 0
        self._site, self._key, self._mark = site, key, APIS[api][2]
        self._request = f"/v1/{api}", body(api, words, stream=stream)
        self._task = asyncio.ensure_future(self._call())

    async def _call(self):
        path, asked = self._request
        headers = {"authorization": f"Bearer {self._key}"}
        async with (
            httpx.AsyncClient(base_url=self._site.process.url, headers=headers, timeout=60) as client,
            client.stream("POST", path, json=asked) as answer,
        ):
            assert answer.status_code == 200, await answer.aread()
            async for line in answer.aiter_lines():
                self.seen += line.startswith("data:") and self._mark in line

    async def leave(self):
        """Leave; raises what went wrong before."""
        assert not self._task.done() or self._task.result(), "the answer came to its end"
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture
async def engine(models):
    async with LlamaServer(models["slow"], alias="slow", parallel=len(APIS)) as server:
        yield server


@pytest.fixture
async def site(start, engine):
    return await start(over([engine], model="slow"))


async def callers(site, words="Talk.", *, stream=True):
    """Begin a call of every API."""
    key = await site.process.create_key(plan="wide")
    return [Caller(site, key, api, words, stream=stream) for api in APIS]


async def stopped(engine):
    """Return whether the engine has stopped by itself when it has looked, three times at most."""
    await asyncio.sleep(LOOKS)
    return await engine.wait_idle(within=30, every=LOOKS) < 2 * LOOKS


async def until(condition, within=30.0):
    async with asyncio.timeout(within):
        while not await condition():  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.01)


async def test_streams_of_every_api_are_left(site, engine):
    """The engine is idle within a second; the books hold what was read at least, what was made at most."""
    calls = await callers(site)
    await eventually(lambda: min(call.seen for call in calls) >= SEEN, within=30)
    await asyncio.gather(*(call.leave() for call in calls))
    assert await engine.wait_idle(within=10) < 1.0

    made = await engine.generated()
    prompt, charged, requests = await site.booked()
    assert sum(call.seen for call in calls) <= charged <= made < MOST
    assert (prompt > 0, requests) == (True, len(APIS))


async def test_plain_answers_of_every_api_are_left(site, engine):
    """Nobody has seen a token of them; what is charged is what the time was worth."""
    calls = await callers(site, stream=False)

    async def generating():
        return await engine.generating() >= SEEN * len(APIS)

    await until(generating)
    await asyncio.gather(*(call.leave() for call in calls))
    assert await stopped(engine)

    made = await engine.generated()
    prompt, charged, requests = await site.booked()
    assert made < MOST
    assert 0 < charged < len(APIS) * MOST
    assert (prompt > 0, requests) == (True, len(APIS))


@pytest.mark.parametrize("stream", [True, False])
async def test_callers_who_leave_while_their_prompt_is_read_stop_that(site, engine, stream):
    """Long before the first token, of which no stream is charged one."""
    calls = await callers(site, "river " * PREFILL, stream=stream)

    async def reading():
        return (await engine.metrics())["requests_processing"] == len(APIS)

    await until(reading)
    assert await engine.generating() == 0
    await asyncio.gather(*(call.leave() for call in calls))
    assert await stopped(engine)

    prompt, charged, requests = await site.booked()
    assert (await engine.metrics())["prompt_tokens_total"] < PREFILL
    assert await engine.generated() == 0
    assert charged == 0 or not stream  # of a plain answer the time is charged, whatever it went into
    assert (prompt > 0, requests) == (True, len(APIS))


async def leave(gateway, words=5):
    """Stream an answer, read so many of its words, and leave; return how many were read."""
    seen = 0
    asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi there"}]}
    async with gateway.client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        async for line in answer.aiter_lines():
            seen += '"content": "w' in line
            if seen == words:
                break
    return seen


@pytest.mark.parametrize("kind", SIMULATED)
async def test_the_engines_that_are_simulated_stop_too(tmp_path, kind):
    """SGLang two seconds later, by its own habit; what the caller had is charged, as an estimate."""
    async with (
        SIMULATED[kind](answer=5000, pace=0.002, time_scale=0.1) as engine,
        fleet(tmp_path, {kind: Place(kind, engine)}) as gateway,
    ):
        seen = await leave(gateway)
        await eventually(lambda: not gateway.services.intake.open_calls)
        (booked,) = await gateway.usage()
        if kind == "sglang":
            assert engine.unfinished == 1  # the books are closed before
        await eventually(lambda: engine.aborted == 1, within=ABORT_SECONDS)
        (then,) = await gateway.usage()
    assert engine.generated < engine.answer
    assert seen <= booked.completion_tokens <= engine.generated
    assert booked.estimated_tokens == booked.prompt_tokens + booked.completion_tokens
    assert then == booked


async def test_the_hosted_endpoint_goes_on_and_the_books_are_right_all_the_same(tmp_path):
    """Nothing stops it once the head of its answer is out: what nobody reads is nobody's here."""
    async with (
        NvidiaServer(answer=600, pace=0.001) as hosted,
        fleet(tmp_path, {"hosted": Place("nvidia", hosted)}) as gateway,
    ):
        seen = await leave(gateway)
        await eventually(lambda: not gateway.services.intake.open_calls)
        (booked,) = await gateway.usage()
        had = hosted.generated
        await eventually(lambda: hosted.unfinished == 0)
        (then,) = await gateway.usage()
    assert (hosted.generated, hosted.aborted) == (600, 0)
    assert hosted.after_leaving() > 0
    assert seen <= booked.completion_tokens <= had < hosted.generated
    assert booked.estimated_tokens == booked.prompt_tokens + booked.completion_tokens
    assert then == booked
