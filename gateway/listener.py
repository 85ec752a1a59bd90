"""The wire under the gateway: uvicorn, hardened against what a stranger may send before anybody knows who it is.

Law: the parser sees a head only once it is whole, bounded and counted, and one request at a time: what comes behind a
request waits, unparsed, until that request is answered. So no head costs more than its size, a refusal never lands
inside another answer, and no body is ever taken for a request.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway import clock

ASGIApplication = Callable[..., Any]

HEAD_BYTES = 64 * 1024
"""The most bytes of request line and headers together. nginx (32 KiB) and h11 (64 KiB) hold the same order."""

HEADERS = 128
"""The most headers of one request. Apache takes 100."""

HEAD_DEADLINE = 10.0
"""Seconds from a connection's opening, or a later request's first byte, to the end of its head; likewise from an
answer to the end of the body that it did not wait for."""

UNREAD_BYTES = 1024 * 1024
"""The most bytes that are read and dropped of a body whose answer is out; what would lie in a network's buffers."""

KEEP_ALIVE = 75
"""Seconds an idle connection is kept: longer than callers' pools keep theirs (a minute is common), so that it is the
caller who closes and no request meets a connection that is being closed here. nginx's default."""

LINGER = 2.0
"""Seconds that a refused caller gets to read the refusal: closing over unread input would destroy it on the way."""

CUT_GRACE = 1.0
"""Seconds that calls get to settle once their connections were cut."""

_UNKNOWN = -1
"""The length of a body of which nothing came yet."""

_UPGRADE = re.compile(rb"\nupgrade:", re.IGNORECASE)


