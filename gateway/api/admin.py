"""The admin API: keys and the books, for whoever holds the admin key.

Law: every route stands behind the guard, every answer is JSON, every no is an error in the OpenAI shape that says what
would be right. What a caller sends is typed and bounded before a handler sees it, so bad input cannot be a 500.
"""

import hmac
from collections.abc import Mapping
from typing import Any

from litestar import Request, Router
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import ClientException, NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from gateway.api.admin_answers import ERROR_ANSWERS
from gateway.api.admin_books import book_routes
from gateway.api.admin_keys import key_routes
from gateway.identity import keys
from gateway.identity.directory import Directory
from gateway.store.door import Store
from policies.domain import Plan

__all__ = ["ERROR_ANSWERS", "MAX_BODY", "admin_router"]

MAX_BODY = 64 * 1024
"""Bytes of a request's body; a key's fields need 2 KB at most."""


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


def admin_router(
    directory: Directory, store: Store, plans: dict[str, Plan], zones: Mapping[str, str], admin_key: str
) -> Router:
    """Build the routes under `/admin/v1`; `zones` are the time zones of organizations, UTC where there is none.

    Raises `ValueError` on an empty admin key, which would open the door.
    """
    if not admin_key:
        raise ValueError("the admin key is empty: give `admin_key` a value")
    return Router(
        "/admin/v1",
        route_handlers=[*key_routes(directory, plans), *book_routes(store, zones)],
        guards=[_guard(admin_key)],
        exception_handlers=ERROR_ANSWERS,
        request_class=JSONRequest,
        request_max_body_size=MAX_BODY,
        tags=["admin"],
    )


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
