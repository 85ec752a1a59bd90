"""A stream whose engine takes long is kept alive by comments, and may still fail over, or fail."""

import asyncio
import json

import msgspec
import openai
import pytest
from openai import AsyncOpenAI

from gateway.config.settings import Shutdown
from policies.domain import Deadlines, Meter, MeterKind, Plan
from tests.gateway.harness import ASK, eventually, running, settings
from tests.parts.scripted import Bytes, Hang, Pause, Reset, Status, delta, sse, usage

EVENTS = {"content-type": "text/event-stream"}
COMMENT = ": keep-alive\n\n"
EVERY = 0.05
LONG = Pause(0.3)


@pytest.fixture
async def kept(tmp_path, first, second):
    """Run a gateway that sends comments."""
    async with running_with(tmp_path, {"a": first, "b": second}) as gateway:
        yield gateway


def running_with(folder, upstreams, shutdown=None, **deadlines):
    (model,) = settings(folder, upstreams).models
    kept = msgspec.structs.replace(model, deadlines=Deadlines(**{"keep_alive": EVERY} | deadlines))
    return running(folder, upstreams, models=(kept,), shutdown=shutdown or Shutdown())


def parts(text):
    """Return how many comments came before the rest, and the rest, in which there must be none."""
    count = text.count(COMMENT)
    assert text.startswith(COMMENT * count)
    return count, text.removeprefix(COMMENT * count)


async def test_a_slow_stream_is_opened_and_kept_alive_until_its_first_content(kept, first):
    """The status is ours, since nobody knows yet who will serve; what follows is the upstream's to the byte."""
    script = sse("one", "two", told=usage(3, 2))
    first.enqueue([script[0], script[1], LONG, *script[2:3], LONG, *script[3:]])

    answer = await kept.ask(stream=True, stream_options={"include_usage": True})
    comments, rest = parts(answer.text)

    assert comments >= 2
    assert rest.encode() == b"".join(step.data for step in script if isinstance(step, Bytes))
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "x-request-id" in answer.headers
    assert not {"x-sluiceway-backend", "x-sluiceway-attempts"} & set(answer.headers)
    (total,) = await kept.usage()
    assert (total.prompt_tokens, total.completion_tokens) == (3, 2)


async def test_a_stream_that_is_in_time_gets_no_comment(kept):
    """Nor does its head lose anything."""
    answer = await kept.ask(stream=True)

    assert parts(answer.text)[0] == 0
    assert answer.headers["x-sluiceway-backend"] == "a"


async def test_comments_go_on_while_the_call_fails_over(kept, first, second):
    """The interval is the call's, and nobody has seen any content."""
    first.enqueue([LONG, Reset()])
    second.enqueue([Pause(0.3), *sse("good")])

    comments, rest = parts((await kept.ask(stream=True)).text)

    assert comments >= 4
    assert rest.count('"role"') == 1
    assert "good" in rest
    assert rest.endswith("data: [DONE]\n\n")


async def test_without_the_setting_nothing_is_sent_before_the_answer(gateway, first):
    """It is off unless asked for."""
    first.enqueue([LONG, *sse("one")])

    assert parts((await gateway.ask(stream=True)).text)[0] == 0


async def test_a_plain_call_gets_no_comment(kept, first):
    """Its status must be the upstream's."""
    first.enqueue([LONG, Status(400), Bytes(b"{}")])

    assert (await kept.ask()).status_code == 400


async def test_when_every_deployment_fails_it_is_told_in_band(kept, first, second):
    """As a cut is: an error and no [DONE]; the books charge nothing and the metrics tell the reason."""
    first.enqueue([LONG, Reset()])
    second.enqueue([Reset()])

    answer = await kept.ask(stream=True)
    _, rest = parts(answer.text)

    assert answer.status_code == 200
    error = json.loads(rest.removeprefix("data: "))
    assert error["error"]["code"] == "upstream_failed"
    assert error["request_id"] == answer.headers["x-request-id"]
    assert kept.metric("sluiceway_rejections_total", reason="upstream_failed", level="", meter="") == 1
    assert kept.metric("sluiceway_streams_cut_total", cause="upstream_failed") == 1
    assert kept.metric("sluiceway_requests_total", api="chat", model="m", status="200") == 1
    (total,) = await kept.usage()
    assert (total.prompt_tokens, total.completion_tokens) == (0, 0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "bad\\nimage", "code": "x"}}', "bad\nimage"),
        (b'{\n  "detail": "Unexpected keys"\n}', "Unexpected keys"),
        (b"plain words", "plain words"),
    ],
)
async def test_an_upstreams_own_refusal_is_told_in_band_with_its_words(kept, first, second, body, message):
    """It would be the same elsewhere."""
    first.enqueue([LONG, Status(422), Bytes(body)])

    _, rest = parts((await kept.ask(stream=True)).text)

    assert json.loads(rest.removeprefix("data: "))["error"]["message"] == message
    assert len(second.requests) == 0
    assert kept.metric("sluiceway_streams_cut_total", cause="422") == 1


