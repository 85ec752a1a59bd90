"""Byte streams by the thousand, fed to a connection without a socket and held against h11's reading of them.

Law: a stream that is valid reads the same by both, wherever it is split. Of a stream that is damaged we never read what
h11 refuses, but for the closed list of `LOOSER`; what we refuse and h11 reads is our right.
"""

import asyncio
import itertools
import re

import h11
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.upstream.connection import Connection
from tests.conftest import SOAK
from tests.parts.wire import sent

LOOP = asyncio.new_event_loop()
"""One for all: nothing here ever waits."""


@pytest.fixture(scope="module", autouse=True)
def ended():
    yield
    LOOP.close()


LOOSER = {
    "empty lines before an answer": (re.compile(rb"(?:\A|\r\n\r\n)[\r\n]+(?=HTTP/)"), b"\r\n\nHTTP/1.1 200 OK\r\n"),
    "control characters in a reason": (
        re.compile(rb"^HTTP/1\.[01] \d{3} [^\r\n]*[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", re.MULTILINE),
        b"HTTP/1.1 200 O\0K\r\n",
    ),
    "RTSP and ICE, which llhttp reads too": (
        re.compile(rb"^(RTSP|ICE)/1\.[01] ", re.MULTILINE),
        b"RTSP/1.0 200 OK\r\n",
    ),
}
"""All that we read as an answer and h11 does not, with an example: none of it moves where an answer ends."""

TRAILING = re.compile(rb"\r\n0+(?:;[^\r\n]*)?\r\n(?:[^\r\n]+\r\n)*transfer-encoding:", re.IGNORECASE)
"""A transfer coding among the trailers, likewise: it comes too late to mean anything, and trailers go nowhere."""

OK = b"HTTP/1.1 200 OK\r\n"
STRICTER = {
    "lines that end in LF alone": OK.replace(b"\r", b"") + b"content-length: 0\n\n",
    "headers folded over lines": OK + b"x-a: 1\r\n 2\r\ncontent-length: 0\r\n\r\n",
    "a length told twice": OK + b"content-length: 2\r\ncontent-length: 2\r\n\r\nok",
    "a length told in a list": OK + b"content-length: 2, 2\r\n\r\nok",
    "a length beside chunks": OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "a version other than 1.0 and 1.1": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "a space after a chunk's size": OK + b"transfer-encoding: chunked\r\n\r\n2 \r\nok\r\n0\r\n\r\n",
}
"""What h11 reads and we refuse."""

NONE = httpx.RemoteProtocolError


def ours(pieces, *, end):
    """Read `pieces` and return (status, headers, body), or the class of the error; `end`: the upstream then closes."""
    return LOOP.run_until_complete(_ours(pieces, end=end))


async def _ours(pieces, *, end):
    connection, _ = await sent()
    for piece in pieces:
        connection.data_received(piece)
    if end:
        connection.eof_received()
        connection.connection_lost(None)
    return _outcome(connection)


def _outcome(connection: Connection):
    """Drive the reading by hand: whatever would wait once the upstream has closed hangs, and is told."""
    read = _reading(connection)
    try:
        read.send(None)
    except StopIteration as done:
        return done.value
    except httpx.TransportError as error:
        return type(error)
    read.close()
    return "hangs"


async def _reading(connection):
    status, headers = await connection.answer()
    parts = []
    while (part := await connection.read()) is not None:
        parts.append(part)
    known = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in headers]
    return status, known, b"".join(parts)


def by_h11(wire, *, end):
    """Read `wire` as h11 does, and return the same."""
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method="POST", target="/x", headers=[("host", "a"), ("content-length", "0")]))
    peer.send(h11.EndOfMessage())
    status, headers, body = 0, [], b""
    try:
        peer.receive_data(wire)
        if end:
            peer.receive_data(b"")
        while True:
            event = peer.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED):
                return "hangs" if event is h11.NEED_DATA else NONE
            if isinstance(event, h11.Response):
                status, headers = event.status_code, list(event.headers)  # it lowers the coding's case, too
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return status, headers, body
            elif isinstance(event, h11.ConnectionClosed):
                return NONE
    except h11.RemoteProtocolError:
        return NONE


