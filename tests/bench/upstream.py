"""The bench's upstream: a process of its own that costs next to nothing, so that what is measured is in front of it.

Law: one answer at a time is set, by `PUT /answer?events=N&rate=N`, and every POST gets it; GETs answer what routers ask
of a worker. Nothing of a request is parsed but its end. Each event of a stream is an HTTP chunk of its own, as engines
send them, and says when it was written (nanoseconds of the machine's monotonic clock), so that its delay can be read.
"""

import asyncio
import gc
import json
import re
import sys
import time
from typing import ClassVar

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: ?(\d+)", re.IGNORECASE)
_ANSWER = re.compile(rb"PUT /answer\?events=(\d+)&rate=([\d.]+) ")
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b"
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TICK = 0.002
"""Seconds between two looks at which paced streams are due."""

_USAGE = {"prompt_tokens": 5, "completion_tokens": 50, "total_tokens": 55}
_PLAIN = json.dumps(
    {
        "id": "bench-1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "A short answer."}}
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
    }
).encode()
_LIST = json.dumps(
    {"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "bench"}]}
).encode()


def _chunk(payload):
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def event(content, finish=None):
    """Return one chat chunk, as a server-sent event in an HTTP chunk."""
    choice = {"index": 0, "delta": {"content": content} if finish is None else {}, "finish_reason": finish}
    data = {"id": "bench-1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
    return _chunk(b"data: " + json.dumps(data).encode() + b"\n\n")


_ROLE = _chunk(
    b'data: {"id": "bench-1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": '
    b'[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]}\n\n'
)
_LAST = (
    event("", finish="stop")
    + _chunk(
        b'data: {"id": "bench-1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [], '
        b'"usage": ' + json.dumps(_USAGE).encode() + b"}\n\n"
    )
    + _chunk(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)
_BEFORE, _AFTER = event("0" * 19).split(b"0" * 19)


def stamped():
    """Return an event whose content is this moment."""
    return b"%b%019d%b" % (_BEFORE, time.monotonic_ns(), _AFTER)


class Answer:
    """What every POST gets: `events` 0 a plain answer; `rate` 0 all events at once, else so many a second."""

    def __init__(self):
        self.set(0, 0)

    def set(self, events, rate):
        self.events, self.rate = events, rate
        self.whole = _OK % (b"application/json", len(_PLAIN), _PLAIN)
        if events:
            self.whole = _STREAM + _ROLE + b"".join(event(f"word{n} ") for n in range(events)) + _LAST


class Upstream(asyncio.Protocol):
    """One connection."""

    answer: ClassVar[Answer] = Answer()
    paced: ClassVar[list[list["Upstream"]]] = [[] for _ in range(4096)]
    """Streams by the tick at which their next event is due, as a wheel: 8 s around, which is the slowest pace."""
    now: ClassVar[int] = 0

    def connection_made(self, transport):
        self.transport = transport
        self.head, self.missing = b"", 0
        self.left = 0

    def data_received(self, data):
        if self.missing > 0:
            self.missing -= len(data)
        else:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            told = _LENGTH.search(self.head, 0, end + 2)
            if told is None and b"chunked" in self.head[:end].lower():
                self.missing = 0 if self.head.endswith(b"0\r\n\r\n") else -1
            else:
                self.missing = (int(told[1]) if told else 0) - (len(self.head) - end - 4)
        if self.missing == 0:
            self.reply(self.head)
            self.head = b""

    def reply(self, head):
        if head.startswith(b"POST /v1/traces"):
            self.transport.write(_OK % (b"application/x-protobuf", 0, b""))
        elif head.startswith(b"POST"):
            self.serve(self.answer)
        elif head.startswith(b"PUT"):
            events, rate = _ANSWER.match(head).groups()
            self.answer.set(int(events), float(rate))
            self.transport.write(_OK % (b"application/json", 2, b"{}"))
        else:
            body = _LIST if b"/models" in head[:40] else b"{}"
            self.transport.write(_OK % (b"application/json", len(body), body))

    def serve(self, answer):
        if not answer.rate:
            self.transport.write(answer.whole)
            return
        self.transport.write(_STREAM + _ROLE + stamped())
        self.left = answer.events - 1
        self.wait(round(1 / answer.rate / TICK))

    def wait(self, ticks):
        self.step = ticks
        self.paced[(Upstream.now + ticks) % len(self.paced)].append(self)

    @classmethod
    async def run_wheel(cls):
        """Write what is due, tick by tick; a late tick is made up for at once."""
        begun = time.monotonic()
        while True:
            cls.now += 1
            await asyncio.sleep(max(0.0, begun + cls.now * TICK - time.monotonic()))
            due = cls.paced[cls.now % len(cls.paced)]
            cls.paced[cls.now % len(cls.paced)] = []
            for stream in due:
                stream.go_on()

    def go_on(self):
        if self.transport.is_closing():
            return
        if not self.left:
            self.transport.write(_LAST)
            return
        self.left -= 1
        self.transport.write(stamped())
        self.wait(self.step)


async def main(port):
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", port, backlog=4096)
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    await asyncio.gather(server.serve_forever(), Upstream.run_wheel())


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
