import asyncio
import time

import httpx
import openai
import pytest

from tests.parts.echo import EchoServer, echoed_body, echoed_headers
from tests.parts.scripted import (
    Bytes,
    Close,
    Hang,
    Pause,
    Raw,
    Reset,
    ScriptedServer,
    Status,
    Until,
    delta,
    error,
    plain,
    sse,
    usage,
)

HELLO = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"


@pytest.fixture
async def echo():
    async with EchoServer() as server:
        yield server


@pytest.fixture
async def scripted():
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def raw(scripted):
    async with httpx.AsyncClient(base_url=scripted.url, trust_env=False) as client:
        yield client


def caller(server):
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0)


async def test_echo_tells_back_every_byte_and_header_that_it_was_sent(echo):
    odd = b'{"model":"m","temperature":1.00,"big":1e400,"a":{"model":"n"},"s":"\\u00e9\\/","a":1,"a":2}'
    async with httpx.AsyncClient(base_url=echo.url, trust_env=False) as client:
        raw = (await client.post(CHAT, content=odd, headers={"x-one": "1"})).json()
    answer = openai.types.chat.ChatCompletion.model_validate(raw)
    assert echoed_body(answer) == odd == echo.requests[0].body
    assert echoed_headers(answer)["x-one"] == echo.requests[0].header("X-One") == "1"
    assert (echo.requests[0].method, echo.requests[0].path) == ("POST", CHAT)


async def test_echo_speaks_all_apis_plain_and_streamed(echo):
    async with caller(echo) as client:
        assert [model.id async for model in client.models.list()] == ["echo"]
        assert (await client.embeddings.create(model="echo", input="a")).data[0].embedding == [0.5, -0.5]
        assert (await client.completions.create(model="echo", prompt="a")).choices[0].text == "echo"
        assert (await client.chat.completions.create(model="echo", messages=HELLO)).usage.total_tokens == 4
        stream = await client.chat.completions.create(
            model="echo", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert echoed_body(chunks[0]) == echo.requests[-1].body
        assert [bool(chunk.usage) for chunk in chunks] == [False, False, True]
        stream = await client.completions.create(model="echo", prompt="a", stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "echo"


async def test_an_unscripted_upstream_gives_short_good_answers(scripted):
    async with caller(scripted) as client:
        assert [model.id async for model in client.models.list()] == ["scripted"]
        answer = await client.chat.completions.create(model="scripted", messages=HELLO)
        assert (answer.choices[0].message.content, answer.usage.completion_tokens) == ("fine", 1)
        stream = await client.chat.completions.create(
            model="scripted", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "all is well"
        assert chunks[-1].usage.completion_tokens == scripted.calls[-1].tokens == 3
    assert [call.finished for call in scripted.calls] == [True, True]


async def test_scripts_are_played_in_the_order_they_were_queued(scripted, raw):
    scripted.enqueue(error(503, "busy", retry_after="7"), plain("one two"))
    scripted.default = error(500)
    first, second, third = [await raw.post(CHAT, json={}) for _ in range(3)]
    assert (first.status_code, first.headers["retry-after"], first.json()["error"]["message"]) == (503, "7", "busy")
    assert second.json()["usage"] == usage(3, 2)
    assert third.status_code == 500


@pytest.mark.parametrize(
    ("ending", "refusal"),
    [
        ([Close()], httpx.RemoteProtocolError),
        ([Reset()], httpx.ReadError),
        ([Raw(b"nonsense\r\n"), Close()], httpx.RemoteProtocolError),
    ],
)
async def test_a_stream_can_be_broken_in_every_way_after_its_first_words(scripted, raw, ending, refusal):
    gate = asyncio.Event()
    scripted.enqueue([*sse("a", "b", end=False), Until(gate), *ending])
    async with raw.stream("POST", CHAT, json={}) as answer:
        parts = answer.aiter_raw()
        await anext(parts)
        gate.set()
        with pytest.raises(refusal):
            _ = [part async for part in parts]
    assert not scripted.calls[0].finished
    assert (scripted.calls[0].tokens, scripted.calls[0].left_at) == (2, None)


async def test_a_connection_can_be_broken_before_any_byte_and_a_body_be_too_short(scripted, raw):
    scripted.enqueue([Reset()], [Close()], [Status(200, {"content-length": "10"}), Bytes(b"half"), Close()])
    for refusal in (httpx.ReadError, httpx.RemoteProtocolError, httpx.RemoteProtocolError):
        with pytest.raises(refusal):
            await raw.post(CHAT, json={})


async def test_when_a_client_left_is_known_while_the_script_hangs_or_still_writes(scripted, raw):
    endless = [step for _ in range(500) for step in (Pause(0.01), delta(content="x"))]
    for script in ([Hang()], [*sse("a", end=False), *endless]):
        scripted.enqueue(script)
        before = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await raw.post(CHAT, json={}, timeout=None)
        async with asyncio.timeout(5):
            while scripted.running:  # noqa: ASYNC110 - the kernel tells the server, not us
                await asyncio.sleep(0.001)
        assert before < scripted.calls[-1].left_at < time.monotonic()
        assert not scripted.calls[-1].finished
    assert 1 <= scripted.calls[-1].tokens < 501


async def test_a_stopped_upstream_breaks_what_runs_and_listens_again_where_it_was(scripted, raw):
    scripted.enqueue([Hang()])
    async with asyncio.TaskGroup() as group:
        call = group.create_task(_refused(raw))
        while not scripted.calls:  # noqa: ASYNC110 - it comes over a socket
            await asyncio.sleep(0.001)
        await scripted.stop()
    assert isinstance(call.result(), httpx.ReadError)
    assert isinstance(await _refused(raw), httpx.ConnectError)
    await scripted.start()
    assert (await raw.post(CHAT, json={})).status_code == 200


async def _refused(client):
    with pytest.raises(httpx.TransportError) as refusal:
        await client.post(CHAT, json={})
    return refusal.value
