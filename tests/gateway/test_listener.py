import asyncio
import contextlib
import errno
import socket
import ssl
from functools import partial

import pytest

from gateway import listener, wire
from gateway.connections import Connections
from gateway.tls import server_context
from tests.gateway.harness import eventually
from tests.gateway.wires import BIG, an_endless_body_ends_the_connection, crypt, post
from tests.parts.certificates import self_signed

GET = b"GET / HTTP/1.1\r\n\r\n"
CLOSING = b"GET /big HTTP/1.1\r\nconnection: close\r\n\r\n"


@pytest.fixture(params=["plain", "tls"])
def terms(request, pair):
    """Give a listener's terms, without TLS and with it."""
    return {"pair": pair} if request.param == "tls" else {}


def seconds():
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def stranger(it):
    """Connect without a handshake."""
    reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
    yield reader, writer
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def test_calls_over_tls_are_served_one_after_another(play, pair):
    """With ALPN, at least TLS 1.2, and `https` as the scheme."""

    async def scene(it, caller):
        for _ in range(2):
            await caller.send(post(b"/", b"hello"), b"hello")
            assert await caller.answer() == (200, b"hello")
        assert it.app.origins == [("127.0.0.1", "https")] * 2
        tls = caller.writer.get_extra_info("ssl_object")
        assert tls.version() in {"TLSv1.2", "TLSv1.3"}

    play(scene, pair=pair)


def test_http_1_1_is_chosen_and_nothing_older_than_tls_1_2(play, pair):
    """Whoever offers HTTP/2 too gets what is spoken here."""

    async def scene(it, caller):
        it.trust.set_alpn_protocols(["h2", "http/1.1"])
        async with it.caller() as other:
            assert other.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        old = ssl.create_default_context(cafile=pair[0])
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await asyncio.open_connection("127.0.0.1", it.port, ssl=old, server_hostname="localhost")

    play(scene, pair=pair)


def test_a_request_in_one_segment_with_the_end_of_the_handshake_is_served(play, pair):
    """Nothing that came early is lost, and in its order."""

    async def scene(it, caller):
        async with crypt(it) as hasty:
            await hasty.handshake()
            await hasty.send(post(b"/", b"hello") + b"hello")
            answer = await hasty.receive()
            while not answer.endswith(b"hello"):  # in one record or two
                more = await hasty.receive()
                assert more
                answer += more

    play(scene, pair=pair)


@pytest.mark.parametrize(
    ("sent", "refusal"),
    [
        (b"\x00\x00\r\n\r\n", (400, "bad_request")),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000, (431, "headers_too_large")),
        (b"GET / HTTP/1.1\r\nx: ", (408, "request_timeout")),
    ],
)
def test_a_refusal_over_tls_is_read_whole_before_the_end(play, pair, monkeypatch, sent, refusal):
    """TLS cannot be closed by half, so the caller gets its time to read."""
    monkeypatch.setattr(wire, "HEAD_DEADLINE", 0.3)
    monkeypatch.setattr(wire, "LINGER", 0.3)

    async def scene(it, caller):
        await caller.send(sent)
        assert await caller.refusal() == refusal

    play(scene, pair=pair)


def test_an_endless_body_over_tls_ends_the_connection(play, pair):
    """As without TLS."""
    play(partial(an_endless_body_ends_the_connection, size=200_000_000), pair=pair)


def test_a_caller_without_tls_and_one_with_tls_at_the_wrong_port_do_no_harm(play, pair, caplog):
    """The one is closed, the other refused; neither is worth a line in the log."""

    async def at_tls(it, caller):
        async with stranger(it) as (reader, writer):
            writer.write(GET)
            with contextlib.suppress(ConnectionError):
                assert b"HTTP" not in await asyncio.wait_for(reader.read(), 10)
        await caller.send(GET)
        assert (await caller.answer())[0] == 200
        assert await eventually(lambda: len(it.house) == 1)

    async def at_plain(it, caller):
        trust = ssl.create_default_context(cafile=pair[0])
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection("127.0.0.1", it.port, ssl=trust, server_hostname="localhost")
        await caller.send(GET)
        assert (await caller.answer())[0] == 200

    play(at_tls, pair=pair)
    play(at_plain)
    assert [record for record in caplog.records if record.levelname not in {"INFO", "DEBUG"}] == []


