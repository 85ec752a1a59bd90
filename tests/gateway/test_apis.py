"""The APIs beside chat, through a whole gateway: Responses, Messages, token counts, tokenization."""

import asyncio
import json
from contextlib import asynccontextmanager

import httpx
import pytest
from msgspec.structs import replace

from policies.domain import Deadlines, Meter, MeterKind, Plan, Price
from tests.gateway.harness import Booked, eventually, running, settings
from tests.parts.scripted import Bytes, Close, Hang, Pause, Status, error, sse, whole

EVENTS = {"content-type": "text/event-stream"}
ASKED = {
    "messages": {"max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]},
    "responses": {"input": "hi"},
    "messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
}
TOLD = {
    "messages": {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 2},
    "responses": {"input_tokens": 7, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 2},
}
PRICE, DEAR = Price(1_000_000, 2_000_000), Price(10**9, 10**9)


def named(name, tokens=0, **data):
    data = json.dumps({"type": name} | data)
    return Bytes(f"event: {name}\ndata: {data}\n\n".encode(), tokens)


def message(*words, end=True):
    """Script a stream of Messages."""
    steps = [
        Status(200, EVENTS),
        named("message_start", message={"id": "m", "usage": TOLD["messages"] | {"output_tokens": 0}}),
        named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    ]
    steps += (named("content_block_delta", 1, delta={"type": "text_delta", "text": word}) for word in words)
    if end:
        steps.append(named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": len(words)}))
        steps.append(named("message_stop"))
    return steps


def response(*words, end=True):
    """Script a stream of Responses."""
    steps = [Status(200, EVENTS), named("response.created", response={"id": "r", "usage": None})]
    steps += (named("response.output_text.delta", 1, delta=word) for word in words)
    if end:
        steps.append(named("response.completed", response={"usage": TOLD["responses"]}))
    return steps


STREAMS = {"messages": message, "responses": response}
every_streaming = pytest.mark.parametrize("api", STREAMS)


def wire(script):
    return b"".join(step.data for step in script if isinstance(step, Bytes))


def counts(booked):
    return booked.prompt_tokens, booked.completion_tokens, booked.cached_tokens, booked.estimated_tokens


@asynccontextmanager
async def serving(folder, upstreams, *, kind="vllm", deadlines=None, **changes):
    """Run a gateway over engines of `kind`, the first the cheapest."""
    (model,) = settings(folder, upstreams, kind).models
    priced = tuple(replace(one, price=price) for one, price in zip(model.deployments, (PRICE, DEAR), strict=False))
    model = replace(model, deployments=priced, deadlines=deadlines or Deadlines())
    async with running(folder, upstreams, kind=kind, models=(model,), **changes) as gateway:
        yield gateway


async def ask(gateway, path, headers=None, **members):
    body = {"model": "m"} | ASKED.get(path, {}) | members
    at = f"/{path}" if path == "tokenize" else f"/v1/{path}"
    return await gateway.client.post(at, json=body, headers=headers or {})


@every_streaming
async def test_a_plain_answer_is_the_upstreams_and_booked_as_told(tmp_path, first, api):
    """Whatever the API calls its tokens."""
    first.enqueue(whole(200, {"id": "x", "usage": TOLD[api]}))
    async with serving(tmp_path, {"a": first}) as gateway:
        answer = await ask(gateway, api)

        assert answer.json() == {"id": "x", "usage": TOLD[api]}
        money = round((7 * PRICE.input + 2 * PRICE.output) / 1000)
        assert await gateway.usage() == [Booked("m", 1, 7, 2, 0, 4, 0, money)]
    assert first.requests[0].path == f"/v1/{api}"
    assert json.loads(first.requests[0].body) == {"model": "scripted"} | ASKED[api]


@every_streaming
async def test_a_stream_is_the_upstreams_and_booked_as_told(tmp_path, first, api):
    """No usage is asked for, and nothing added at the end."""
    script = STREAMS[api]("one", "two")
    first.enqueue(script)
    async with serving(tmp_path, {"a": first}) as gateway:
        answer = await ask(gateway, api, stream=True)

        assert answer.content == wire(script)
        (booked,) = await gateway.usage()
    assert (booked.prompt_tokens, booked.completion_tokens, booked.cached_tokens, booked.estimated_tokens) == (
        7,
        2,
        4,
        0,
    )
    assert "stream_options" not in json.loads(first.requests[0].body)


@pytest.mark.parametrize(
    ("path", "members", "answer"),
    [
        ("messages/count_tokens", {}, {"input_tokens": 24}),
        ("tokenize", {"prompt": "x" * 100_000}, {"count": 3, "max_model_len": 2048, "tokens": [1, 2, 3]}),
        ("tokenize", {"content": "hi"}, {"tokens": [1, 2]}),
    ],
)
async def test_what_only_counts_tokens_is_a_call_that_costs_nothing(tmp_path, first, path, members, answer):
    """Not even of a plan that has no tokens left for it."""
    first.enqueue(whole(200, answer))
    plans = {"tiny": Plan("tiny", (Meter(MeterKind.TOKENS_PER_MINUTE, 5, 5),))}
    async with serving(tmp_path, {"a": first}, plans=plans) as gateway:
        key = await gateway.key("tiny")
        told = await ask(gateway, path, {"authorization": f"Bearer {key}"}, **members)

        assert told.json() == answer
        assert await gateway.usage() == [Booked("m", 1, 0, 0, 0, 0, 0, 0)]
    assert first.requests[0].path == ("/tokenize" if path == "tokenize" else f"/v1/{path}")


async def test_anthropics_headers_go_upstream_with_its_api_and_nothing_else_does(tmp_path, first):
    """A caller's credential stays here, and what is no plain value does too."""
    sent = {"anthropic-version": "2023-06-01", "anthropic-beta": "a-1,b-2", "x-other": "1"}
    first.enqueue(whole(200, {"id": "r"}), whole(200, {"id": "r"}), whole(200, {"id": "r"}))
    async with serving(tmp_path, {"a": first}) as gateway:
        key = gateway.client.headers.pop("authorization").removeprefix("Bearer ")
        sent["x-api-key"] = key
        assert (await ask(gateway, "messages", sent)).status_code == 200
        await ask(gateway, "responses", sent)
        await ask(gateway, "messages/count_tokens", sent | {"anthropic-beta": "a\tb"})

    seen = [{name.lower(): value for name, value in request.headers} for request in first.requests]
    assert [one.get("anthropic-version") for one in seen] == ["2023-06-01", None, "2023-06-01"]
    assert [one.get("anthropic-beta") for one in seen] == ["a-1,b-2", None, None]
    assert [one["authorization"] for one in seen] == ["Bearer secret-a"] * 3
    assert not any("x-other" in one or key in one.values() for one in seen)


async def test_a_version_that_an_engine_is_always_sent_is_sent_once(tmp_path, first):
    """That of its kind."""
    first.enqueue(whole(200, {"id": "r"}))
    async with serving(tmp_path, {"a": first}, kind="anthropic") as gateway:
        await ask(gateway, "messages", {"anthropic-version": "2099-01-01", "anthropic-beta": "b-2"})

    assert [pair for pair in first.requests[0].headers if pair[0].startswith("anthropic")] == [
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "b-2"),
    ]


KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    501: "invalid_request_error",
    502: "api_error",
}


