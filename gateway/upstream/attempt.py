"""One try of one deployment: from sending to the last byte, or to the failure.

Law: load is held from `open` to `close`; `close` is called exactly once by whoever opened, never waits, and closes the
upstream connection at once unless the answer was read to its end. Everything that can go wrong is an `AttemptFailed`.
"""

import asyncio
import contextlib
import math
import re

from gateway import clock
from gateway.upstream.connection import Headers
from gateway.upstream.fleet import Home
from gateway.upstream.polling import REQUEST_ID, fetched, place_of
from gateway.upstream.transport import ERRORS, Answer, failure_of
from policies.domain import API, Candidate, Usage
from policies.failures import Failure, FailureKind, classify
from policies.freezes import told_wait
from policies.live import Ticket

ERROR_BODY = 1024 * 1024
"""Bytes of an error answer that are read; a longer one is not an answer that a caller could use."""


LAST_WORDS = 0.1
"""Seconds that an upstream gets to end an answer that is done."""

LEAST_PACED = 8
"""Output tokens below which an answer says nothing of pace."""

# Headers by which upstreams tell what they call a call, and what has become of it.
_NAMES = (
    ("sluiceway.upstream_request_id", (REQUEST_ID, b"x-request-id")),
    ("sluiceway.nvcf_status", (b"nvcf-status",)),
)
_PLAIN = re.compile(rb"[!-~]{1,128}")


class Passed:
    """An upstream's own answer that may become the caller's: status, content type, body."""

    __slots__ = ("body", "content_type", "status")

    def __init__(self, status: int, content_type: str, body: bytes) -> None:
        self.status = status
        self.content_type = content_type
        self.body = body


class AttemptFailed(Exception):  # noqa: N818 - an outcome, not a programming error
    """The attempt failed before its caller saw anything; `passed` is the upstream's own answer, if there was one."""

    def __init__(self, failure: Failure, passed: Passed | None = None) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.passed = passed


