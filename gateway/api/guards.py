"""Who may ask what of the admin API, decided in one place before any handler runs.

Law: what a caller may do follows from the method and a list here alone, so that no handler can forget it: reading, and
what is listed as a question, need `admin:read`, everything else `admin:write`. No app is served with a route that
nobody guards.
"""

import hmac
import re
from typing import Protocol, Self

from litestar import Litestar
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.routes import HTTPRoute

from gateway.api.admin_answers import Refused
from gateway.api.admin_authors import AnyConnection, note
from gateway.errors import Headers, new_request_id
from gateway.exchange import Exchange
from gateway.identity import keys
from gateway.identity.records import Author
from policies.domain import Principal, Scope
from policies.rejections import Reason, Rejection

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""

QUESTIONS = frozenset({("POST", "/admin/v1/explain")})
"""Routes that change nothing though their method may: what is asked is too long for an address."""

OPEN_PATHS = frozenset(
    {
        "/livez",
        "/readyz",
        "/metrics",
        "/schema",
        "/schema/openapi.json",
        "/schema/{path:str}",
    }
)
"""Routes that need no credential: the operations address' own, and the OpenAPI page of the callers' routes."""

OWN_CHECKS = frozenset({"/v1/models", "/v1/models/{model_id:path}"})
"""Routes whose handlers themselves ask who calls, because their answers depend on it."""

WAYS_IN = (
    "The admin API takes the admin key (`serve` prints where it is kept), or an API key or a token with the scope "
    "`admin:read` or, to change anything, `admin:write`."
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Callers(Protocol):
    """What the guard needs of the identities."""

    async def identify(self, headers: Headers, address: str) -> Principal | Rejection:
        """Say who sends these headers from this address."""


class UnguardedRoute(Exception):  # noqa: N818 - told to whoever composes an app, who then has none
    """A route would answer anybody; `path` is the route's."""

    def __init__(self, path: str, methods: str) -> None:
        super().__init__(f"nobody guards {methods} {path}: give its router a Guard, or list it in OPEN_PATHS")
        self.path = path


class Guard:
    """Lets a request pass with the admin key, or for a caller who has the scope that its route asks for."""

    def __init__(self, admin_key: str, callers: Callers) -> None:
        """Raise `ValueError` on an empty admin key, which would open the door."""
        if not admin_key:
            raise ValueError("the admin key is empty: give `admin_key` a value")
        # Digests are compared, so that not even the key's length can be timed.
        self._expected = keys.digest(admin_key.encode())
        self._callers = callers

    def __deepcopy__(self, _: object) -> Self:
        """Return the guard itself: Litestar copies routers to the bottom, and what is down there exists once."""
        return self

    async def __call__(self, connection: AnyConnection, _: BaseRouteHandler) -> None:
        """Note who asks, or raise `Refused`."""
        client, told = connection.scope["client"], connection.headers.get("x-request-id", "")
        address = client[0] if client else ""
        request_id = told if _REQUEST_ID.fullmatch(told) else new_request_id()
        # Noted before anything can fail: a refusal has a request id too.
        note(connection, Author("", address, request_id))
        who = await self._who(connection, address)
        note(connection, Author(who, address, request_id))

    async def _who(self, connection: AnyConnection, address: str) -> str:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        told = token.strip() if scheme.lower() == "bearer" else connection.headers.get("x-api-key", "").strip()
        if hmac.compare_digest(keys.digest(told.encode("latin-1")), self._expected):
            return "admin key"
        caller = await self._callers.identify(list(connection.scope["headers"]), address)
        if isinstance(caller, Rejection):
            raise Refused(_told(caller))
        sort = "subject" if ":" in caller.key else "key"
        method, path = str(connection.scope.get("method", "")), str(connection.scope.get("path_template", ""))
        _demand(_needed(method, path), caller, f"{sort} {caller.key}")
        return f"{sort} {caller.key}"


def all_guarded(app: Litestar) -> Litestar:
    """Return `app`, having seen that each of its routes is listed above, guarded, or an inference call.

    Raises UnguardedRoute.
    """
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            raise UnguardedRoute(route.path, "a socket at")
        for handler in route.route_handlers:
            if route.path not in OPEN_PATHS | OWN_CHECKS and not _safe(handler):
                raise UnguardedRoute(route.path, "/".join(sorted(handler.http_methods)))
    return app


def _safe(handler: HTTPRouteHandler) -> bool:
    """Say whether a handler is guarded, an inference call (which asks who calls first), or Litestar's for OPTIONS."""
    if any(isinstance(guard, Guard) for guard in handler.resolve_guards()):
        return True
    if handler.parsed_fn_signature.return_type.annotation is Exchange:
        return True
    return bool(handler.fn.__module__ == HTTPRoute.__module__)  # it tells which methods a path has, and no more


def _needed(method: str, path: str) -> Scope:
    return "admin:read" if method in READING or (method, path) in QUESTIONS else "admin:write"


def _demand(needed: Scope, caller: Principal, name: str) -> None:
    """Raise `Refused` where the caller lacks the scope; whoever may write may read."""
    if needed in caller.scopes or "admin:write" in caller.scopes:
        return
    has = ", ".join(sorted(caller.scopes)) or "none"
    message = f"The {name} lacks the scope `{needed}`, which this needs; its scopes: {has}."
    raise Refused(Rejection(Reason.NOT_ALLOWED, message))


def _told(rejection: Rejection) -> Rejection:
    """Return a refusal of the identities in the words of this door."""
    if rejection.shape.status != 401:
        return rejection
    return Rejection(rejection.reason, f"{rejection.message} {WAYS_IN}")
