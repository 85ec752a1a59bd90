import asyncio
import json

import httpx
import pytest
from msgspec.structs import replace

from gateway.config.settings import Telemetry
from policies.breaker import State
from policies.terms import RoutingTerms
from tests.gateway.harness import ASK, eventually, running, settings
from tests.parts.otlp import OtlpReceiver
from tests.parts.scripted import Bytes, Close, Hang, Pause, Raw, Reset, Status, Until, delta, event, sse, usage

OURS = ("internal_error", "caller_left")
JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream"}


def says(status, body=b"{}", **headers):
    return [Status(status, JSON | headers), Bytes(body)]


UNSEEN = {
    "reset before the head": [Reset()],
    "closed before the head": [Close()],
    "500": says(500),
    "503": says(503),
    "529": says(529),
    "429": says(429),
    "401": says(401),
    "404 for the model": says(404, b'{"error":{"message":"The model `x` does not exist."}}'),
    "410": says(410),
    "a redirect": says(307, location="http://127.0.0.1/"),
    "garbage": [Raw(b"NONSENSE\r\n\r\n"), Close()],
    "a coding that was not asked for": says(200, b"xx", **{"content-encoding": "gzip"}),
}
PLAIN = UNSEEN | {
    "a truncated body": [Status(200, JSON | {"content-length": "100"}), Bytes(b'{"id":1'), Close()],
    "half of a JSON body": says(200, b'{"id":'),
}
STREAMED = UNSEEN | {
    "a stream cut after its role": [*sse(end=False), Close()],
    "an empty stream": [Status(200, EVENTS)],
    "an error event first": [Status(200, EVENTS), delta(role="assistant"), event({"error": {"message": "no"}})],
    "a reset after the head": [Status(200, EVENTS), Reset()],
}


@pytest.mark.parametrize("fault", PLAIN)
async def test_a_plain_call_moves_on_from(gateway, first, second, fault):
    """Nobody has seen anything."""
    first.enqueue(PLAIN[fault])

    answer = await gateway.ask()

    assert answer.status_code == 200
    assert (answer.headers["x-sluiceway-attempts"], answer.headers["x-sluiceway-backend"]) == ("2", "b")
    assert len(second.requests) == 1


@pytest.mark.parametrize("fault", STREAMED)
async def test_an_uncommitted_stream_moves_on_from(gateway, first, second, fault):
    """The caller gets one whole stream."""
    first.enqueue(STREAMED[fault])
    second.enqueue(sse("good", told=usage(1, 1)))

    answer = await gateway.ask(stream=True)

    assert answer.status_code == 200
    assert answer.headers["x-sluiceway-attempts"] == "2"
    assert answer.text.count('"role"') == 1
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("end", [[Close()], [Reset()], [], [event({"error": {"message": "no"}})]], ids=str)
async def test_a_committed_stream_that_fails_says_so_in_band(gateway, first, second, end):
    """Cut, reset, ended without a finish_reason, failed by the upstream's own word: never a clean end."""
    first.enqueue([*sse("one", end=False), *end])

    try:
        text = (await gateway.ask(stream=True)).text
    except httpx.HTTPError:
        pytest.fail("the error is told in-band")

    assert "one" in text
    assert '"error"' in text
    assert "[DONE]" not in text
    assert len(second.requests) == 0
    (total,) = await gateway.usage()
    assert (total.completion_tokens, total.estimated_tokens > 0) == (1, True)


@pytest.mark.parametrize(("status", "body"), [(400, b'{"error": 1 }'), (413, b"too big"), (422, b'{"detail":[ ]}')])
async def test_a_callers_fault_passes_through_untouched(gateway, first, second, status, body):
    """It would be one elsewhere too."""
    first.enqueue(says(status, body))

    answer = await gateway.ask()

    assert (answer.status_code, answer.content) == (status, body)
    assert len(second.requests) == 0


