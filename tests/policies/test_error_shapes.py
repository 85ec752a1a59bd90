import json

import pytest

from policies import error_shapes
from policies.sse import Splitter, data_of, named_error

ERROR = {"message": "no", "type": "server_error", "param": None, "code": "upstream_failed"}


def test_openais_apis_have_openais_error():
    """And a request id beside it."""
    for api in ("chat", "completions", "embeddings", "responses", "tokenize"):
        assert json.loads(error_shapes.body(api, 502, ERROR, "req_1")) == {"error": ERROR, "request_id": "req_1"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (501, "invalid_request_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_anthropics_apis_have_anthropics_error_by_status(status, kind):
    """Its clients tell by the type what to do."""
    for api in ("messages", "count_tokens"):
        assert json.loads(error_shapes.body(api, status, ERROR, "req_1")) == {
            "type": "error",
            "error": {"type": kind, "message": "no"},
            "request_id": "req_1",
        }


def test_an_event_of_a_chat_has_no_name_and_one_of_the_others_has():
    """Anthropic's clients skip what has none."""
    for api in ("chat", "completions", "responses", "messages"):
        written = error_shapes.event(api, 502, ERROR, "req_1")
        assert Splitter().feed(written) == [written]
        assert named_error(written) == (api in {"responses", "messages"})
        if api != "responses":
            assert data_of(written) == error_shapes.body(api, 502, ERROR, "req_1")


def test_an_event_of_responses_is_flat_as_documented_and_nested_as_sdks_raise_it():
    """With its number."""
    told = json.loads(data_of(error_shapes.event("responses", 502, ERROR | {"code": 500}, "req_1", 7)))

    assert told == {
        "type": "error",
        "code": "500",
        "message": "no",
        "param": None,
        "sequence_number": 7,
        "error": ERROR | {"code": 500},
        "request_id": "req_1",
    }


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b'{"error":"text"}', "text"),
        (b'{"object":"error","message":"m"}', "m"),
        (b'{"detail":[{"loc":["n"]}]}', '[{"loc": ["n"]}]'),
        (b'{"title":"Gone"}', "Gone"),
        (b"{}", "{}"),
        (b"no such thing\n", "no such thing"),
        (b"", "The upstream answered 422."),
        (b"\xff" + b"[" * 100_000, None),
    ],
    ids=range(8),
)
def test_an_upstreams_refusal_is_read_whatever_its_shape(answer, message):
    """In its own words."""
    told = error_shapes.said(422, answer)

    assert told["code"] == 422
    assert message is None or told["message"] == message


def test_an_upstreams_error_object_is_kept_as_it_is():
    """With whatever its engine put there; Anthropic's is one too."""
    own = {"message": "m", "code": 400, "n_ctx": 2048}

    assert error_shapes.said(400, json.dumps({"error": own}).encode()) == own
    assert error_shapes.said(400, b'{"type":"error","error":{"type":"x","message":"m"}}')["message"] == "m"


@pytest.mark.parametrize(
    "answer",
    [
        rb'{"error":{"message":"a \ud83d b"}}',
        rb'{"message":"a \ud83d b"}',
        b'{"error":{"message":"a","code":99999999999999999999999}}',
        b'{"error":{"message":"a","more":' + b"[" * 500 + b"]" * 500 + b"}}",
    ],
)
def test_whatever_an_upstream_says_can_be_told(answer):
    """Half a character, a number beyond all bounds: an upstream quotes what its caller sent."""
    said = error_shapes.said(400, answer)

    for api in ("chat", "messages", "responses"):
        assert json.loads(error_shapes.body(api, 400, said, "req_1"))["error"]["message"].startswith("a")
        assert error_shapes.event(api, 400, said, "req_1").endswith(b"\n\n")