@pytest.mark.parametrize("path", ["messages", "messages/count_tokens", "responses"])
@pytest.mark.parametrize("status", KINDS)
async def test_a_no_has_the_shape_of_its_api_at_every_stage(tmp_path, first, path, status):
    """Unknown, malformed, limited, unserved, failed."""
    first.default = [Close()]
    kind = "transformers" if status == 501 else "vllm"
    if path == "responses" and status == 501:
        kind = "nvidia"
    members = {400: {"model": 7}, 404: {"model": "nope"}}.get(status, {})
    plans = {"none": Plan("none", (Meter(MeterKind.REQUESTS_PER_HOUR, 1, 1),))}
    async with serving(tmp_path, {"a": first}, kind=kind, plans=plans) as gateway:
        key = await gateway.key("none") if status == 429 else None
        headers = {"authorization": f"Bearer {key}"} if key else {}
        if status == 401:
            headers["authorization"] = ""
        if status == 429:
            await ask(gateway, "tokenize", headers, prompt="x")
        answer = await ask(gateway, path, headers, **members)

    assert answer.status_code == status
    body, request_id = answer.json(), answer.headers["x-request-id"]
    assert body["request_id"] == request_id
    if path == "responses":
        assert body["error"].keys() == {"message", "type", "param", "code"}
        assert "request-id" not in answer.headers
    else:
        assert (body["type"], body["error"]["type"]) == ("error", KINDS[status])
        assert body["error"].keys() == {"type", "message"}
        assert answer.headers["request-id"] == request_id