async def test_an_attempt_that_met_a_mistake_of_ours_is_counted_as_that(gateway, monkeypatch):
    """And not as a caller who left, which is nothing to look into; no deployment is blamed."""
    monkeypatch.setattr("gateway.relay.usage_of", lambda _: 1 / 0)

    assert (await gateway.ask()).status_code == 500

    counted = {how: gateway.metric("sluiceway_attempts_total", backend="a", outcome=how) for how in OURS}
    assert counted == {"internal_error": 1, "caller_left": 0}
    assert not gateway.services.fleet._live["a/scripted"].breaker._failures


async def test_an_api_that_no_deployment_has_is_our_own_501(gateway, first, second):
    """In one shape, whatever words the engines have for it; the next call may find it."""
    first.enqueue(says(501, b'{"error":"none here"}'))
    second.enqueue(says(404, b'{"detail":"Not Found"}'))

    answer = await gateway.ask("embeddings", input="x", messages=None)

    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "api_not_supported")
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.headers["x-sluiceway-attempts"] == "2"
    assert (await gateway.ask("embeddings", input="x", messages=None)).status_code == 200


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"""{"error": {"message": "Response with id 'resp_x' not found.", "code": 404}}"""),
        (403, b'{"error": {"message": "Your input was flagged by moderation", "code": 403}}'),
        (400, b'{"error": {"code": "content_filter"}}'),
    ],
)
async def test_what_is_about_the_callers_own_words_is_the_callers(gateway, first, second, status, body):
    """Untouched, and the deployment serves on: neither a missing model nor a missing API nor a bad credential."""
    first.enqueue(says(status, body))

    answer = await gateway.ask()

    assert (answer.status_code, answer.content) == (status, body)
    assert (await gateway.ask()).headers["x-sluiceway-backend"] == "a"
    assert len(second.requests) == 0


async def test_an_overflow_that_no_larger_window_takes_is_told_with_the_engines_numbers(gateway, first, second):
    """In words that OpenAI's clients and Vibe know; the other one's window is not known to be larger."""
    for upstream, window in ((first, 8192), (second, 4096)):
        words = f"request (13392 tokens) exceeds the available context size ({window} tokens), try increasing it"
        upstream.enqueue(says(400, json.dumps({"error": {"message": words}}).encode()))

    answer = await gateway.ask()

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert answer.json()["error"]["message"].startswith(
        "This model's maximum context length is 8192 tokens. However, your request has 13392 tokens."
    )


async def test_an_answer_that_comes_later_is_not_waited_for_where_nobody_knows_how(gateway, first):
    """A 202 is no answer."""
    first.enqueue(says(202, b"", **{"nvcf-reqid": "r1"}))

    assert (await gateway.ask()).headers["x-sluiceway-backend"] == "b"


async def test_what_an_upstream_calls_a_call_stands_in_its_span(tmp_path, first):
    """So that its operator can find it there; what is no plain word is left out."""
    first.enqueue(says(200, **{"nvcf-reqid": "6d6f", "nvcf-status": "fulfilled"}), says(200, **{"x-request-id": "a b"}))
    with OtlpReceiver() as receiver:
        async with running(tmp_path, {"a": first}, telemetry=Telemetry(receiver.endpoint)) as gateway:
            for _ in range(2):
                await gateway.ask()
        spans = await receiver.wait_for(lambda spans: len(spans) == 4)

    told = [span.attributes for span in spans if "sluiceway.attempt" in span.attributes]
    assert [attributes.get("sluiceway.upstream_request_id") for attributes in told] == ["6d6f", None]
    assert told[0]["sluiceway.nvcf_status"] == "fulfilled"


async def test_when_all_fail_the_story_is_told_without_upstreams_words(gateway, first, second):
    """One 502 with the kinds of failure."""
    first.enqueue(says(503, b"secret-a leaked"))
    second.enqueue([Reset()])

    answer = await gateway.ask()

    assert answer.status_code == 502
    assert "a: unavailable; b: " in answer.json()["error"]["message"]
    assert "leaked" not in answer.text
    (total,) = await gateway.usage()
    assert (total.requests, total.prompt_tokens, total.completion_tokens) == (1, 0, 0)


