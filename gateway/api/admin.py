"""The admin API: keys and usage, for whoever holds the admin key.

Law: every route stands behind the guard, every answer is JSON, every no is an error in the OpenAI shape that says what
would be right. What a caller sends is typed and bounded before a handler sees it, so bad input cannot be a 500.
"""

import hmac
from http import HTTPStatus
from typing import Annotated, Any

import structlog
from litestar import Request, Response, Router, delete, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import (
    ClientException,
    HTTPException,
    NotAuthorizedException,
    NotFoundException,
    ValidationException,
)
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter, QueryParameter
from litestar.types import ExceptionHandlersMap, Guard
from msgspec import Meta, Struct, convert

from gateway.identity import keys
from gateway.identity.directory import Directory
from gateway.ledger import Ledger, UsageTotal
from gateway.store.door import StoreDown
from policies.domain import Plan

log = structlog.get_logger("sluiceway.admin")

MAX_BODY = 64 * 1024
"""Bytes of a request's body; a key's fields need 2 KB at most."""

MAX_PAGE = 500
DEFAULT_PAGE = 100
"""Keys in one page, at most and where nobody says."""

# `(?![\s\S])` instead of `$`, which in Python also matches before a final line feed.
_NAME = r"^[A-Za-z0-9._-]{1,64}(?![\s\S])"
_ID = rf"^[0-9A-Za-z]{{{keys.ID_LENGTH}}}(?![\s\S])"

AnyRequest = Request[Any, Any, State]

Name = Annotated[str, Meta(pattern=_NAME, description="1 to 64 letters, digits, dots, underscores or hyphens.")]
OneOrganization = Annotated[str, QueryParameter(pattern=_NAME, description="The organization's name.")]
AnyOrganization = Annotated[str | None, QueryParameter(pattern=_NAME, description="Only this organization's keys.")]
Cursor = Annotated[str | None, QueryParameter(pattern=_ID, description="The `next` of the page before.")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE, description="Keys in the page.")]
KeyID = Annotated[str, PathParameter(description="The key's id: the 12 characters after `sw_`.")]


class JSONRequest(Request[Any, Any, State]):
    """A request whose body is JSON, or a 400: two kinds of bad JSON would else come out as a 500."""

    async def json(self) -> Any:  # noqa: ANN401 - the type is the base class's
        """Return the decoded body."""
        try:
            return await super().json()
        except UnicodeDecodeError as error:
            raise ClientException("The body is not JSON: it has bytes that are not UTF-8.") from error
        except RecursionError as error:
            raise ClientException("The body is nested too deeply.") from error


class ErrorBody(Struct, frozen=True):
    """One error as the OpenAI API tells it; `param` is the field or parameter at fault."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(Struct, frozen=True):
    """The body of every answer that is a no."""

    error: ErrorBody


class NewKey(Struct, frozen=True, forbid_unknown_fields=True):
    """What a key is made of. `plan` binds the key's own level only; without one only team and organization do."""

    organization: Name
    team: Name
    name: Annotated[str, Meta(min_length=1, max_length=128, description="For people: printable, 1 to 128 characters.")]
    plan: str | None = None


class CreatedKey(Struct, frozen=True):
    """A new key; `key` is shown here and never again."""

    id: str
    key: str
    organization: str
    team: str
    name: str
    plan: str | None


class ListedKey(Struct, frozen=True):
    """A key without its secret; `created` is in unix seconds."""

    id: str
    organization: str
    team: str
    name: str
    plan: str | None
    created: int
    revoked: bool


class KeyPage(Struct, frozen=True):
    """Keys in the order of their ids; `next` is the cursor of the page after, null on the last."""

    keys: list[ListedKey]
    next: str | None


class OrganizationUsage(Struct, frozen=True):
    """What an organization has used, by key and model; `estimated_tokens` are those that no upstream told."""

    organization: str
    totals: list[UsageTotal]


def admin_router(directory: Directory, ledger: Ledger, plans: dict[str, Plan], admin_key: str) -> Router:
    """Build the routes under `/admin/v1`. Raises `ValueError` on an empty admin key, which would open the door."""
    if not admin_key:
        raise ValueError("the admin key is empty: give `admin_key` a value")
    return Router(
        "/admin/v1",
        route_handlers=[_create_key(directory, plans), _list_keys(directory), _revoke_key(directory), _usage(ledger)],
        guards=[_guard(admin_key)],
        exception_handlers=ERROR_ANSWERS,
        request_class=JSONRequest,
        request_max_body_size=MAX_BODY,
        tags=["admin"],
    )


