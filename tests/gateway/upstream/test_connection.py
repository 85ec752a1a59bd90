"""The wire, without sockets: every reading is held against h11's."""

import asyncio
import itertools

import h11
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.connection import FRAME_BYTES, HEAD_COUNT, HIGH, Connection

REQUEST = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n"


class Wire(asyncio.Transport):
    """Stands where a socket would; notes what is done to it."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.aborted = self.paused = False

    def write(self, data):
        self.written += data

    def abort(self):
        self.aborted = True

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


async def opened():
    connection, wire = Connection(), Wire()
    connection.connection_made(wire)
    await connection.send(REQUEST, b"{}")
    return connection, wire


async def ours(pieces, *, end):
    """Read `pieces` and return (status, headers, body), or the error; `end`: the upstream then closes."""
    connection, _ = await opened()
    for piece in pieces:
        connection.data_received(piece)
    if end:
        connection.eof_received()
        connection.connection_lost(None)
    try:
        async with asyncio.timeout(0):
            status, headers = await connection.answer()
            parts = []
            while (part := await connection.read()) is not None:
                parts.append(part)
    except (httpx.TransportError, TimeoutError) as error:
        return type(error)
    return status, headers, b"".join(parts)


def by_h11(wire, *, end):
    """Read `wire` as h11 does, and return the same."""
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method="POST", target="/x", headers=[("host", "a"), ("content-length", "2")]))
    peer.send(h11.Data(b"{}"))
    peer.send(h11.EndOfMessage())
    peer.receive_data(wire)
    if end:
        peer.receive_data(b"")
    status, headers, body = 0, [], b""
    try:
        while True:
            event = peer.next_event()
            if event is h11.NEED_DATA:
                return TimeoutError
            if isinstance(event, h11.Response):
                status, headers = event.status_code, list(event.headers)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return status, headers, body
    except h11.RemoteProtocolError:
        return httpx.RemoteProtocolError


names = st.sampled_from([b"x-a", b"content-type", b"server", b"set-cookie"])
text = st.text("abc XYZ09;=/", max_size=12).map(lambda value: value.strip().encode())
others = st.lists(st.tuples(names, text), max_size=4)


@st.composite
def answers(draw):
    """Make a valid answer in any of the framings, and whether its end is the connection's."""
    head = b"HTTP/1.1 %d OK\r\n" % draw(st.sampled_from([200, 201, 400, 404, 429, 500, 503]))
    interim = b"HTTP/1.1 103 Early\r\nlink: y\r\n\r\n" * draw(st.integers(0, 2))
    lines = [b"%b: %b" % header for header in draw(others)]
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    body = b"".join(chunks)
    framing = draw(st.sampled_from(["length", "chunked", "end"]))
    if framing == "length":
        lines.append(b"content-length: %d" % len(body))
    if framing == "chunked":
        lines.append(b"transfer-encoding: chunked")
        extension = draw(st.sampled_from([b"", b";a=b"]))
        framed = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
        body = framed + b"0\r\n" + draw(st.sampled_from([b"", b"x-sum: 1\r\n"])) + b"\r\n"
    return interim + head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body, framing == "end"


@settings(max_examples=400, deadline=None)
@given(answers(), st.lists(st.integers(0, 600), max_size=8), st.booleans())
def test_a_valid_answer_is_read_as_h11_reads_it_wherever_it_is_split(answer, cuts, cut_short):
    """Or, cut short, is an error and never an end."""
    wire, end = answer
    if cut_short:
        wire, end = wire[: len(wire) * 2 // 3], True
    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    pieces = [wire[start:stop] for start, stop in itertools.pairwise(edges)]

    assert asyncio.run(ours(pieces, end=end)) == by_h11(wire, end=end)


@settings(max_examples=400, deadline=None)
@given(answers(), st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_a_damaged_answer_neither_hangs_nor_raises_what_nobody_expects(answer, at, damage):
    """Whatever the bytes, there is an answer, an error, or a wait that the connection's end ends."""
    wire, _ = answer
    damaged = wire[:at] + damage + wire[at + 1 :]
    read = asyncio.run(ours([damaged], end=True))

    assert isinstance(read, tuple) or issubclass(read, httpx.TransportError)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_an_error(noise):
    """Unless it is HTTP, which it is not."""
    assert issubclass(asyncio.run(ours([noise] if noise else [], end=True)), httpx.TransportError)


async def test_heads_and_frames_are_bounded():
    """As they come, not once they have."""
    for flood in (b"x-pad: " + b"a" * 70_000, b"".join(b"x-%d: 1\r\n" % n for n in range(HEAD_COUNT + 2))):
        connection, wire = await opened()
        connection.data_received(b"HTTP/1.1 200 OK\r\n" + flood)
        assert wire.aborted
        with pytest.raises(httpx.RemoteProtocolError):
            await connection.answer()

    connection, wire = await opened()
    connection.data_received(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;")
    for _ in range(20):
        connection.data_received(b"e" * (FRAME_BYTES // 10))
    assert wire.aborted


async def test_a_reader_who_is_slow_pauses_the_socket_and_going_on_resumes_it():
    """Nothing is lost on the way."""
    connection, wire = await opened()
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (3 * HIGH))
    connection.data_received(b"x" * (HIGH + 1))
    assert wire.paused

    assert len(await connection.read()) == HIGH + 1
    assert not wire.paused


async def test_a_whole_answer_makes_the_connection_fit_for_another_and_nothing_else_does():
    """Not an unread body, not a `connection: close`, not bytes that came unasked."""
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    closing = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
    for wire_bytes, read, again in [
        (whole, True, True),
        (whole, False, False),
        (closing, True, False),
        (whole * 2, True, False),
    ]:
        connection, wire = await opened()
        connection.data_received(wire_bytes)
        if read:
            assert await connection.read() == b"ok"
        assert connection.finish() is again
        assert wire.aborted is not again
        assert connection.usable is again


async def test_a_second_request_over_one_connection_is_answered():
    """With nothing left of the first."""
    connection, _ = await opened()
    connection.data_received(b"HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 2\r\n\r\nok")
    await connection.read()
    connection.finish()
    await connection.send(REQUEST, b"{}")
    connection.data_received(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")

    assert await connection.answer() == (404, [(b"content-length", b"0")])
    assert await connection.read() is None
