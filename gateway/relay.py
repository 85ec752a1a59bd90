"""The send loop of one attempt: bytes out as they come, a tap on the side.

Law: until `committed`, the caller has seen nothing of this answer and any failure is an `AttemptFailed` that lets
another deployment try; after it a failure is told in-band and never looks like a clean end. What was seen so far
(`usage`, `events`) can be read at any moment, since the caller may leave at any. A slow caller pauses the upstream:
nothing is read while sending.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.errors import Headers
from gateway.patience import Patience
from gateway.upstream.attempt import Attempt, AttemptFailed
from policies.apis import APIS
from policies.continuation import SeamError
from policies.deadlines import first_content, stall, whole_answer
from policies.domain import Deadlines, InferenceRequest, Usage
from policies.failures import Failure, FailureKind, in_stream, of_answer, of_nothing, says_nothing
from policies.rejections import Rejection
from policies.sse import EVENTS, EventTooLargeError
from policies.taps import Tap, tap_of
from policies.usage import usage_in, usage_of

TAIL = 64 * 1024
"""Bytes at the end of a longer one in which its usage is looked for."""

BUFFERED = 8 * 1024 * 1024
"""Bytes of a plain answer that are held so that it can still fail over; a longer one is committed there."""


_UNFED = Tap()
"""What watches an answer that is no stream."""


class Caller(Protocol):
    """The one who is answered. `status` is 0 until a head is out; with keep-alives that may be before any answer."""

    status: int

    async def head(self, status: int, content_type: str, length: int | None) -> None:
        """Send the answer's head, unless one is out; `length` is the body's, where it is known."""

    async def body(self, part: bytes, *, more: bool) -> None:
        """Send a part of the answer's body."""


class Watch(Protocol):
    """Who watches how much a stream says. `at`: content events from which on `outgrown` must be asked."""

    at: int

    def outgrown(self, events: int, told: Usage | None) -> Rejection | None:
        """Take note of so many events, and of the usage that was `told`; a Rejection where the stream must end."""