def test_a_handshake_that_does_not_end_in_time_ends_the_connection(play, pair, monkeypatch):
    """It is counted like every other connection while it lasts."""
    monkeypatch.setattr(wire, "HEAD_DEADLINE", 0.5)

    async def scene(it, caller):
        async with stranger(it) as (reader, _):
            assert await eventually(lambda: len(it.house) == 2)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 10) == b""
            assert await eventually(lambda: len(it.house) <= 1)

    play(scene, pair=pair)


def test_a_renewed_certificate_is_shown_to_whoever_comes_next(play, pair, tmp_path):
    """Those who are connected stay so."""

    async def scene(it, caller):
        it.server.context = server_context(*self_signed(tmp_path / "new"))
        await caller.send(GET)
        assert (await caller.answer())[0] == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            async with it.caller():
                pass
        it.trust = ssl.create_default_context(cafile=tmp_path / "new" / "cert.pem")
        async with it.caller() as other:
            await other.send(GET)
            assert (await other.answer())[0] == 200

    play(scene, pair=pair)


def test_a_caller_who_takes_nothing_of_its_last_answer_is_cut_off(play, terms, monkeypatch):
    """A closed connection must not live on for as long as its caller likes."""
    monkeypatch.setattr(wire, "HEAD_DEADLINE", 0.3)

    async def scene(it, caller):
        await caller.send(CLOSING)
        assert await eventually(lambda: it.server.server_state.connections)
        assert await eventually(lambda: not it.server.server_state.connections, within=10)
        assert len(it.house) == 0

    play(scene, **terms)


def test_a_caller_who_takes_its_last_answer_slowly_gets_all_of_it(play, terms, monkeypatch):
    """The bound is on taking nothing, not on taking long.

    Over TLS by hand: uvloop's own TLS drops what a paused reader has not taken yet when the other side ends.
    """
    monkeypatch.setattr(wire, "HEAD_DEADLINE", 1.0)
    monkeypatch.setattr(wire, "PARTING", 0.05)

    async def take(read):
        size = held = 0
        while data := await asyncio.wait_for(read(600_000), 10):
            size += len(data)
            held += len(data)
            if held >= 600_000:
                held = 0
                await asyncio.sleep(0.03)
        return size

    async def scene(it, caller):
        if terms:
            async with crypt(it) as slow:
                await slow.handshake()
                await slow.send(CLOSING)
                head = await slow.receive()
                assert len(head.partition(b"\r\n\r\n")[2]) + await take(slow.receive) == BIG
        else:
            await caller.send(CLOSING)
            await caller.reader.readuntil(b"\r\n\r\n")
            assert await take(caller.reader.read) == BIG

    play(scene, **terms)


def test_whoever_is_one_too_many_is_told_so_and_closed(play, terms, monkeypatch):
    """In the API's error shape, with the time to come back."""
    monkeypatch.setattr(wire, "LINGER", 0.3)

    async def scene(it, caller):
        await caller.send(b"GET /held HTTP/1.1\r\n\r\n")
        assert await eventually(lambda: it.app.seen)
        async with it.caller() as other:
            head = await other.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1\r\n" in head
            body = await asyncio.wait_for(other.reader.read(), 10)
            assert b'"code":"overloaded"' in body
            assert b'"type":"server_error"' in body
        it.app.gate.set()
        assert (await caller.answer())[0] == 200
        assert await eventually(lambda: len(it.server.server_state.connections) == 1)
        assert len(it.app.seen) == 1

    play(scene, house=Connections(1), **terms)


def test_an_idle_connection_makes_room_for_the_next(play, terms):
    """The longest idle first; nobody is refused for it."""

    async def scene(it, caller):
        await caller.send(GET)
        await caller.answer()
        async with it.caller() as second, it.caller() as third:
            for other in (second, third):
                await other.send(GET)
                assert (await other.answer())[0] == 200
            assert await caller.is_closed() == b""
            await second.send(GET)
            assert (await second.answer())[0] == 200
            assert len(it.house) == 2

    play(scene, house=Connections(2), **terms)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nx: ", GET], ids=["silent", "half a head", "idle"])
