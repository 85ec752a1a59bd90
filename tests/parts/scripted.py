"""An upstream that does, for each request, exactly what the test wrote down.

Law: a script is a list of steps and they happen in order, no others; GETs list the model and use up no script. The
record of each call says what was sent and when the client left.
"""

import asyncio
import json
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.parts.http1 import Connection, Http1Server, Received


@dataclass
class Call:
    """What became of one scripted request."""

    request: Received
    connection: Connection
    tokens: int = 0
    """Tokens written so far."""
    written: list[tuple[float, int]] = field(default_factory=list)
    """When tokens were written (time.monotonic), and how many there were by then."""
    finished: bool = False
    """Whether the script ran to its end with the client still there."""
    chunked: bool = False
    over: bool = False
    """Whether a step ended the connection."""

    @property
    def left_at(self) -> float | None:
        """When the client left, on time.monotonic."""
        return self.connection.left_at

    def written_by(self, at: float) -> int:
        """Return the tokens that were written by that moment."""
        before = bisect_right(self.written, at, key=lambda one: one[0])
        return self.written[before - 1][1] if before else 0


class Step:
    """One thing that an upstream does."""

    async def play(self, call: Call) -> None:
        """Do it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Status(Step):
    """The answer's first line and headers; without a content-length the bytes after it go out in chunked coding."""

    code: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})

    async def play(self, call):
        call.chunked = "content-length" not in {name.lower() for name in self.headers}
        headers = self.headers | ({"transfer-encoding": "chunked"} if call.chunked else {})
        lines = [f"HTTP/1.1 {self.code} ", *(f"{name}: {value}" for name, value in headers.items())]
        await call.connection.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))


@dataclass(frozen=True)
class Bytes(Step):
    """A part of the body. `tokens` is what it counts for in the record."""

    data: bytes
    tokens: int = 0

    async def play(self, call):
        framed = b"%x\r\n%b\r\n" % (len(self.data), self.data)
        await call.connection.write(framed if call.chunked else self.data)
        if self.tokens:
            call.tokens += self.tokens
            call.written.append((time.monotonic(), call.tokens))


@dataclass(frozen=True)
class Raw(Step):
    """Bytes outside any framing: a broken head, half a chunk."""

    data: bytes

    async def play(self, call):
        await call.connection.write(self.data)


@dataclass(frozen=True)
class Pause(Step):
    """Do nothing for some seconds."""

    seconds: float

    async def play(self, call):
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True)
class Until(Step):
    """Do nothing until the test sets the event."""

    event: asyncio.Event

    async def play(self, call):
        await self.event.wait()


@dataclass(frozen=True)
class Reset(Step):
    """Break the connection (RST)."""

    async def play(self, call):
        call.over = True
        call.connection.reset()


@dataclass(frozen=True)
class Close(Step):
    """Close the connection in order (FIN) without ending the body: a truncated answer."""

    async def play(self, call):
        call.over = True
        call.connection.close()


@dataclass(frozen=True)
class Hang(Step):
    """Do nothing until the client leaves."""

    async def play(self, call):
        await asyncio.Event().wait()


class ScriptedServer(Http1Server):
    """Plays the queued scripts, one a POST; when none is queued, `default`, or else a short good answer."""

    def __init__(self, model: str = "scripted") -> None:
        super().__init__()
        self.model = model
        self.calls: list[Call] = []
        self.default: Sequence[Step] | None = None
        self._scripts: deque[Sequence[Step]] = deque()

    def enqueue(self, *scripts: Iterable[Step]) -> None:
        """Queue scripts for the next POSTs, in order."""
        self._scripts.extend([*script] for script in scripts)

    @property
    def running(self) -> int:
        """The number of calls whose script goes on with their client still there."""
        return sum(not call.finished and call.connection in self.connections for call in self.calls)

    async def handle(self, request: Received, connection: Connection) -> None:
        if request.method == "GET":
            known = request.path == "/v1/models"
            listed = {"object": "list", "data": [{"id": self.model, "object": "model", "created": 0, "owned_by": "-"}]}
            await connection.answer(200 if known else 404, json.dumps(listed if known else {}).encode())
            return
        call = Call(request, connection)
        self.calls.append(call)
        await self._play(call, self._scripts.popleft() if self._scripts else self.script(request))

    def script(self, request: Received) -> Sequence[Step]:
        """Return what is played for a request that no script was queued for."""
        return good_answer(request.body) if self.default is None else self.default

    async def _play(self, call: Call, script: Sequence[Step]) -> None:
        for step in script:
            await step.play(call)
            if call.over:
                return
        if call.chunked:
            await call.connection.write(b"0\r\n\r\n")
        call.finished = True


def event(data: dict[str, Any], tokens: int = 0) -> Bytes:
    """Make one server-sent event."""
    return Bytes(b"data: %b\n\n" % json.dumps(data).encode(), tokens)


DONE = Bytes(b"data: [DONE]\n\n")


def delta(model: str = "scripted", finish: str | None = None, **fields: Any) -> Bytes:
    """Make one chat delta: `delta(content="a")`, `delta(finish="stop")`; one with content counts as one token."""
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    chunk = {"id": "c-1", "object": "chat.completion.chunk", "created": 0, "model": model, "choices": [choice]}
    return event(chunk, tokens=1 if fields.get("content") else 0)


def usage(prompt: int, output: int) -> dict[str, int]:
    """Make an OpenAI usage object."""
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def sse(
    *words: str, told: dict[str, int] | None = None, every: float = 0.0, end: bool = True, model: str = "scripted"
) -> list[Step]:
    """Script a chat stream: a role, a word every `every` seconds; then, if `end`, the finish, usage `told`, [DONE]."""
    steps: list[Step] = [Status(200, {"content-type": "text/event-stream"}), delta(model, role="assistant", content="")]
    for word in words:
        steps += [Pause(every), delta(model, content=word)] if every else [delta(model, content=word)]
    if end:
        steps.append(delta(model, finish="stop"))
        if told is not None:
            chunk = {"id": "c-1", "object": "chat.completion.chunk", "created": 0, "model": model, "choices": []}
            steps.append(event(chunk | {"usage": told}))
        steps.append(DONE)
    return steps


def plain(text: str = "fine", *, told: dict[str, int] | None = None, model: str = "scripted") -> list[Step]:
    """Script a whole chat answer of the right length, with usage unless `told` is empty."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    answer = {"id": "c-1", "object": "chat.completion", "created": 0, "model": model, "choices": [choice]}
    count = usage(3, len(text.split())) if told is None else told
    return whole(200, answer | ({"usage": count} if count else {}), tokens=count.get("completion_tokens", 0))


def error(status: int, message: str = "no", **headers: str) -> list[Step]:
    """Script an OpenAI error. Underscores in header names become hyphens: `error(503, retry_after="1")`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    kind = "invalid_request_error" if status < 500 else "server_error"
    return whole(status, {"error": {"message": message, "type": kind, "param": None, "code": None}}, **named)


def whole(status: int, body: dict[str, Any], tokens: int = 0, **headers: str) -> list[Step]:
    """Script any JSON answer of the right length."""
    data = json.dumps(body).encode()
    head = {"content-type": "application/json", "content-length": str(len(data))} | headers
    return [Status(status, head), Bytes(data, tokens)]


def good_answer(body: bytes) -> list[Step]:
    """Script the short good answer to a chat request: plain or streamed, with usage where it was asked for."""
    asked = json.loads(body)
    if not asked.get("stream"):
        return plain()
    wanted = (asked.get("stream_options") or {}).get("include_usage")
    return sse("all", " is", " well", told=usage(3, 3) if wanted else None)