class Relay:
    """One attempt's answer on its way to the caller.

    `usage`: as told, else None. `events`: content events of a stream. `answer_bytes`: of a plain answer. `finished`:
    the upstream's answer was whole. `cut`: how a committed answer failed; `told`: the caller has read it from the
    upstream. `stopped`: the limit that a stream outgrew, where it was ended for it. `malformed`: events that were not
    JSON.
    """

    def __init__(
        self,
        attempt: Attempt,
        request: InferenceRequest,
        caller: Caller,
        watch: Watch,
        deadline: float,
        *,
        deadlines: Deadlines,
        prompt_tokens: int,
        last: bool,
        serves: Callable[[], None],
        hand: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self.attempt = attempt
        self.committed = False
        self.finished = False
        self.cut: Failure | None = None
        self.stopped: Rejection | None = None
        self.answer_bytes = 0
        self._usage: Usage | None = None
        self._tap = _UNFED
        if request.stream:
            self._tap = tap_of(request.api, withhold_usage=not request.wants_usage, choices=request.choices)
        self._request = request
        self._caller = caller
        self._watch = watch
        self._patience = Patience(deadline)
        self._deadlines = deadlines
        self._stall = stall(deadlines, attempt.home.dialect.stall)
        self._prompt_tokens = prompt_tokens
        self._last = last
        self._serves = serves
        self._hand = hand

    @property
    def usage(self) -> Usage | None:
        """What the upstream told of tokens so far."""
        return self._usage or self._tap.usage

    @property
    def events(self) -> int:
        """Content events so far."""
        return self._tap.events

    @property
    def number(self) -> int:
        """Events of a stream so far, where its API numbers them."""
        return self._tap.number

    @property
    def malformed(self) -> int:
        """Events passed on although they were not JSON."""
        return self._tap.malformed

    @property
    def streams(self) -> bool:
        """Whether the upstream answers with a stream."""
        return self._request.stream and self.attempt.content_type.startswith(EVENTS)

    @property
    def told(self) -> bool:
        """Whether the upstream's own error event was passed on, in a shape that every client knows."""
        return self.committed and self._tap.error_shown and self._hand is None

    async def run(self, body: bytes, headers: Headers) -> None:
        """Send `body` and relay the answer. Raises AttemptFailed while uncommitted."""
        candidate = self.attempt.candidate
        try:
            with self._patience:
                self._patience.wait(
                    first_content(candidate, self._deadlines, last=self._last)
                    if self._request.stream
                    else whole_answer(candidate)
                )
                await self.attempt.open(self._request.api, body, headers, self._patience.left)
                if self.streams:
                    await self._stream()
                else:
                    await self._plain()
        except TimeoutError:
            self._fail(Failure(self._too_late(), "nothing came in time"))
        except EventTooLargeError as error:
            self._fail(Failure(FailureKind.PROTOCOL, str(error)))
        except SeamError as error:
            self._fail(Failure(FailureKind.MISFIT, str(error)))
        except AttemptFailed as failed:
            if not self.committed:
                raise
            self.cut = failed.failure

    def _fail(self, failure: Failure) -> None:
        if not self.committed:
            raise AttemptFailed(failure)
        self.cut = failure

    def _too_late(self) -> FailureKind:
        """Tell whose time was up: only an upstream's own says anything about it."""
        if self._patience.spent:
            return FailureKind.DEADLINE
        return FailureKind.STALL if self.committed else FailureKind.SILENCE

    async def _commit(self, length: int | None) -> None:
        """Send the head. Raises AttemptFailed where the answer is plain and a stream was promised."""
        if self._caller.status and not self.attempt.content_type.startswith(EVENTS):
            raise AttemptFailed(Failure(FailureKind.PROTOCOL, "answered a streamed call without a stream"))
        self.committed = True
        self._serves()
        await self._caller.head(self.attempt.status, self.attempt.content_type, length)

    async def _plain(self) -> None:
        leaving = asyncio.get_running_loop().call_later(self.attempt.candidate.ttft, self.attempt.ticket.leave_queue)
        try:
            await self._whole()
        finally:
            leaving.cancel()

    async def _whole(self) -> None:
        parts: list[bytes] = []
        tail = b""
        while (chunk := await self.attempt.read()) is not None:
            self.answer_bytes += len(chunk)
            parts.append(chunk)
            if self.committed or self.answer_bytes > BUFFERED:
                part = b"".join(parts)
                parts.clear()
                tail = (tail + part)[-TAIL:]
                self._patience.rest()
                if not self.committed:
                    await self._commit(None)
                await self._caller.body(part, more=True)
                self._patience.wait(self._stall)
        self._patience.rest()
        if self.committed:
            if not tail.rstrip().endswith(b"}"):  # a body that only the connection's end ends may be cut anywhere
                raise AttemptFailed(Failure(FailureKind.TRUNCATED, "the answer is not a whole JSON object"))
            self.finished = True
            self._usage = usage_in(tail)
            await self._caller.body(b"", more=False)
            return
        answer = b"".join(parts)
        try:
            self._usage = usage_of(answer)
        except ValueError as error:
            raise AttemptFailed(Failure(FailureKind.TRUNCATED, str(error))) from error
        if self._usage is None:
            failure = of_answer(answer)
            if failure is not None:
                raise AttemptFailed(failure)
        elif not self._usage.completion_tokens and APIS[self._request.api].generates:
            self._overflowed(answer)
        await self._commit(len(answer))
        self.finished = True
        await self._caller.body(answer, more=False)

    async def _stream(self) -> None:
        tap, watch = self._tap, self._watch
        while not tap.over() and (chunk := await self.attempt.read()) is not None:
            if ready := tap.feed(chunk):
                await self._send(ready)
            if tap.events >= watch.at and self._outgrown():
                return
            if self.committed:
                self._patience.wait(self._stall)
        if ready := tap.end():
            await self._send(ready)
        self._patience.rest()
        if tap.error is not None:
            self._fail(in_stream(tap.error))
        elif not tap.committed:
            self._fail(self._nothing())
        elif not tap.finished:
            self._fail(Failure(FailureKind.TRUNCATED, "the stream ended and did not say why", self.attempt.status))
        else:  # an upstream that lingers after its last word is not waited for
            self.finished = self.attempt.done = True
            await self._caller.body(tap.last, more=False)

    def _nothing(self) -> Failure:
        """Say what it means that nothing came."""
        told, window = self.usage, self.attempt.candidate.deployment.context_window
        return of_nothing(self._prompt_tokens if told is None else told.prompt_tokens, window)

    def _overflowed(self, end: bytes) -> None:
        """Raise AttemptFailed where an answer that ends so, without a word before, is an overflow."""
        nothing = self._nothing()
        if says_nothing(end) and nothing.kind is FailureKind.CONTEXT_OVERFLOW:
            raise AttemptFailed(nothing)

    def _outgrown(self) -> bool:
        """Say whether the stream must end here; one that has said all there is to say need not."""
        tap = self._tap
        if not (tap.over() or (tap.finished and self._request.choices == 1)):
            self.stopped = self._watch.outgrown(tap.events, tap.usage)
        return self.stopped is not None

    async def _send(self, events: bytes) -> None:
        """Send whole events, the head before the first; only the call's deadline bounds a slow caller's time."""
        self._patience.rest()
        if not self.committed:
            if self._tap.finished and not self._tap.events:
                self._overflowed(events)
            self.attempt.first_content()
            await self._commit(None)
        if self._hand is not None:
            events = self._hand(events)
        if events:
            await self._caller.body(events, more=True)
