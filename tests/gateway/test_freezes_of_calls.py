"""Freezes, waits and deadlines of one call, through a whole gateway."""

import json

import httpx
import pytest
from msgspec.structs import replace

from gateway.upstream.attempt import Attempt
from policies.domain import Deadlines
from tests.gateway.harness import ASK, eventually, running, settings
from tests.parts.scripted import DONE, Bytes, Hang, Reset, Status, delta, sse

JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream"}
LONG = [{"role": "user", "content": "x" * 4000}]


def limited(wait_ms=None, status=429):
    told = {} if wait_ms is None else {"retry-after-ms": str(wait_ms)}
    return [Status(status, JSON | told), Bytes(b"{}")]


def a_model(folder, upstreams, *, deadlines=None, windows=()):
    """Return the models of a gateway over `upstreams`, with these deadlines and context windows."""
    (model,) = settings(folder, upstreams).models
    sized = tuple(
        replace(deployment, context_window=windows[place] if windows else None)
        for place, deployment in enumerate(model.deployments)
    )
    return (replace(model, deployments=sized, deadlines=deadlines or model.deadlines),)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [429, 503])
async def test_the_only_deployment_is_waited_for_when_it_says_when(tmp_path, first, status, stream):
    """The caller sees one good answer, after two attempts."""
    first.enqueue(limited(300, status))
    async with running(tmp_path, {"a": first}) as gateway:
        answer = await gateway.ask(stream=stream)

        assert answer.status_code == 200
        assert answer.headers["x-sluiceway-attempts"] == "2"
        assert len(first.requests) == 2


async def test_whoever_does_not_say_when_is_not_waited_for(tmp_path, first):
    """The caller is told to come again, at once."""
    first.default = limited()
    async with running(tmp_path, {"a": first}) as gateway:
        answer = await gateway.ask()

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert (answer.headers["x-sluiceway-attempts"], answer.headers["retry-after"]) == ("1", "1")


async def test_a_wait_past_the_deadline_is_not_begun(tmp_path, first):
    """What it says is passed on instead."""
    first.default = limited(30_000)
    async with running(tmp_path, {"a": first}, total=20.0) as gateway:
        answer = await gateway.ask()

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert len(first.requests) == 1


async def test_a_caller_who_leaves_while_its_call_waits_is_seen_to(tmp_path, first):
    """Nothing is held, and nobody is asked again."""
    first.enqueue(limited(20_000))
    async with running(tmp_path, {"a": first}) as gateway:
        with pytest.raises(httpx.ReadTimeout):
            await gateway.client.post("/v1/chat/completions", json=ASK, timeout=0.5)

        assert await eventually(lambda: not gateway.services.intake.open_calls)
        await gateway.usage()
        assert gateway.gateway.ledger.open_reservations == 0
        assert len(first.requests) == 1


async def test_one_that_is_limited_is_left_alone_while_another_serves(gateway, first, second):
    """And is not held for broken."""
    first.enqueue(limited(60_000))
    for _ in range(3):
        assert (await gateway.ask()).headers["x-sluiceway-backend"] == "b"

    assert len(first.requests) == 1
    assert not gateway.services.fleet._live["a/scripted"].breaker._failures


async def test_a_broken_one_beside_a_limited_one_does_not_end_the_call(gateway, first, second):
    """The limited one is back in a moment."""
    first.enqueue(limited(200))
    second.enqueue([Reset()])

    answer = await gateway.ask()

    assert (answer.status_code, answer.headers["x-sluiceway-backend"]) == (200, "a")
    assert answer.headers["x-sluiceway-attempts"] == "3"


