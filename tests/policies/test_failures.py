import pytest

from policies.failures import MEANINGS, FailureKind, classify, in_stream


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"error":{"message":"bad"}}', FailureKind.CALLER),
        (413, b"", FailureKind.CALLER),
        (422, b'{"detail":[]}', FailureKind.CALLER),
        (401, b"", FailureKind.CREDENTIALS),
        (402, b"Cloud credits expired", FailureKind.CREDENTIALS),
        (403, b"", FailureKind.FORBIDDEN),
        (404, b"This is a chat model and not supported in the v1/completions endpoint.", FailureKind.UNSUPPORTED),
        (404, b"default backend - 404", FailureKind.UNSUPPORTED),
        (404, b'{"error":{"code":"model_not_found"}}', FailureKind.MODEL_GONE),
        (404, b'{"error":{"message":"The model `x` does not exist."}}', FailureKind.MODEL_GONE),
        (404, b"404 page not found", FailureKind.MODEL_GONE),
        (404, b'{"detail":"Function: Not found for account"}', FailureKind.MODEL_GONE),
        (404, b'{"error":{"message":"File Not Found","type":"not_found_error"}}', FailureKind.UNSUPPORTED),
        (410, b"", FailureKind.MODEL_GONE),
        (501, b"", FailureKind.UNSUPPORTED),
        (429, b"", FailureKind.RATE_LIMITED),
        (500, b"", FailureKind.SERVER_ERROR),
        (503, b"", FailureKind.UNAVAILABLE),
        (504, b"", FailureKind.UNAVAILABLE),
        (529, b"", FailureKind.UNAVAILABLE),
        (400, b'{"error":{"type":"exceed_context_size_error"}}', FailureKind.CONTEXT_OVERFLOW),
        (400, b"This model's maximum context length is 5 tokens.", FailureKind.CONTEXT_OVERFLOW),
        (500, b"Context size has been exceeded.", FailureKind.CONTEXT_OVERFLOW),
    ],
)
def test_an_answer_has_one_meaning(status, body, kind):
    """The table of failures, as engines really write them."""
    assert classify(status, body, None).kind is kind


def test_every_kind_has_a_meaning():
    """The set is closed."""
    assert set(MEANINGS) == set(FailureKind)


def test_only_whole_seconds_are_a_retry_after():
    """A date or nonsense is no number."""
    assert classify(429, b"", "2").retry_after == 2.0
    assert classify(429, b"", "Wed, 21 Oct 2026 07:28:00 GMT").retry_after is None
    assert classify(429, b"", None).retry_after is None
    assert classify(429, b"", "9" * 400).retry_after == 86_400


def test_an_overflow_inside_a_stream_is_told_from_other_errors():
    """LM Studio answers 200 and then says so."""
    told = b'{"error":{"message":"Input does not fit in context length."}}'

    assert in_stream(told).kind is FailureKind.CONTEXT_OVERFLOW
    assert in_stream(b'{"error":{}}').kind is FailureKind.ERROR_EVENT
