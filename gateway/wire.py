"""One caller's connection: uvicorn's, hardened against what a stranger may send before anybody knows who it is.

Law: the parser sees a head only once it is whole, bounded and counted, and one request at a time: what comes behind a
request waits, unparsed, until that request is answered. So no head costs more than its size, a refusal never lands
inside another answer, no body is ever taken for a request, and whoever reads nothing keeps no closed connection open.
"""

import asyncio
import re
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.connections import Connections
from gateway.cycle import begin, body_ended
from gateway.errors import Headers, error_headers
from gateway.tls import unheard, unread
from policies.rejections import Rejection

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
caller who closes, and no request meets one that is being closed here. nginx's default."""

LINGER = 2.0
"""Seconds that a refused caller gets to read the refusal: closing over unread input would destroy it on the way."""

LAST_CALL, SPARED = 0.5, 5
"""Seconds idle after which a stop closes a connection: who was not told of its end may be sending the next request. So
many times that more while other calls are open: it costs nothing then, and who balances by calls sends the next one."""

FIRST_WORD = 2.0
"""Seconds that a stop leaves to those who have connected, or begun a request, to say all of it."""

AGAIN = 0.01
"""Seconds after which it is looked again whether a caller whose time is up was heard."""

PARTING = 0.1
"""Seconds that a caller over TLS gets to answer our farewell; many look only when they next use the connection."""

_UNKNOWN = -1
"""The length of a body of which nothing came yet."""

_UPGRADE = re.compile(rb"\nupgrade:", re.IGNORECASE)


