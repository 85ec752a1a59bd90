"""How a backend is reached: an `httpx.AsyncBaseTransport` that can also `post`, and its errors as our closed set.

Law: httpx is the seam, not the engine. Ours is a pool of httptools connections; stock httpx stays beside it, for a
corporate proxy say. What is cold asks through an httpx client as ever; a call is posted, without httpx's Request and
Response, which would be a seventh of what a small call costs. A request goes out a second time only where the
connection was an old one, its upstream closed it within `STALE` of our writing, and not one byte of an answer came:
that is an idle connection's end crossing our request, which nobody has then read.
Whatever a transport raises becomes one `Failure` here and nowhere else, most specific first.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol
from urllib.request import getproxies, proxy_bypass

import httpx

from gateway import clock
from gateway.config.settings import Backend
from gateway.http import trusting
from gateway.upstream.connection import Connection, Headers
from gateway.upstream.pool import KEEP_ALIVE, Pool
from policies.deadlines import CONNECT
from policies.failures import Failure, FailureKind

STALE = 0.05
"""Seconds after writing within which the end of an idle connection arrives, if it was under way."""

_KINDS: tuple[tuple[type[Exception], FailureKind], ...] = (
    (httpx.ConnectTimeout, FailureKind.CONNECT),
    (httpx.ConnectError, FailureKind.CONNECT),
    (httpx.PoolTimeout, FailureKind.BUSY),
    (httpx.TimeoutException, FailureKind.SILENCE),
    (httpx.RemoteProtocolError, FailureKind.TRUNCATED),
    (httpx.ProtocolError, FailureKind.PROTOCOL),
    (httpx.TransportError, FailureKind.RESET),
    (ssl.SSLError, FailureKind.CONNECT),
    (OSError, FailureKind.RESET),
)

ERRORS: tuple[type[Exception], ...] = tuple(cause for cause, _ in _KINDS)
"""What a transport may raise."""


Written = Callable[[], None]
"""Called when a request is about to be written: from then on the upstream may work on it."""


class Answer(Protocol):
    """An upstream's answer, whose head is here. Read it to its end or close it.

    `headers`: names in lower case.
    """

    status: int
    headers: Headers

    @property
    def ended(self) -> bool:
        """Whether all of it has come."""

    async def read(self) -> bytes | None:
        """Return the next bytes, None at the end. Raises `ERRORS`."""

    def close(self) -> None:
        """Be done with it; if not all of it has come, its connection is closed at once."""


def open_transport(backend: Backend) -> "PooledTransport | StockTransport":
    """Return the transport of a backend, of the kind that it asks for."""
    if backend.transport == "pooled":
        return PooledTransport(trusting(backend.ca, backend.ca_digest), backend.max_connections, backend.address)
    # Idle connections without bound, so that httpx's pool never scans for a victim.
    limits = httpx.Limits(
        max_connections=backend.max_connections, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE
    )
    proxy = _proxy_to(httpx.URL(backend.base_url))
    verify = trusting(backend.ca, backend.ca_digest)
    return StockTransport(backend.address, verify=verify, limits=limits, retries=0, proxy=proxy)


def _proxy_to(url: httpx.URL) -> str | None:
    """Return the proxy that the environment names for `url`: only httpx's own client would look for it itself."""
    proxies = getproxies()
    return None if proxy_bypass(url.host) else proxies.get(url.scheme) or proxies.get("all")


def failure_of(error: Exception) -> Failure:
    """Say what an error of a transport means."""
    kind = next(kind for cause, kind in _KINDS if isinstance(error, cause))
    return Failure(kind, f"{type(error).__name__}: {error}")


class PooledTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over pooled connections, one pool an origin, each of at most `most` connections.

    `address`: where all of them go, whatever the origin's name.
    """

    def __init__(self, tls: ssl.SSLContext, most: int | None = None, address: str | None = None) -> None:
        self._tls = tls
        self._most = most
        self._address = address
        self._pools: dict[tuple[str, str, int], Pool] = {}

    async def post(self, url: httpx.URL, headers: Headers, body: bytes, written: Written) -> Answer:
        """Send `body`, with its length beside these headers, and return the answer. Raises `ERRORS`."""
        head = _head(b"POST", url, [*headers, (b"content-length", b"%d" % len(body))])
        return await self._ask(self._pool(url), head, body, CONNECT, written)

    async def get(self, url: httpx.URL, headers: Headers) -> Answer:
        """Ask for what is at `url` and return the answer. Raises `ERRORS`."""
        return await self._ask(self._pool(url), _head(b"GET", url, headers), b"", CONNECT, lambda: None)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return its answer, whose stream must be read or closed. Raises httpx.TransportError."""
        head = _head(request.method.encode("ascii"), request.url, request.headers.raw)
        within = request.extensions.get("timeout", {}).get("connect") or CONNECT
        answer = await self._ask(self._pool(request.url), head, await request.aread(), within, lambda: None)
        return httpx.Response(answer.status, headers=answer.headers, stream=_Stream(answer))

    async def _ask(self, pool: Pool, head: bytes, body: bytes, within: float, written: Written) -> "_PooledAnswer":
        connection = await pool.take(within)
        while True:
            old = not connection.fresh
            written_at = clock.monotonic()
            try:
                written()
                await connection.send(head, body)
                await connection.answer()
            except httpx.TransportError:
                if not (old and connection.quiet and clock.monotonic() - written_at < STALE):
                    pool.give(connection)
                    raise
                connection = await pool.replace(connection, within)
            except BaseException:
                pool.give(connection)
                raise
            else:
                return _PooledAnswer(connection, pool)

    def _pool(self, url: httpx.URL) -> Pool:
        tls = url.scheme == "https"
        key = (url.scheme, url.host, url.port or (443 if tls else 80))
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(key[1], key[2], self._tls if tls else None, self._most, self._address)
        return pool

    @property
    def open(self) -> int:
        """How many connections are open or being opened."""
        return sum(pool.open for pool in self._pools.values())

    @property
    def busy(self) -> bool:
        """Whether any connection carries a call, or is being opened for one."""
        return any(pool.open > len(pool) for pool in self._pools.values())

    async def aclose(self) -> None:
        """Close every idle connection; one that carries a call closes with it."""
        for pool in self._pools.values():
            pool.close()