class Attempt:
    """One try of `candidate`'s deployment, with the load that `ticket` holds there.

    `sent_at`, `first_at`: monotonic seconds, `first_at` 0.0 until a stream's first content. `written`: the upstream may
    have begun to work. `done`: what is still to come of the answer is its end. `told`: the headers of the answer.
    """

    def __init__(self, home: Home, ticket: Ticket, candidate: Candidate, choices: int = 1) -> None:
        """`choices`: those of the call, which engines count one by one."""
        self.home = home
        self.ticket = ticket
        self.candidate = candidate
        self.status = 0
        self.content_type = ""
        self.told: dict[bytes, bytes] = {}
        self.sent_at = clock.monotonic()
        self.first_at = 0.0
        self.written = False
        self.done = False
        self._answer: Answer | None = None
        self._choices = choices
        self._more = 0

    @property
    def names(self) -> dict[str, str]:
        """What the upstream calls this call, as attributes of a span: where it told, and in plain characters."""
        found: dict[str, str] = {}
        for attribute, headers in _NAMES:
            value = next((self.told[header] for header in headers if header in self.told), b"")
            if _PLAIN.fullmatch(value):
                found[attribute] = self.home.discreet(value).decode()
        return found

    async def open(self, api: API, body: bytes, headers: Headers, patience: float) -> None:
        """Send `body` and wait for the answer's head. Raises AttemptFailed for anything but a 2xx without a coding.

        `patience`: the seconds that are waited for it, which some upstreams want to know.
        """
        home = self.home
        self._more = self._choices - 1
        home.more[self.candidate.deployment.id] += self._more
        asked = [*home.headers, *headers, *_waits(home, patience)]
        try:
            answer = self._take(await home.transport.post(home.urls[api], asked, body, self._begin))
            if answer.status == 202:
                answer = await self._promised(answer, asked)
        except ERRORS as error:
            raise AttemptFailed(failure_of(error)) from error
        self.status = answer.status
        told = self.told
        content_type = told.get(b"content-type", b"application/json")
        self.content_type = content_type.decode() if content_type.isascii() else "application/octet-stream"
        if not 200 <= self.status < 300:
            raise await self._refused()
        if self.status == 202:
            raise AttemptFailed(Failure(FailureKind.UNAVAILABLE, "answered that it will answer later", 202))
        coding = told.get(b"content-encoding", b"identity")
        if coding != b"identity":
            raise AttemptFailed(Failure(FailureKind.PROTOCOL, f"answered in {coding!r} though identity was asked"))

    async def _promised(self, answer: Answer, asked: Headers) -> Answer:
        """Return the answer that `answer` promises for later, itself where it cannot be fetched. Raises `ERRORS`.

        `asked`: the headers that it was asked for with.
        """
        place = place_of(self.home, self.told.get(REQUEST_ID))
        return answer if place is None else self._take(await fetched(self.home, place, asked, answer))

    def _take(self, answer: Answer) -> Answer:
        self._answer = answer
        self.told = dict(answer.headers)
        return answer

    async def _refused(self) -> AttemptFailed:
        body = bytearray()
        while len(body) <= ERROR_BODY and (chunk := await self.read()) is not None:
            body += chunk
        if self.status < 400:
            return AttemptFailed(Failure(FailureKind.PROTOCOL, f"answered {self.status} to a POST", self.status))
        said = self.home.discreet(bytes(body))
        failure = classify(self.status, said, told_wait(self.told, clock.wall()))
        return AttemptFailed(failure, Passed(self.status, self.content_type, said))

    async def read(self) -> bytes | None:
        """Return the next bytes of the answer, None at its end. Raises AttemptFailed."""
        if self._answer is None:
            raise RuntimeError("an attempt is read after it was opened")
        try:
            chunk = await self._answer.read()
        except ERRORS as error:
            raise AttemptFailed(failure_of(error)) from error
        return None if chunk is None else self.home.discreet(chunk)

    def unheard(self) -> None:
        """Note that no first content came for as long as it was waited for."""
        now = clock.monotonic()
        self.ticket.live.first_token(now, now - self.sent_at, self.ticket.ahead)

    def first_content(self) -> None:
        """Note a stream's first content: the prompt is out of the queue and its time is learned."""
        self.first_at = clock.monotonic()
        self.ticket.prefilled(self.first_at)
        self.ticket.live.breaker.begun(probe=self.ticket.probe)
        ttft = self.first_at - self.sent_at
        self.ticket.live.first_token(self.first_at, ttft, self.ticket.ahead)

    def served(self, told: Usage | None) -> None:
        """Note a whole answer; a plain one's prompt is known only now to be in the cache.

        What the upstream told of its cache shows how far guesses of it can be trusted.
        """
        if not self.first_at:
            self.ticket.prefilled(clock.monotonic())
        if told is not None and told.prompt_tokens:
            self.ticket.live.prefilled.told(self.candidate.cached, told.cached_tokens / told.prompt_tokens)

    def finished(self, completion_tokens: int) -> None:
        """Note a whole answer of that many output tokens: its pace is learned.

        A plain answer does not tell when it began: all of its time is.
        """
        if completion_tokens < LEAST_PACED:
            return
        now, ticket = clock.monotonic(), self.ticket
        if not self.first_at:
            seconds = now - self.sent_at
            ticket.live.latency.observe_whole(now, seconds, ticket.ahead, completion_tokens - 1, ticket.beside)
        elif now > self.first_at:
            ticket.paced(now, now - self.first_at, completion_tokens - 1)

    def close(self) -> None:
        """Give the load back and close the upstream connection, without waiting for it."""
        self.ticket.close()
        self.home.more[self.candidate.deployment.id] -= self._more
        self._more = 0
        if self._answer is None:
            return
        if self.done and not self._answer.ended:
            clock.spawn(_last_words(self._answer), "last-words-of-an-upstream")
        else:
            self._answer.close()

    def _begin(self) -> None:
        self.written = True


def _waits(home: Home, patience: float) -> Headers:
    """Return the header that tells the upstream how long it is waited for, where its dialect has one."""
    if home.dialect.waits is None:
        return []
    name, most = home.dialect.waits
    return [(name.encode(), b"%d" % max(1, math.ceil(min(patience, most))))]


async def _last_words(answer: Answer) -> None:
    """Read an answer that is done to its end, so that its connection can be used again."""
    with contextlib.suppress(*ERRORS, TimeoutError):  # what it says on the way out concerns nobody
        async with asyncio.timeout(LAST_WORDS):
            while await answer.read() is not None:
                pass
    answer.close()
