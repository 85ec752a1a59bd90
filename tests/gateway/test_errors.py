import json

import httpx
import openai
import pytest

from gateway.errors import error_body, error_event, error_headers, id_headers, refusal, retry_after
from policies.domain import Meter, MeterKind, Standing
from policies.rejections import Reason, Rejection


def test_an_error_has_openais_shape_and_a_request_id():
    """SDKs read message, type, param and code."""
    body = json.loads(error_body(Rejection(Reason.BAD_MEMBER, "no", param="n"), "req_1"))

    assert body == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": "invalid_value"},
        "request_id": "req_1",
    }


def test_retry_after_is_rounded_up():
    """Coming back then must succeed."""
    assert retry_after(1_200_001) == [(b"retry-after", b"2"), (b"retry-after-ms", b"1201")]
    assert retry_after(1) == [(b"retry-after", b"1"), (b"retry-after-ms", b"1")]


def test_who_refused_is_told_and_never_is_no_time():
    """A call larger than its bucket has no moment to come back at."""
    no = Rejection(Reason.TOO_LARGE_FOR_LIMIT, "no", level="team", meter="tokens_per_minute")

    assert error_headers(no) == [
        (b"x-should-retry", b"false"),
        (b"x-sluiceway-level", b"team"),
        (b"x-sluiceway-meter", b"tokens_per_minute"),
    ]


def test_what_is_left_is_told_with_the_moment_to_come_back():
    """The bucket is full later than the call would be admitted: that moment is the one to go by."""
    meter = Meter(MeterKind.REQUESTS_PER_MINUTE, 60, 60)
    standing = Standing("key", meter, limit=60, remaining=0, reset_us=60_000_000)
    no = Rejection(
        Reason.RATE_LIMITED, "no", retry_after_us=1_000_000, level="key", requests=standing, tightest=standing
    )

    assert dict(error_headers(no)) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"0",
        b"x-ratelimit-reset-requests": b"1m0s",
        b"ratelimit-policy": b'"key.requests_per_minute";q=60;qu="requests";w=60',
        b"ratelimit": b'"key.requests_per_minute";r=0',
        b"retry-after": b"1",
        b"retry-after-ms": b"1000",
        b"x-sluiceway-level": b"key",
    }


@pytest.mark.parametrize("reason", [Reason.STORE_DOWN, Reason.UPSTREAM_FAILED, Reason.MODEL_NOT_FOUND])
def test_only_limits_tell_an_sdk_not_to_try_again(reason):
    """A failure without a time may pass."""
    assert error_headers(Rejection(reason, "no")) == []
    assert error_headers(Rejection(Reason.SPENT, "no")) == [(b"x-should-retry", b"false")]


def test_openais_client_sends_a_call_once_that_no_retry_helps():
    """Its own retries, against the answer as it is written."""
    asked = []

    def answer(request):
        asked.append(request)
        no = Rejection(Reason.SPENT, "all used", level="key", meter="tokens_in_all")
        return httpx.Response(no.shape.status, headers=error_headers(no), content=error_body(no, "req_1"))

    client = openai.OpenAI(
        api_key="k",
        base_url="http://gateway.test/v1",
        max_retries=3,
        http_client=httpx.Client(transport=httpx.MockTransport(answer)),
    )
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])

    assert caught.value.code == caught.value.type == "insufficient_quota"
    assert len(asked) == 1


def test_an_error_has_the_shape_of_the_api_that_was_called():
    """Anthropic's clients read another one, and the id by another name."""
    no = Rejection(Reason.MODEL_NOT_FOUND, "no such model", param="model")

    assert json.loads(error_body(no, "req_1", "messages")) == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "no such model"},
        "request_id": "req_1",
    }
    assert (
        error_event(no, "req_1", "messages") == b"event: error\ndata: " + error_body(no, "req_1", "messages") + b"\n\n"
    )
    assert error_event(no, "req_1", "chat") == b"data: " + error_body(no, "req_1") + b"\n\n"
    assert id_headers("req_1") == [(b"x-request-id", b"req_1")]
    assert id_headers("req_1", "count_tokens") == [(b"x-request-id", b"req_1"), (b"request-id", b"req_1")]


def test_an_api_that_is_not_there_is_not_asked_for_again():
    """Both SDKs would repeat a 501."""
    assert error_headers(Rejection(Reason.API_NOT_SUPPORTED, "no")) == [(b"x-should-retry", b"false")]


@pytest.mark.parametrize("api", ["chat", "messages"])
def test_a_refusal_alone_is_a_whole_answer(api):
    """Its id, when to come back, and a body of the length that its head says."""
    no = Rejection(Reason.OVERLOADED, "full", retry_after_us=1_000_000)
    headers, body = refusal(no, "req_1", api)

    assert body == error_body(no, "req_1", api)
    assert headers[: len(id_headers("req_1", api))] == id_headers("req_1", api)
    assert set(headers) > set(error_headers(no))
    assert dict(headers)[b"content-length"] == str(len(body)).encode()
