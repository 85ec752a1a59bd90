"""What the admin API says no with: errors in the OpenAI shape that say what would be right.

Law: no error quotes a pattern or an inner name; a caller reads which field or parameter is at fault and its rule.
"""

from http import HTTPStatus
from typing import Any

import structlog
from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException, NotFoundException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ExceptionHandlersMap
from msgspec import Struct

from gateway.api.admin_fields import RULES
from gateway.api.admin_requests import MAX_BODY
from gateway.errors import error_headers
from gateway.store.door import StoreDown
from policies.apis import PATHS, meant
from policies.rejections import Rejection

log = structlog.get_logger("sluiceway.admin")

AnyRequest = Request[Any, Any, State]

LONGEST_PATH = 200
"""Characters of a path that an answer repeats."""

_OPERATED = frozenset({"/livez", "/readyz", "/metrics", "/health", "/healthz"})
"""Paths that machinery asks; the operations address has most of them, and says of the others what it has."""

_OPERATIONS = "The operations address (`operations.port`) has /livez, /readyz and /metrics."
_CALLS = "Calls go to the callers' address (`listen.port`)."
_LISTED = "GET /schema lists what there is."


class ErrorBody(Struct, frozen=True):
    """One error as the OpenAI API tells it; `param` is the field or parameter at fault."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(Struct, frozen=True):
    """The body of every answer that is a no."""

    error: ErrorBody


class Refused(Exception):  # noqa: N818 - a fact about the caller, not a fault
    """The caller may not ask this, or cannot be asked who he is now; `rejection` says why."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection


def noes(wrong_input: str, **more: str) -> dict[int, ResponseSpec]:
    """Describe the answers of a route that are a no; `more`: others than every route has, as `not_found="..."`."""
    told = {
        400: wrong_input,
        401: "No credential, or not a good one.",
        403: "The credential lacks the scope, or may not be used now or from there.",
        503: "The store is down, or the credential cannot be checked now.",
    }
    told |= {status: more[name] for status, name in _NAMES.items() if name in more}
    return {status: no(description) for status, description in told.items()}


def no_page(answer: Response[Any]) -> Response[Any]:
    """Let a page pass. Raises NotFoundException in place of what Litestar has for an unknown one, which is HTML."""
    if answer.status_code == HTTPStatus.NOT_FOUND:
        raise NotFoundException
    return answer


def no(description: str) -> ResponseSpec:
    """Describe one answer that is a no."""
    return ResponseSpec(ErrorAnswer, description=description, generate_examples=False)


def wrong(param: str, message: str) -> ValidationException:
    """Return the error that names `param`, a field or a parameter, and what would be right."""
    return ValidationException(message, extra=[{"key": param, "message": message, "ours": True}])


def conflict(message: str) -> HTTPException:
    """Return the error of what cannot be done as things are."""
    return HTTPException(message, status_code=409)


_NAMES = {
    404: "not_found",
    409: "conflict",
    412: "precondition_failed",
    413: "request_too_large",
    428: "precondition_required",
}
_CODES = _NAMES | {
    400: "invalid_value",
    405: "method_not_allowed",
}


def too_large(most: int) -> str:
    """Say that a body has more than `most` bytes."""
    return f"The body is larger than {most // 1024} KiB."


BODY = {"request_too_large": too_large(MAX_BODY)}
"""The description of the further answer of a route that takes a body."""

CHANGING = {
    "precondition_failed": "If-Match names another version than the one that is there, which is told.",
    "precondition_required": "If-Match is missing.",
}
"""The descriptions of a changing route's further answers."""


def answer_http(request: AnyRequest, error: HTTPException) -> Response[ErrorAnswer]:
    """Answer what Litestar or a handler refused, naming each field at fault."""
    status = error.status_code
    faults = [fault for fault in error.extra or () if isinstance(fault, dict)]
    named = [str(fault["key"]) for fault in faults if fault.get("key") not in (None, "data")]
    if faults:
        message = "; ".join(_fault(fault) for fault in faults)
    elif error.detail == HTTPStatus(status).phrase and status in (404, 405):
        allowed = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow")
        message = f"{request.method} {request.url.path[:LONGEST_PATH]} is nothing this gateway does."
        if allowed:
            message += f" It takes {allowed}."
        if status == 404 and (hint := _hint(request)):
            message += f" {hint}"
    else:
        message = too_large(_most(request)) if status == 413 else error.detail
    body = ErrorBody(
        message=message,
        type="invalid_request_error" if status < 500 else "server_error",
        param=named[0] if named else None,
        code=_CODES.get(status, "bad_request" if status < 500 else "internal_error"),
    )
    return _answer(status, body, error.headers)


def answer_refused(_: AnyRequest, error: Refused) -> Response[ErrorAnswer]:
    """Answer a caller who does not get past the guard."""
    rejection = error.rejection
    headers = {name.decode(): value.decode() for name, value in error_headers(rejection)}
    if rejection.shape.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = ErrorBody(rejection.message, rejection.shape.type, rejection.param, rejection.reason.value)
    return _answer(rejection.shape.status, body, headers)


def answer_store_down(request: AnyRequest, error: StoreDown) -> Response[ErrorAnswer]:
    """Answer while the store is away."""
    message = f"The store is down: {str(error).removesuffix('.')}."
    if request.method not in {"GET", "HEAD"}:
        message += " This change may have been made all the same: look before you try again."
    return _answer(503, ErrorBody(message, "server_error", None, "store_unavailable"), None)


def answer_unexpected(request: AnyRequest, error: Exception) -> Response[ErrorAnswer]:
    """Answer a fault of ours: the log gets all of it, the caller nothing but the fact."""
    log.error("request failed", method=request.method, path=request.url.path, exc_info=error)
    message = "The gateway made a mistake; its log says more."
    return _answer(500, ErrorBody(message, "server_error", None, "internal_error"), None)


def _hint(request: AnyRequest) -> str | None:
    """Say what was probably meant by a path that is none here, or where it is told what there is."""
    path = request.url.path
    if path.startswith("/admin/"):
        return None
    probably = meant(path)
    if any(route.path == "/livez" for route in request.app.routes):  # this is the operations address
        return _CALLS if path.startswith("/v1/") or path in PATHS or probably else _OPERATIONS
    return _OPERATIONS if path.rstrip("/") in _OPERATED else probably or _LISTED


def _most(request: AnyRequest) -> int:
    """Return the bytes that a body of this route may have."""
    return request.route_handler.resolve_request_max_body_size() or MAX_BODY


def _fault(fault: dict[str, Any]) -> str:
    key, message = str(fault.get("key", "data")), str(fault.get("message"))
    if key != "data":
        return f"{key}: {message if fault.get('ours') else RULES.get(key, message)}"
    # An absent body is told as the missing argument's name, which means nothing to a caller.
    why = "" if message == "'data'" else f" ({message})"
    return f"the body must be a JSON object with the fields that /admin/v1/schema tells of this route{why}"


def _answer(status: int, error: ErrorBody, headers: dict[str, str] | None) -> Response[ErrorAnswer]:
    return Response(ErrorAnswer(error), status_code=status, headers=headers, media_type="application/json")


ERROR_ANSWERS: ExceptionHandlersMap = {
    HTTPException: answer_http,
    Refused: answer_refused,
    StoreDown: answer_store_down,
    Exception: answer_unexpected,
}
"""Handlers for the whole app too: Litestar answers an unknown path or method before any router is asked."""
