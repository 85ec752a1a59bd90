"""The answers of the hosted endpoint's parts that are no completion.

Law: bodies are whole constants, so that they can be laid beside what was seen. "VG" and "IS" are as in `nvidia`.
"""

import json
from dataclasses import replace
from enum import StrEnum

from tests.fakes.chat import DONE, event
from tests.fakes.engine import EVENTS, text
from tests.parts.scripted import Bytes, Status, Step, whole

FUNCTION = "23d4f03a-b8a6-4adb-a183-7daa083a09cc"
ACCOUNT = "a1b2c3"


class Quirk(StrEnum):
    """What can be wrong with a call, to be set for a model (`Hosted.quirk`) or for the next calls (`upset`)."""

    CREDITS = "credits"
    NOT_FOR_ACCOUNT = "not_for_account"
    DEGRADED = "degraded"
    QUEUE_FULL = "queue_full"
    NO_WORKER = "no_worker"
    BAD_GATEWAY = "bad_gateway"
    EXHAUSTED = "exhausted"
    EXHAUSTED_STREAM = "exhausted_stream"
    OVERLOADED = "overloaded"
    INTERNAL = "internal"
    ACCEPTED = "accepted"
    EMPTY_STREAM = "empty_stream"
    STALL = "stall"


def problem(status: int, title: str, detail: str | None = None, **headers: str) -> list[Step]:
    """Script problem+json as the invocation service's library writes it: only what it has, in this order."""
    body = {"status": status, "title": title} | ({} if detail is None else {"detail": detail})
    return whole(status, body, **{"content-type": "application/problem+json"} | headers)


def gateway_problem(status: int, title: str, detail: str, **headers: str) -> list[Step]:
    """Script problem+json as the gateway writes it (VG `ProblemDetails`)."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return whole(status, body, **{"content-type": "application/problem+json"} | headers)


QUIRKS: dict[Quirk, list[Step]] = {
    # nvcf FunctionInvocationValidationService.java, MESG_FUNCTION_PAYMENT_REQUIRED.
    Quirk.CREDITS: problem(
        402,
        "Payment Required",
        f"Account '{ACCOUNT}': Cloud credits expired - Please contact NVIDIA representatives",
    ),
    # freellmapi#634. The same file, `functionNotFoundMessage`.
    Quirk.NOT_FOR_ACCOUNT: problem(404, "Not Found", f"Function '{FUNCTION}': Not found for account '{ACCOUNT}'"),
    # The same file, MESG_DEGRADED_NOT_ALLOWED; a BadRequestException.
    Quirk.DEGRADED: problem(400, "Bad Request", f"Function id '{FUNCTION}': DEGRADED function cannot be invoked"),
    # IS `map_nats_err`, tests/test_error_codes.rs `test_queue_overflow`; the detail is NATS's own (a guess).
    Quirk.QUEUE_FULL: problem(429, "Too Many Requests", "failed to publish message: maximum messages exceeded"),
    # VG `writeBadGatewayProblem`.
    Quirk.BAD_GATEWAY: gateway_problem(502, "Bad Gateway", "Upstream request failed."),
    # A worker takes so many calls at once. Seen as 503 of this body with (16/16), (33/32), (107/32), never as 429.
    Quirk.EXHAUSTED: whole(
        503,
        {
            "error": {
                "message": "ResourceExhausted: Worker local total request limit reached (33/32)",
                "type": "Service Unavailable",
                "code": 503,
            }
        },
    ),
    # The same, after the head of a stream was sent.
    Quirk.EXHAUSTED_STREAM: [
        Status(200, EVENTS),
        Bytes(event({"error": {"message": "ResourceExhausted: Worker local total request limit reached (19/16)"}})),
        Bytes(DONE),
    ],
    # free-claude-code#1035; the body is a guess.
    Quirk.OVERLOADED: whole(529, {"error": {"message": "Overloaded", "type": "overloaded_error", "code": 529}}),
    # free-claude-code#993, #1478.
    Quirk.INTERNAL: whole(
        500,
        {
            "error": {
                "message": "Internal server error",
                "type": "internal_server_error",
                "param": None,
                "code": 500,
            }
        },
    ),
    # OmniRoute#3758.
    Quirk.EMPTY_STREAM: [Status(200, EVENTS)],
}


EDGE = (Quirk.CREDITS, Quirk.NOT_FOR_ACCOUNT, Quirk.DEGRADED)
"""Told before the rate limit is looked at."""

QUEUE = (Quirk.QUEUE_FULL, Quirk.BAD_GATEWAY)
"""Told before there is a call's number."""


def passed(steps: list[Step], number: dict[str, str]) -> list[Step]:
    """Pass a worker's answer on, with the headers that IS `handle_streaming_response` adds."""
    head = steps[0]
    status = {"nvcf-status": "fulfilled" if head.code < 400 else "errored"}
    return [replace(head, headers=head.headers | number | status), *steps[1:]]


def not_found() -> list[Step]:
    """Script Go's `http.NotFound`."""
    return text(404, "404 page not found\n", **{"x-content-type-options": "nosniff"})


def openai_error(message: str, code: str) -> list[Step]:
    """Script VG `OpenAIError`: written without a content type, which Go then sniffs to be plain text."""
    told = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return text(400, json.dumps(told) + "\n")
