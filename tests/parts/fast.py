"""A load that does not hold the gateway up, and an upstream that does not either: bare asyncio protocols.

Law: small answers in one segment, nothing parsed that need not be; what is counted is statuses.
"""

import asyncio
import contextlib
import json
import time
from collections import Counter

_BODY = json.dumps(
    {
        "id": "fast-1",
        "object": "chat.completion",
        "created": 0,
        "model": "fast",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
    }
).encode()
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


class _Answering(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(_ANSWER)


@contextlib.asynccontextmanager
async def fast_upstream():
    """Answer every request with a small chat completion; yield the root URL."""
    server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


class _Asking(asyncio.Protocol):
    """One caller: asks, reads a whole answer, asks again until its time is over."""

    def __init__(self, request, until, counts):
        self.request, self.until, self.counts = request, until, counts
        self.done = asyncio.get_running_loop().create_future()
        self.buffer = b""

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data):
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0]):
            return
        self.counts[int(head[9:12])] += 1
        self.buffer = b""
        if time.monotonic() < self.until:
            self.transport.write(self.request)
        else:
            self.transport.close()

    def connection_lost(self, exc):
        if not self.done.done():
            self.done.set_result(None)


async def hammer(url, key, *, callers, seconds, model="fast"):
    """Let `callers` ask for a chat again and again for `seconds`; return how often each status came."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    request = f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    counts, until = Counter(), time.monotonic() + seconds
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: _Asking(request, until, counts), host, int(port)) for _ in range(callers)
    ]
    await asyncio.gather(*(protocol.done for _, protocol in made))
    return counts
