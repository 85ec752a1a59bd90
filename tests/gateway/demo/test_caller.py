import httpx
import pytest

from gateway.demo.caller import Caller, Desk, Key, TourBroken

from .mill import CHUNK, DONE, ERROR, USAGE, Fleet, Mill, Slowly

KEY = Key("id", "secret")
ROLE = CHUNK.format("")
WORD = CHUNK.format("word")


def caller(*answers: httpx.Response | Exception) -> Caller:
    left = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer secret"
        if isinstance(left[0], Exception):
            raise left.pop(0)
        return left.pop(0)

    return Caller(httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://gateway"), KEY, "m")


async def test_a_whole_answer_is_clean_and_tells_its_usage_backend_and_attempts():
    told = {"choices": [{}], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    headers = {"x-sluiceway-backend": "gpu", "x-sluiceway-attempts": "2"}
    outcome = await caller(httpx.Response(200, json=told, headers=headers)).plain("hi", 4)
    assert (outcome.ended, outcome.usage.completion_tokens) == ("clean", 4)
    assert (outcome.backend, outcome.attempts) == ("gpu", 2)


async def test_a_429_is_a_refusal_with_its_meter_level_code_and_wait():
    headers = {"x-sluiceway-meter": "tokens_per_minute", "x-sluiceway-level": "team", "retry-after-ms": "1500"}
    body = {"error": {"message": "slow", "code": "rate_limit_exceeded"}}
    outcome = await caller(httpx.Response(429, json=body, headers=headers)).plain("hi", 4)
    assert outcome.ended == "refused"
    assert (outcome.meter, outcome.level, outcome.wait) == ("tokens_per_minute", "team", 1.5)
    assert outcome.code == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (httpx.Response(502, json={"error": {"message": "gone"}}), "502: gone"),
        (httpx.Response(200, json={"choices": []}), "200: no error member"),
        (httpx.Response(500, text="<html>"), "DecodeError"),
        (httpx.ConnectError("refused"), "ConnectError: refused"),
    ],
)
async def test_anything_else_is_a_failure_that_says_what_it_was(answer, says):
    plain = await caller(answer).plain("hi", 4)
    assert plain.ended == "failed"
    assert says in plain.problem


@pytest.mark.parametrize(
    ("events", "ended"),
    [
        ([ROLE, WORD, WORD, USAGE % 2, DONE], "clean"),
        ([ROLE, WORD, ERROR], "cut"),
        ([ROLE, WORD, ERROR, DONE], "failed"),
        ([ROLE, ERROR], "failed"),
        ([ROLE, WORD], "failed"),
        ([ROLE, DONE], "failed"),
        ([ROLE, WORD, "data: {\n\n"], "failed"),
    ],
)
async def test_a_stream_is_clean_cut_or_failed(events, ended):
    outcome = await caller(httpx.Response(200, stream=Slowly(events))).streamed("hi", 4)
    assert outcome.ended == ended
    assert (outcome.problem == "") == (ended == "clean")


async def test_a_caller_may_leave_after_so_many_events_and_says_what_it_saw():
    outcome = await caller(httpx.Response(200, stream=Slowly([ROLE, *[WORD] * 9, DONE]))).streamed(
        "hi", 9, leave_after=3
    )
    assert (outcome.ended, outcome.events) == ("left", 3)


async def test_a_refused_stream_is_a_refusal():
    outcome = await caller(httpx.Response(429, json={"error": {"message": "slow"}})).streamed("hi", 4)
    assert outcome.ended == "refused"


async def test_the_desk_adds_up_what_one_key_was_charged():
    rows = [
        {"key": key, "model": model, "calls": 1, "input_tokens": 2, "output_tokens": 3, "estimated_tokens": 0}
        for key, model in (("id", "a"), ("id", "b"), ("other", "a"))
    ]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"rows": rows}))
    charged = await Desk(httpx.AsyncClient(transport=transport, base_url="http://gateway"), "admin").charged(KEY)
    assert (charged.requests, charged.prompt_tokens, charged.completion_tokens) == (2, 4, 6)


async def test_the_desk_waits_for_a_settlement_but_not_for_ever():
    desk = Desk(Mill(Fleet([])).client(), "admin")
    assert (await desk.charged_at_least(KEY, 1, seconds=0.1)).completion_tokens == 0


async def test_an_administration_that_fails_breaks_the_tour_with_its_words():
    desk = Desk(Mill(Fleet([]), "administration").client(), "admin")
    with pytest.raises(TourBroken, match="answered 500: no"):
        await desk.make_key("a")