async def test_a_models_own_patience_counts(tmp_path, first, second):
    """For the first content, and for silence later."""
    upstreams = {"a": first, "b": second}
    models = a_model(tmp_path, upstreams, deadlines=Deadlines(first_content=0.3, stall=0.3))
    async with running(tmp_path, upstreams, models=models) as gateway:
        first.enqueue([Status(200, EVENTS), delta(role="assistant"), Hang()])
        late = await gateway.ask(stream=True)
        first.enqueue([*sse("one", end=False), Hang()])
        gateway.services.fleet._live.clear()
        stalled = await gateway.ask(stream=True)

    assert late.headers["x-sluiceway-backend"] == "b"
    assert "stall" in stalled.text


async def test_a_caller_may_want_its_answer_sooner(tmp_path, first):
    """By a header; no later than the model allows, whatever it says."""
    first.default = [Hang()]
    async with running(tmp_path, {"a": first}, total=0.5) as gateway:
        for seconds in ("0.3", "3000"):
            answer = await gateway.client.post(
                "/v1/chat/completions", json=ASK, headers={"x-request-timeout": seconds}, timeout=10.0
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_a_wish_for_time_that_is_no_number_is_refused(gateway, first):
    """With the header's name, before anything is paid for."""
    answer = await gateway.client.post("/v1/chat/completions", json=ASK, headers={"x-request-timeout": "soon"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
    assert answer.json()["error"]["param"] == "x-request-timeout"
    assert len(first.requests) == 0


SILENT = {
    "nothing": [Status(200, EVENTS), DONE],
    "a good end": [Status(200, EVENTS), delta(role="assistant"), delta(finish="stop"), DONE],
    "a plain answer": [
        Status(200, JSON),
        Bytes(
            json.dumps(
                {
                    "choices": [{"message": {"content": ""}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 1000, "completion_tokens": 0},
                }
            ).encode()
        ),
    ],
}


@pytest.mark.parametrize("silence", SILENT)
async def test_no_word_to_a_prompt_as_long_as_the_window_is_an_overflow(tmp_path, first, second, silence):
    """So LM Studio answers what does not fit; a larger window may take it, and nobody is ejected."""
    upstreams, stream = {"a": first, "b": second}, silence != "a plain answer"
    async with running(tmp_path, upstreams, models=a_model(tmp_path, upstreams, windows=(1024, 9999))) as gateway:
        first.default = SILENT[silence]
        answer = await gateway.ask(stream=stream, messages=LONG, max_tokens=1)

        assert answer.headers["x-sluiceway-backend"] == "b"
        assert gateway.metric("sluiceway_attempts_total", backend="a", outcome="context_overflow") == 1


@pytest.mark.parametrize("words", [[delta(finish="content_filter")], [delta(content="x"), delta(finish="stop")]])
async def test_a_filter_or_a_single_word_near_the_window_is_an_answer(tmp_path, first, words):
    """It is passed on."""
    first.enqueue([Status(200, EVENTS), delta(role="assistant"), *words, DONE])
    async with running(tmp_path, {"a": first}, models=a_model(tmp_path, {"a": first}, windows=(1024,))) as gateway:
        answer = await gateway.ask(stream=True, messages=LONG)

    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_good_end_without_a_word_far_from_the_window_is_an_answer(tmp_path, first):
    """A model may have nothing to say."""
    first.enqueue([Status(200, EVENTS), delta(role="assistant"), delta(finish="stop"), DONE])
    async with running(tmp_path, {"a": first}, models=a_model(tmp_path, {"a": first}, windows=(100_000,))) as gateway:
        assert (await gateway.ask(stream=True)).status_code == 200


async def test_no_first_content_in_time_is_learned_from(tmp_path, first, monkeypatch):
    """Else a deployment that needs longer would never be given more time, and never be heard."""
    learned = []
    monkeypatch.setattr(Attempt, "unheard", lambda _: learned.append(1))
    models = a_model(tmp_path, {"a": first}, deadlines=Deadlines(first_content=0.2))
    first.enqueue([Hang()], sse("one"))
    async with running(tmp_path, {"a": first}, models=models) as gateway:
        answers = [await gateway.ask(stream=True) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [502, 200]
    assert len(learned) == 1
