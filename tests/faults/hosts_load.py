"""Steady calls through the load balancer, and what their answers must be.

Law: an id is `shape-number`, and what a scripted engine answers follows from it alone; so an answer can be held against
it word for word. Of a real engine's answers the usage that it told counts. Nobody tries a call twice.
"""

import asyncio
import itertools
import json
import re
from dataclasses import dataclass
from functools import cache

from tests.faults.crowd import Caller, pause_after
from tests.parts.scripted import plain, sse, usage

MODEL = "m"

PLAIN, TALK, LONG = "plain", "talk", "long"
"""A whole answer; a stream of one to four seconds; one that outlives a cut from the store."""

PACE = 0.1
"""Seconds between two words of a stream."""

CALLERS = {PLAIN: 12, TALK: 40, LONG: 8}
"""Callers of each shape."""

THINK = 0.15
"""Seconds between two whole answers of one caller."""

_WORD = "tok "
_BACKEND = re.compile(rb"\r\nx-sluiceway-backend: ?(\S+)", re.IGNORECASE)


def told(id_):
    """Return the usage that a scripted engine tells of a call."""
    shape, _, number = id_.partition("-")
    words = {PLAIN: 3, TALK: 10 + int(number) % 30, LONG: 300}[shape]
    return usage(5 + int(number) % 7, words)


@cache
def _script(streams, prompt, words):
    counted = usage(prompt, words)
    if not streams:
        return plain("fine", told=counted, model=MODEL)
    return sse(*[_WORD] * words, told=counted, every=PACE, model=MODEL)


def script(id_):
    """Return what a scripted engine plays for a call."""
    counted = told(id_)
    return _script(not id_.startswith(PLAIN), counted["prompt_tokens"], counted["completion_tokens"])


def body(shape):
    """Return the body of a call; streams ask for their usage."""
    asked = {"model": MODEL, "max_tokens": 400, "messages": [{"role": "user", "content": "hi there"}]}
    more = {} if shape == PLAIN else {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(asked | more).encode()


class Listener(Caller):
    """A caller who keeps the head of each answer too, as the answer's `head`."""

    def _end(self, *, whole):
        answer = self._answer
        if answer is not None:
            answer.head = self._head
        super()._end(whole=whole)


@dataclass
class Heard:
    """What an answer says. `ended`: whole, told (in-band, that it broke off) or broken; `words`: of scripted ones."""

    id: str
    begun: float
    at: float
    status: int
    backend: str
    ended: str
    words: int
    usage: dict | None
    text: bytes

    @property
    def is_stream(self):
        return not self.id.startswith(PLAIN)

    @property
    def is_good(self):
        """Whether its caller got all that the engine told, and a clean end."""
        if self.status != 200 or self.ended != "whole" or self.usage is None:
            return False
        if self.backend.startswith("real"):
            return True
        return self.usage == told(self.id) and (not self.is_stream or self.words == self.usage["completion_tokens"])

    @property
    def is_told(self):
        """Whether it is a stream that its caller had some of, and that says in-band that it broke off."""
        return self.status == 200 and self.is_stream and self.ended == "told"


def heard(answer):
    """Read an `Answer`."""
    head = getattr(answer, "head", b"")
    text = _unchunked(answer.text) if b"chunked" in head.lower() else answer.text
    backend = _BACKEND.search(head + b"\r\n")
    events = _events(text) if b"event-stream" in head else _members(text)
    usages = [event["usage"] for event in events if event.get("usage")]
    failed = any("error" in event for event in events)
    streamed = b"event-stream" in head
    clean = answer.whole and (not streamed or text.endswith(b"data: [DONE]\n\n"))
    ended = "told" if answer.whole and failed and not text.endswith(b"[DONE]\n\n") else "whole" if clean else "broken"
    words = text.count(f'"{_WORD}"'.encode())
    last = {name: usages[-1][name] for name in usage(0, 0)} if usages else None
    name = backend[1].decode() if backend else ""
    return Heard(answer.id, answer.begun, answer.at, answer.status, name, ended, words, last, text)


def _events(text):
    lines = [line[6:] for line in text.split(b"\n") if line.startswith(b"data: ") and line != b"data: [DONE]"]
    return [event for line in lines for event in _members(line)]


def _members(text):
    try:
        read = json.loads(text)
    except ValueError:
        return []
    return [read] if isinstance(read, dict) else []


def _unchunked(data):
    parts, at = [], 0
    while (end := data.find(b"\r\n", at)) > 0:
        size = int(data[at:end], 16)
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 4 + size
    return b"".join(parts)


class Load:
    """Callers who ask again as soon as they were answered, until `end`. `answers`: in the order of their ends."""

    def __init__(self, url, key):
        self.answers = []
        self._going = True
        numbers = itertools.count()
        self._tasks = [
            asyncio.ensure_future(self._run(Listener(url, key), shape, numbers))
            for shape, count in CALLERS.items()
            for _ in range(count)
        ]

    async def end(self):
        """Let each caller get its last answer."""
        self._going = False
        await asyncio.gather(*self._tasks)

    async def _run(self, caller, shape, numbers):
        while self._going:
            answer = await caller.ask(f"{shape}-{next(numbers)}", body(shape))
            self.answers.append(heard(answer))
            await pause_after(answer)
            if shape == PLAIN:
                await asyncio.sleep(THINK)
        caller.close()
