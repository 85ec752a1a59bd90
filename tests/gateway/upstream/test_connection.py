"""The wire, without sockets. Whole streams are held against h11 in tests/contract/transport/test_streams.py."""

import asyncio

import httpx
import pytest

from gateway.upstream.connection import FRAME_BYTES, HEAD_BYTES, HEAD_COUNT, HIGH
from tests.parts.wire import REQUEST, sent

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = OK + b"content-length: 2\r\n\r\nok"


async def gathered(connection):
    """Read a body to its end."""
    parts = []
    while (part := await connection.read()) is not None:
        parts.append(part)
    return b"".join(parts)


async def test_heads_and_frames_are_bounded():
    """As they come, not once they have."""
    for flood in (b"x-pad: " + b"a" * 70_000, b"".join(b"x-%d: 1\r\n" % n for n in range(HEAD_COUNT + 2))):
        connection, wire = await sent()
        connection.data_received(b"HTTP/1.1 200 OK\r\n" + flood)
        assert wire.aborted
        with pytest.raises(httpx.RemoteProtocolError):
            await connection.answer()

    connection, wire = await sent()
    connection.data_received(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;")
    for _ in range(20):
        connection.data_received(b"e" * (FRAME_BYTES // 10))
    assert wire.aborted


async def test_a_reader_who_is_slow_pauses_the_socket_and_going_on_resumes_it():
    """Nothing is lost on the way."""
    connection, wire = await sent()
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (3 * HIGH))
    connection.data_received(b"x" * (HIGH + 1))
    assert wire.paused

    assert len(await connection.read()) == HIGH + 1
    assert not wire.paused


async def test_a_connection_that_was_paused_reads_on_for_its_next_call():
    """Its reader had gone before all was read."""
    connection, wire = await sent()
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (HIGH + 2))
    connection.data_received(b"x" * (HIGH + 1))
    connection.data_received(b"x")
    assert wire.paused

    assert connection.finish()
    assert not wire.paused


async def test_a_whole_answer_makes_the_connection_fit_for_another_and_nothing_else_does():
    """Whether all of it was read or not; not one that is half here, a `connection: close`, or bytes unasked for."""
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    closing = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
    for wire_bytes, read, again in [
        (whole, True, True),
        (whole, False, True),
        (whole[:-1], False, False),
        (closing, True, False),
        (whole * 2, True, False),
    ]:
        connection, wire = await sent()
        connection.data_received(wire_bytes)
        if read:
            assert await connection.read() == b"ok"
        assert connection.finish() is again
        assert wire.aborted is not again
        assert connection.usable is again


async def test_a_second_request_over_one_connection_is_answered():
    """With nothing left of the first."""
    connection, _ = await sent()
    connection.data_received(b"HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 2\r\n\r\nok")
    await connection.read()
    connection.finish()
    await connection.send(REQUEST, b"{}")
    connection.data_received(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")

    assert await connection.answer() == (404, [(b"content-length", b"0")])
    assert await connection.read() is None


@pytest.mark.parametrize(
    "rest", [b"HTTP/1.1 500 X\r\n\r\n", b"garbage", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"]
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_whole_answer_stays_good_whatever_follows_it(rest, at_once):
    """In the same segment or in the next; the connection ends."""
    connection, wire = await sent()
    for piece in [WHOLE + rest] if at_once else [WHOLE, rest]:
        connection.data_received(piece)

    assert await gathered(connection) == b"ok"
    assert not connection.finish()
    assert wire.aborted


@pytest.mark.parametrize(
    "flood",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
        OK + b"".join(b"x-%d: %b\r\n" % (n, b"a" * 1000) for n in range(90)),
        OK + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"x: a\r\n" * HEAD_BYTES,
    ],
    ids=["interim answers", "headers", "trailers"],
)
async def test_a_flood_is_cut_off_in_one_segment_too(flood):
    """The bounds do not depend on how the network cuts."""
    connection, wire = await sent()
    connection.data_received(flood + b"\r\n")

    assert wire.aborted
    assert not connection.usable


async def test_tiny_chunks_pause_the_socket_before_their_weight_is_great():
    """Each weighs more than its bytes."""
    connection, wire = await sent()
    connection.data_received(OK + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 5000)

    assert wire.paused
    assert await connection.read() == b"x" * 5000


async def test_an_answer_to_a_request_that_is_not_out_does_not_free_the_connection():
    """What is left of the request would be read as the next one."""
    connection, wire = await sent()
    connection.data_received(WHOLE)
    wire.held = 1

    assert await gathered(connection) == b"ok"
    assert not connection.finish()


async def test_a_writer_is_held_until_the_wire_takes_more_or_the_answer_begins():
    """A server that answers early may never read the rest."""
    for go_on in ("resume", "answer"):
        connection, wire = await sent()
        connection.data_received(WHOLE)
        await gathered(connection)
        assert connection.finish()
        wire.write = lambda _, connection=connection: connection.pause_writing()
        sending = asyncio.ensure_future(connection.send(REQUEST, b"{}"))
        await asyncio.sleep(0)
        assert not sending.done()
        if go_on == "resume":
            connection.resume_writing()
        else:
            connection.data_received(WHOLE)
        await asyncio.wait_for(sending, 1)


async def test_an_end_while_the_request_goes_out_ends_the_wait():
    """Though the kernel takes no more of it."""
    connection, wire = await sent()
    connection.pause_writing()
    waiting = asyncio.ensure_future(connection.answer())
    await asyncio.sleep(0)
    connection.eof_received()

    with pytest.raises(httpx.RemoteProtocolError):
        await asyncio.wait_for(waiting, 1)
    assert wire.aborted


async def test_nothing_is_read_after_an_error():
    """TLS may still deliver what it had decrypted."""
    connection, _ = await sent()
    connection.data_received(OK + b"\r\nhalf")
    connection.abort()
    connection.data_received(b"more")
    connection.eof_received()

    assert await connection.read() == b"half"
    with pytest.raises(httpx.ReadError):
        await connection.read()


@pytest.mark.parametrize("end", ["eof", "lost"])
async def test_an_idle_connection_that_ends_is_not_usable(end):
    """And the failure of a request that crosses its end may be tried again: not a byte of an answer came."""
    connection, _ = await sent()
    connection.data_received(WHOLE)
    await gathered(connection)
    assert connection.finish()
    assert connection.usable
    connection.eof_received() if end == "eof" else connection.connection_lost(OSError("x"))

    assert not connection.usable
    assert connection.quiet
    with pytest.raises(httpx.TransportError):
        await connection.send(REQUEST, b"{}")
