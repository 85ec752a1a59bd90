"""The answer to one call, on the wire.

Law: what a caller may see of an upstream is its status, its content type and its body; every other header is ours.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from gateway.errors import Headers, error_body, error_headers
from policies.rejections import Rejection

Send = Callable[[Any], Awaitable[None]]

_EVENTS: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class Reply:
    """One answer. `status` is 0 until its head is sent; `standing` holds the rate-limit headers once known."""

    def __init__(self, send: Send, request_id: str, config: bytes) -> None:
        self.request_id = request_id
        self.status = 0
        self.backend = ""
        self.attempts = 0
        self.standing: Headers = []
        self._send = send
        self._config = config

    async def head(self, status: int, content_type: str, length: int | None) -> None:
        """Send the answer's head; `length` is the body's, where it is known."""
        await self._start(status, content_type, length, self.standing)

    async def body(self, part: bytes, *, more: bool) -> None:
        """Send a part of the answer's body."""
        await self._send({"type": "http.response.body", "body": part, "more_body": more})

    async def whole(self, status: int, content_type: str, body: bytes) -> None:
        """Send a whole answer."""
        await self.head(status, content_type, len(body))
        await self.body(body, more=False)

    async def reject(self, rejection: Rejection) -> None:
        """Send a refusal."""
        body = error_body(rejection, self.request_id)
        headers = error_headers(rejection)
        if rejection.requests is None and rejection.tokens is None:
            headers += self.standing
        await self._start(rejection.shape.status, "application/json", len(body), headers)
        await self.body(body, more=False)

    async def _start(self, status: int, content_type: str, length: int | None, more: Headers) -> None:
        self.status = status
        headers: Headers = [
            (b"content-type", content_type.encode("latin-1")),
            (b"x-request-id", self.request_id.encode()),
            (b"x-sluiceway-config", self._config),
            *more,
        ]
        if self.attempts:
            headers.append((b"x-sluiceway-attempts", b"%d" % self.attempts))
            headers.append((b"x-sluiceway-backend", self.backend.encode()))
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        if content_type.startswith("text/event-stream"):
            headers += _EVENTS
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
