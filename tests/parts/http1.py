"""A bare HTTP/1.1 server for tests, over one event loop: every byte, close and reset is the test's own doing.

Law: nothing is added or mended. What a handler writes goes out as it is, when it is written; when a client leaves is
noted the moment the kernel tells.
"""

import asyncio
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Self

import httptools

from gateway.clock import spawn


@dataclass
class Received:
    """One request as it came: header names in lower case, in their order; the body's bytes; when it was whole."""

    method: str = ""
    path: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    at: float = 0.0

    def header(self, name: str) -> str | None:
        """Return the first header of this name, or None."""
        return next((value for key, value in self.headers if key == name.lower()), None)


class Connection(asyncio.Protocol):
    """One client's connection: reads requests, hands them to the server one after another, writes what it is told."""

    def __init__(self, server: "Http1Server") -> None:
        self.sent = 0
        self.left_at: float | None = None
        """When the client closed or reset the connection, on time.monotonic; None while it has not."""
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._request = Received()
        self._inbox: asyncio.Queue[Received] = asyncio.Queue()
        self._writable = asyncio.Event()
        self._closing = False

    def connection_made(self, transport):
        self._transport = transport
        self._writable.set()
        self._server.connections.add(self)
        self._work = spawn(self._answer_all(), "upstream connection")

    def data_received(self, data):
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def eof_received(self):
        self._client_left()

    def connection_lost(self, exc):
        self._client_left()
        self._work.cancel()
        self._writable.set()
        self._server.connections.discard(self)

    def pause_writing(self):
        self._writable.clear()

    def resume_writing(self):
        self._writable.set()

    def on_message_begin(self):
        self._request = Received()

    def on_url(self, url):
        self._request.path += url.decode("latin-1")

    def on_header(self, name, value):
        self._request.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_body(self, body):
        self._request.body += body

    def on_message_complete(self):
        self._request.method = self._parser.get_method().decode()
        self._request.at = time.monotonic()
        self._server.requests.append(self._request)
        self._inbox.put_nowait(self._request)

    async def write(self, data: bytes) -> None:
        """Send bytes as they are, and wait while the kernel's buffer is full. Nothing happens once the client left."""
        await self._writable.wait()
        if not self._transport.is_closing():
            self._transport.write(data)
            self.sent += len(data)

    async def answer(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        """Send a whole answer with its length."""
        head = f"HTTP/1.1 {status} \r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        await self.write(head.encode() + body)

    def close(self) -> None:
        """End the connection in order (FIN), after what was written."""
        self._closing = True
        self._transport.close()

    def reset(self) -> None:
        """Break the connection (RST); what is still in the buffer is lost."""
        self._closing = True
        no_lingering = struct.pack("ii", 1, 0)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
        self._transport.abort()

    async def ended(self) -> None:
        """Wait until the connection is gone and its handler with it."""
        await asyncio.wait([self._work])

    def _client_left(self) -> None:
        if self.left_at is None and not self._closing:
            self.left_at = time.monotonic()

    async def _answer_all(self) -> None:
        try:
            while True:
                await self._server.handle(await self._inbox.get(), self)
        except Exception:
            self.reset()  # the client shall not wait for an answer that the test's mistake prevents
            raise


class Http1Server:
    """Listens on a free port of 127.0.0.1 between `start` and `stop` (or as an async context manager)."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        """Every request that arrived whole, in order."""
        self.connections: set[Connection] = set()
        """The connections open now."""
        self.port = 0

    @property
    def url(self) -> str:
        """The server's root, without a path."""
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: Received, connection: Connection) -> None:
        """Answer one request; the task is cancelled when the connection is gone."""
        raise NotImplementedError

    async def start(self) -> Self:
        """Listen; the second time on the same port as the first."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Stop listening and reset every connection, as a killed server does."""
        self._server.close()
        open_now = list(self.connections)
        for connection in open_now:
            connection.reset()
        await asyncio.gather(*(connection.ended() for connection in open_now))
        await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *error: object) -> None:
        await self.stop()
