import asyncio
import gc
import json
import math
import os
import signal

import httpx
import pytest
from msgspec.structs import replace

from gateway.attempts import Attempts
from gateway.config.settings import Limits, Shutdown
from gateway.exchange import Exchange
from gateway.places import Held
from gateway.placing import Placing
from gateway.succession import Succession
from policies.domain import Meter, MeterKind, Plan
from policies.live import Ticket
from policies.routing import route
from tests.gateway.harness import ASK, eventually, running
from tests.parts.scripted import Hang, Status, delta, event, sse, usage

LONG = [
    Status(200, {"content-type": "text/event-stream"}),
    delta(role="assistant"),
    delta(content="one"),
    delta(content="two"),
    Hang(),
]


async def test_a_call_without_a_key_is_refused_in_openais_shape(gateway):
    """And reaches no upstream."""
    answer = await gateway.client.post("/v1/chat/completions", json=ASK, headers={"authorization": ""})

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "missing_api_key"
    assert answer.headers["x-sluiceway-config"] == "0123456789ab"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


@pytest.mark.parametrize(
    ("members", "status", "param"),
    [({"model": "other"}, 404, "model"), ({"stream": "yes"}, 400, "stream"), ({"messages": None}, None, None)],
)
async def test_bad_members_are_refused_with_their_name(gateway, first, members, status, param):
    """A value that only the engine can judge is passed to it."""
    answer = await gateway.ask(**members)

    assert answer.status_code == (status or 200)
    assert len(first.requests) == (status is None)
    if status:
        assert answer.json()["error"]["param"] == param


async def test_an_alias_is_the_model(gateway, first):
    """And the upstream is called by its own name."""
    assert (await gateway.ask(model="alias")).status_code == 200
    assert json.loads(first.requests[0].body)["model"] == "scripted"


async def test_the_callers_request_id_is_kept_if_it_is_a_plain_one(gateway):
    """And passed on; a wild one is replaced."""
    plain = await gateway.client.post("/v1/chat/completions", json=ASK, headers={"x-request-id": "abc-1"})
    wild = await gateway.client.post("/v1/chat/completions", json=ASK, headers={"x-request-id": "a b"})

    assert plain.headers["x-request-id"] == "abc-1"
    assert wild.headers["x-request-id"].startswith("req_")


async def test_credentials_stay_on_their_side(gateway, first):
    """The caller's never reaches an upstream, nor its odd headers; the upstream gets its own."""
    await gateway.client.post(
        "/v1/chat/completions", json=ASK, headers={"x-sluiceway-x": "1", "nvcf-x": "1", "cookie": "c"}
    )

    sent = dict(first.requests[0].headers)
    assert sent["authorization"] == "Bearer secret-a"
    assert not {"x-sluiceway-x", "nvcf-x", "cookie"} & set(sent)


async def test_told_usage_is_booked_to_the_token(gateway, first):
    """Under the key and the model's own name."""
    first.enqueue(sse("a", "b", told=usage(7, 2)))

    async with gateway.client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as answer:
        assert b"usage" not in await answer.aread()

    (total,) = await gateway.usage()
    assert (total.model, total.prompt_tokens, total.completion_tokens, total.estimated_tokens) == ("m", 7, 2, 0)


async def test_a_caller_who_leaves_closes_the_upstream_and_pays_for_what_it_saw(gateway, first):
    """Within 50 ms here, and at least what came."""
    first.enqueue(LONG)
    async with gateway.client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as answer:
        async for line in answer.aiter_lines():
            if "two" in line:
                break

    assert await eventually(lambda: not first.running, within=1.0)
    (total,) = await gateway.usage()
    assert total.completion_tokens == 2
    assert total.estimated_tokens == total.prompt_tokens + 2
    assert gateway.services.intake.open_calls == 0
    assert gateway.gateway.ledger.open_reservations == 0
    assert gateway.metric("sluiceway_requests_total", api="chat", model="m", status="499") == 1


async def test_a_caller_who_leaves_in_prefill_closes_the_upstream(gateway, first):
    """Nothing need be written to notice."""
    first.enqueue([Hang()])
    with pytest.raises(httpx.ReadTimeout):
        await gateway.client.post("/v1/chat/completions", json=ASK, timeout=0.3)

    assert await eventually(lambda: not first.connections, within=1.0)
    assert await eventually(lambda: gateway.services.intake.open_calls == 0)


@pytest.mark.parametrize("size", [1_000, 70_000, 300_000])
async def test_a_caller_with_a_large_body_is_seen_to_leave_too(gateway, first, size):
    """What the listener reads no further for must not hide it."""
    first.enqueue([Hang()])
    host, port = gateway.running.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(ASK | {"messages": [{"role": "user", "content": "x" * size}]}).encode()
    key = gateway.client.headers["authorization"]
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await eventually(lambda: first.connections and first.calls)
    writer.transport.abort()

    assert await eventually(lambda: not gateway.services.intake.open_calls, within=2.0)
    assert await eventually(lambda: not first.connections, within=2.0)


