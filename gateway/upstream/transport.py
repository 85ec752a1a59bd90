"""How a backend is reached: an `httpx.AsyncBaseTransport`, and its errors as our closed set.

Law: httpx is the seam, not the engine: requests are handed to a transport directly, never to an `AsyncClient`. Whatever
a transport raises becomes one `Failure` here and nowhere else, most specific first.
"""

import ssl

import httpx

from policies.failures import Failure, FailureKind
from policies.retries import CONNECT

KEEP_ALIVE = 4.0
"""Seconds an idle connection is kept: less than the 5 s after which uvicorn-based engines close it themselves."""

_KINDS: tuple[tuple[type[Exception], FailureKind], ...] = (
    (httpx.ConnectTimeout, FailureKind.CONNECT),
    (httpx.ConnectError, FailureKind.CONNECT),
    (httpx.TimeoutException, FailureKind.SILENCE),
    (httpx.RemoteProtocolError, FailureKind.TRUNCATED),
    (httpx.ProtocolError, FailureKind.PROTOCOL),
    (httpx.TransportError, FailureKind.RESET),
    (ssl.SSLError, FailureKind.CONNECT),
    (OSError, FailureKind.RESET),
)

ERRORS: tuple[type[Exception], ...] = tuple(cause for cause, _ in _KINDS)
"""What a transport may raise."""


def open_transport() -> httpx.AsyncBaseTransport:
    """Return the transport of one backend: connections without bound, so that the pool never scans for a victim."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE)
    return httpx.AsyncHTTPTransport(limits=limits, retries=0, trust_env=False)


def timeouts() -> dict[str, dict[str, float | None]]:
    """Return the request extension that bounds connecting; all other waiting is bounded by the attempt."""
    return {"timeout": {"connect": CONNECT, "read": None, "write": None, "pool": None}}


def failure_of(error: Exception) -> Failure:
    """Say what an error of a transport means."""
    kind = next(kind for cause, kind in _KINDS if isinstance(error, cause))
    return Failure(kind, f"{type(error).__name__}: {error}")