async def test_an_api_that_no_backend_has_is_told_with_those_that_have_it(tmp_path, first):
    """Nothing is sent anywhere."""
    async with serving(tmp_path, {"a": first}, kind="transformers") as gateway:
        answer = await ask(gateway, "tokenize", prompt="x")

    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "api_not_supported")
    assert "a (transformers)" in answer.json()["error"]["message"]
    assert not first.calls


@every_streaming
async def test_an_answer_that_breaks_off_is_told_in_the_shape_of_its_api(tmp_path, first, api):
    """And what was seen is charged."""
    script = STREAMS[api]("one", "two", end=False)
    first.enqueue([*script, Close()])
    async with serving(tmp_path, {"a": first}) as gateway:
        answer = await ask(gateway, api, stream=True)
        (booked,) = await gateway.usage()

    assert answer.content.startswith(wire(script) + b"event: error\ndata: ")
    last = json.loads(answer.content.rpartition(b"data: ")[2])
    assert last["type"] == "error"
    assert last["request_id"] == answer.headers["x-request-id"]
    assert "truncated" in last["error"]["message"]
    if api == "messages":
        assert last["error"]["type"] == "api_error"
        assert booked.prompt_tokens == 7
    else:
        assert (last["code"], last["sequence_number"]) == ("upstream_failed", 3)
    assert booked.completion_tokens == 2
    assert booked.estimated_tokens > 0


ERRORS = {
    "messages": named("error", error={"type": "internal_error", "message": "no"}),
    "responses": named("response.failed", response={"error": {"message": "no"}}),
}


@every_streaming
async def test_an_upstreams_own_error_within_a_stream_is_told_once(tmp_path, first, api):
    """Every client knows it."""
    script = [*STREAMS[api]("one", end=False), ERRORS[api], *STREAMS[api]("two")[1:]]
    first.enqueue(script)
    async with serving(tmp_path, {"a": first}) as gateway:
        answer = await ask(gateway, api, stream=True)

        assert answer.content == wire(STREAMS[api]("one", end=False)) + ERRORS[api].data
        assert gateway.metric("sluiceway_streams_cut_total", cause="error_event") == 1


@every_streaming
@pytest.mark.parametrize("ending", ["closed", "error"])
async def test_a_stream_that_fails_before_content_is_answered_by_another(tmp_path, first, second, api, ending):
    """What opened it was held."""
    first.enqueue([*STREAMS[api](end=False), Close() if ending == "closed" else ERRORS[api]])
    second.enqueue(STREAMS[api]("fine"))
    async with serving(tmp_path, {"a": first, "b": second}) as gateway:
        answer = await ask(gateway, api, stream=True)

    assert answer.content == wire(STREAMS[api]("fine"))
    assert answer.headers["x-sluiceway-attempts"] == "2"


@every_streaming
async def test_a_caller_who_leaves_within_a_stream_is_charged_what_it_saw(tmp_path, first, api):
    """And its upstream is closed."""
    first.enqueue([*STREAMS[api]("one", "two", end=False), Hang()])
    async with serving(tmp_path, {"a": first}) as gateway:
        asked = {"model": "m", "stream": True} | ASKED[api]
        async with gateway.client.stream("POST", f"/v1/{api}", json=asked) as answer:
            async for line in answer.aiter_lines():
                if "two" in line:
                    break
        assert await eventually(lambda: not first.running)
        (booked,) = await gateway.usage()

    assert booked.completion_tokens == 2
    assert booked.estimated_tokens > 0


