"""A small HTTP/1.1 server for simulated backends: httptools parses, asyncio carries.

Law: one request of a connection is served at a time, by one task; a caller that leaves, even half-way (its FIN is
enough), cancels that task at once. Every answer says who gave it: `server: sluiceway-simulated`.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, NamedTuple

import httptools

from gateway import clock

SERVER = "sluiceway-simulated"

Serve = Callable[["Request", "Reply"], Awaitable[None]]


class Request(NamedTuple):
    """One whole request; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool


class Reply:
    """The answer to one request: either `send` once, or `start`, any number of `event`s and `end`."""

    def __init__(self, connection: "Connection", *, keep_alive: bool) -> None:
        self._connection = connection
        self._keep_alive = keep_alive

    async def send(self, status: int, body: bytes, content_type: str) -> None:
        """Answer with a whole body."""
        self._head(status, content_type, f"content-length: {len(body)}")
        await self._connection.write(body)
        self._close_if_asked()

    async def json(self, value: object, status: int = 200) -> None:
        """Answer with `value` as JSON."""
        await self.send(status, encode(value), "application/json")

    def start(self) -> None:
        """Begin a stream of server-sent events."""
        self._head(200, "text/event-stream; charset=utf-8", "transfer-encoding: chunked")

    async def event(self, data: bytes) -> None:
        """Send one server-sent event, and wait while the caller reads slower than we write."""
        payload = b"data: " + data + b"\n\n"
        await self._connection.write(b"%x\r\n%b\r\n" % (len(payload), payload))

    async def end(self) -> None:
        """End the stream."""
        await self._connection.write(b"0\r\n\r\n")
        self._close_if_asked()

    def _head(self, status: int, content_type: str, framing: str) -> None:
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"server: {SERVER}", f"content-type: {content_type}"]
        lines += [framing, f"connection: {'keep-alive' if self._keep_alive else 'close'}", "", ""]
        self._connection.push("\r\n".join(lines).encode())

    def _close_if_asked(self) -> None:
        if not self._keep_alive:
            self._connection.close()


class Connection(asyncio.Protocol):
    """One caller's connection. The method names from `on_url` on are those that httptools calls."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._writable = asyncio.Event()
        self._writable.set()
        self._waiting: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it went does not matter
        """Stop whatever is being made for a caller that has left."""
        self._waiting.clear()
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Hold `write` back: the caller reads slower than we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let `write` go on."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Parse what came; what is not HTTP/1.1 closes the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        """Collect the request target, which may come in parts."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect one header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Collect one part of the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Queue the request that is now whole, and serve it if nothing else is being served."""
        method, path = self._parser.get_method().decode(), self._url.partition(b"?")[0].decode("latin-1")
        keep_alive = self._parser.should_keep_alive()
        self._waiting.append(Request(method, path, self._headers, bytes(self._body), keep_alive))
        self._url, self._headers, self._body = b"", {}, bytearray()
        if self._task is None:
            self._task = clock.spawn(self._work(), "simulated-connection")

    def push(self, data: bytes) -> None:
        """Write without waiting."""
        self._transport.write(data)

    async def write(self, data: bytes) -> None:
        """Write, and wait while the caller reads slower than we write."""
        self._transport.write(data)
        await self._writable.wait()

    def close(self) -> None:
        """Close after what was written has gone out."""
        self._transport.close()

    async def _work(self) -> None:
        try:
            while self._waiting and not self._transport.is_closing():
                request = self._waiting.popleft()
                await self._serve(request, Reply(self, keep_alive=request.keep_alive))
        except Exception:
            self._transport.abort()
            raise
        finally:
            self._task = None


def encode(value: Any) -> bytes:  # noqa: ANN401 - whatever json takes
    """Return `value` as compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