class _PooledAnswer:
    """An answer over a pooled connection, which goes back to its pool if all of it has come, and else is closed."""

    __slots__ = ("_connection", "_pool", "headers", "status")

    def __init__(self, connection: Connection, pool: Pool) -> None:
        self.status = connection.status
        self.headers = connection.headers
        self._connection: Connection | None = connection
        self._pool = pool

    @property
    def ended(self) -> bool:
        return self._connection is None or self._connection.whole

    async def read(self) -> bytes | None:
        if self._connection is None:
            return None
        try:
            part = await self._connection.read()
        except BaseException:  # an error, or its reader has gone
            self.close()
            raise
        if part is None:
            self.close()
        return part

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give(connection)


class _Stream(httpx.AsyncByteStream):
    """An answer's body as httpx has it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (part := await self._answer.read()) is not None:
            yield part

    async def aclose(self) -> None:
        self._answer.close()


class StockTransport(httpx.AsyncHTTPTransport):
    """Stock httpx. `address`: where to connect to, whatever the URL's name, which TLS goes by all the same."""

    def __init__(self, address: str | None = None, **options: Any) -> None:  # noqa: ANN401 - httpx's own
        super().__init__(**options)
        self._address = address

    @property
    def busy(self) -> bool:
        """Whether any call is under way, waits for a connection, or has an answer that was not read to its end."""
        return bool(self._pool._requests)  # noqa: SLF001 - it has no door

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return its answer."""
        if self._address is not None:
            request.extensions = {**request.extensions, "sni_hostname": request.url.host}
            request.url = request.url.copy_with(host=self._address)
        return await super().handle_async_request(request)

    async def post(self, url: httpx.URL, headers: Headers, body: bytes, written: Written) -> Answer:
        """Do as `PooledTransport.post` does."""

        async def trace(event: str, _: dict[str, Any]) -> None:
            if event.endswith("send_request_headers.started"):
                written()

        extensions = {"timeout": _timeouts(), "trace": trace}
        return await self._ask(httpx.Request("POST", url, headers=headers, content=body, extensions=extensions))

    async def get(self, url: httpx.URL, headers: Headers) -> Answer:
        """Do as `PooledTransport.get` does."""
        return await self._ask(httpx.Request("GET", url, headers=headers, extensions={"timeout": _timeouts()}))

    async def _ask(self, request: httpx.Request) -> Answer:
        try:
            return _StockAnswer(await self.handle_async_request(request))
        except BaseException:
            self._close_lost()
            raise

    def _close_lost(self) -> None:
        """Close connections that httpcore has lost: of calls that were cancelled while one was handed to them.

        They stay new, belong to nobody, and count for `max_connections` for ever (httpcore 1.0, `_state_lock`).
        """
        held = {id(request.connection) for request in self._pool._requests}  # noqa: SLF001 - it has no door
        kept = self._pool._connections  # noqa: SLF001
        for connection in [one for one in kept if not (id(one) in held or one.is_idle() or one.is_closed())]:
            kept.remove(connection)
            clock.spawn(_quietly(connection), "close-upstream")


def _timeouts() -> dict[str, float | None]:
    """Return those of a call by stock httpx; its other waits are the attempt's."""
    return {"connect": CONNECT, "read": None, "write": None, "pool": CONNECT}


class _StockAnswer:
    """An answer by stock httpx."""

    ended = False

    def __init__(self, response: httpx.Response) -> None:
        if not isinstance(response.stream, httpx.AsyncByteStream):
            raise TypeError("an asynchronous transport answers with an asynchronous stream")
        self.status = response.status_code
        self.headers = [(name.lower(), value) for name, value in response.headers.raw]
        self._stream: httpx.AsyncByteStream | None = response.stream
        self._parts = aiter(response.stream)

    async def read(self) -> bytes | None:
        part = await anext(self._parts, None)
        if part is None and self._stream is not None:
            stream, self._stream = self._stream, None
            await asyncio.shield(
                clock.spawn(_quietly(stream), "close-upstream")
            )  # cancelled, it would lose its connection
        return part

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            clock.spawn(_quietly(stream), "close-upstream")


class _Closable(Protocol):
    async def aclose(self) -> None: ...


async def _quietly(stream: _Closable) -> None:
    with contextlib.suppress(*ERRORS):  # what it says on the way out concerns nobody
        await stream.aclose()


def _head(method: bytes, url: httpx.URL, headers: Headers) -> bytes:
    """Return a request's head. Raises httpx.LocalProtocolError where a value would end its own line."""
    lines = [b"%b %b HTTP/1.1" % (method, url.raw_path), *(b"%b: %b" % header for header in headers)]
    head = b"\r\n".join((*lines, b"", b""))
    ends = len(lines) + 1
    if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head:
        raise httpx.LocalProtocolError("a header holds a line break or a NUL")
    return head
