import json

from gateway.errors import error_body, error_headers, retry_after
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

    assert error_headers(no) == [(b"x-sluiceway-level", b"team"), (b"x-sluiceway-meter", b"tokens_per_minute")]