def test_a_stop_waits_for_nobody_who_waits_for_nothing(play, terms, said):
    """Idle, silent and half-said callers are closed at once, though over TLS they answer no farewell."""

    async def scene(it, caller):
        await caller.send(said)
        if said == GET:
            await caller.answer()
        begun = seconds()
        it.server.should_exit = True
        await caller.is_closed()
        assert await eventually(lambda: not it.server.server_state.connections)
        assert seconds() - begun < 10

    play(scene, grace=60, **terms)


def test_a_stop_waits_for_no_farewell(play, pair):
    """Many callers over TLS look at an idle connection only when they next use it."""

    async def scene(it, caller):
        async with crypt(it) as idle:
            await idle.handshake()
            await idle.send(GET)
            assert b"200 OK" in await idle.receive()
            begun = seconds()
            it.server.should_exit = True
            assert await eventually(lambda: not it.server.server_state.connections, within=20)
            assert seconds() - begun < 10

    play(scene, pair=pair, grace=60)


def test_a_stop_ends_handshakes_under_way(play, pair):
    """Nobody is waiting for them to end."""

    async def scene(it, caller):
        async with stranger(it) as (reader, _):
            assert await eventually(lambda: len(it.house) == 2)
            it.server.should_exit = True
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 5) == b""

    play(scene, pair=pair, grace=60)


def test_after_its_grace_a_stop_leaves_neither_a_call_nor_a_connection(play, terms, monkeypatch, caplog):
    """Not even those of a caller who reads nothing."""
    monkeypatch.setattr(listener, "CUT_GRACE", 0.3)

    async def scene(it, caller):
        await caller.send(b"GET /held HTTP/1.1\r\n\r\n")
        async with it.caller() as deaf:
            await deaf.send(CLOSING)
            assert await eventually(lambda: len(it.app.seen) == 2)
            it.server.should_exit = True
            assert (await caller.answer())[0] == 503
            assert await eventually(lambda: not it.server.server_state.connections)
            assert not it.server.server_state.tasks

    play(scene, grace=1, **terms)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_cut_tells_open_calls_and_ends_every_connection(play, terms, monkeypatch, caplog):
    """At once, whatever the grace."""
    monkeypatch.setattr(listener, "CUT_GRACE", 0.3)

    async def scene(it, caller):
        await caller.send(b"GET /held HTTP/1.1\r\n\r\n")
        assert await eventually(lambda: it.app.seen)
        it.server.should_exit = True
        await asyncio.sleep(0.3)
        it.server.cut()
        it.server.cut()  # the third signal
        status, body = await caller.answer()
        assert status == 503
        assert b'"code":"overloaded"' in body
        assert await caller.is_closed() == b""
        assert it.app.left.is_set()

    play(scene, grace=60, **terms)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_cut_before_a_stop_leaves_it_no_grace(play, terms, monkeypatch):
    """There is one way to cut, whatever was asked before."""
    monkeypatch.setattr(listener, "CUT_GRACE", 0.3)

    async def scene(it, caller):
        await caller.send(CLOSING)
        assert await eventually(lambda: it.app.seen)
        it.server.cut()
        assert await eventually(lambda: not it.server.server_state.connections)

    play(scene, grace=60, **terms)


def test_without_a_file_descriptor_left_nothing_is_accepted_for_a_while(play, pair, monkeypatch):
    """Asking again at once would burn the time that those who are connected need."""
    monkeypatch.setattr(listener, "PAUSE", 0.3)
    asked, accept = [], socket.socket.accept

    def refuse(bound):
        asked.append(bound)
        if len(asked) > 3:
            return accept(bound)
        raise OSError(errno.EMFILE, "Too many open files")

    async def scene(it, caller):
        monkeypatch.setattr(socket.socket, "accept", refuse)
        begun = seconds()
        async with it.caller() as other:
            assert seconds() - begun >= 3 * 0.3
            await other.send(GET)
            assert (await other.answer())[0] == 200
        monkeypatch.setattr(socket.socket, "accept", accept)

    play(scene, pair=pair)
