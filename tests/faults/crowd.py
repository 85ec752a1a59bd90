"""Callers that ask again and again, over bare connections, and may leave in the middle of an answer.

Law: a caller knows when it left and what it had read by then; moments are time.monotonic of this process, which is the
upstreams' as well. Each call has an id of its own, which is its `x-request-id` all the way to the upstream.
"""

import asyncio
import re
import time
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length: ?(\d+)", re.IGNORECASE)
_RETRY = re.compile(rb"\r\nretry-after-ms: ?(\d+)", re.IGNORECASE)

WORD = b"tok "
"""What every event of a scripted stream says."""

REFUSED_FOR = 0.05
"""Seconds at most that a refused caller waits before it asks again: it shall go on pressing against the limit."""

GONE_FOR = 0.02
"""Seconds before a caller asks again that got no answer, or a 5xx."""


@dataclass
class Answer:
    """What came of one call. `status` 0: the connection broke before a head. `whole`: it was read to its end."""

    id: str
    status: int = 0
    whole: bool = False
    left: bool = False
    """Whether the caller left."""
    begun: float = 0.0
    at: float = 0.0
    """When it ended."""
    words: int = 0
    """Events read, where the caller left."""
    retry: float = 0.0
    """Seconds after which a refused one may come again."""
    text: bytes = b""


class Caller(asyncio.Protocol):
    """One caller: one connection, opened when there is none."""

    def __init__(self, url, key):
        self._host, port = url.removeprefix("http://").split(":")
        self._port = int(port)
        self._key = key
        self._transport = None
        self._answer = None

    async def ask(self, id_, body, *, leave_after=None, lag=0.0):
        """Make a call; leave `lag` seconds after `leave_after` events came. Return its `Answer`."""
        answer = Answer(id_, begun=time.monotonic())
        self._leave_after, self._lag, self._leaving = leave_after, lag, None
        self._head = self._body = b""
        self._length = None
        self._done = asyncio.get_running_loop().create_future()
        self._answer = answer
        if self._transport is None or self._transport.is_closing():
            try:
                await asyncio.get_running_loop().create_connection(lambda: self, self._host, self._port)
            except OSError:
                answer.at = time.monotonic()
                return answer
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self._key}\r\n"
        head += f"x-request-id: {id_}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)
        return await self._done

    def close(self):
        """Leave for good."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport):
        self._transport = transport

    def connection_lost(self, exc):
        self._transport = None
        self._end(whole=False)

    def data_received(self, data):
        if self._answer is None:
            return
        if not self._answer.status:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._answer.status = int(head[9:12])
            told = _LENGTH.search(head + b"\r\n")
            self._length = None if told is None else int(told[1])
            self._head = head
        self._body += data
        if self._body.endswith(b"\r\n0\r\n\r\n") if self._length is None else len(self._body) >= self._length:
            self._end(whole=True)
        elif self._leave_after is not None and self._leaving is None and self._words() >= self._leave_after:
            self._leaving = asyncio.get_running_loop().call_later(self._lag, self._leave)

    def _words(self):
        return self._body.count(WORD)

    def _leave(self):
        if self._answer is not None:
            self._answer.left = True
            self._answer.words = self._words()
            self._transport.abort()
            self._end(whole=False)

    def _end(self, *, whole):
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if self._leaving is not None:
            self._leaving.cancel()
        answer.at = time.monotonic()
        answer.whole = whole
        answer.text = self._body
        told = _RETRY.search(self._head + b"\r\n")
        answer.retry = int(told[1]) / 1000 if told else 0.0
        if not self._done.done():
            self._done.set_result(answer)


async def pause_after(answer):
    """Wait as long as a caller does who is in a hurry, after an answer that was none."""
    if answer.status == 429:
        await asyncio.sleep(min(REFUSED_FOR, answer.retry))
    elif answer.status != 200:
        await asyncio.sleep(GONE_FOR)
