"""Every moment at which an upstream can end, break, or do what it should not, over TLS and without."""

import asyncio
import functools
import os
import socket
import ssl
import struct

import httpx
import pytest

from policies.failures import Failure, FailureKind
from tests.gateway.harness import eventually
from tests.parts.transports import begin, fetch, opened

LOOPS = ["uvloop", "asyncio"]
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 1\r\n\r\n"
SIZED = HEAD + b"server: x\r\ncontent-length: 11\r\n\r\nhello world"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + SIZED
UNTIL_END = HEAD + b"\r\nhello world"
DEADLY = {FailureKind.TRUNCATED, FailureKind.RESET, FailureKind.PROTOCOL}
MEGABYTES = b"x" * 5_000_000


class Peer:
    """One connection as its server has it."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    async def request(self):
        return await self.reader.readuntil(b"\r\n\r\n")

    async def whole_request(self):
        head = await self.request()
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await self.reader.readexactly(length)

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    def reset(self):
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Site:
    """A server that does for each connection what the test says; `gone` is set when a connection has ended."""

    def __init__(self):
        self.tasks = []
        self.behave = None
        self.count = 0
        self.gone = asyncio.Event()
        self.peers = []

    async def serve(self, reader, writer):
        self.count += 1
        self.tasks.append(asyncio.current_task())
        peer = Peer(reader, writer)
        self.peers.append(peer)
        try:
            await self.behave(peer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.gone.set()

    async def end(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for peer in self.peers:
            peer.writer.transport.abort()
        await asyncio.sleep(0.005)


@pytest.fixture(params=["http", "https"])
async def site(request, certificates):
    tls = None
    if request.param == "https":
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificates.certificate, certificates.key)
    made = Site()
    listener = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.url = f"{request.param}://localhost:{listener.sockets[0].getsockname()[1]}"
    yield made
    listener.close()
    await made.end()


@pytest.fixture(params=["pooled", "httpx"])
async def transport(request, site, certificates):
    started = opened(request.param, site.url, ca=certificates.ca)
    yield started
    await started.aclose()


@pytest.fixture
async def pooled(site, certificates):
    started = opened("pooled", site.url, ca=certificates.ca)
    yield started
    await started.aclose()


async def gather(answer, parts):
    """Read an answer into `parts`, so that they are known though it breaks."""
    while (part := await answer.read()) is not None:
        parts.append(part)


def cut(wire, at, end):
    """Behave: answer the first `at` bytes of `wire`, then end the connection by `end`."""

    async def behave(peer):
        await peer.whole_request()
        if at:
            await peer.send(wire[:at])
        await asyncio.sleep(0.001)
        if end == "reset":
            peer.reset()

    return behave


@pytest.mark.parametrize("end", ["reset", "closed"])
@pytest.mark.parametrize("wire", [CHUNKED, INTERIM], ids=["chunked", "sized"])
async def test_an_answer_that_ends_too_early_is_an_error_at_every_byte(pooled, site, wire, end):
    """Before the head, in it, in a chunk's size, in its data, before the last chunk and in it."""
    for at in range(len(wire)):
        site.behave = cut(wire, at, end)
        read = await asyncio.wait_for(fetch(pooled, site.url), 10)
        assert isinstance(read, Failure), (at, wire[:at])
        assert read.kind in DEADLY

    site.behave = cut(wire, len(wire), "closed")
    assert (await fetch(pooled, site.url))[::2] == (200, b"hello world")


@pytest.mark.parametrize("at", [0, 4, 17, 30, 48, 50, 55, 60, 74, 79], ids=lambda at: f"at-{at}")
async def test_the_stock_transport_tells_the_same_of_a_reset(transport, site, at):
    """Ours and httpx's, at a byte of each phase."""
    site.behave = cut(CHUNKED, at, "reset")

    assert (await asyncio.wait_for(fetch(transport, site.url), 10)).kind in DEADLY


