import re

import httpx
import pytest

from gateway.config.settings import Telemetry
from tests.gateway.harness import ASK, running
from tests.parts.otlp import OtlpReceiver
from tests.parts.scripted import Reset, sse, usage

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"


async def test_a_call_is_a_server_span_with_a_client_span_an_attempt(tmp_path, first, second):
    """The caller's span is the parent, the backend's a child of its attempt; usage and outcome are attributes."""
    with OtlpReceiver() as receiver:
        traced = Telemetry(receiver.endpoint, 1.0)
        async with running(tmp_path, {"a": first, "b": second}, telemetry=traced) as gateway:
            first.enqueue([Reset()])
            second.enqueue(sse("one", told=usage(3, 1)))
            body = ASK | {"stream": True}
            await gateway.client.post("/v1/chat/completions", json=body, headers={"traceparent": CALLER})
        server = next(span for span in receiver.spans if span.kind == "server")
        attempts = sorted(
            (s for s in receiver.spans if s.kind == "client"), key=lambda s: s.attributes["sluiceway.attempt"]
        )

    assert (server.name, server.trace_id, server.parent_id) == ("POST /v1/chat/completions", TRACE, "b7ad6b7169203331")
    assert [span.parent_id for span in attempts] == [server.span_id] * 2
    assert [span.attributes["sluiceway.outcome"] for span in attempts] == ["reset", "ok"]
    assert [span.status for span in attempts] == ["error", "unset"]
    sent = dict(second.requests[0].headers)["traceparent"]
    assert sent == f"00-{TRACE}-{attempts[1].span_id}-01"
    assert server.attributes["gen_ai.usage.input_tokens"] == 3
    assert server.attributes["http.response.status_code"] == 200
    assert attempts[1].attributes["gen_ai.operation.name"] == "chat"
    assert attempts[1].attributes["gen_ai.provider.name"] == "openai"
    assert attempts[1].attributes["server.port"] == second.port
    assert server.attributes["client.address"] == "127.0.0.1"
    assert server.attributes["sluiceway.terms"][0] == "policy=balanced;by=default"
    assert server.resource["service.name"] == "sluiceway"
    assert not any(
        "hi" in str(span.attributes.values()) and "secret" in str(span.attributes) for span in receiver.spans
    )


async def test_without_an_endpoint_the_callers_context_still_reaches_the_backend(gateway, first):
    """Nothing is recorded here, nothing is lost there."""
    await gateway.client.post("/v1/chat/completions", json=ASK, headers={"traceparent": CALLER})

    assert dict(first.requests[0].headers)["traceparent"] == CALLER


@pytest.mark.parametrize(
    "headers", [{}, {"traceparent": "nonsense"}, {"tracestate": "a=b"}, {"traceparent": f"00-{'0' * 32}-{'0' * 16}-01"}]
)
async def test_a_call_that_is_not_sampled_is_not_recorded_and_tells_its_backend_so(tmp_path, first, headers):
    """And no caller gets it recorded by a trace context that is none."""
    with OtlpReceiver() as receiver:
        async with running(tmp_path, {"a": first}, telemetry=Telemetry(receiver.endpoint, 0.0)) as gateway:
            await gateway.client.post("/v1/chat/completions", json=ASK, headers=headers)

    assert receiver.spans == []
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", dict(first.requests[0].headers)["traceparent"])


async def test_a_sampled_caller_is_recorded_and_its_state_goes_along(tmp_path, first):
    """Whatever our own share."""
    with OtlpReceiver() as receiver:
        async with running(tmp_path, {"a": first}, telemetry=Telemetry(receiver.endpoint, 0.0)) as gateway:
            told = {"traceparent": CALLER, "tracestate": "vendor=x"}
            await gateway.client.post("/v1/chat/completions", json=ASK, headers=told)

    assert {span.trace_id for span in receiver.spans} == {TRACE}
    assert dict(first.requests[0].headers)["tracestate"] == "vendor=x"


async def test_an_endpoint_that_is_down_costs_no_call(tmp_path, first):
    """Traces are dropped, calls are served."""
    async with running(tmp_path, {"a": first}, telemetry=Telemetry("http://127.0.0.1:9", 1.0)) as gateway:
        answers = [await gateway.ask() for _ in range(3)]

        assert [answer.status_code for answer in answers] == [httpx.codes.OK] * 3
