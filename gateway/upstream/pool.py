"""The connections to one origin: opened when needed, used again while they are fresh.

Law: last in, first out, so that a falling load lets the rest go idle and expire; one that has been idle for
`KEEP_ALIVE` is closed before its upstream would close it. A connection is either here or with exactly one call.
"""

import asyncio
import ssl
from collections import deque

import httpx

from gateway import clock
from gateway.upstream.connection import Connection

KEEP_ALIVE = 4.0
"""Seconds an idle connection is kept: less than the 5 s after which uvicorn-based engines close it themselves."""


class Pool:
    """Connections to `host`:`port`, over TLS where `tls` is given (SNI and verification by `host`)."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._idle: deque[tuple[float, Connection]] = deque()
        self._expiry: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return how many connections are idle."""
        return len(self._idle)

    async def take(self, connect_within: float) -> Connection:
        """Return a connection: the one given back last, or a new one within those seconds.

        Raises httpx.ConnectError or httpx.ConnectTimeout.
        """
        while self._idle:
            _, connection = self._idle.pop()
            if connection.usable:
                return connection
        return await self.open(connect_within)

    async def open(self, connect_within: float) -> Connection:
        """Return a new connection. Raises httpx.ConnectError or httpx.ConnectTimeout."""
        connection: Connection | None = None

        def made() -> Connection:
            nonlocal connection
            connection = Connection()
            return connection

        try:
            async with asyncio.timeout(connect_within):
                name = self._host if self._tls is not None else None
                _, connected = await asyncio.get_running_loop().create_connection(
                    made, self._host, self._port, ssl=self._tls, server_hostname=name
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection within {connect_within:g} s") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        except asyncio.CancelledError:
            if connection is not None:  # it may have been made in the very moment in which the caller left
                connection.abort()
            raise
        return connected

    def give(self, connection: Connection) -> None:
        """Take back a connection that is fit for another request."""
        self._idle.append((clock.monotonic(), connection))
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(KEEP_ALIVE, self._expire)

    def close(self) -> None:
        """Close every idle connection."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        while self._idle:
            self._idle.pop()[1].abort()

    def _expire(self) -> None:
        """Close what has been idle for too long; the oldest stand in front."""
        self._expiry = None
        now = clock.monotonic()
        while self._idle and (now - self._idle[0][0] >= KEEP_ALIVE or not self._idle[0][1].usable):
            self._idle.popleft()[1].abort()
        if self._idle:
            wait = KEEP_ALIVE - (now - self._idle[0][0])
            self._expiry = asyncio.get_running_loop().call_later(wait, self._expire)
