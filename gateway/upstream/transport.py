"""How a backend is reached: an `httpx.AsyncBaseTransport`, and its errors as our closed set.

Law: httpx is the seam, not the engine: requests are handed to a transport directly, never to an `AsyncClient`. Ours is
a pool of httptools connections; stock httpx stays behind the same seam, for a corporate proxy say. A request goes out a
second time only where the connection was an old one, its upstream closed it within `STALE` of our writing, and not one
byte of an answer came: that is an idle connection's end crossing our request, which nobody has then read.
Whatever a transport raises becomes one `Failure` here and nowhere else, most specific first.
"""

import ssl
from collections.abc import AsyncIterator
from functools import cache

import httpx

from gateway import clock
from gateway.upstream.connection import Connection
from gateway.upstream.pool import KEEP_ALIVE, Pool
from policies.failures import Failure, FailureKind
from policies.retries import CONNECT

STALE = 0.05
"""Seconds after writing within which the end of an idle connection arrives, if it was under way."""

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


def open_transport(kind: str = "pooled") -> httpx.AsyncBaseTransport:
    """Return the transport of one backend: `pooled`, else stock `httpx`."""
    if kind == "pooled":
        return PooledTransport()
    # Connections without bound, so that httpx's pool never scans for a victim.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE)
    return httpx.AsyncHTTPTransport(limits=limits, retries=0, trust_env=True)


def timeouts() -> dict[str, dict[str, float | None]]:
    """Return the request extension that bounds connecting; all other waiting is bounded by the attempt."""
    return {"timeout": {"connect": CONNECT, "read": None, "write": None, "pool": None}}


def failure_of(error: Exception) -> Failure:
    """Say what an error of a transport means."""
    kind = next(kind for cause, kind in _KINDS if isinstance(error, cause))
    return Failure(kind, f"{type(error).__name__}: {error}")


@cache
def trusted() -> ssl.SSLContext:
    """Return the one context that trusts the system's authorities."""
    return httpx.create_ssl_context(trust_env=True)


class PooledTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over pooled connections, one pool an origin."""

    def __init__(self) -> None:
        self._pools: dict[tuple[str, str, int], Pool] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return its answer, whose stream must be read or closed. Raises httpx.TransportError."""
        pool = self._pool(request.url)
        connect_within = request.extensions["timeout"]["connect"]
        message = _head(request), await request.aread()
        connection = await pool.take(connect_within)
        while True:
            old = not connection.fresh
            written_at = clock.monotonic()
            try:
                await _told(request)
                await connection.send(*message)
                status, headers = await connection.answer()
            except httpx.TransportError:
                connection.abort()
                if not (old and connection.quiet and clock.monotonic() - written_at < STALE):
                    raise
                connection = await pool.open(connect_within)
            except BaseException:
                connection.abort()
                raise
            else:
                return httpx.Response(status, headers=headers, stream=_Body(connection, pool))

    def _pool(self, url: httpx.URL) -> Pool:
        tls = url.scheme == "https"
        key = (url.scheme, url.host, url.port or (443 if tls else 80))
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(key[1], key[2], trusted() if tls else None)
        return pool

    async def aclose(self) -> None:
        """Close every idle connection."""
        for pool in self._pools.values():
            pool.close()


class _Body(httpx.AsyncByteStream):
    """An answer's body; its connection goes back to the pool when it was read to its end, and else is closed."""

    def __init__(self, connection: Connection, pool: Pool) -> None:
        self._connection: Connection | None = connection
        self._pool = pool

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while self._connection is not None and (part := await self._connection.read()) is not None:
                yield part
        finally:  # at its end, after an error, or because its reader has gone
            self._give_back()

    async def aclose(self) -> None:
        self._give_back()

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.finish():
            self._pool.give(connection)


async def _told(request: httpx.Request) -> None:
    """Tell the request's watcher, as stock httpx does, that it is being written."""
    trace = request.extensions.get("trace")
    if trace is not None:
        await trace("http11.send_request_headers.started", {})


def _head(request: httpx.Request) -> bytes:
    method = request.method.encode("ascii")
    lines = [b"%b %b HTTP/1.1" % (method, request.url.raw_path)]
    lines += [b"%b: %b" % (name, value) for name, value in request.headers.raw]
    return b"\r\n".join(lines) + b"\r\n\r\n"
