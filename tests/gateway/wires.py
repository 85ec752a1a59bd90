"""A listener with an app of its own behind it, and callers who write what they like."""

import asyncio
import contextlib
import json
import socket
import ssl

from gateway import listener
from gateway.connections import Connections
from gateway.tls import server_context

BIG = 30_000_000
"""More than two sockets and TLS hold."""


class App:
    """An ASGI application that echoes bodies, and refuses, holds or inflates answers on the paths that say so."""

    def __init__(self):
        self.seen = []
        self.origins = []
        self.held = {"/held"}
        self.gate = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, scope, receive, send):
        self.seen.append((scope["method"], scope["path"], scope["headers"]))
        self.origins.append((scope["client"][0], scope["scheme"]))
        body, status = b"", 200
        if scope["path"] == "/refused":
            status = 401
        elif scope["path"] == "/big":
            body = b"a" * BIG
        elif scope["path"] in self.held:
            await self._hold(receive)
        elif scope["path"] == "/stream":
            await self._stream(send)
            return
        else:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message["body"]
                more = message["more_body"]
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, send):
        """Begin an answer, and end it well when the gate opens, or when it is cut."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        with contextlib.suppress(asyncio.CancelledError):
            await self.gate.wait()
        await send({"type": "http.response.body", "body": b"ended"})

    async def _hold(self, receive):
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise


class Caller:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def send(self, *segments):
        for segment in segments:
            self.writer.write(segment)
            await self.writer.drain()
            if len(segments) > 1:
                await asyncio.sleep(0.01 if len(segments) < 10 else 0)

    async def answer(self):
        """Return (status, body) of the next answer."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        return int(head.split()[1]), await self.reader.readexactly(int(lengths[0]) if lengths else 0)

    async def refusal(self):
        """Return (status, code) of an answer in OpenAI's shape after which the connection ends."""
        status, body = await self.answer()
        assert await asyncio.wait_for(self.reader.read(), 10) == b""
        error = json.loads(body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return status, error["code"]

    async def is_closed(self):
        """Wait until the other side ends, and return what came before."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), 10)
        return b""


class World:
    def __init__(self, app, server, bound, house, trust):
        self.app, self.server, self.bound, self.house, self.trust = app, server, bound, house, trust
        self.port = bound.getsockname()[1]

    @contextlib.asynccontextmanager
    async def caller(self):
        name = None if self.trust is None else "localhost"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trust, server_hostname=name)
        try:
            yield Caller(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    @property
    def requests(self):
        return [(method, path) for method, path, _ in self.app.seen]


@contextlib.asynccontextmanager
async def world(house=None, pair=None, proxies=(), grace=5):
    """Run an App behind a listener, over TLS where a `pair` of a certificate and its key is given."""
    async with contextlib.AsyncExitStack() as stack:
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.bind(("127.0.0.1", 0))
        bound.setblocking(False)
        app = App()
        house = Connections(1000) if house is None else house
        context = server_context(*pair) if pair else None
        trust = ssl.create_default_context(cafile=pair[0]) if pair else None
        server = await listener.listen(stack, app, bound, house, context=context, proxies=proxies)
        server.grace = grace
        yield World(app, server, bound, house, trust)


def post(path, body, *headers):
    lines = [b"POST %s HTTP/1.1" % path, b"host: x", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def pour(caller, start, filler):
    """Send without end, until the other side has had enough."""
    with contextlib.suppress(ConnectionError):
        await caller.send(start)
        while not caller.reader.at_eof():
            await caller.send(filler)
            await asyncio.sleep(0)


class Crypt:
    """A caller over TLS who moves every record by hand, and answers no farewell."""

    def __init__(self, it, reader, writer):
        self.reader, self.writer = reader, writer
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = it.trust.wrap_bio(self._in, self._out, server_hostname="localhost")

    async def handshake(self):
        """Shake hands, and leave the last flight unsent."""
        while True:
            try:
                return self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.send()
                self._in.write(await self.reader.read(65536))

    async def send(self, data=b""):
        if data:
            self._tls.write(data)
        self.writer.write(self._out.read())
        await self.writer.drain()

    async def receive(self, size=65536):
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                if not (data := await asyncio.wait_for(self.reader.read(65536), 10)):
                    return b""
                self._in.write(data)


@contextlib.asynccontextmanager
async def crypt(it):
    """Connect a caller who moves every record by hand."""
    reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
    try:
        yield Crypt(it, reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def an_endless_body_ends_the_connection(it, caller, size):
    """Have a request refused and go on sending; what lies in the network's buffers varies."""
    await caller.send(post(b"/refused", b"a" * size))
    assert (await caller.answer())[0] == 401
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < size and not caller.reader.at_eof():
            await caller.send(b"a" * 100_000)
            sent += 100_000
    assert sent < size
