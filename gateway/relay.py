"""The send loop of one attempt: bytes out as they come, a tap on the side.

Law: until `committed`, nothing has been sent and any failure is an `AttemptFailed` that lets another deployment try;
after it a failure is told in-band and never looks like a clean end. What was seen so far (`usage`, `events`) can be
read at any moment, since the caller may leave at any. A slow caller pauses the upstream: nothing is read while sending.
"""

import asyncio
import math
from typing import Protocol

from gateway import clock
from gateway.upstream.attempt import Attempt, AttemptFailed
from policies.domain import InferenceRequest, Usage
from policies.failures import Failure, FailureKind, in_stream
from policies.retries import first_content_deadline, whole_answer_deadline
from policies.sse import EventTooLargeError, Tap, usage_in, usage_of

TAIL = 64 * 1024
"""Bytes at the end of a longer one in which its usage is looked for."""

BUFFERED = 8 * 1024 * 1024
"""Bytes of a plain answer that are held so that it can still fail over; a longer one is committed there."""


class Caller(Protocol):
    """The one who is answered."""

    async def head(self, status: int, content_type: str, length: int | None) -> None:
        """Send the answer's head; `length` is the body's, where it is known."""

    async def body(self, part: bytes, *, more: bool) -> None:
        """Send a part of the answer's body."""


class Relay:
    """One attempt's answer on its way to the caller.

    `usage`: as told, else None. `events`: content events of a stream. `answer_bytes`: of a plain answer. `finished`:
    the upstream's answer was whole. `cut`: how a committed answer failed. `malformed`: events that were not JSON.
    """

    def __init__(self, attempt: Attempt, request: InferenceRequest, caller: Caller, deadline: float) -> None:
        self.attempt = attempt
        self.committed = False
        self.finished = False
        self.cut: Failure | None = None
        self.answer_bytes = 0
        self._usage: Usage | None = None
        self._tap = Tap(withhold_usage=not request.wants_usage)
        self._request = request
        self._caller = caller
        self._deadline = deadline
        self._last_wait = False

    @property
    def usage(self) -> Usage | None:
        """What the upstream told of tokens so far."""
        return self._usage or self._tap.usage

    @property
    def events(self) -> int:
        """Content events so far."""
        return self._tap.events

    @property
    def malformed(self) -> int:
        """Events passed on although they were not JSON."""
        return self._tap.malformed

    async def run(self, body: bytes, headers: dict[str, str]) -> None:
        """Send `body` and relay the answer. Raises AttemptFailed while uncommitted."""
        candidate = self.attempt.candidate
        patience = (first_content_deadline if self._request.stream else whole_answer_deadline)(candidate)
        try:
            async with asyncio.timeout_at(self._until(patience)) as scope:
                await self.attempt.open(self._request.api, body, headers)
                if self._request.stream and self.attempt.content_type.startswith("text/event-stream"):
                    await self._stream(scope)
                else:
                    await self._plain(scope)
        except TimeoutError:
            self._fail(Failure(self._too_late(), "nothing came in time"))
        except EventTooLargeError as error:
            self._fail(Failure(FailureKind.PROTOCOL, str(error)))
        except AttemptFailed as failed:
            if not self.committed:
                raise
            self.cut = failed.failure

    def _fail(self, failure: Failure) -> None:
        if not self.committed:
            raise AttemptFailed(failure)
        self.cut = failure

    def _until(self, patience: float) -> float:
        """Return the loop time at which waiting ends: after `patience` seconds or at the call's deadline."""
        remaining = self._deadline - clock.monotonic()
        self._last_wait = remaining <= patience
        return asyncio.get_running_loop().time() + min(patience, remaining)

    def _too_late(self) -> FailureKind:
        """Tell whose time was up: only an upstream's own says anything about it."""
        if self._last_wait:
            return FailureKind.DEADLINE
        return FailureKind.STALL if self.committed else FailureKind.SILENCE

    async def _plain(self, scope: asyncio.Timeout) -> None:
        leaving = asyncio.get_running_loop().call_later(self.attempt.candidate.ttft, self.attempt.ticket.leave_queue)
        try:
            await self._whole(scope)
        finally:
            leaving.cancel()

    async def _whole(self, scope: asyncio.Timeout) -> None:
        parts: list[bytes] = []
        tail = b""
        while (chunk := await self.attempt.read()) is not None:
            self.answer_bytes += len(chunk)
            parts.append(chunk)
            if self.committed or self.answer_bytes > BUFFERED:
                part = b"".join(parts)
                tail = (tail + part)[-TAIL:]
                await self._send_part(part, scope)
                scope.reschedule(self._until(self.attempt.home.dialect.stall))
                parts.clear()
        scope.reschedule(self._until(math.inf))
        self.finished = True
        if self.committed:
            self._usage = usage_in(tail)
            await self._caller.body(b"", more=False)
            return
        answer = b"".join(parts)
        try:
            self._usage = usage_of(answer)
        except ValueError as error:
            raise AttemptFailed(Failure(FailureKind.TRUNCATED, str(error))) from error
        self.committed = True
        await self._caller.head(self.attempt.status, self.attempt.content_type, len(answer))
        await self._caller.body(answer, more=False)

    async def _stream(self, scope: asyncio.Timeout) -> None:
        tap, stall = self._tap, self.attempt.home.dialect.stall
        while (chunk := await self.attempt.read()) is not None:
            ready = tap.feed(chunk)
            if tap.error is not None and not tap.committed:
                raise AttemptFailed(in_stream(tap.error))
            if ready:
                await self._send_part(ready, scope)
                scope.reschedule(self._until(stall))
            if tap.error is not None:
                self.cut = in_stream(tap.error)
                return
            if tap.done:
                break  # an upstream that lingers after its last word is not waited for
        if not tap.committed:
            raise AttemptFailed(Failure(FailureKind.EMPTY, "the stream ended without content", self.attempt.status))
        if not (tap.finished or tap.done):
            self.cut = Failure(FailureKind.TRUNCATED, "the stream ended without a finish_reason", self.attempt.status)
            return
        scope.reschedule(self._until(math.inf))
        self.finished = self.attempt.done = True
        await self._caller.body(tap.end(), more=False)

    async def _send_part(self, part: bytes, scope: asyncio.Timeout) -> None:
        """Send a part of the answer, its head first; a slow caller's time is bounded by the call's deadline alone."""
        scope.reschedule(self._until(math.inf))
        if not self.committed:
            self.committed = True
            if self._tap.committed:
                self.attempt.first_content()
            await self._caller.head(self.attempt.status, self.attempt.content_type, None)
        await self._caller.body(part, more=True)
