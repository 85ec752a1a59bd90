"""A stream whose engine takes long is kept alive by comments, and may still fail over, or fail."""

import asyncio
import contextlib
import json

import msgspec
import openai
import pytest
from openai import AsyncOpenAI

from gateway import clock
from gateway.config.settings import Shutdown
from policies import queueing
from policies.domain import Deadlines, Meter, MeterKind, Plan
from policies.terms import RoutingTerms
from tests.gateway.harness import ASK, eventually, running, settings
from tests.parts.scripted import Bytes, Hang, Pause, Reset, Status, Until, delta, sse, usage

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


@contextlib.asynccontextmanager
async def full(folder, upstream, every=EVERY, grace=30.0, **terms):
    """Run a gateway whose only place is taken; also yield what sets it free. `terms`: by which others wait for it."""
    (model,), gate = settings(folder, {"a": upstream}, "vllm").models, asyncio.Event()
    (place,) = model.deployments
    model = msgspec.structs.replace(
        model,
        deployments=(msgspec.structs.replace(place, max_in_flight=1),),
        routing=RoutingTerms(**terms),
        deadlines=Deadlines(keep_alive=every),
    )
    plan = Plan("known", (Meter(MeterKind.REQUESTS_PER_MINUTE, limit=60, burst=60),))
    upstream.enqueue([Until(gate), *sse("first")])
    more = {"models": (model,), "plans": {"known": plan}, "shutdown": Shutdown(grace=grace)}
    async with running(folder, {"a": upstream}, kind="vllm", **more) as gateway:
        gateway.client.headers["authorization"] = f"Bearer {await gateway.key('known')}"
        there = clock.spawn(gateway.ask(stream=True), "a call")
        await eventually(lambda: upstream.requests)
        yield gateway, gate
        gate.set()
        assert (await there).status_code == 200


def parts(text):
    """Return how many comments came before the rest, and the rest, in which there must be none."""
    count = text.count(COMMENT)
    assert text.startswith(COMMENT * count)
    return count, text.removeprefix(COMMENT * count)


async def asked(gateway, *events, **members):
    """Ask for a stream, and set the next of `events` whenever two comments more have come; return its head and text."""
    body, waiting, text = ASK | {"stream": True} | members, list(events), ""
    async with gateway.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for part in answer.aiter_text():
            text += part
            while waiting and text.count(COMMENT) >= 2 * (len(events) - len(waiting) + 1):
                waiting.pop(0).set()
    return answer, text


async def test_a_slow_stream_is_opened_and_kept_alive_until_its_first_content(kept, first):
    """The status is ours, since nobody knows yet who will serve; what follows is the upstream's to the byte."""
    script, known = sse("one", "two", told=usage(3, 2)), asyncio.Event()
    first.enqueue([script[0], script[1], Until(known), *script[2:3], LONG, *script[3:]])

    answer, text = await asked(kept, known, stream_options={"include_usage": True})
    comments, rest = parts(text)

    assert comments >= 2
    assert rest.encode() == b"".join(step.data for step in script if isinstance(step, Bytes))
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "x-request-id" in answer.headers
    assert not {"x-sluiceway-backend", "x-sluiceway-attempts"} & set(answer.headers)
    (total,) = await kept.usage()
    assert (total.prompt_tokens, total.completion_tokens) == (3, 2)


async def test_a_stream_that_is_in_time_gets_no_comment(tmp_path, first):
    """Nor does its head lose anything."""
    async with running_with(tmp_path, {"a": first}, keep_alive=10.0) as gateway:
        answer = await gateway.ask(stream=True)

    assert parts(answer.text)[0] == 0
    assert answer.headers["x-sluiceway-backend"] == "a"


