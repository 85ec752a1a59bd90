"""An ASGI application that answers in every way a transport has to read; `web_aiohttp` answers the same paths.

Law: it knows of every call whether its caller left early, and tells (`/left`).
"""

import asyncio
import hashlib
import json
from functools import cache

LARGE = 2 * 1024 * 1024
EVENTS = 200
TICK = 0.005
"""Seconds between two parts of an endless answer."""


@cache
def large():
    """Return the large answer's bytes, no two kilobytes alike."""
    return b"".join(b"%01023d\n" % number for number in range(LARGE // 1024))


def event(number):
    """Return one event of the stream."""
    return b"data: %b\n\n" % json.dumps({"number": number, "text": "x" * (number % 50)}).encode()


def stream():
    """Return the whole stream."""
    return b"".join(event(number) for number in range(EVENTS))


left = {"/wait": 0, "/drip": 0}
"""How many callers left each endless answer."""


async def app(scope, receive, send):
    """Answer one call."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            told = await receive()
            await send({"type": f"{told['type']}.complete"})
        return
    body = bytearray()
    more = True
    while more:
        part = await receive()
        body += part.get("body", b"")
        more = part.get("more_body", False)
    path = scope["path"]
    if path in left:
        await _endless(path, receive, send)
        return
    behind = dict(scope["headers"]).get(b"x-port")
    port = int(behind or scope["client"][1])  # granian gives it as text
    status, parts, length = answer(path, bytes(body), port)
    headers = [(b"content-type", b"application/json")]
    if length:
        headers.append((b"content-length", b"%d" % sum(map(len, parts))))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def answer(path, body, port):
    """Return the status, the parts of the body and whether their length is told."""
    if path.startswith("/status/"):
        return int(path.removeprefix("/status/")), [b'{"error": "as asked"}'], True
    parts = {
        "/small": lambda: [b"%d" % port],
        "/large/length": lambda: [large()],
        "/large/chunked": lambda: [large()[at : at + 30_000] for at in range(0, LARGE, 30_000)],
        "/stream": lambda: [event(number) for number in range(EVENTS)],
        "/sum": lambda: [hashlib.sha256(body).hexdigest().encode()],
        "/left": lambda: [json.dumps(left).encode()],
    }[path]()
    return 200, parts, len(parts) == 1


async def _endless(path, receive, send):
    """Answer nothing, or without an end, until the caller leaves."""
    gone = asyncio.ensure_future(receive())
    if path == "/drip":
        await send({"type": "http.response.start", "status": 200, "headers": []})
    while not gone.done():
        if path == "/drip":
            await send({"type": "http.response.body", "body": b"drip\n", "more_body": True})
        await asyncio.wait([gone], timeout=TICK)
    left[path] += 1
