"""How each API words a no: as an answer's body, and as the last event of a stream.

Law: the error is the OpenAI API's (`message`, `type`, `param`, `code`), put into the shape of the API that was called,
so that its own SDK raises it; none is taken for a clean end. Sources: the API references of OpenAI (errors, Responses
streaming) and Anthropic (errors), and what their Python SDKs raise on: in a stream of Responses that is a member
`error`, which the reference does not have, in one of Messages the event's name.
"""

import json
import re
from typing import Any

import msgspec

from policies.apis import APIS
from policies.domain import API
from policies.halves import read
from policies.sse import event_of

Error = dict[str, Any]
"""An error object of the OpenAI API."""

_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    501: "invalid_request_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_ANTHROPIC = re.compile(rb'"type"\s*:\s*"error"')

_encode = msgspec.json.Encoder().encode


def body(api: API, status: int, error: Error, request_id: str) -> bytes:
    """Return the JSON body of an answer with that HTTP status."""
    if APIS[api].family == "anthropic":
        kind = _BY_STATUS.get(status, "api_error" if status >= 500 else "invalid_request_error")
        said = {"type": kind, "message": error["message"]}
        return _encode({"type": "error", "error": said, "request_id": request_id})
    return _encode({"error": error, "request_id": request_id})


def event(api: API, status: int, error: Error, request_id: str, number: int = 0) -> bytes:
    """Return the last event of a stream that ends with `error`, which had that status if it were an answer.

    `number`: of the event, where the API numbers them.
    """
    if APIS[api].end == "done":
        return event_of(body(api, status, error, request_id))
    if APIS[api].family == "anthropic":
        return event_of(body(api, status, error, request_id), "error")
    code = error.get("code")
    told = {
        "type": "error",
        "code": code if code is None else str(code),
        "message": error["message"],
        "param": error.get("param"),
        "sequence_number": number,
        "error": error,
        "request_id": request_id,
    }
    return event_of(_encode(told), "error")


def fits(api: API, answer: bytes) -> bool:
    """Say whether an upstream's own refusal can be passed on as it is: Anthropic's SDKs need its `type`."""
    return APIS[api].family != "anthropic" or _ANTHROPIC.search(answer) is not None


def said(status: int, answer: bytes) -> Error:
    """Return an upstream's own refusal as an error: its `error` object, or what words it has in one.

    The ways to say no are the engines': `error` (an object or text), `message`, `detail` (text or a list), `title`.
    """
    try:
        told = read(msgspec.json.decode, answer)
    except (ValueError, RecursionError):
        told = answer.decode("utf-8", "replace").strip()
    error = told.get("error") if isinstance(told, dict) else None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return error
    words = told
    if isinstance(told, dict):
        words = next((told[name] for name in ("error", "message", "detail", "title") if told.get(name)), told)
    message = words if isinstance(words, str) else json.dumps(words)
    message = message or f"The upstream answered {status}."
    return {"message": message, "type": "invalid_request_error", "param": None, "code": status}