NAMES = [b"x-a", b"Content-Type", b"server", b"Set-Cookie", b"X-Request-Id"]
VALUES = [b"", b"a", b"text/event-stream", b"a b\tc", b'k=v; p="q"', b"\xc3\xa9", b"1"]
EXTENSIONS = [b"", b"", b";a", b";a=b", b';a="b c"']
headers = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=4)
chunks = st.lists(st.binary(min_size=1, max_size=40), max_size=4)
interims = st.sampled_from([b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nlink: y\r\n\r\n" * 2])


@st.composite
def answers(draw):
    """Make a valid answer in any of the framings; where the connection ends it, say from which byte on that may be."""
    status = draw(st.sampled_from([200, 200, 201, 204, 304, 400, 429, 500, 503]))
    lines = [b"%b: %b\r\n" % header for header in draw(headers)]
    parts = draw(chunks)
    body = b"".join(parts)
    framing = draw(st.sampled_from(["length", "chunked", "end"]))
    if status in {204, 304}:
        framing, body = "none", b""
    elif framing == "length":
        name = draw(st.sampled_from([b"content-length: %d\r\n", b"CONTENT-LENGTH:%d \r\n"]))
        lines.insert(len(lines) // 2, name % len(body))
    elif framing == "chunked":
        lines.append(draw(st.sampled_from([b"transfer-encoding: chunked\r\n", b"Transfer-Encoding:Chunked\r\n"])))
        extension = draw(st.sampled_from(EXTENSIONS))
        trailers = draw(st.sampled_from([b"", b"", b"x-sum: 1\r\n", b"x-sum: 1\r\ny: 2\r\n"]))
        framed = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
        body = framed + b"0\r\n" + trailers + b"\r\n"
    head = draw(interims) + b"HTTP/1.1 %d Some Reason\r\n" % status + b"".join(lines) + b"\r\n"
    return head + body, len(head) if framing == "end" else None


INSERTS = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"0",
    b"-",
    b"+",
    b"\xff",
    b"\r\n\r\n",
    b"\r\n ",
]
INSERTS += [b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip, chunked\r\n"]
INSERTS += [
    b"connection: close\r\n",
    b"upgrade: h2c\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 101 X\r\n\r\n",
    b"HTTP/1.0",
]
INSERTS += [b"5, 5", b"0x", b"99999999999999999999", b"chunked, "]
spots = st.integers(0, 1000)


@st.composite
def damaged(draw):
    """Make an answer and damage it in up to three places."""
    wire, _ = draw(answers())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(spots) % (len(wire) + 1)
        kind = draw(st.sampled_from(["insert", "insert", "replace", "delete", "repeat", "cut"]))
        if kind == "insert":
            wire = wire[:at] + draw(st.sampled_from(INSERTS)) + wire[at:]
        elif kind == "replace":
            wire = wire[:at] + draw(st.binary(min_size=1, max_size=2)) + wire[at + 1 :]
        elif kind == "cut":
            wire = wire[:at]
        else:
            to = at + draw(st.integers(1, 12))
            wire = wire[:at] + (wire[at:to] * 2 if kind == "repeat" else b"") + wire[to:]
    return wire


def split(wire, cuts):
    edges = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    return [wire[start:stop] for start, stop in itertools.pairwise(edges)]


MANY = 5000 if SOAK else 1500
"""Examples of each; the other lanes try the same ones every time."""

QUICK = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=MANY)


@QUICK
@given(answers(), st.lists(spots, max_size=6))
def test_a_valid_stream_reads_as_h11_reads_it_wherever_it_is_split(answer, cuts):
    """Status, headers and body."""
    wire, ends_from = answer
    end = ends_from is not None
    read = ours(split(wire, cuts), end=end)

    assert isinstance(read, tuple)
    assert read == by_h11(wire, end=end)


@QUICK
@given(damaged(), st.lists(spots, max_size=3))
def test_a_damaged_stream_is_never_read_more_freely_than_by_h11(wire, cuts):
    """Nor differently, nor for ever, nor in another way when it is split."""
    read, told = ours([wire] if wire else [], end=True), by_h11(wire, end=True)

    assert read != "hangs"
    assert ours(split(wire, cuts), end=True) == read
    if isinstance(read, tuple) and read != told:
        assert TRAILING.search(wire) or any(pattern.search(wire) for pattern, _ in LOOSER.values()), (read, told)


def test_a_transfer_coding_among_the_trailers_changes_nothing():
    """h11 refuses it, whatever it says; the answer has ended before it."""
    wire = OK + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"

    assert TRAILING.search(wire)
    assert ours([wire], end=False) == (200, [(b"transfer-encoding", b"chunked")], b"ok")
    assert by_h11(wire, end=False) is NONE


@QUICK
@given(answers(), spots, st.lists(spots, max_size=3))
def test_a_stream_cut_short_is_an_error(answer, at, cuts):
    """Unless it ends with the connection, and then only once its head is whole."""
    wire, ends_from = answer
    at %= len(wire)
    read = ours(split(wire[:at], cuts), end=True)

    assert read == by_h11(wire[:at], end=True)
    assert isinstance(read, tuple) is (ends_from is not None and at >= ends_from)


@pytest.mark.parametrize("what", LOOSER)
def test_the_list_of_what_we_read_more_freely_is_true(what):
    """Each of it is read, with its body where it should be, and refused by h11."""
    pattern, line = LOOSER[what]
    wire = line + b"content-length: 2\r\n\r\nok"

    assert pattern.search(wire)
    assert ours([wire], end=False) == (200, [(b"content-length", b"2")], b"ok")
    assert by_h11(wire, end=False) is NONE


@pytest.mark.parametrize("what", STRICTER)
def test_what_h11_reads_and_we_refuse_is_refused(what):
    """Since two readers of it may see two different ends."""
    assert isinstance(by_h11(STRICTER[what], end=True), tuple)
    assert ours([STRICTER[what]], end=True) is NONE
