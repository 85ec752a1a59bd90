import asyncio

import pytest

from gateway.demo.wire import Connection, Reply, Request, encode


class Caller:
    """Raw bytes to a server that answers with what it was asked, or streams until its caller leaves."""

    def __init__(self):
        self.cancelled = asyncio.Event()
        self.sent = 0

    async def serve(self, request: Request, reply: Reply) -> None:
        if request.path == "/echo":
            await reply.json({"method": request.method, "body": request.body.decode(), "x": request.headers.get("x")})
            return
        try:
            reply.start()
            while True:
                await reply.event(b"x" * 60_000)
                self.sent += 1
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture
async def server():
    caller = Caller()
    listening = await asyncio.get_running_loop().create_server(lambda: Connection(caller.serve), "127.0.0.1", 0)
    async with listening:
        caller.port = listening.sockets[0].getsockname()[1]
        yield caller


async def test_pipelined_requests_are_answered_in_order(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    one = b"POST /echo?q=1 HTTP/1.1\r\nX: y\r\ncontent-length: 3\r\n\r\none"
    writer.write(one + b"GET /echo HTTP/1.1\r\nconnection: close\r\n\r\n")
    told = await reader.read()
    writer.close()
    assert told.count(b"HTTP/1.1 200 OK") == 2
    assert told.index(b'{"method":"POST","body":"one","x":"y"}') < told.index(b'{"method":"GET"')


async def test_a_request_may_come_a_byte_at_a_time(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for byte in b"POST /echo HTTP/1.1\r\nconnection: close\r\ncontent-length: 3\r\n\r\none":
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert b'"body":"one"' in await reader.read()
    writer.close()


async def test_what_is_not_http_closes_the_connection(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"hello\r\n\r\n")
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("half", [True, False])
async def test_a_caller_who_leaves_even_half_way_cancels_what_is_being_made(server, half):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /stream HTTP/1.1\r\n\r\n")
    await reader.readexactly(100_000)
    if half:
        writer.write_eof()
    else:
        writer.transport.abort()
    async with asyncio.timeout(5):
        await server.cancelled.wait()
    writer.close()


async def test_a_caller_who_does_not_read_holds_the_stream_back(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1000)
    writer.write(b"GET /stream HTTP/1.1\r\n\r\n")
    await reader.readexactly(10)
    held = -1
    async with asyncio.timeout(5):
        while held != server.sent or server.sent == 0:
            held = server.sent
            await asyncio.sleep(0.1)
    assert server.sent * 60_000 < 40_000_000
    writer.transport.abort()
    async with asyncio.timeout(5):
        await server.cancelled.wait()


def test_json_is_compact_and_keeps_letters():
    assert encode({"a": ["é"]}) == '{"a":["é"]}'.encode()