def _create_key(directory: Directory, plans: dict[str, Plan]) -> HTTPRouteHandler:
    @post(
        "/keys",
        summary="Create a key",
        description="Makes an API key for a team of an organization. The answer holds the key, which is not kept.",
        responses=_noes("A field is wrong."),
    )
    async def create_key(data: JSONBody[NewKey]) -> CreatedKey:
        if not data.name.isprintable() or data.name.isspace():
            raise _wrong("name", _RULES["name"])
        if data.plan is not None and data.plan not in plans:
            raise _wrong("plan", f"there is no plan {data.plan!r}; known: {', '.join(sorted(plans))}")
        record, key = await directory.create(data.organization, data.team, data.name, data.plan)
        return CreatedKey(record.id, key, record.organization, record.team, record.name, record.plan)

    return create_key


def _list_keys(directory: Directory) -> HTTPRouteHandler:
    @get(
        "/keys",
        summary="List keys",
        description="Lists keys in the order of their ids, revoked ones too, a page at a time, without their secrets.",
        responses=_noes("A parameter is wrong."),
    )
    async def list_keys(
        organization: AnyOrganization = None, cursor: Cursor = None, limit: Limit = DEFAULT_PAGE
    ) -> KeyPage:
        page = await directory.list(organization, cursor, limit)
        return KeyPage(
            keys=[convert(record, ListedKey, from_attributes=True) for record in page.records], next=page.cursor
        )

    return list_keys


def _revoke_key(directory: Directory) -> HTTPRouteHandler:
    @delete(
        "/keys/{key_id:str}",
        summary="Revoke a key",
        description="Refuses the key from now on, on every gateway within a second. Revoking twice is no error.",
        responses={**_noes("A parameter is wrong."), 404: _no("There is no such key.")},
    )
    async def revoke_key(key_id: KeyID) -> None:
        if not await directory.revoke(key_id):
            raise NotFoundException("There is no key with this id. `sluiceway keys list` shows the ids.")

    return revoke_key


def _usage(ledger: Ledger) -> HTTPRouteHandler:
    @get(
        "/usage",
        summary="Usage of an organization",
        description="Totals since the organization's first call, by key and model, as the ledger has settled them.",
        responses=_noes("A parameter is wrong."),
    )
    async def usage(organization: OneOrganization) -> OrganizationUsage:
        return OrganizationUsage(organization=organization, totals=await ledger.usage(organization))

    return usage


def _noes(wrong_input: str) -> dict[int, ResponseSpec]:
    return {400: _no(wrong_input), 401: _no("Not the admin key."), 503: _no("The store is down.")}


def _no(description: str) -> ResponseSpec:
    return ResponseSpec(ErrorAnswer, description=description, generate_examples=False)


def _guard(admin_key: str) -> Guard:
    # Digests are compared, so that not even the key's length can be timed.
    expected = keys.digest(admin_key.encode())

    def admin_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        scheme, _space, token = connection.headers.get("authorization", "").partition(" ")
        given = keys.digest(token.strip().encode("latin-1"))
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, expected):
            raise NotAuthorizedException(
                "This needs the admin key, as `Authorization: Bearer ...`; `serve` prints where it is kept.",
                headers={"www-authenticate": "Bearer"},
            )

    return admin_only


def _wrong(param: str, message: str) -> ValidationException:
    return ValidationException(message, extra=[{"key": param, "message": message}])


_CODES = {
    400: "invalid_value",
    401: "invalid_admin_key",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
}

_NAME_RULE = "must be 1 to 64 letters, digits, dots, underscores or hyphens"
_RULES = {
    "organization": _NAME_RULE,
    "team": _NAME_RULE,
    "name": "must be 1 to 128 printable characters, at least one of them not a space",
    "cursor": "must be the `next` of the page before",
    "limit": f"must be a whole number from 1 to {MAX_PAGE}",
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
        message = f"{request.method} {request.url.path} is nothing this gateway does."
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
        return f"{key}: {_RULES.get(key, message)}"
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
