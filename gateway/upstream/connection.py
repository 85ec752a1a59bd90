"""One HTTP/1.1 connection to an upstream: a request out, its answer in, and again while both sides keep it alive.

Law: llhttp reads the wire, nothing is mended: what is not HTTP/1, not whole, or beyond the bounds below is an error and
the end of the connection. What came before an error stays readable. A reader who is slow pauses the socket; one who
goes away aborts it at once. Only an answer read to its end, after a request that went out whole, over a connection on
which nothing else arrived, leaves it fit for another request.
"""

import asyncio
import select
from collections import deque
from typing import cast

import httptools
import httpx

HEAD_BYTES = 64 * 1024
HEAD_COUNT = 100
"""Bounds on an answer's head; what engines and their proxies send is far below them (nginx allows 8 KiB, h11 64)."""
FRAME_BYTES = 16 * 1024
"""Bytes of chunk sizes, extensions and trailers that may pass without a byte of body."""
HIGH = 256 * 1024
"""Bytes waiting for the reader above which the socket is paused."""
LARGE = 64 * 1024
"""Bytes of a request that a transport may buffer before it holds its writer; asyncio's and uvloop's own figure."""
PART_BYTES = 64
"""What a part, or an interim answer, counts for beyond its own bytes, so that tiny ones cannot pile up unseen."""

_TOO_MUCH = f"more than {HEAD_BYTES} bytes of heads and trailers"

Headers = list[tuple[bytes, bytes]]


class Connection(asyncio.Protocol):
    """One connection. `fresh`: it has not yet carried a request. `quiet`: no byte of the answer under way has come."""

    # Of the answer under way, made anew for each.
    quiet: bool
    status: int
    headers: Headers
    _headed: bool
    _whole: bool
    _extra: bool
    _until_eof: bool
    _keep: bool
    _paused: bool
    _unframed: int
    _held: int
    _head_room: int

    def __init__(self) -> None:
        self.fresh = True
        self._transport: asyncio.Transport | None = None
        self._poll: select.poll | None = None
        self._error: httpx.TransportError | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._parts: deque[bytes] = deque()
        self._stopped = False
        self._busy = False
        self._begin_answer()

    # What the pool and the reader ask -----------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether another request may be sent: open, idle, nothing came unasked and what was sent has gone out.

        The socket itself is asked, for the loop may not have looked yet.
        """
        if self._busy or self._error is not None or self._transport is None:
            return False
        return self._poll is None or [event for _, event in self._poll.poll(0)] == [select.POLLOUT]

    @property
    def whole(self) -> bool:
        """Whether all of the answer has come."""
        return self._whole

    async def send(self, head: bytes, body: bytes) -> None:
        """Write a request and wait until most of it is out, or its answer has begun. Raises httpx.TransportError."""
        transport = self._open()
        self.fresh = False
        self._busy = True
        self._begin_answer()
        if len(body) < LARGE:
            transport.write(head + body)
        else:
            # The last byte by itself: a TLS transport only says that it holds something when it is kept from passing
            # on a further write, and `finish` must know.
            transport.writelines([head, memoryview(body)[:-1]])
            transport.write(body[-1:])
        while self._stopped and not self._headed:
            await self._wait()

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
        """End the exchange; True if the connection may carry another one, else it is closed at once.

        What came of a whole answer and was not read is dropped.
        """
        again = self._whole and self._keep and not self._extra and self._error is None
        if not again or self._open().get_write_buffer_size():
            self.abort()
            return False
        if self._paused:
            self._paused = False
            self._open().resume_reading()
        self._busy = False
        self.quiet = True
        return True

    def abort(self) -> None:
        """Close at once."""
        self._fail(httpx.ReadError("the connection was closed here"))
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)
        socket = transport.get_extra_info("socket")
        if socket is not None:
            self._poll = select.poll()
            self._poll.register(socket.fileno(), select.POLLIN | select.POLLOUT)

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        if self._error is not None:
            return
        if not self._busy or self._whole:
            self._extra = True
            self.abort()
            return
        self.quiet = False
        self._unframed += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(f"the answer is not HTTP as it should be: {error.__context__ or error}")
            return
        if self._unframed > (FRAME_BYTES if self._headed else HEAD_BYTES):
            self._break("the answer's head or framing is too long")
            return
        if self._held > HIGH and not self._paused:
            self._paused = True
            self._open().pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """Take the upstream's end: it ends a body that has no other end, and truncates all else.

        Nothing is sent any more to an upstream that has ended, so the rest of a request cannot keep the call waiting.
        """
        if self._busy and self._headed and self._until_eof and self._error is None:
            self._whole = True
        self._fail(httpx.RemoteProtocolError("the upstream closed before its answer was whole"))
        if self._transport is not None:
            self._transport.abort()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Note the end of the connection; an answer that is whole stays readable."""
        if error is not None:
            self._fail(httpx.ReadError(f"the connection broke: {error}"))
        else:
            self._fail(httpx.RemoteProtocolError("the upstream closed before its answer was whole"))

    def pause_writing(self) -> None:
        """Hold the writer."""
        self._stopped = True

    def resume_writing(self) -> None:
        """Let the writer go on."""
        self._stopped = False
        self._wake()

    # httptools ----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a message; a second one after the answer is not ours."""
        self._extra = self._extra or self._whole

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header (trailers come here too, and are dropped)."""
        self._head_room -= len(name) + len(value)
        if self._head_room < 0:
            raise _NotAcceptedError(_TOO_MUCH)
        if self._headed:
            return
        self.headers.append((name.lower(), value.rstrip(b" \t")))
        if len(self.headers) > HEAD_COUNT:
            raise _NotAcceptedError(f"more than {HEAD_COUNT} headers")

    def on_headers_complete(self) -> None:
        """Take the head; interim answers (1xx) are passed over, and so is what follows the answer."""
        if self._headed:
            return
        status, version = self._parser.get_status_code(), self._parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise _NotAcceptedError(f"the version {version}")
        if status < 100 or status == 101:
            raise _NotAcceptedError(f"the status {status}")
        framed = status in {204, 304}
        chunked = False
        for name, value in self.headers:
            if name == b"content-length":
                framed = True
            elif name == b"transfer-encoding":
                if chunked or value.lower() != b"chunked":
                    raise _NotAcceptedError("a transfer-encoding that is not chunked alone")
                framed = chunked = True
        if status < 200:
            self._head_room -= PART_BYTES
            if self._head_room < 0:
                raise _NotAcceptedError(_TOO_MUCH)
            return
        self._until_eof = not framed
        self._keep = self._parser.should_keep_alive()
        self.status = status
        self._headed = True
        self._unframed = 0

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body for the reader."""
        if self._extra:
            return
        self._unframed = 0
        self._parts.append(body)
        self._held += len(body) + PART_BYTES

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
        self._head_room = HEAD_BYTES
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

    def _break(self, what: str) -> None:
        """End over what cannot be read on; an answer that was whole before it stays good."""
        self._extra = self._whole
        self._fail(httpx.RemoteProtocolError(what))
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: httpx.TransportError) -> None:
        if self._error is None:
            self._error = error
        self._stopped = False
        self._wake()


class _NotAcceptedError(Exception):
    """An answer that llhttp would read is beyond a bound, or not what was asked for."""