@every_streaming
async def test_a_refusal_behind_a_keep_alive_is_told_within_the_stream(tmp_path, first, api):
    """The status is out: only an event is left."""
    gate = asyncio.Event()

    class Wait(type(error(400)[0])):
        async def play(self, call):
            await gate.wait()

    first.enqueue([Wait(), *error(400, "too long")])
    async with serving(tmp_path, {"a": first}, deadlines=Deadlines(keep_alive=0.01)) as gateway:
        asked = {"model": "m", "stream": True} | ASKED[api]
        async with gateway.client.stream("POST", f"/v1/{api}", json=asked) as answer:
            lines = []
            async for line in answer.aiter_lines():
                gate.set()
                lines.append(line)

    (told,) = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert "event: error" in lines
    assert (told["type"], told["error"]["message"]) == ("error", "too long")


@every_streaming
async def test_a_stream_that_a_limit_cuts_says_so_in_the_shape_of_its_api(tmp_path, first, monkeypatch, api):
    """As an error that its clients raise; each delta is counted, and nothing else."""
    monkeypatch.setattr("policies.estimates.OUTPUT_HIGH", 20)
    plans = {"cut": Plan("cut", (Meter(MeterKind.OUTPUT_TOKENS_PER_HOUR, 700, 700),), "cut")}
    word = STREAMS[api]("w", end=False)[-1].data
    paced = [step for _ in range(100) for step in (Bytes(word * 20), Pause(0.005))]
    first.enqueue([*STREAMS[api](end=False), *paced, Hang()])
    async with serving(tmp_path, {"a": first}, plans=plans) as gateway:
        key = await gateway.key("cut")
        answer = await ask(gateway, api, {"authorization": f"Bearer {key}"}, stream=True, max_tokens=9_999)
        (booked,) = await gateway.usage()

    last = json.loads(answer.content.rpartition(b"event: error\ndata: ")[2])
    assert last["error"]["type"] == "rate_limit_error"
    assert "cut by a limit" in last["error"]["message"]
    assert 20 < answer.content.count(word) == booked.completion_tokens < 2000


async def test_timings_are_booked_where_no_usage_is_told(tmp_path, first):
    """llama.cpp's, plain and streamed."""
    timings = {"cache_n": 3, "prompt_n": 4, "predicted_n": 2}
    streamed = sse("one", "two", told=None)
    finish = json.loads(streamed[-2].data.removeprefix(b"data: ")) | {"timings": timings}
    streamed[-2] = Bytes(b"data: " + json.dumps(finish).encode() + b"\n\n")
    first.enqueue(whole(200, {"choices": [], "timings": timings}), streamed)
    async with serving(tmp_path, {"a": first}, kind="llamacpp") as gateway:
        await gateway.ask()
        await gateway.ask(stream=True)
        (booked,) = await gateway.usage()

    assert (booked.prompt_tokens, booked.completion_tokens, booked.cached_tokens, booked.estimated_tokens) == (
        14,
        4,
        6,
        0,
    )


async def test_a_count_that_its_caller_does_not_wait_for_costs_nothing(tmp_path, first):
    """Nor does one that failed."""
    first.enqueue([Hang()])
    async with serving(tmp_path, {"a": first}) as gateway:
        with pytest.raises(httpx.ReadTimeout):
            await gateway.client.post(
                "/v1/messages/count_tokens", json={"model": "m"} | ASKED["messages/count_tokens"], timeout=0.3
            )
        assert await eventually(lambda: not first.running)
        first.default = error(500)
        await ask(gateway, "messages/count_tokens")
        booked = await gateway.usage() + await gateway.usage(platform=True)

    assert sum(one.prompt_tokens + one.completion_tokens + one.money for one in booked) == 0
