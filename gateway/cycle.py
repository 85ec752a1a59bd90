"""One request and its answer on a caller's connection.

Law: an answer's head goes out with the first part of its body, in one write. Who has to know at once that the caller
has left is called then; no task waits for it, since a task a call is a tenth of what a small call costs.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from gateway.patience import Patience

PRESENCE = "sluiceway.presence"
"""The extension of an ASGI scope under which its `Presence` is found."""

JOINED = 64 * 1024
"""Bytes of a body up to which it is copied behind its head; a longer one is handed over as it is."""

UNREAD = 10.0
"""Seconds that an answer waits for room behind earlier ones on its connection."""


def _nothing() -> None:
    """Do nothing."""


class Presence:
    """What is known of the caller beside ASGI. It knows neither side, so that no ring keeps a call from being freed.

    `body`: the whole body, where it came together with its head; then nothing need be received. `gone`: the caller has
    left; `then`: what to do when it does.
    """

    __slots__ = ("body", "gone", "then")

    def __init__(self) -> None:
        self.gone = False
        self.body: bytearray | None = None
        self.then: Callable[[], None] | None = None


class Cycle(RequestResponseCycle):
    """One request and its answer, over uvicorn's. `end`: closes the connection behind the answer.

    `taken`: something of the request was received.
    """

    def __init__(self, presence: Presence, end: Callable[[], None], **parts: Any) -> None:  # noqa: ANN401 - uvicorn's own, by name
        self.presence = presence
        self.taken = False
        self._end = end
        self._bare = False
        self._head = b""
        super().__init__(**parts)

    @property
    def disconnected(self) -> bool:
        """Whether the caller has left before its answer was whole."""
        return self.presence.gone

    @disconnected.setter
    def disconnected(self, gone: bool) -> None:
        self.presence.gone = gone
        if gone and self.presence.then is not None:
            self.presence.then()

    async def run_asgi(self, app: Any) -> None:  # noqa: ANN401 - an ASGI application
        """Serve the request; where the answer broke off, end the connection so that this can be told from an end."""
        try:
            await super().run_asgi(app)
        finally:
            if not self.response_complete and not self.presence.gone:
                if self._bare:
                    self.transport.abort()
                self._end()
            self._end = _nothing

    async def receive(self) -> Any:  # noqa: ANN401 - ASGI's
        """Return the next message about the request."""
        self.taken = True
        return await super().receive()

    async def send(self, message: Any) -> None:  # noqa: ANN401 - ASGI's, read member by member
        """Take one message of the answer. Raises RuntimeError where it is out of turn or of the wrong length."""
        if self.flow.write_paused and not self.presence.gone:
            await self._drain()
        if self.presence.gone:
            return
        if message["type"] == "http.response.start" and not self.response_started:
            self._start(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body" and self.response_started and not self.response_complete:
            self._continue(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{message['type']} is out of turn")

    async def _drain(self) -> None:
        """Wait for room; who has not read earlier answers gets no more time for this one than `UNREAD`."""
        if self.response_started:
            await self.flow.drain()
            return
        try:
            with Patience() as patience:
                patience.wait(UNREAD)
                await self.flow.drain()
        except TimeoutError:
            self.transport.abort()
            self.disconnected = True

    def _start(self, status: int, headers: Any) -> None:  # noqa: ANN401 - pairs of bytes
        self.response_started = True
        self.waiting_for_100_continue = False
        lines = [STATUS_LINE[status][:-2]]
        for name, value in (*self.default_headers, *headers):
            if name == b"content-length":
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"connection" and value.lower() == b"close":
                self.keep_alive = False
                continue
            lines.append(b"%b: %b" % (name, value))
        if not self.keep_alive:
            lines.append(b"connection: close")
        if self.chunked_encoding is None and status not in {204, 304}:
            self._bare = self.scope["http_version"] == "1.0"  # which knows no chunks: its end is the connection's
            self.chunked_encoding = not self._bare
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked")
        head = b"\r\n".join((*lines, b"", b""))
        if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1:
            raise RuntimeError("a header of an answer holds a line break")
        self._head = head

    def _continue(self, body: bytes, *, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length, framed = 0, b""
        elif self.chunked_encoding:
            framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            framed = framed if more else framed + b"0\r\n\r\n"
        else:
            self.expected_content_length -= 0 if self._bare else len(body)
            framed = body
        if self.expected_content_length < 0 or (self.expected_content_length and not more):
            raise RuntimeError(f"an answer's body is not of the length its head says: {-self.expected_content_length}")
        head, self._head = self._head, b""
        if len(framed) > JOINED:
            self.transport.writelines([head, framed])
        else:
            self.transport.write(head + framed)
        if not more:
            self.response_complete = True
            self.message_event.set()
            self.on_response()
            if not self.keep_alive:
                self._end()


def begin(wire: Any) -> Cycle:  # noqa: ANN401 - a Wire, which stands on this module
    """Return the cycle of the request whose head `wire`'s parser has just read, and complete the request's scope."""
    presence = Presence()
    url, version = httptools.parse_url(wire.url), wire.parser.get_http_version()
    scope: dict[str, Any] = wire.scope
    scope["method"] = wire.parser.get_method().decode("ascii")
    scope["http_version"] = version
    scope["path"] = unquote(url.path.decode("ascii"))
    scope["raw_path"] = url.path
    scope["query_string"] = url.query or b""
    scope["extensions"] = {PRESENCE: presence}
    return Cycle(
        presence,
        wire.end,
        scope=scope,
        transport=wire.transport,
        flow=wire.flow,
        logger=wire.logger,
        access_logger=wire.access_logger,
        access_log=False,
        default_headers=wire.server_state.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=wire.expect_100_continue,
        keep_alive=version != "1.0" and wire.parser.should_keep_alive() and not wire.parting,
        on_response=wire.on_response_complete,
    )


def body_ended(cycle: RequestResponseCycle) -> None:
    """Note that the whole body is here; if none of it was taken yet it can be had without waiting."""
    if isinstance(cycle, Cycle) and not cycle.taken:
        cycle.presence.body = cycle.body
