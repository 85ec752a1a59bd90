"""The answer to one call, on the wire.

Law: what a caller may see of an upstream is its status, its content type and its body; every other header is ours.
A call is in one of three states: nothing is sent (`status` 0); the status is sent, and after it only comments that keep
a stream alive; a part of an answer is sent. In the first two any deployment may still answer; in the last two a no is
told in-band, as an error event, and never looks like a clean end.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from gateway import clock
from gateway.errors import CONFIG_HEADER, Headers, error_body, error_event, error_headers, id_headers
from policies import error_shapes
from policies.domain import API
from policies.rejections import Rejection
from policies.sse import EVENTS, KEEP_ALIVE

Send = Callable[[Any], Awaitable[None]]

LAST_WORDS = 1.0
"""Seconds that a caller gets to take the news that its answer broke off; then its connection is closed."""

_UNBUFFERED: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class Reply:
    """One answer, in the shape of `api`.

    `status` is 0 until its head is sent; `standing` holds the rate-limit headers once known. `dropped`: backends
    that were passed over (budget, drained, full, changed), each with the reason. `changed`: what the last one asked
    was sent otherwise than its caller wished. `explained` and `governed`: the route, and the terms by which it was
    decided, where the caller has asked for it. `broke`: why an answer that had begun does not end well.
    """

    def __init__(self, send: Send, request_id: str, config: bytes, api: API = "chat") -> None:
        self.api = api
        self.request_id = request_id
        self.status = 0
        self.broke: str | None = None
        self.backend = ""
        self.attempts = 0
        self.standing: Headers = []
        self.dropped: tuple[str, ...] = ()
        self.changed: tuple[str, ...] = ()
        self.explained: tuple[str, ...] = ()
        self.governed: tuple[str, ...] = ()
        self._send = send
        self.config = config
        self._streaming = False
        self._ended = False
        self._silence: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None

    def keep_alive(self, every: float) -> None:
        """From now on send a comment every so many seconds, the first after a head, until `hush`."""
        self._silence = every
        self.wake()

    def wake(self) -> None:
        """After `hush`, send comments again, where they were asked for."""
        if self._silence is not None:
            self._timer = asyncio.get_running_loop().call_later(self._silence, self._due)

    def hush(self) -> None:
        """Send no more comments. One that waits for a slow caller is dropped, whole."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._comment is not None:
            self._comment.cancel()
            self._comment = None

    async def head(self, status: int, content_type: str, length: int | None) -> None:
        """Send the answer's head, unless one is out; `length` is the body's, where it is known."""
        self.hush()
        if not self.status:
            await self._start(status, content_type, length, [*self.standing, *self._served_by()])

    async def body(self, part: bytes, *, more: bool) -> None:
        """Send a part of the answer's body."""
        self._ended = not more
        await self._send({"type": "http.response.body", "body": part, "more_body": more})

    async def whole(self, status: int, content_type: str, body: bytes) -> None:
        """Send an upstream's own refusal, as it is where it fits; in-band, where a stream was begun."""
        fits = status < 500 and error_shapes.fits(self.api, body)
        said = error_shapes.said(status, body)
        if status >= 500:  # an engine's word for what is its caller's to mend
            status, said = 400, said | {"type": "invalid_request_error", "code": None}
        if self.status:
            await self.break_off(str(status), error_shapes.event(self.api, status, said, self.request_id))
            return
        if not fits:
            content_type, body = "application/json", error_shapes.body(self.api, status, said, self.request_id)
        await self.head(status, content_type, len(body))
        await self.body(body, more=False)

    async def reject(self, rejection: Rejection) -> None:
        """Send a refusal: as an answer of its own, else in-band."""
        if self.status:
            await self.cut(rejection.reason.value, rejection)
            return
        body = error_body(rejection, self.request_id, self.api)
        self.hush()
        headers = error_headers(rejection)
        if rejection.requests is rejection.tokens is rejection.tightest is None:
            headers += self.standing
        await self._start(rejection.shape.status, "application/json", len(body), [*headers, *self._served_by()])
        await self.body(body, more=False)

    async def cut(self, cause: str, rejection: Rejection, number: int = 0) -> None:
        """Break off what has begun for `cause`, and tell `rejection`; `number`: of that event, if its API has one."""
        await self.break_off(cause, error_event(rejection, self.request_id, self.api, number))

    async def break_off(self, cause: str, last: bytes = b"") -> None:
        """End what has begun so that it cannot be taken for a whole answer; `last`: an event that says so, in a stream.

        A plain answer stays without its last bytes, which is an error to every HTTP client. A caller who does not read
        is not waited for.
        """
        self.hush()
        if self._ended:
            return
        self.broke = self.broke or cause
        if self._streaming:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await self.body(last, more=False)

    def _due(self) -> None:
        self._timer = None
        self._comment = clock.spawn(self._say_alive(), "keep-alive")

    async def _say_alive(self) -> None:
        """Send one comment, and set the time of the next; who will serve is not yet known and not told."""
        if not self.status:
            await self._start(200, EVENTS, None, self.standing)
        await self.body(KEEP_ALIVE, more=True)
        self._comment = None
        self.wake()

    def _served_by(self) -> Headers:
        route: Headers = []
        if self.explained:
            route.append((b"x-sluiceway-route", ", ".join(self.explained).encode()))
            route.append((b"x-sluiceway-terms", ", ".join(self.governed).encode()))
        if not self.attempts:
            return route
        served = [
            *route,
            (b"x-sluiceway-attempts", b"%d" % self.attempts),
            (b"x-sluiceway-backend", self.backend.encode()),
        ]
        if self.dropped:
            served.append((b"x-sluiceway-dropped", ", ".join(self.dropped).encode()))
        if self.changed:
            served.append((b"x-sluiceway-changed", ", ".join(self.changed).encode()))
        return served

    async def _start(self, status: int, content_type: str, length: int | None, more: Headers) -> None:
        headers: Headers = [
            (b"content-type", content_type.encode("latin-1")),
            *id_headers(self.request_id, self.api),
            (CONFIG_HEADER, self.config),
            *more,
        ]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        self._streaming = content_type.startswith(EVENTS)
        if self._streaming:
            headers += _UNBUFFERED
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        self.status = status  # only now: whoever is cut short before it has sent nothing
