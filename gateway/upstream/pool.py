"""The connections to one origin: opened when needed, used again while they are fresh, never more than allowed.

Law: last in, first out, so that a falling load lets the rest go idle and expire; one that has been idle for
`KEEP_ALIVE` is closed before its upstream would close it. A connection is either here or with exactly one call. Who
finds them all taken waits; what comes free goes to the one who has waited longest, in one step, and nobody overtakes.
"""

import asyncio
import errno
import math
import os
import socket
import ssl
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import ip_address
from socket import gaierror
from typing import Any

import httpx

from gateway import clock
from gateway.upstream.connection import Connection

KEEP_ALIVE = 4.0
"""Seconds an idle connection is kept: less than the 5 s after which uvicorn-based engines close it themselves."""

SILENT, AGAIN, TRIES = 10, 5, 3
"""Seconds without a word on a connection after which the kernel asks whether its host is there, and between further
questions; so many without an answer, and the connection is lost: a host that vanished says nothing itself, and what a
slow engine may take for an answer says nothing of its host."""

UNHEARD = 20_000
"""Milliseconds for which what was sent may stay without the host's receipt (Linux)."""

_ASKING = (
    ("TCP_KEEPIDLE", SILENT),
    ("TCP_KEEPINTVL", AGAIN),
    ("TCP_KEEPCNT", TRIES),
    ("TCP_USER_TIMEOUT", UNHEARD),
)

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL})
"""Errors of connecting that say that we have run out: of files, memory or local ports."""


class Pool:
    """At most `most` connections to `host`:`port`, over TLS where `tls` is given (SNI and verification by `host`).

    `address`: where to connect to in place of resolving `host`.
    `open`: connections that are open, being opened, or promised to somebody who waits.
    """

    def __init__(
        self, host: str, port: int, tls: ssl.SSLContext | None, most: int | None = None, address: str | None = None
    ) -> None:
        self.open = 0
        self._host = host
        self._address = address or host
        self._named = not _is_literal(self._address)
        self._port = port
        self._tls = tls
        self._most = math.inf if most is None else most
        self._idle: deque[tuple[float, Connection]] = deque()
        self._queue: OrderedDict[asyncio.Future[Connection | None], None] = OrderedDict()
        self._expiry: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        """Return how many connections are idle."""
        return len(self._idle)

    async def take(self, within: float) -> Connection:
        """Return a connection: the one given back last, or a new one, each step of the way within those seconds.

        Raises httpx.PoolTimeout where all were taken for that long or this gateway may open no more files,
        httpx.ConnectError or httpx.ConnectTimeout.
        """
        while self._idle:
            _, connection = self._idle.pop()
            if connection.usable:
                return connection
            self._drop(connection)
        if self.open < self._most:
            self.open += 1
        else:
            handed = await self._turn(within)
            if handed is not None:
                if handed.usable:
                    return handed
                handed.abort()
        return await self._connect(within)

    async def replace(self, connection: Connection, within: float) -> Connection:
        """Return a new connection in the place of a broken one. Raises httpx.ConnectError or httpx.ConnectTimeout."""
        connection.abort()
        return await self._connect(within)

    def give(self, connection: Connection) -> None:
        """Take back a connection whose call is over; where it may not carry another one it is closed."""
        self._pass_on(connection if connection.finish() else None)

    def close(self) -> None:
        """Close every idle connection, and from now on those that are given back."""
        self._closed = True
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        while self._idle:
            self._drop(self._idle.pop()[1])

    async def _turn(self, within: float) -> Connection | None:
        """Wait for what comes free: a connection, or (None) the place of one. Raises httpx.PoolTimeout."""
        turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._queue[turn] = None
        try:
            async with asyncio.timeout(within):
                return await turn
        except BaseException as error:
            self._queue.pop(turn, None)
            if turn.done() and not turn.cancelled():  # it was handed over in the very moment of leaving
                self._pass_on(turn.result())
            if isinstance(error, TimeoutError):
                raise httpx.PoolTimeout(f"all {self._most} connections were taken for {within:g} s") from error
            raise

    def _pass_on(self, free: Connection | None) -> None:
        """Hand a connection, or the place of one that is gone, to who has waited longest; else keep it."""
        while self._queue:
            turn, _ = self._queue.popitem(last=False)
            if not turn.done():
                turn.set_result(free)
                return
        if free is None:
            self.open -= 1
        elif self._closed:
            self._drop(free)
        else:
            self._idle.append((clock.monotonic(), free))
            if self._expiry is None:
                self._expiry = asyncio.get_running_loop().call_later(KEEP_ALIVE, self._expire)

    async def _connect(self, within: float) -> Connection:
        """Return a new connection in a place that is held for it, and leave the place if there is none."""
        made: list[Connection] = []

        def make() -> Connection:
            made.append(Connection())
            return made[-1]

        try:
            async with asyncio.timeout(within):
                connection = await self._dial(make)
        except BaseException as error:
            for connection in made:  # it may be there in the very moment in which the caller left
                connection.abort()
            self._pass_on(None)
            if isinstance(error, TimeoutError):
                raise httpx.ConnectTimeout(f"no connection within {within:g} s") from error
            if isinstance(error, OSError) and _ours(error):
                raise httpx.PoolTimeout(f"this gateway may open no more connections: {error}") from error
            if isinstance(error, OSError | UnicodeError):  # a name that no resolver takes is the latter
                raise httpx.ConnectError(str(error)) from error
            raise
        return connection

    async def _dial(self, make: Callable[[], Connection]) -> Connection:
        """Return a connection to the first address that takes one. Raises OSError and UnicodeError.

        A name is looked up here: a lookup inside uvloop's own connecting outlives whoever gives it up, and then logs.
        """
        loop = asyncio.get_running_loop()
        name = self._host if self._tls is not None else None
        places = await self._look_up() if self._named else [self._address]
        trouble = OSError(f"{self._address} has no address")
        for place in places:
            try:
                made = await loop.create_connection(make, place, self._port, ssl=self._tls, server_hostname=name)
            except OSError as error:
                trouble = error
            else:
                _watch(made[0].get_extra_info("socket"))
                return made[1]
        raise trouble

    async def _look_up(self) -> list[str]:
        """Return the addresses of the host's name, each once. Raises OSError and UnicodeError."""
        found = await asyncio.get_running_loop().getaddrinfo(self._address, self._port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    def _drop(self, connection: Connection) -> None:
        self.open -= 1
        connection.abort()

    def _expire(self) -> None:
        """Close what has been idle for too long; the oldest stand in front."""
        self._expiry = None
        now = clock.monotonic()
        while self._idle and (now - self._idle[0][0] >= KEEP_ALIVE or not self._idle[0][1].usable):
            self._drop(self._idle.popleft()[1])
        if self._idle:
            wait = KEEP_ALIVE - (now - self._idle[0][0])
            self._expiry = asyncio.get_running_loop().call_later(wait, self._expire)


def _watch(made: Any) -> None:  # noqa: ANN401 - the loop's own kind of socket
    """Have the kernel find out when the host at the other end is gone; what it does not know it does not do."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _ASKING:
        option = getattr(socket, name, None)
        if option is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)


def _is_literal(address: str) -> bool:
    try:
        ip_address(address)
    except ValueError:
        return False
    return True


def _ours(error: OSError) -> bool:
    """Say whether an error of connecting is our own shortage, which says nothing of any upstream.

    A resolver that cannot open a file only says that it knows no such name; so that is tried.
    """
    if not isinstance(error, gaierror):
        return error.errno in SHORTAGES
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as reason:
        return reason.errno in SHORTAGES
    return False