async def test_with_one_attempt_there_is_no_failover(tmp_path, first, second):
    """The setting that the demo shows off."""
    upstreams = {"a": first, "b": second}
    async with running(tmp_path, upstreams, terms=RoutingTerms(max_attempts=1)) as gateway:
        first.enqueue([Reset()])

        assert (await gateway.ask()).status_code == 502
        assert len(second.requests) == 0


async def test_a_failing_deployment_is_ejected_and_the_last_one_never(gateway, first, second):
    """After three failures nobody pays for a fourth."""
    first.default = [Reset()]
    for _ in range(5):
        assert (await gateway.ask()).status_code == 200

    assert len(first.requests) == 3
    second.default = [Reset()]
    for _ in range(4):
        await gateway.ask()
    first.default = second.default = None
    assert (await gateway.ask()).status_code == 200


async def test_a_credential_that_is_refused_switches_its_deployment_off(gateway, first):
    """One call finds out, the next ones do not."""
    first.enqueue(says(401))
    for _ in range(3):
        assert (await gateway.ask()).status_code == 200

    assert len(first.requests) == 1


async def test_load_is_given_back_whatever_ends_an_attempt(gateway, first, second):
    """In flight and queued tokens return to zero."""
    first.enqueue([Reset()], sse("a", end=False), says(400))
    for _ in range(3):
        await gateway.ask(stream=True)

    assert [(live.in_flight, live.queued_tokens) for live in gateway.services.fleet._live.values()] == [(0, 0)] * 2
    assert gateway.metric("sluiceway_in_flight", backend="a") == 0


@pytest.mark.parametrize(
    "step", ["telemetry.attempt_span", "ledger.follow", "metrics.in_flight", "fleet.reached", "budget"]
)
async def test_a_bug_before_an_attempt_takes_no_place_for_good(gateway, first, step, monkeypatch):
    """Whichever step of a call raises between its place and its first byte."""
    *path, name = step.split(".")
    services = gateway.services
    live = services.fleet.live(services.catalog.models[0].deployments[0])
    monkeypatch.setattr(getattr(services, path[0]) if path else services, name, None)
    answers = [await gateway.ask() for _ in range(2)]
    monkeypatch.undo()

    assert [answer.status_code for answer in answers] == [500] * 2
    assert (live.in_flight, live.queued_tokens) == (0, 0)
    assert gateway.metric("sluiceway_in_flight", backend="a") == 0
    assert not first.requests
    assert (await gateway.ask()).status_code == 200


async def test_a_call_past_its_deadline_is_504(tmp_path, first):
    """Whatever the upstream does."""
    first.default = [Hang()]
    async with running(tmp_path, {"a": first}, total=0.4) as gateway:
        answer = await gateway.client.post("/v1/chat/completions", json=ASK)

        assert answer.status_code == 504
        assert json.loads(answer.content)["error"]["code"] == "deadline_exceeded"


async def test_one_callers_404_or_403_takes_the_model_from_nobody(tmp_path, first):
    """An API that the model does not have, a prompt that a firewall refuses, an ingress that starts."""
    words = b'{"error":{"message":"This is a chat model and not supported in the v1/completions endpoint"}}'
    async with running(tmp_path, {"a": first}) as gateway:
        for answer in (says(404, words), says(403), says(404, b"default backend - 404"), says(401)):
            first.enqueue(answer)
            assert (await gateway.ask()).status_code in {501, 502}
            assert (await gateway.ask()).status_code == 200


async def test_a_model_that_is_gone_for_good_is_gone(tmp_path, first):
    """A 410 may take even the last one."""
    async with running(tmp_path, {"a": first}) as gateway:
        first.enqueue(says(410))
        assert (await gateway.ask()).status_code == 502
        gone = await gateway.ask()

        assert (gone.status_code, gone.json()["error"]["code"]) == (503, "no_deployment_available")
        assert len(first.requests) == 1