async def test_a_limit_refuses_with_its_level_and_meter_and_a_true_wait(tmp_path, first):
    """Asked again in time it is admitted."""
    meter = Meter(MeterKind.REQUESTS_PER_MINUTE, limit=20, burst=2)  # one more in 3 s, however slowly these are asked
    async with running(tmp_path, {"a": first}, plans={"tiny": Plan("tiny", (meter,))}) as gateway:
        key = await gateway.key("tiny")
        admitted = [await gateway.ask(key=key) for _ in range(2)]
        refused = await gateway.ask(key=key)
        await asyncio.sleep(int(refused.headers["retry-after-ms"]) / 1000)
        again = await gateway.ask(key=key)

        assert [a.status_code for a in (*admitted, refused, again)] == [200, 200, 429, 200]
        assert admitted[0].headers["x-ratelimit-remaining-requests"] == "1"
        assert refused.headers["x-sluiceway-meter"] == "requests_per_minute"
        assert refused.headers["x-sluiceway-level"] == "key"
        assert int(refused.headers["retry-after"]) == math.ceil(int(refused.headers["retry-after-ms"]) / 1000)
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        labels = {"reason": "rate_limit_exceeded", "level": "key", "meter": "requests_per_minute"}
        assert gateway.metric("sluiceway_rejections_total", **labels) == 1


async def test_bodies_are_bounded(tmp_path, first):
    """By their told length, and as they come."""
    async with running(tmp_path, {"a": first}, limits=Limits(body=1000, buffered_total=2000)) as gateway:
        big = await gateway.ask(extra="x" * 2000)

        async def chunks():
            for _ in range(10):
                yield b"x" * 500

        grown = await gateway.client.post("/v1/chat/completions", content=chunks())

        assert [big.status_code, grown.status_code] == [413, 413]
        assert (gateway.services.intake.buffered, gateway.services.intake.open_calls) == (0, 0)


async def test_a_store_that_does_not_answer_is_503_and_comes_back(gateway, first):
    """Deny is the stance; nothing is served unmetered."""
    assert (await gateway.ask()).status_code == 200
    valkey = int(await _store_pid(gateway))
    os.kill(valkey, signal.SIGSTOP)
    try:
        refused = await gateway.ask()
    finally:
        os.kill(valkey, signal.SIGCONT)

    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "store_unavailable"
    assert refused.headers["retry-after"] == "1"
    assert len(first.requests) == 1
    again = await gateway.ask()
    for _ in range(100):  # it is asked by its prober alone, which looks again within a second
        if again.status_code == 200:
            break
        await asyncio.sleep(0.05)
        again = await gateway.ask()
    assert again.status_code == 200


async def test_a_bug_is_a_500_without_its_traceback(gateway, first, monkeypatch):
    """And everything is given back."""
    monkeypatch.setattr("gateway.attempts.rewrite", lambda *_: 1 / 0)
    answer = await gateway.ask()

    assert answer.status_code == 500
    assert "ZeroDivision" not in answer.text
    await gateway.usage()
    assert gateway.gateway.ledger.open_reservations == 0
    assert gateway.services.intake.open_calls == 0


async def test_streams_that_outlive_the_grace_are_told_so(tmp_path, first):
    """In-band, and settled."""
    first.enqueue(LONG)
    soon = Shutdown(grace=1)
    async with running(tmp_path, {"a": first}, shutdown=soon) as gateway, httpx.AsyncClient(timeout=20) as client:
        headers = {"authorization": f"Bearer {await gateway.key()}"}
        url = f"{gateway.running.url}/v1/chat/completions"
        async with client.stream("POST", url, json=ASK | {"stream": True}, headers=headers) as answer:
            lines = answer.aiter_lines()
            while "two" not in await anext(lines):
                pass
            stopping = asyncio.ensure_future(gateway.running.stop())
            rest = [line async for line in lines]
        await stopping

        assert "overloaded" in "".join(rest)
        assert "[DONE]" not in "".join(rest)
        assert gateway.gateway.ledger.open_reservations == 0


async def _store_pid(gateway):
    (info,) = await gateway.gateway.store.send(("INFO", "server"))
    return info["process_id"] if isinstance(info, dict) else info.split(b"process_id:")[1].split()[0]


async def test_a_caller_who_does_not_read_cannot_keep_the_books_open(tmp_path, first):
    """Its call is settled when the grace is over, though nobody takes the last words."""
    part = event({"choices": [{"delta": {"content": "x" * 60_000}}]})
    first.enqueue([Status(200, {"content-type": "text/event-stream"}), *[part] * 800, Hang()])
    async with running(tmp_path, {"a": first}, shutdown=Shutdown(grace=1)) as gateway:
        host, port = gateway.running.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        body = json.dumps(ASK | {"stream": True}).encode()
        key = await gateway.key()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        writer.transport.pause_reading()
        await eventually(lambda: gateway.services.intake.open_calls)
        await asyncio.sleep(0.3)
        await gateway.running.stop()
        writer.close()

        assert gateway.gateway.ledger.open_reservations == 0
        assert gateway.services.intake.open_calls == 0