async def test_a_call_past_its_deadline_is_told_so_in_band(tmp_path, first):
    """No 504 can be sent any more."""
    first.enqueue([Hang()])
    async with running_with(tmp_path, {"a": first}, total=0.4) as gateway:
        _, rest = parts((await gateway.ask(stream=True)).text)

    assert json.loads(rest.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"


async def test_a_plain_answer_after_the_head_is_a_failure(kept, first, second):
    """It does not fit the stream that was promised."""
    first.enqueue([LONG, Status(200), Bytes(b'{"ok": true}')])
    second.enqueue(sse("good"))

    comments, rest = parts((await kept.ask(stream=True)).text)

    assert comments
    assert "good" in rest
    assert "ok" not in rest


async def test_a_refused_call_is_refused_with_its_status(tmp_path, first):
    """Comments begin after admission."""
    meter = Meter(MeterKind.REQUESTS_PER_MINUTE, limit=1, burst=1)
    (model,) = settings(tmp_path, {"a": first}).models
    model = msgspec.structs.replace(model, deadlines=Deadlines(keep_alive=0.001))
    async with running(tmp_path, {"a": first}, models=(model,), plans={"tiny": Plan("tiny", (meter,))}) as gateway:
        key = await gateway.key("tiny")
        statuses = [(await gateway.ask(key=key, stream=True)).status_code for _ in range(2)]

    assert statuses == [200, 429]


async def test_a_bug_after_the_head_is_told_in_band(kept, first, monkeypatch):
    """A stream that just ends would look whole."""
    monkeypatch.setattr("gateway.relay.in_stream", lambda _: 1 / 0)
    first.enqueue([Status(200, EVENTS), LONG, Bytes(b'data: {"error": "no"}\n\n')])

    _, rest = parts((await kept.ask(stream=True)).text)

    assert json.loads(rest.removeprefix("data: "))["error"]["code"] == "internal_error"


async def test_a_caller_who_leaves_while_kept_alive_closes_the_upstream(kept, first):
    """As in prefill; the prompt was worked on and is paid."""
    first.enqueue([Status(200, EVENTS), delta(role="assistant"), Hang()])
    async with kept.client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as answer:
        async for line in answer.aiter_lines():
            if line.startswith(":"):
                break

    assert await eventually(lambda: not first.connections, within=1.0)
    assert await eventually(lambda: kept.services.intake.open_calls == 0)
    assert kept.metric("sluiceway_requests_total", api="chat", model="m", status="499") == 1
    (total,) = await kept.usage()
    assert (total.prompt_tokens > 0, total.completion_tokens) == (True, 0)


async def test_the_gateways_stop_is_told_in_band(tmp_path, first):
    """To a caller who has only seen comments."""
    first.enqueue([Hang()])
    async with running_with(tmp_path, {"a": first}, Shutdown(grace=1)) as gateway:
        asked = asyncio.ensure_future(gateway.ask(stream=True))
        await eventually(lambda: first.requests)
        await asyncio.sleep(3 * EVERY)
        await gateway.running.stop()
        _, rest = parts((await asked).text)

    assert json.loads(rest.removeprefix("data: "))["error"]["code"] == "overloaded"


async def test_the_sdk_reads_through_comments(kept, first, second):
    """Content, and a failure as an error."""
    first.enqueue([LONG, *sse("one")], [LONG, Status(400), Bytes(b'{"error": {"message": "bad image"}}')])
    key = await kept.key()
    async with AsyncOpenAI(base_url=f"{kept.running.url}/v1", api_key=key, max_retries=0) as client:
        chunks = [chunk async for chunk in await client.chat.completions.create(**ASK, stream=True)]
        failed = await client.chat.completions.create(**ASK, stream=True)
        with pytest.raises(openai.APIError, match="bad image"):
            [chunk async for chunk in failed]

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one"
