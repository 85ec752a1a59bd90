import asyncio
import contextlib
import socket
from functools import partial

import pytest

from gateway import listener, wire
from gateway.connections import Connections
from tests.gateway.wires import an_endless_body_ends_the_connection, post, pour

CHUNKED = b"POST /%d HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nx: ", b"GET /", b"GET / HTTP/1.1\r\n\r\nGET /"])
def test_an_endless_head_is_refused_while_others_are_served(play, start):
    async def scene(it, caller):
        pouring = asyncio.ensure_future(pour(caller, start, b"a" * 60000))
        async with it.caller() as other:
            await other.send(b"GET /other HTTP/1.1\r\n\r\n")
            assert (await other.answer())[0] == 200
        if b"\r\n\r\n" in start:
            assert (await caller.answer())[0] == 200
        assert (await caller.answer())[0] == 431
        await pouring

    play(scene)


def test_a_head_sent_byte_by_byte_costs_no_more_than_its_size(play):
    async def scene(it, caller):
        await caller.send(b"GET / HTTP/1.1\r\nx: ", *[b"a" * 16] * (wire.HEAD_BYTES // 16))
        assert await caller.refusal() == (431, "headers_too_large")
        assert it.app.seen == []

    play(scene)


def test_a_head_of_just_below_the_bound_passes(play):
    async def scene(it, caller):
        start, end = b"GET / HTTP/1.1\r\nx: ", b"\r\n\r\n"
        await caller.send(start + b"a" * (wire.HEAD_BYTES - len(start) - len(end)) + end)
        assert await caller.answer() == (200, b"")

    play(scene)


def test_too_many_headers_are_refused_and_as_many_as_allowed_are_not(play):
    async def scene(it, caller):
        await caller.send(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * wire.HEADERS + b"\r\n")
        assert (await caller.answer())[0] == 200
        await caller.send(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200 + b"\r\n")
        assert await caller.refusal() == (431, "headers_too_large")
        assert len(it.app.seen) == 1

    play(scene)


@pytest.mark.parametrize("cut", ["one", "two", "bytes"])
def test_an_upgrade_is_ignored_and_its_body_is_no_request(play, cut, caplog):
    body = b"GET /smuggled HTTP/1.1\r\nhost: x\r\nUpgrade: h2c\r\n\r\n"
    head = post(b"/", body, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAM")
    segments = {"one": [head + body], "two": [head, body], "bytes": [bytes([byte]) for byte in head + body]}[cut]

    async def scene(it, caller):
        await caller.send(*segments)
        assert await caller.answer() == (200, body)
        await caller.send(b"GET /next HTTP/1.1\r\n\r\n")
        assert await caller.answer() == (200, b"")
        assert it.requests == [("POST", "/"), ("GET", "/next")]
        assert [record for record in caplog.records if record.levelname != "INFO"] == []

    play(scene)


@pytest.mark.parametrize("split", [False, True])
def test_a_body_that_looks_like_a_head_is_left_as_it_is(play, split):
    body = b"x\r\nupgrade: x\r\nUpgrade: y\r\n\r\nconnection: upgrade\r\n\r\n"
    head = post(b"/", body)

    async def scene(it, caller):
        await caller.send(*([head, body[:20], body[20:]] if split else [head + body]))
        assert await caller.answer() == (200, body)

    play(scene)


@pytest.mark.parametrize(
    "request_",
    [
        b"CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"NONSENSE\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\n\n",
        b"\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_at_once_and_nothing_behind_it_is_parsed(play, request_):
    async def scene(it, caller):
        await caller.send(request_ + b"GET /smuggled HTTP/1.1\r\n\r\n")
        assert await caller.refusal() == (400, "bad_request")
        assert it.app.seen == []

    play(scene)


def test_a_malformed_body_ends_its_request(play):
    async def scene(it, caller):
        await caller.send(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", b"not a length\r\n")
        assert await caller.refusal() == (400, "bad_request")
        assert it.requests == [("POST", "/")]

    play(scene)


def test_a_refusal_waits_for_the_answer_before_it(play):
    async def scene(it, caller):
        await caller.send(b"GET /held HTTP/1.1\r\n\r\n", b"\x00\x00\r\n\r\n")
        it.app.gate.set()
        assert await caller.answer() == (200, b"")
        assert await caller.refusal() == (400, "bad_request")

    play(scene)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nx: "])
def test_a_head_that_does_not_end_in_time_ends_the_connection(play, monkeypatch, sent):
    monkeypatch.setattr(wire, "HEAD_DEADLINE", 0.2)

    async def scene(it, caller):
        await caller.send(sent)
        if sent:
            assert await caller.refusal() == (408, "request_timeout")
        else:
            assert await caller.is_closed() == b""

    play(scene)


def test_bytes_that_trickle_do_not_move_the_deadline_of_a_later_head(play, monkeypatch):
    async def scene(it, caller):
        await caller.send(b"GET / HTTP/1.1\r\n\r\n")
        assert (await caller.answer())[0] == 200
        monkeypatch.setattr(wire, "HEAD_DEADLINE", 0.2)
        await caller.send(b"GET / HTTP/1.1\r\n")
        trickle = asyncio.ensure_future(pour_slowly(caller))
        assert (await caller.answer())[0] == 408
        trickle.cancel()

    async def pour_slowly(caller):
        with contextlib.suppress(ConnectionError):
            while True:
                await caller.send(b"x: y\r\n")
                await asyncio.sleep(0.02)

    play(scene)


def test_an_idle_connection_is_kept_for_its_time_and_then_closed(play, monkeypatch):
    monkeypatch.setattr(wire, "KEEP_ALIVE", 0.3)
    monkeypatch.setattr(wire, "HEAD_DEADLINE", 30)

    async def scene(it, caller):
        for _ in range(3):
            await caller.send(post(b"/", b"hi") + b"hi")
            assert await caller.answer() == (200, b"hi")
        assert await caller.is_closed() == b""

    play(scene)


def test_a_request_that_has_come_when_the_time_is_up_is_served(play):
    """Its caller saw an open connection; that the loop has not looked yet is no fault of his."""

    async def scene(it, caller):
        with socket.create_connection(("127.0.0.1", it.port)) as idle:
            idle.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert b"200 OK" in await asyncio.to_thread(idle.recv, 65536)
            (ours,) = [one for one in it.server.server_state.connections if one.cycle is not None]
            idle.sendall(b"GET / HTTP/1.1\r\n\r\n")
            ours.timeout_keep_alive_handler()
            assert b"200 OK" in await asyncio.to_thread(idle.recv, 65536)

    play(scene)


def test_pipelined_requests_are_answered_in_order(play):
    body = b"\r\nupgrade: x\r\n\r\n"

    async def scene(it, caller):
        upgrade = post(b"/3", b"", b"connection: upgrade", b"upgrade: h2c")
        await caller.send(post(b"/1", body) + body + b"GET /2 HTTP/1.1\r\n\r\n" + upgrade + post(b"/4", b"end")[:30])
        assert [await caller.answer() for _ in range(3)] == [(200, body), (200, b""), (200, b"")]
        await caller.send(post(b"/4", b"end")[30:] + b"end")
        assert await caller.answer() == (200, b"end")
        assert it.requests == [("POST", "/1"), ("GET", "/2"), ("POST", "/3"), ("POST", "/4")]

    play(scene)


def test_a_chunked_request_may_be_followed_by_another(play):
    async def scene(it, caller):
        for number in range(3):
            await caller.send(CHUNKED % number)
            assert await caller.answer() == (200, b"hello")

    play(scene)


def test_a_request_in_one_segment_with_the_end_of_a_chunked_body_is_left_unparsed(play):
    async def scene(it, caller):
        await caller.send(CHUNKED % 1 + CHUNKED % 2)
        assert await caller.answer() == (200, b"hello")
        assert await caller.is_closed() == b""
        assert it.requests == [("POST", "/1")]

    play(scene)


def test_trailers_do_not_reach_the_headers(play):
    async def scene(it, caller):
        head, end = (CHUNKED % 1).split(b"0\r\n\r\n")[0], b"0\r\nauthorization: x\r\n\r\n"
        await caller.send(head, end)
        assert await caller.answer() == (200, b"hello")
        assert b"authorization" not in dict(it.app.seen[0][2])

    play(scene)


def test_endless_trailers_are_refused(play):
    async def scene(it, caller):
        start = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: "
        pouring = asyncio.ensure_future(pour(caller, start, b"a" * 10000))
        assert (await caller.answer())[0] == 431
        await pouring

    play(scene)


def test_a_caller_who_asks_to_continue_is_told_to(play):
    async def scene(it, caller):
        await caller.send(post(b"/", b"hello", b"expect: 100-continue"))
        assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await caller.send(b"hello")
        assert await caller.answer() == (200, b"hello")

    play(scene)


def test_a_caller_refused_before_continuing_gets_the_connection_closed(play):
    async def scene(it, caller):
        await caller.send(post(b"/refused", b"hello", b"expect: 100-continue"))
        assert (await caller.answer())[0] == 401
        assert await caller.is_closed() == b""

    play(scene)


def test_the_rest_of_a_body_is_dropped_and_the_next_request_served(play):
    body = b"a" * 300_000

    async def scene(it, caller):
        await caller.send(post(b"/refused", body), body[:1000])
        assert (await caller.answer())[0] == 401
        await caller.send(body[1000:] + b"GET / HTTP/1.1\r\n\r\n")
        assert await caller.answer() == (200, b"")

    play(scene)


def test_an_endless_body_after_its_answer_ends_the_connection(play):
    play(partial(an_endless_body_ends_the_connection, size=100_000_000))


def test_a_body_that_trickles_after_its_answer_ends_the_connection(play, monkeypatch):
    async def scene(it, caller):
        await caller.send(post(b"/refused", b"a" * 1000))
        monkeypatch.setattr(wire, "HEAD_DEADLINE", 0.2)
        assert (await caller.answer())[0] == 401
        assert await caller.is_closed() == b""

    monkeypatch.setattr(wire, "HEAD_DEADLINE", 0.2)
    play(scene)


def test_a_refused_requests_body_is_not_kept(play):
    """Nobody counts it."""

    async def scene(it, caller):
        body = b"a" * 30_000
        await caller.send(post(b"/refused", body) + body)
        assert (await caller.answer())[0] == 401
        (connection,) = it.server.server_state.connections
        assert connection.cycle.body == b""

    play(scene)


async def test_whoever_was_gone_before_its_address_was_known_is_not_taken():
    """A scanner's reset, say."""
    house = Connections(10, per_address=1)
    wire_ = listener.Listener(listener.uvicorn.Config(None, log_config=None), house)._wire()
    aborted = []

    class Transport:
        def get_extra_info(self, name):
            return None

        def abort(self):
            aborted.append(True)

    wire_.connection_made(Transport())

    assert aborted
    assert len(house) == 0