async def test_comments_go_on_while_the_call_fails_over(kept, first, second):
    """The interval is the call's, and nobody has seen any content."""
    fails, answers = asyncio.Event(), asyncio.Event()
    first.enqueue([Until(fails), Reset()])
    second.enqueue([Until(answers), *sse("good")])

    _, text = await asked(kept, fails, answers)
    comments, rest = parts(text)

    assert comments >= 4
    assert rest.count('"role"') == 1
    assert "good" in rest
    assert rest.endswith("data: [DONE]\n\n")


async def test_a_stream_that_waits_for_a_place_is_kept_alive(tmp_path, first):
    """From its admission on: nobody on the way knows why nothing comes."""
    async with full(tmp_path, first) as (gateway, gate):
        first.enqueue(sse("second"))
        answer, text = await asked(gateway, gate)
        comments, rest = parts(text)

        assert comments >= 2
        assert "second" in rest
        assert rest.endswith("data: [DONE]\n\n")
        assert "x-ratelimit-limit-requests" in answer.headers


@pytest.mark.parametrize(
    ("api", "members", "said"),
    [
        ("chat/completions", {}, {"code": "overloaded", "type": "server_error"}),
        ("responses", {"input": "hi"}, {"code": "overloaded", "type": "server_error"}),
        ("messages", {"max_tokens": 5}, {"type": "overloaded_error"}),
    ],
)
async def test_a_wait_in_vain_is_told_in_the_stream_it_kept_alive(  # noqa: PLR0917 - three are of the table
    tmp_path, first, api, members, said, monkeypatch
):
    """In the words of its API, as a later failure is; what was set aside is given back, and nothing booked."""
    monkeypatch.setattr(queueing, "LONGEST", 0.1)  # whoever foresees a longer wait is refused before it
    async with full(tmp_path, first, max_wait=0.4) as (gateway, gate):
        answer = await gateway.ask(api, stream=True, **members)
        comments, rest = parts(answer.text)
        told = json.loads(rest.partition("data: ")[2])
        await eventually(lambda: gateway.gateway.ledger.open_reservations == 1)
        gate.set()
        await eventually(lambda: gateway.gateway.ledger.open_reservations == 0)

        assert (answer.status_code, comments >= 2) == (200, True)
        assert told["error"].items() >= said.items()
        assert gateway.metric("sluiceway_rejections_total", reason="overloaded", level="", meter="") == 1
        assert gateway.metric("sluiceway_streams_cut_total", cause="overloaded") == 1
        assert [total.requests for total in await gateway.usage()] == [1]


async def test_a_wait_in_vain_before_any_comment_is_refused_with_its_status(tmp_path, first, monkeypatch):
    """And says when to come back."""
    monkeypatch.setattr(queueing, "LONGEST", 0.1)
    async with full(tmp_path, first, every=10.0, max_wait=0.2) as (gateway, _):
        answer = await gateway.ask(stream=True)

        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_caller_who_leaves_while_kept_alive_in_line_gives_everything_back(tmp_path, first):
    """And is sent no more comments."""
    async with full(tmp_path, first) as (gateway, _):
        async with gateway.client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith(":"):
                    break
        await eventually(lambda: gateway.services.intake.open_calls == 1)
        await eventually(lambda: gateway.gateway.ledger.open_reservations == 1)

        assert gateway.services.room.waiting == 0
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "keep-alive"]
        assert gateway.metric("sluiceway_requests_total", api="chat", model="m", status="499") == 1


async def test_the_gateways_stop_is_told_to_who_is_kept_alive_in_line(tmp_path, first):
    """In-band: its status is out."""
    async with full(tmp_path, first, grace=1.0) as (gateway, _):
        asking = asyncio.ensure_future(gateway.ask(stream=True))
        await eventually(lambda: gateway.services.room.waiting)
        await asyncio.sleep(3 * EVERY)
        await gateway.running.stop()
        _, rest = parts((await asking).text)

    assert json.loads(rest.removeprefix("data: "))["error"]["code"] == "overloaded"


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
    async with running_with(tmp_path, {"a": first}, total=1.5) as gateway:
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
