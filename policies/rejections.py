"""The closed set of reasons to say no to a caller, and what each means on the wire.

Law: every refusal that is ours (not an upstream's) is one of these; `gateway/errors.py` is the one place that turns
them into answers. Types and codes are those of the OpenAI API where it has one.
"""

from enum import StrEnum

from msgspec import Struct

from policies.domain import Standing


class Reason(StrEnum):
    """Why a caller is refused; the value is the `code` of the error."""

    NO_KEY = "missing_api_key"
    BAD_KEY = "invalid_api_key"
    NOT_ALLOWED = "permission_denied"
    BAD_BODY = "invalid_body"
    BAD_MEMBER = "invalid_value"
    TOO_LARGE = "request_too_large"
    BODY_TIMEOUT = "body_timeout"
    MODEL_NOT_FOUND = "model_not_found"
    API_NOT_SUPPORTED = "api_not_supported"
    CONTEXT_LENGTH = "context_length_exceeded"
    RATE_LIMITED = "rate_limit_exceeded"
    TOO_LARGE_FOR_LIMIT = "request_too_large_for_limit"
    SPENT = "insufficient_quota"
    OVERLOADED = "overloaded"
    STORE_DOWN = "store_unavailable"
    ISSUER_DOWN = "issuer_unavailable"
    NO_DEPLOYMENT = "no_deployment_available"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_REFUSED = "upstream_refused"
    DEADLINE = "deadline_exceeded"
    INTERNAL = "internal_error"


class Shape(Struct, frozen=True):
    """The HTTP status and the error `type` of one reason."""

    status: int
    type: str


SHAPES: dict[Reason, Shape] = {
    Reason.NO_KEY: Shape(401, "invalid_request_error"),
    Reason.BAD_KEY: Shape(401, "invalid_request_error"),
    Reason.NOT_ALLOWED: Shape(403, "invalid_request_error"),
    Reason.BAD_BODY: Shape(400, "invalid_request_error"),
    Reason.BAD_MEMBER: Shape(400, "invalid_request_error"),
    Reason.TOO_LARGE: Shape(413, "invalid_request_error"),
    Reason.BODY_TIMEOUT: Shape(408, "invalid_request_error"),
    Reason.MODEL_NOT_FOUND: Shape(404, "invalid_request_error"),
    Reason.API_NOT_SUPPORTED: Shape(501, "invalid_request_error"),
    Reason.CONTEXT_LENGTH: Shape(400, "invalid_request_error"),
    Reason.RATE_LIMITED: Shape(429, "rate_limit_error"),
    Reason.TOO_LARGE_FOR_LIMIT: Shape(429, "rate_limit_error"),
    Reason.SPENT: Shape(429, "insufficient_quota"),
    Reason.OVERLOADED: Shape(503, "server_error"),
    Reason.STORE_DOWN: Shape(503, "server_error"),
    Reason.ISSUER_DOWN: Shape(503, "server_error"),
    Reason.NO_DEPLOYMENT: Shape(503, "server_error"),
    Reason.UPSTREAM_FAILED: Shape(502, "server_error"),
    Reason.UPSTREAM_REFUSED: Shape(502, "server_error"),
    Reason.DEADLINE: Shape(504, "server_error"),
    Reason.INTERNAL: Shape(500, "server_error"),
}


class Rejection(Struct, frozen=True):
    """One no: the reason, words for the caller, and when asking again makes sense.

    `retry_after_us`: microseconds until this very call would be admitted; None: never, or unknown. `level` and `meter`
    name what refused (429 only); `requests` and `tokens` are the standings with least left of those that count these,
    `tightest` the one with the smallest share left of all, for the headers.
    """

    reason: Reason
    message: str
    param: str | None = None
    retry_after_us: int | None = None
    level: str | None = None
    meter: str | None = None
    requests: Standing | None = None
    tokens: Standing | None = None
    tightest: Standing | None = None

    @property
    def shape(self) -> Shape:
        """The HTTP status and error type."""
        return SHAPES[self.reason]
