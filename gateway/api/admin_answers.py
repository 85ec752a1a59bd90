"""What the admin API says no with: errors in the OpenAI shape that say what would be right.

Law: no error quotes a pattern or an inner name; a caller reads which field or parameter is at fault and its rule.
"""

from http import HTTPStatus
from typing import Any

import structlog
from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ExceptionHandlersMap
from msgspec import Struct

from gateway.store.door import StoreDown

log = structlog.get_logger("sluiceway.admin")

MAX_PAGE = 500
"""Keys in one page, at most."""

AnyRequest = Request[Any, Any, State]


class ErrorBody(Struct, frozen=True):
    """One error as the OpenAI API tells it; `param` is the field or parameter at fault."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(Struct, frozen=True):
    """The body of every answer that is a no."""

    error: ErrorBody


def noes(wrong_input: str) -> dict[int, ResponseSpec]:
    """Describe the answers of a route that are a no."""
    return {400: no(wrong_input), 401: no("Not the admin key."), 503: no("The store is down.")}


def no(description: str) -> ResponseSpec:
    """Describe one answer that is a no."""
    return ResponseSpec(ErrorAnswer, description=description, generate_examples=False)


def wrong(param: str, message: str) -> ValidationException:
    """Return the error that names `param`, a field or a parameter, and what would be right."""
    return ValidationException(message, extra=[{"key": param, "message": message, "ours": True}])


_CODES = {
    400: "invalid_value",
    401: "invalid_admin_key",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
}

_NAME_RULE = "must be 1 to 64 letters, digits, dots, underscores or hyphens"
_MOMENT_RULE = "must be a time ago, such as 30d, 12h or 2w, or a date or ISO time, such as 2026-07-01"
RULES = {
    "organization": _NAME_RULE,
    "team": _NAME_RULE,
    "name": "must be 1 to 128 printable characters, at least one of them not a space",
    "cursor": "must be the `next` of the page before",
    "limit": f"must be a whole number from 1 to {MAX_PAGE}",
    "by": "must be one or more of organization, team, key, model, deployment, day and hour, each once, with commas",
    "since": _MOMENT_RULE,
    "until": _MOMENT_RULE,
}
"""What would be right, in place of a validator's words (which quote a regular expression)."""


def answer_http(request: AnyRequest, error: HTTPException) -> Response[ErrorAnswer]:
    """Answer what Litestar or a handler refused, naming each field at fault."""
    status = error.status_code
    faults = [fault for fault in error.extra or () if isinstance(fault, dict)]
    named = [str(fault["key"]) for fault in faults if fault.get("key") not in (None, "data")]
    if faults:
        message = "; ".join(_fault(fault) for fault in faults)
    elif error.detail == HTTPStatus(status).phrase and status in (404, 405):
        allowed = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow")
        message = f"{request.method} {request.url.path} is nothing this gateway does."
        if allowed:
            message += f" It takes {allowed}."
    else:
        message = error.detail
    body = ErrorBody(
        message=message,
        type="invalid_request_error" if status < 500 else "server_error",
        param=named[0] if named else None,
        code=_CODES.get(status, "bad_request" if status < 500 else "internal_error"),
    )
    return _answer(status, body, error.headers)


def answer_store_down(_: AnyRequest, error: StoreDown) -> Response[ErrorAnswer]:
    """Answer while the store is away."""
    message = f"The store is down: {error}. If this was a change, it may have been made: list before you try again."
    return _answer(503, ErrorBody(message=message, type="server_error", param=None, code="store_unavailable"), None)


def answer_unexpected(request: AnyRequest, error: Exception) -> Response[ErrorAnswer]:
    """Answer a fault of ours: the log gets all of it, the caller nothing but the fact."""
    log.error("request failed", method=request.method, path=request.url.path, exc_info=error)
    message = "The gateway made a mistake; its log says more."
    return _answer(500, ErrorBody(message=message, type="server_error", param=None, code="internal_error"), None)


def _fault(fault: dict[str, Any]) -> str:
    key, message = str(fault.get("key", "data")), str(fault.get("message"))
    if key != "data":
        return f"{key}: {message if fault.get('ours') else RULES.get(key, message)}"
    # An absent body is told as the missing argument's name, which means nothing to a caller.
    why = "" if message == "'data'" else f" ({message})"
    return f"the body must be a JSON object with organization, team, name and, if wished, plan{why}"


def _answer(status: int, error: ErrorBody, headers: dict[str, str] | None) -> Response[ErrorAnswer]:
    return Response(ErrorAnswer(error), status_code=status, headers=headers, media_type="application/json")


ERROR_ANSWERS: ExceptionHandlersMap = {
    HTTPException: answer_http,
    StoreDown: answer_store_down,
    Exception: answer_unexpected,
}
"""Handlers for the whole app too: Litestar answers an unknown path or method before any router is asked."""