class Wire(HttpToolsProtocol):
    """One caller's connection, of those in `house`. The method names with `on_` are those that httptools calls."""

    def __init__(self, house: Connections, **uvicorns: Any) -> None:  # noqa: ANN401 - uvicorn's own signature
        super().__init__(**uvicorns)
        self._house = house
        self._arrived = False
        self._no: Rejection | None = None  # why the connection is not taken
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
        self._spared = 0

    # asyncio ---------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's own signature
        """Begin, and time the first head; whoever is one too many is told so at once."""
        peer = transport.get_extra_info("peername")
        if not peer or (not self._arrived and not self.arrive(peer[0])):  # without an address: gone before it was taken
            transport.abort()
            return
        super().connection_made(transport)
        if self._no is None:
            self._time_head()
        else:
            self._over = True
            shape = self._no.shape
            self._answer(shape.status, shape.type, self._no.reason.value, self._no.message, error_headers(self._no))
            self._time(LINGER)

    def arrive(self, address: str) -> bool:
        """Be counted, before anything is spent on TLS; False where there is not even room for a refusal."""
        self._no = self._house.enter(self, address)
        self._arrived = self._house.holds(self)
        return self._arrived

    def depart(self) -> None:
        """Be counted out, once."""
        if self._arrived:
            self._arrived = False
            self._house.leave(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, leaving no timer and no parser behind."""
        self.depart()
        if self not in self.connections:  # it was not taken
            return
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
        """Close at the end of whichever time was running; with an answer if a part of a head came.

        What lies in the kernel still was sent in time: to close over it would lose a request.
        """
        self.timeout_keep_alive_task = None
        if self._over or self._in_body:
            self._close()
        elif self._kept:
            self._refuse(408, "request_timeout", "the request's head was not complete in time")
        elif unheard(self.transport):
            self._time(AGAIN)
        elif self._house.parting and self._spared < SPARED and self.server_state.tasks:
            self._spared += 1
            self._time(LAST_CALL)
        else:
            self._close()

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
        self.cycle = begin(self)
        self._start_asgi_task(self.cycle, self.app)
        self._busy = self._in_body = True
        self._left = _UNKNOWN
        self._silent = self._unread = 0
        self.headers = []  # trailers go here, not into the scope that the application holds

    def on_message_complete(self) -> None:
        """End the request's body."""
        if not self._in_body:  # an upgrade's
            return
        self._in_body = False
        body_ended(self.cycle)
        super().on_message_complete()
        self.flow.resume_reading()  # else nobody sees the caller leave, where its body was large
        if not self._busy:
            self._time(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        """Go on to what waited, or wait."""
        self._busy = False
        self.cycle.body.clear()  # of a request that was refused, say: nobody counts it
        super().on_response_complete()
        if self.transport.is_closing():
            if self in self.connections:
                self._close()
            return
        if self._in_body:
            if self.expect_100_continue and self._left == _UNKNOWN:
                self._close()  # no body will come, and the next request must not be taken for it
            else:
                self._time(HEAD_DEADLINE)
        elif self._kept:
            self.loop.call_soon(self._resume)

    def _resume(self) -> None:
        if not self._over and self._kept and not self.transport.is_closing():  # of a closed one nobody gets an answer
            self._parse(self._kept)

    @property
    def parting(self) -> bool:
        """Whether the answer to the request that comes next is the last one here."""
        return self._house.parting

    # ending ----------------------------------------------------------------------------------------------------------

    def idle_since(self) -> float | None:
        """Return a number that is the smaller the longer the connection has been idle; None: it is not."""
        timer = self.timeout_keep_alive_task
        if self._busy or self._in_body or self._head_timed or self._over or timer is None:
            return None
        return timer.when()

    def evict(self) -> None:
        """Make room for another."""
        self._over = True
        self._close()

    def end(self) -> None:
        """Close behind the answer; while a body is still coming, only once the caller had time to read the answer."""
        if not self._in_body:
            self._close()
            return
        self._over = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._unread = 0
        self._time(LINGER)

    def part(self, *, cut: bool = False) -> None:
        """Close behind the answer under way if its head can still say so; `cut`: anyway, for no other will follow."""
        if self._busy and (cut or not self.cycle.response_started):  # the next request may be on its way
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close behind an answer that says so, else after `LAST_CALL` or `FIRST_WORD`."""
        self.part()
        kept_for = self.timeout_keep_alive
        self.timeout_keep_alive = LAST_CALL  # type: ignore[assignment] # uvicorn's are whole seconds
        if self._busy or self._over or self.transport.is_closing():
            return
        since = self.idle_since()
        self._time(FIRST_WORD if since is None else max(0.0, since - kept_for + LAST_CALL - self.loop.time()))

    def _close(self, before: tuple[int, ...] | None = None, still: float = 0.0) -> None:
        """Close once all is read that was written; cut off whoever takes nothing of it for `HEAD_DEADLINE`.

        `before`: how things stood at the last look; `still`: seconds since they moved.
        """
        self._unset_keepalive_if_required()
        unsent = unread(self.transport, secure=self.scheme == "https")
        if unsent == before and (unsent[0] == 0 or still >= HEAD_DEADLINE):  # looked at once, TLS may hide some still
            self.transport.abort()
            return
        if not self.transport.is_closing():  # closed twice, a transport of TLS forgets what it would abort
            self.transport.close()
        seconds = PARTING if before is None or unsent[0] == 0 else min(1.0, HEAD_DEADLINE)
        still = still + seconds if unsent == before else seconds
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self._close, unsent, still)

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
            self._close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer and close, parsing nothing more; close only, where an answer is out or under way."""
        self._over = True
        if self._in_body:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self._close()
                return
        elif self._busy:
            self.cycle.keep_alive = False  # what was refused lies behind a whole request: that one is answered first
            return
        self._answer(status, "invalid_request_error", code, message, [])
        self._unread = 0
        self._time(LINGER)

    def _answer(self, status: int, kind: str, code: str, message: str, more: Headers) -> None:
        body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})
        headers = [*self.server_state.default_headers, *more, (b"content-type", b"application/json")]
        headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(b"%s%s\r\n%s" % (STATUS_LINE[status], lines, body))
        if self.transport.can_write_eof():  # not over TLS, where the length alone must do
            self.transport.write_eof()


def _after(data: bytes | bytearray, size: int) -> bytes | bytearray:
    """Return `data` without its first bytes; a bytearray is shortened in place, which moves nothing."""
    if isinstance(data, bytearray):
        del data[:size]
        return data
    return data[size:]
