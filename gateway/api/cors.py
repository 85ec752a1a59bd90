"""Web pages of other origins: which may call, and what of an answer they may read (CORS, as the Fetch standard has it).

Law: a browser's word opens nothing. Credentials are keys that a page sends by itself, so cookies are never let in; an
origin only decides whether a browser hands an answer over. That goes for the callers' routes alone, whoever answers
there, and never for the admin API. A preflight carries no credential, so it is answered before anybody is asked.

Litestar's own `CORSConfig` is not it: its middleware stands inside its app, which the hot routes never enter, opens
every route of it, refuses without a word in the API's shape, and takes a `*` anywhere in an origin.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from gateway.config.values import ANY_ORIGIN
from gateway.errors import Headers, new_request_id, refusal
from gateway.reply import Send
from policies.apis import PATHS, meant, spoken
from policies.rejections import Reason, Rejection

App = Callable[[Any, Any, Send], Awaitable[None]]

EXPOSED = (
    "ratelimit",
    "ratelimit-policy",
    "request-id",
    "retry-after",
    "retry-after-ms",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-request-id",
    "x-should-retry",
    "x-sluiceway-attempts",
    "x-sluiceway-backend",
    "x-sluiceway-changed",
    "x-sluiceway-config",
    "x-sluiceway-dropped",
    "x-sluiceway-level",
    "x-sluiceway-meter",
    "x-sluiceway-route",
    "x-sluiceway-terms",
)
"""The headers of answers that a page may read beside those that it always may: all that we have."""

TAKEN = re.compile(
    rb"accept|authorization|cache-control|content-type|idempotency-key|user-agent"
    rb"|baggage|traceparent|tracestate"
    rb"|x-(affinity|api-key|request-id|request-timeout|session-id)"
    rb"|(anthropic|openai|x-sluiceway|x-stainless)-[a-z0-9-]+"
)
"""The headers that a page may send: those that the APIs' own clients do, and those that are read here."""

KEPT = b"7200"
"""Seconds for which a browser need not ask again; Chromium's bound. An answer is kept from a page of which the file no
longer knows all the same."""

_SLASHES = re.compile("//+")

_METHOD = b"access-control-request-method"
"""The header that makes a call a preflight."""

_VARY = (b"vary", b"origin")

_NOT_LET_IN = Rejection(
    Reason.NOT_ALLOWED,
    "The setting `listen.cors` does not let in pages of this origin; add it there, or call from a server.",
)
"""What a page of another origin is told; a browser shows it to whoever writes the page, not to the page."""


class Cors:
    """The origins whose pages may read answers, `*` for all of them."""

    def __init__(self, origins: Iterable[str]) -> None:
        self.take(origins)

    def take(self, origins: Iterable[str]) -> None:
        """Go by other origins from the next call on."""
        exposed = ", ".join(EXPOSED).encode()
        self._told: dict[bytes, Headers] = {
            origin.encode(): [
                (b"access-control-allow-origin", origin.encode()),
                (b"access-control-expose-headers", exposed),
                _VARY,
            ]
            for origin in origins
        }
        self._everyone = self._told.get(ANY_ORIGIN.encode())

    def around(self, app: App) -> App:
        """Return `app` with its answers to pages marked as theirs to read.

        Where no origin is let in, only preflights are answered here: with why.
        """

        def served(scope: Any, receive: Any, send: Send) -> Awaitable[None]:  # noqa: ANN401 - ASGI's, untyped
            asks = scope.get("method") == "OPTIONS"
            if not (self._told or asks) or not _callers(scope["path"]):
                return app(scope, receive, send)
            origin = _origin(scope["headers"])
            if asks and origin is not None and any(name == _METHOD for name, _ in scope["headers"]):
                return self._preflight(origin, scope, send)
            if not self._told:
                return app(scope, receive, send)
            if origin is None:
                return app(scope, receive, _marking(send, [_VARY]))
            return app(scope, receive, _marking(send, self._marks(origin) or [_VARY]))

        return served

    def _marks(self, origin: bytes) -> Headers | None:
        """Return what marks an answer as an origin's to read; None: it is not."""
        return self._told.get(origin, self._everyone)

    async def _preflight(self, origin: bytes, scope: Any, send: Send) -> None:  # noqa: ANN401 - ASGI's, untyped
        """Say whether a page may send what it is about to."""
        marks, status, body = self._marks(origin), 204, b""
        if marks is None:
            status = _NOT_LET_IN.shape.status
            headers, body = refusal(_NOT_LET_IN, new_request_id(), spoken(scope["path"], scope["headers"]))
            headers.append(_VARY)
        else:
            wanted = dict(scope["headers"]).get(b"access-control-request-headers", b"")
            names = [name for name in wanted.lower().replace(b" ", b"").split(b",") if TAKEN.fullmatch(name)]
            headers = [
                *marks,
                (b"access-control-allow-methods", b"GET, POST"),
                (b"access-control-allow-headers", b", ".join(names)),
                (b"access-control-max-age", KEPT),
            ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _callers(path: str) -> bool:
    """Say whether a path is the callers'; one that is nothing is, so that a page can read that it is not.

    Slashes too many are no difference: they are none to whoever answers there. One that `meant` knows is told more.
    """
    if path.startswith("/v1/") or path in PATHS:
        return True
    plain = _SLASHES.sub("/", path).rstrip("/")
    return plain == "/v1" or plain.startswith("/v1/") or plain in PATHS or meant(plain) is not None


def _origin(headers: Headers) -> bytes | None:
    """Return the page's origin; None: no page asks."""
    for name, value in headers:
        if name == b"origin":
            return value
    return None


def _marking(send: Send, headers: Headers) -> Send:
    """Return `send` with more headers of the answer; what passes it costs one call, and no task waits for it."""

    def marked(message: Any) -> Awaitable[None]:  # noqa: ANN401 - ASGI's, untyped
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        return send(message)

    return marked