async def test_a_caller_who_left_before_anything_was_written_pays_nothing(gateway):
    """A connect that hangs is no work."""
    home = gateway.services.fleet.homes["a"]

    monkey = home.transport

    class Hanging:
        async def post(self, *request):
            await asyncio.Event().wait()

    home.transport = Hanging()
    with pytest.raises(httpx.ReadTimeout):
        await gateway.client.post("/v1/chat/completions", json=ASK, timeout=0.3)
    await eventually(lambda: gateway.services.intake.open_calls == 0)
    home.transport = monkey

    (total,) = await gateway.usage()
    assert (total.prompt_tokens, total.completion_tokens) == (0, 0)


async def test_a_caller_who_does_not_read_is_held_to_the_calls_deadline(tmp_path, first):
    """Its slot, its call and its upstream are given back."""
    part = event({"choices": [{"delta": {"content": "x" * 60_000}}]})
    first.enqueue([Status(200, {"content-type": "text/event-stream"}), *[part] * 800, Hang()])
    async with running(tmp_path, {"a": first}, total=1.0) as gateway:
        host, port = gateway.running.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        body = json.dumps(ASK | {"stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {await gateway.key()}\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        writer.transport.pause_reading()
        await eventually(lambda: gateway.services.intake.open_calls)

        assert await eventually(lambda: not gateway.services.intake.open_calls, within=10)
        assert await eventually(lambda: not first.connections)
        writer.transport.abort()


async def test_a_plain_call_that_is_cut_is_paid_by_its_time(gateway, first):
    """The engine worked though nobody saw a word."""
    first.enqueue([Hang()])
    gateway.services.fleet._live.clear()
    with pytest.raises(httpx.ReadTimeout):
        await gateway.client.post("/v1/chat/completions", json=ASK | {"max_tokens": 500}, timeout=1.5)
    await eventually(lambda: gateway.services.intake.open_calls == 0)

    (total,) = await gateway.usage()
    assert 0 < total.completion_tokens <= 500
    assert total.estimated_tokens == total.prompt_tokens + total.completion_tokens


async def test_a_caller_who_asks_is_told_the_route(gateway):
    """In the order in which deployments are tried; nobody else is."""
    asked = await gateway.client.post("/v1/chat/completions", json=ASK, headers={"x-sluiceway-explain": "1"})

    first, second = asked.headers["x-sluiceway-route"].split(", ")
    assert first.startswith('"a/scripted";score=')
    assert second.startswith('"b/scripted";score=')
    terms = asked.headers["x-sluiceway-terms"].split(", ")
    assert terms[:2] == ["policy=balanced;by=default", "priority=normal;by=default"]
    unasked = (await gateway.ask()).headers
    assert "x-sluiceway-route" not in unasked
    assert "x-sluiceway-terms" not in unasked


async def test_a_callers_session_reaches_routing(gateway, monkeypatch):
    """By Mistral Vibe's header, or another usual one; another key's session of the same name is another."""
    seen = []
    monkeypatch.setattr(
        "gateway.planning.route", lambda request, *rest, **more: seen.append(request) or route(request, *rest, **more)
    )

    for headers in ({"x-affinity": "s"}, {"x-session-id": "s"}, {"x-affinity": "s" * 500}, {}):
        await gateway.client.post("/v1/chat/completions", json=ASK, headers=headers)
    await gateway.ask(prompt_cache_key="s")
    other = {"x-affinity": "s", "authorization": f"Bearer {await gateway.key()}"}
    await gateway.client.post("/v1/chat/completions", json=ASK, headers=other)

    vibe, usual, long, none, member, others = [request.session for request in seen]
    assert vibe == usual != others
    assert member.endswith('/"s"')
    assert len(long) < 200
    assert none == ""


async def test_a_call_leaves_no_rings(gateway):
    """What is over is freed at once: else the collector finds it all together, and every call waits for it."""
    gc.collect()
    gc.disable()
    try:
        for stream in (False, True) * 5:
            assert (await gateway.ask(stream=stream)).status_code == 200
        assert (await gateway.ask(model="none")).status_code == 404
        parts = Exchange, Placing, Attempts, Succession, Held, Ticket
        assert await eventually(lambda: not [one for one in gc.get_objects() if isinstance(one, parts)])
    finally:
        gc.enable()


async def test_an_answer_tells_the_file_that_its_call_was_planned_with_though_its_body_came_slowly(gateway):
    """Its model may exist in that one alone; whoever looks there must find what held."""
    sent, before = asyncio.Event(), gateway.gateway.settings
    (model,) = before.models

    async def body():
        yield b'{"model": "n", "messages": [{"role": "user", '
        await sent.wait()
        yield b'"content": "hi"}]}'

    call = asyncio.ensure_future(gateway.client.post("/v1/chat/completions", content=body()))
    await eventually(lambda: gateway.services.intake.buffered)
    await gateway.gateway.take(replace(before, models=(replace(model, name="n"),), digest="ba9876543210"))
    sent.set()
    answer = await call

    assert (answer.status_code, answer.headers["x-sluiceway-config"]) == (200, "ba9876543210")
