"""One HTTP/1.1 connection to an upstream: a request out, its answer in, and again while both sides keep it alive.

Law: llhttp reads the wire, nothing is mended: what is not HTTP, not whole, or larger than the bounds below is an error
and the end of the connection. A reader who is slow pauses the socket; one who goes away aborts it at once. Only an
answer read to its end, over a connection on which nothing else arrived, leaves it fit for another request.
"""

import asyncio
from collections import deque
from typing import cast

import httptools
import httpx

HEAD_BYTES = 64 * 1024
HEAD_COUNT = 100
"""Bounds on an answer's head; what engines and their proxies send is far below them (nginx allows 8 KiB, h11 64)."""
FRAME_BYTES = 16 * 1024
"""Bytes of chunk sizes, extensions and trailers that may pass without a byte of body."""
HIGH, LOW = 256 * 1024, 64 * 1024
"""Bytes waiting for the reader above which the socket is paused, and below which it goes on."""

Headers = list[tuple[bytes, bytes]]


class Connection(asyncio.Protocol):
    """One connection. `fresh`: it has not yet carried a request. `quiet`: no byte of the answer under way has come."""

    def __init__(self) -> None:
        self.fresh = True
        self.quiet = True
        self.status = 0
        self.headers: Headers = []
        self._transport: asyncio.Transport | None = None
        self._error: httpx.TransportError | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._parts: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._writable: asyncio.Event = asyncio.Event()
        self._writable.set()
        self._busy = False
        self._parser = httptools.HttpResponseParser(self)
        self._headed = False
        self._whole = False
        self._extra = False
        self._until_eof = False
        self._keep = False
        self._unframed = 0

    # What the pool and the reader ask -----------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether another request may be sent: open, idle, and nothing came unasked."""
        return not self._busy and self._error is None and self._transport is not None

    async def send(self, head: bytes, body: bytes) -> None:
        """Write a request and wait until the kernel has taken it. Raises httpx.WriteError."""
        transport = self._open()
        self._busy = True
        self._begin_answer()
        if len(body) < HIGH:
            transport.write(head + body)
        else:
            transport.writelines([head, body])
        await self._writable.wait()
        if self._error is not None and not self._headed:
            raise self._error
        self.fresh = False

    async def answer(self) -> tuple[int, Headers]:
        """Wait for the answer's head and return its status and headers. Raises httpx.TransportError."""
        while not self._headed:
            await self._wait()
        return self.status, self.headers

    async def read(self) -> bytes | None:
        """Return what has come of the body since the last call, None at its end. Raises httpx.TransportError."""
        while not self._parts:
            if self._whole:
                return None
            await self._wait()
        part = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        if self._paused and self._error is None:
            self._paused = False
            self._open().resume_reading()
        return part

    def finish(self) -> bool:
        """End the exchange; True if the connection may carry another one, else it is closed at once."""
        again = self._whole and not self._parts and self._keep and not self._extra and self._error is None
        self._busy = False
        if not again:
            self.abort()
        return again

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
        self._fail(httpx.ReadError("the connection was closed here"))

    # asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        if not self._busy or self._whole:
            self._extra = True
            self.abort()
            return
        self.quiet = False
        self._unframed += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, _OutOfBoundsError) as error:
            self._break(httpx.RemoteProtocolError(f"the answer is not HTTP as it should be: {error}"))
            return
        if self._unframed > (FRAME_BYTES if self._headed else HEAD_BYTES):
            self._break(httpx.RemoteProtocolError("the answer's head or framing is too long"))
            return
        if self._held > HIGH and not self._paused and not self._whole:
            self._paused = True
            self._open().pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """Take the upstream's end: it ends a body that has no other end, and truncates all else."""
        if self._busy and self._headed and not self._whole and self._until_eof:
            self._whole = True
            self._wake()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Note the end of the connection; an answer that is whole stays readable."""
        self._writable.set()
        if error is not None:
            self._fail(httpx.ReadError(f"the connection broke: {error}"))
        else:
            self._fail(httpx.RemoteProtocolError("the upstream closed before its answer was whole"))

    def pause_writing(self) -> None:
        """Hold writers."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let writers go on."""
        self._writable.set()

    # httptools ----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a message; a second one after the answer is not ours."""
        self._extra = self._extra or self._whole

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header (trailers come here too, and are dropped)."""
        if self._headed:
            return
        self.headers.append((name.lower(), value))
        if len(self.headers) > HEAD_COUNT:
            raise _OutOfBoundsError(f"more than {HEAD_COUNT} headers")

    def on_headers_complete(self) -> None:
        """Take the head; interim answers (1xx) are passed over."""
        status = self._parser.get_status_code()
        if status < 200:
            return
        if self._headed:
            return
        names = {name for name, _ in self.headers}
        coding = b",".join(value for name, value in self.headers if name == b"transfer-encoding").lower()
        framed = b"content-length" in names or coding.rstrip().endswith(b"chunked") or status in {204, 304}
        self._until_eof = not framed
        self._keep = self._parser.should_keep_alive() and not self._until_eof
        self.status = status
        self._headed = True
        self._unframed = 0

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body for the reader."""
        if self._extra:
            return
        self._unframed = 0
        self._parts.append(body)
        self._held += len(body)

    def on_message_complete(self) -> None:
        """Note the end of a message."""
        if not self._headed:
            self.headers = []  # of an interim answer
            return
        self._whole = True

    # ---------------------------------------------------------------------------------------------------------------

    def _begin_answer(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.quiet = True
        self.status = 0
        self.headers = []
        self._headed = self._whole = self._extra = self._until_eof = self._keep = self._paused = False
        self._unframed = self._held = 0
        self._parts.clear()

    def _open(self) -> asyncio.Transport:
        if self._transport is None or self._error is not None:
            raise self._error or httpx.ConnectError("the connection is not open")
        return self._transport

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _break(self, error: httpx.TransportError) -> None:
        self._parts.clear()
        self._whole = False
        self._fail(error)
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: httpx.TransportError) -> None:
        if self._error is None:
            self._error = error
        self._writable.set()
        self._wake()


class _OutOfBoundsError(Exception):
    """An answer went beyond a bound."""