async def test_an_overloaded_deployment_beside_one_that_lacks_the_api_is_no_501(gateway, first, second):
    """The caller may try again."""
    first.enqueue(says(503))
    second.enqueue(says(501))

    assert (await gateway.ask()).status_code == 502


async def test_a_calls_own_deadline_is_not_held_against_its_deployment(tmp_path, first):
    """Streams that outlive it are cut, and the deployment stays."""
    first.default = [*sse("one", end=False), Pause(1.0)]
    async with running(tmp_path, {"a": first}, total=0.3) as gateway:
        texts = [(await gateway.ask(stream=True)).text for _ in range(4)]
        first.default = None

        assert all("deadline" in text for text in texts)
        assert (await gateway.ask()).headers["x-sluiceway-backend"] == "a"
        assert not gateway.services.fleet._live["a/scripted"].breaker._failures


async def test_nonsense_in_an_upstreams_usage_harms_no_later_call(gateway, first):
    """It is cut to what an answer can have, and never learned."""
    first.enqueue(says(200, b'{"usage":{"prompt_tokens":1' + b"0" * 30 + b',"completion_tokens":-7}}'))
    first.enqueue(says(200, b'{"usage":{"prompt_tokens":999999999999,"completion_tokens":-7}}'))
    answers = [await gateway.ask() for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200] * 4
    (total,) = await gateway.usage()
    assert total.prompt_tokens <= 2 * 2**31 + 100


async def test_what_was_changed_of_a_wish_is_told_with_the_answer(tmp_path, first):
    """By whoever answers."""
    model = settings(tmp_path, {"a": first}).models[0]
    mistral = replace(model, deployments=(replace(model.deployments[0], tokenizer="mistral"),))
    async with running(tmp_path, {"a": first}, models=(mistral,)) as gateway:
        answer = await gateway.ask(reasoning_effort="medium")
        usual = await gateway.ask(reasoning_effort="high")

    assert answer.headers["x-sluiceway-changed"] == "reasoning_effort: medium -> high"
    assert json.loads(first.requests[0].body)["reasoning_effort"] == "high"
    assert "x-sluiceway-changed" not in usual.headers


async def test_a_refusal_that_nobody_waited_for_costs_nothing(gateway, first):
    """The upstream did not work, whether its words came or not."""
    first.enqueue([Status(500, {"content-length": "9"}), Hang()])

    with pytest.raises(httpx.ReadTimeout):
        await gateway.client.post("/v1/chat/completions", json=ASK, timeout=0.5)

    await eventually(lambda: not gateway.services.intake.open_calls)
    assert [(row.requests, row.prompt_tokens, row.completion_tokens) for row in await gateway.usage()] == [(1, 0, 0)]


async def test_a_deployment_is_judged_as_soon_as_another_serves_its_call(gateway, first, second):
    """Not when that answer ends, minutes later: until then it would get every call, or no probe."""
    ends = asyncio.Event()
    first.enqueue(says(500))
    second.enqueue([*sse("one", end=False), Until(ends), *sse()[2:]])
    breaker = gateway.services.fleet.live(gateway.services.catalog.models[0].deployments[0]).breaker

    async with gateway.client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as answer:
        lines = answer.aiter_lines()
        while "one" not in await anext(lines):
            pass
        assert breaker._failures == 1
        ends.set()
        assert "data: [DONE]" in [line async for line in lines]
    assert breaker._failures == 1


async def test_a_probe_that_only_its_own_call_may_have_failed_is_owed_again(gateway, first, second):
    """Nobody served the call, so that nothing was learned; the next call may be the probe."""
    first.enqueue(says(500))
    second.enqueue(says(500))
    breaker = gateway.services.fleet.live(gateway.services.catalog.models[0].deployments[0]).breaker
    breaker.state = State.OPEN

    assert (await gateway.ask()).status_code == 502
    assert (breaker.state, breaker._failures) == (State.OPEN, 0)
    assert (await gateway.ask()).headers["x-sluiceway-backend"] == "a"
    assert breaker.state is State.CLOSED