class Wire(HttpToolsProtocol):
    """One caller's connection. The method names from `on_headers_complete` on are those that httptools calls."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own signature
        super().__init__(*args, **kwargs)
        self._kept: bytes | bytearray = b""  # what came and was not given to the parser yet
        self._sought = 0  # bytes of `_kept` known not to end a head
        self._probe: httptools.HttpRequestParser | None = None  # tells early that a partial head is malformed
        self._head_due = False  # the parser is being given a head
        self._busy = False  # a request's answer is not complete
        self._in_body = False
        self._left: int | None = _UNKNOWN  # bytes of the body to come; None: chunked, so nobody knows
        self._unread = 0  # bytes dropped: of an answered request's body, or since a refusal
        self._silent = 0  # bytes of a chunked body since its last content: trailers or chunk extensions
        self._head_timed = False
        self._over = False  # nothing is parsed any more

    # asyncio ---------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's own signature
        """Begin, and time the first head."""
        super().connection_made(transport)
        self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, leaving no timer and no parser behind."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._over = True
        self._kept = b""
        self._probe = None

    def data_received(self, data: bytes) -> None:
        """Take what came: into the parser as far as it is due, else aside."""
        if self._over:
            self._drop(len(data))
        elif self._kept:
            self._kept += data
            self._parse(self._kept)
        else:
            self._parse(data)

    def timeout_keep_alive_handler(self) -> None:
        """Close at the end of whichever time was running; with an answer if a part of a head came."""
        self.timeout_keep_alive_task = None
        if self._kept and not self._over and not self._in_body:
            self._refuse(408, "request_timeout", f"the request's head was not complete within {HEAD_DEADLINE:g} s")
        else:
            super().timeout_keep_alive_handler()

    # parsing ---------------------------------------------------------------------------------------------------------

    def _parse(self, data: bytes | bytearray) -> None:
        try:
            while data and not self._over:
                if self._in_body:
                    data = self._take_body(data)
                elif self._busy:
                    if len(data) > UNREAD_BYTES:
                        self.flow.pause_reading()
                    break
                elif end := self._head_end(data):
                    data = self._take_head(data, end)
                else:
                    break
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(400, "bad_request", "this is not a valid HTTP/1.1 request; upgrades and tunnels are not taken")
        if self._over or not data:
            self._kept = b""
        elif data is not self._kept:
            self._kept = bytearray(data)

    def _head_end(self, data: bytes | bytearray) -> int:
        """Return how many bytes the head at the start of `data` has; 0: it is not whole, or was refused."""
        end = data.find(b"\r\n\r\n", max(0, self._sought - 3), HEAD_BYTES)
        if end >= 0:
            return end + 4
        if len(data) >= HEAD_BYTES:
            self._refuse(431, "headers_too_large", f"URL and headers together must stay below {HEAD_BYTES} bytes")
            return 0
        if self._probe is None:
            self._probe = httptools.HttpRequestParser(object())
        self._probe.feed_data(data[self._sought :])
        self._sought = len(data)
        if not self._head_timed:
            self._time_head()
        return 0

    def _take_head(self, data: bytes | bytearray, end: int) -> bytes | bytearray:
        self._unset_keepalive_if_required()
        self._head_timed = False
        self._sought = 0
        self._probe = None
        head = data[:end]
        if head.count(b"\n") > HEADERS + 2:  # the request line and the empty line
            self._refuse(431, "headers_too_large", f"a request may have at most {HEADERS} headers")
            return b""
        if b"pgrade:" in head or b"PGRADE:" in head:
            # llhttp would take what follows for another protocol, though HTTP lets a server ignore the wish. Whoever
            # writes it in yet other letters is refused in `on_headers_complete`.
            head = _UPGRADE.sub(b"\nignored:", head)
        self._head_due = True
        self.parser.feed_data(head)
        if not self._busy:  # only empty lines came: nothing that ends like a head is anything else
            raise httptools.HttpParserError
        return _after(data, end)

    def _take_body(self, data: bytes | bytearray) -> bytes | bytearray:
        """Feed the parser not a byte beyond the body, where its length is known."""
        if self._left == _UNKNOWN:
            self._left = self._length()
        if self._left is None:
            return self._take_chunks(data)
        size = min(len(data), self._left)
        self._left -= size
        if size == len(data):
            self.parser.feed_data(data)
            rest: bytes | bytearray = b""
        else:
            self.parser.feed_data(data[:size])
            rest = _after(data, size)
        if not self._busy:
            self._drop(size)
        return rest

    def _take_chunks(self, data: bytes | bytearray) -> bytes:
        before = len(self.cycle.body)
        self.parser.feed_data(data)
        self._silent = self._silent + len(data) if len(self.cycle.body) == before else 0
        if not self._busy:
            self._drop(len(data))
        elif self._silent > HEAD_BYTES:
            self._refuse(431, "headers_too_large", f"trailers of a chunked body must stay below {HEAD_BYTES} bytes")
        return b""

    def _length(self) -> int | None:
        """Return the request's content-length, which llhttp has checked; None: its body is chunked."""
        for name, value in reversed(self.scope["headers"]):  # type: ignore[call-overload] # a list, typed as iterable
            if name == b"content-length":
                return int(value)
        return None

    def on_message_begin(self) -> None:
        """Begin a request; raise HttpParserError (which httptools passes on) where one is hidden behind a body."""
        if not self._head_due:
            raise httptools.HttpParserError
        self._head_due = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the request, unless it is a tunnel's or an upgrade's: those end in HttpParserUpgrade."""
        if self.parser.should_upgrade():
            return
        super().on_headers_complete()
        self._busy = self._in_body = True
        self._left = _UNKNOWN
        self._silent = self._unread = 0
        self.headers = []  # trailers go here, not into the scope that the application holds

    def on_message_complete(self) -> None:
        """End the request's body."""
        if not self._in_body:  # an upgrade's
            return
        self._in_body = False
        super().on_message_complete()
        if not self._busy:
            self._time(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        """Go on to what waited, or wait."""
        self._busy = False
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._in_body:
            if self.expect_100_continue and self._left == _UNKNOWN:
                self.transport.close()  # no body will come, and the next request must not be taken for it
            else:
                self._time(HEAD_DEADLINE)
        elif self._kept:
            self.loop.call_soon(self._resume)

    def _resume(self) -> None:
        if not self._over and self._kept:
            self._parse(self._kept)

    # ending ----------------------------------------------------------------------------------------------------------

    def _time(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _time_head(self) -> None:
        self._head_timed = True
        self._time(HEAD_DEADLINE)

    def _drop(self, size: int) -> None:
        self._unread += size
        if self._unread > UNREAD_BYTES:
            self._over = True
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer and close, parsing nothing more; close only, where an answer is out or under way."""
        self._over = True
        if self._in_body:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.close()
                return
        elif self._busy:
            self.cycle.keep_alive = False  # what was refused lies behind a whole request: that one is answered first
            return
        self._answer(status, code, message)
        self._unread = 0
        self._time(LINGER)

    def _answer(self, status: int, code: str, message: str) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        body = msgspec.json.encode({"error": error})
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(b"%s%s\r\n%s" % (STATUS_LINE[status], lines, body))
        self.transport.write_eof()


def _after(data: bytes | bytearray, size: int) -> bytes | bytearray:
    """Return `data` without its first bytes; a bytearray is shortened in place, which moves nothing."""
    if isinstance(data, bytearray):
        del data[:size]
        return data
    return data[size:]


class Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to us, and can be cut short."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    def cut(self) -> None:
        """Close every connection at once; calls still open after `CUT_GRACE` are cancelled. Waits for nothing."""
        self.should_exit = True
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        asyncio.get_running_loop().call_later(CUT_GRACE, self._cancel)

    def _cancel(self) -> None:
        for task in list(self.server_state.tasks):
            task.cancel("cut by a second signal")


async def listen(stack: contextlib.AsyncExitStack, app: ASGIApplication, bound: socket.socket, grace: int) -> Listener:
    """Serve `app` on a bound socket until `stack` closes, which gives open calls `grace` seconds to finish."""
    config = uvicorn.Config(
        app,
        http=Wire,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody may say who they are by X-Forwarded-For
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=grace,
    )
    listener = Listener(config)
    task = clock.spawn(listener.serve(sockets=[bound]), "listen")

    async def stop() -> None:
        listener.should_exit = True
        await task

    stack.push_async_callback(stop)
    while not listener.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.001)
    return listener