async def test_a_body_that_the_end_ends_is_broken_by_a_reset(pooled, site):
    """Wherever it comes, for nobody knows what was still to come."""
    for at in range(len(HEAD), len(UNTIL_END) + 1):
        site.behave = cut(UNTIL_END, at, "reset")
        assert isinstance(await fetch(pooled, site.url), Failure)

    site.behave = cut(UNTIL_END, len(UNTIL_END), "closed")
    assert (await fetch(pooled, site.url))[2] == b"hello world"


@pytest.mark.parametrize("wire", [CHUNKED, INTERIM, UNTIL_END], ids=["chunked", "sized", "to the end"])
async def test_every_split_reads_the_same(pooled, site, wire):
    """In two segments at each byte, and in as many segments as bytes."""
    cuts = [[wire[:at], wire[at:]] for at in range(1, len(wire))] + [[wire[at : at + 1] for at in range(len(wire))]]

    async def behave(peer, pieces):
        await peer.whole_request()
        for piece in pieces:
            await peer.send(piece)
            await asyncio.sleep(0.0005)

    for pieces in cuts:
        site.behave = functools.partial(behave, pieces=pieces)
        assert (await fetch(pooled, site.url))[::2] == (200, b"hello world")


class TestOurs:
    """What the stock transport does not promise."""

    @pytest.mark.parametrize("told", [b"", b"connection: close\r\n"], ids=["kept", "told to close"])
    async def test_an_answer_to_a_half_read_request_outlives_the_servers_close(self, pooled, site, told):
        """The kernel resets such a connection; a 413 must survive that (with stock httpx it often does not)."""

        async def behave(peer):
            await peer.request()
            await peer.send(b"HTTP/1.1 413 X\r\n" + told + b"content-length: 2\r\n\r\nno")

        site.behave = behave
        for _ in range(10):
            assert (await asyncio.wait_for(fetch(pooled, site.url, MEGABYTES), 10))[::2] == (413, b"no")
        assert site.count == 10

    async def test_an_answer_comes_through_though_nobody_reads_the_request(self, pooled, site):
        """The server keeps the connection open and reads no further; it is not used again."""

        async def behave(peer):
            await peer.request()
            peer.writer.transport.pause_reading()
            await peer.send(b"HTTP/1.1 401 X\r\ncontent-length: 2\r\n\r\nno")
            await asyncio.Event().wait()

        site.behave = behave
        for _ in range(2):
            assert (await asyncio.wait_for(fetch(pooled, site.url, MEGABYTES), 3))[::2] == (401, b"no")
        assert site.count == 2

    async def test_a_server_that_never_reads_is_left_at_once(self, pooled, site):
        """While the request is being written."""

        async def behave(peer):
            peer.writer.transport.pause_reading()
            await asyncio.sleep(0.2)
            peer.writer.transport.resume_reading()
            await peer.reader.read()

        site.behave = behave
        call = asyncio.ensure_future(fetch(pooled, site.url, MEGABYTES))
        await asyncio.sleep(0.1)
        assert not call.done()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert pooled.open == 0
        await asyncio.wait_for(site.gone.wait(), 2)

    async def test_a_server_that_ends_its_side_before_the_answer_is_not_waited_for(self, pooled, site):
        """Though the request is half out, and its own side is still open where it can be."""

        async def behave(peer):
            peer.writer.transport.pause_reading()
            peer.writer.write_eof() if peer.writer.can_write_eof() else peer.writer.close()
            await asyncio.Event().wait()

        site.behave = behave
        failure = await asyncio.wait_for(fetch(pooled, site.url, MEGABYTES), 3)
        assert failure.kind in DEADLY
        assert pooled.open == 0

    async def test_a_server_that_ends_its_side_after_the_answer_is_not_used_again(self, pooled, site):
        """Its answer is whole; the next call opens another connection."""

        async def behave(peer):
            await peer.whole_request()
            await peer.send(SIZED)
            peer.writer.write_eof() if peer.writer.can_write_eof() else peer.writer.close()
            await asyncio.sleep(0.2)

        site.behave = behave
        for _ in range(3):
            assert (await fetch(pooled, site.url))[2] == b"hello world"
            await asyncio.sleep(0.02)
        assert site.count == 3

    async def test_what_a_paused_reader_has_not_read_yet_outlives_a_reset(self, pooled, site):
        """Every byte that had come before is still given; then the error."""
        sent = 1_000_000

        async def behave(peer):
            await peer.whole_request()
            await peer.send(HEAD + b"content-length: 9000000\r\n\r\n" + b"y" * sent)
            await asyncio.sleep(0.05)
            peer.reset()

        site.behave = behave
        answer = await begin(pooled, site.url)
        connection = answer._connection
        assert await eventually(lambda: connection._paused)
        came = sum(map(len, connection._parts))
        await asyncio.wait_for(site.gone.wait(), 5)
        await asyncio.sleep(0.02)
        parts = []
        with pytest.raises(httpx.TransportError):
            await gather(answer, parts)
        answer.close()

        assert sum(map(len, parts)) >= came > 100_000
        assert pooled.open == 0

    async def test_an_answer_that_came_unasked_is_not_the_next_calls(self, pooled, site):
        """A 408 to an idle connection, say, that is still in the kernel when the call begins."""

        async def behave(peer):
            for _ in range(2):
                await peer.whole_request()
                await peer.send(SIZED)

        site.behave = behave
        await fetch(pooled, site.url)
        raw = site.peers[0].writer.get_extra_info("socket")
        os.write(raw.fileno(), b"HTTP/1.1 408 X\r\ncontent-length: 0\r\n\r\n")

        assert (await fetch(pooled, site.url))[0] == 200
        assert site.count == 2

    async def test_all_that_is_not_an_answer_to_a_post_is_an_error(self, pooled, site):
        """A switch of protocols, framings that say two things, codings nobody asked for, other versions."""
        for wire in (
            b"HTTP/1.1 101 X\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
            b"HTTP/1.1 101 X\r\n\r\n" + SIZED,
            b"HTTP/1.1 099 X\r\n\r\n" + SIZED,
            HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            HEAD + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
            HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            HEAD + b"transfer-encoding: identity\r\n\r\nhello",
            HEAD.replace(b"1.1", b"2.0") + b"content-length: 0\r\n\r\n",
            HEAD + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n",
            HEAD + b"x: a\0b\r\ncontent-length: 0\r\n\r\n",
            HEAD.replace(b"\r", b"") + b"content-length: 0\n\n",
            b"HTTP/1.1 100 Continue\r\n\r\n" * 4000 + SIZED,
        ):
            site.behave = cut(wire, len(wire), "closed")
            read = await asyncio.wait_for(fetch(pooled, site.url), 10)
            assert isinstance(read, Failure), wire[:100]
            assert pooled.open == 0

    async def test_the_ways_to_keep_a_connection_are_heeded(self, pooled, site):
        """HTTP/1.0 keeps only on request, `connection: close` never, and HTTP/1.1 always."""
        for kept, head in [
            (False, b"HTTP/1.0 200 OK\r\n"),
            (True, b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n"),
            (False, HEAD + b"connection: close\r\n"),
            (True, HEAD),
        ]:

            async def behave(peer, head=head):
                while True:
                    await peer.whole_request()
                    await peer.send(head + b"content-length: 2\r\n\r\nok")

            site.behave = behave
            before = site.count
            for _ in range(2):
                assert (await fetch(pooled, site.url))[2] == b"ok"
            assert site.count - before == (1 if kept else 2)
            for pool in pooled._pools.values():
                pool.close()
                pool._closed = False


async def test_the_deadline_of_a_connect_covers_the_handshake(monkeypatch, certificates):
    """A port that accepts and then says nothing is a failed connect, by either transport."""
    monkeypatch.setattr("gateway.upstream.transport.CONNECT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://localhost:{listener.getsockname()[1]}"
        for kind in ("pooled", "httpx"):
            started = opened(kind, url, ca=certificates.ca)
            assert (await asyncio.wait_for(fetch(started, url), 5)).kind is FailureKind.CONNECT
            await started.aclose()
