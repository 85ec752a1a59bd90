import asyncio
import contextlib
import errno
import json
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
    monkeypatch.setattr(wire, "LINGER", 0.3)

    async def scene(it, caller):
        await caller.send(GET)
        assert (await caller.answer())[0] == 200
        monkeypatch.setattr(wire, "HEAD_DEADLINE", 0.3)  # its handshake had all its time
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

    async def scene(it, caller):
        monkeypatch.setattr(wire, "HEAD_DEADLINE", 0.5)
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

    async def scene(it, caller):
        monkeypatch.setattr(wire, "HEAD_DEADLINE", 0.3)
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


def test_a_stop_serves_those_who_have_connected_already(play, terms, monkeypatch):
    """The kernel has let them in in our name: if the listener were closed over them they would be reset."""
    monkeypatch.setattr(wire, "FIRST_WORD", 10.0)

    async def ask(late, trust):
        late.setblocking(False)
        name = None if trust is None else "localhost"
        reader, writer = await asyncio.open_connection(sock=late, ssl=trust, server_hostname=name)
        writer.write(GET)
        answer = await reader.read()
        writer.close()
        return answer

    async def scene(it, caller):
        caller.writer.transport.abort()
        late = [socket.create_connection(("127.0.0.1", it.port)) for _ in range(listener.AT_ONCE + 1)]
        asking = [asyncio.ensure_future(ask(one, it.trust)) for one in late]
        await it.server.shutdown([it.bound])  # without a turn of the loop, in which they would be accepted
        for answer in await asyncio.gather(*asking):
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in answer
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", it.port))

    play(scene, grace=20, **terms)


def test_a_stop_reads_what_has_come_before_it_closes(play, monkeypatch):
    """A request that lies in the kernel was sent in time, however long its connection was idle before."""
    monkeypatch.setattr(wire, "LAST_CALL", 0.1)

    async def scene(it, caller):
        with socket.create_connection(("127.0.0.1", it.port)) as idle:
            for _ in range(2):
                idle.sendall(GET)
                if it.app.seen:
                    await it.server.shutdown([it.bound])
                assert b"200 OK" in await asyncio.to_thread(idle.recv, 65536)
                await asyncio.sleep(0.3)
            assert await asyncio.to_thread(idle.recv, 65536) == b""
        assert len(it.app.seen) == 2

    play(scene, grace=20)


def test_a_stop_spares_who_is_idle_while_others_are_served(play, monkeypatch):
    """Whoever balances by calls may just be sending the next one here; not for ever, and no longer than them."""
    monkeypatch.setattr(wire, "LAST_CALL", 0.2)

    async def scene(it, caller):
        await caller.send(b"GET /held HTTP/1.1\r\n\r\n")
        assert await eventually(lambda: it.app.seen)
        with (
            socket.create_connection(("127.0.0.1", it.port)) as used,
            socket.create_connection(("127.0.0.1", it.port)) as idle,
        ):
            for one in (used, idle):
                one.sendall(GET)
                assert b"200 OK" in await asyncio.to_thread(one.recv, 65536)
            stopping = asyncio.ensure_future(it.server.shutdown([it.bound]))
            await asyncio.sleep(0.6)  # three times as long as who is spared nothing
            used.sendall(GET)
            assert b"\r\nconnection: close\r\n" in await asyncio.to_thread(used.recv, 65536)
            assert await asyncio.to_thread(idle.recv, 65536) == b""
            assert not stopping.done()
        assert len(it.app.seen) == 4
        it.app.gate.set()
        assert (await caller.answer())[0] == 200
        await stopping

    play(scene, grace=20)


@pytest.mark.parametrize("stop", ["part", "shutdown"])
def test_a_connection_is_not_closed_behind_an_answer_whose_head_did_not_say_so(play, terms, monkeypatch, stop):
    """Its caller may send the next request in the same moment; that one's answer says so."""
    monkeypatch.setattr(wire, "LAST_CALL", 5.0)

    async def scene(it, caller):
        await caller.send(b"GET /big HTTP/1.1\r\n\r\n")
        head = await caller.reader.readuntil(b"\r\n\r\n")
        if stop == "part":
            it.server.part()
        else:
            it.server.should_exit = True
            assert await eventually(lambda: it.house.parting)
        assert b"connection" not in head
        assert len(await caller.reader.readexactly(BIG)) == BIG
        await caller.send(GET)
        assert b"\r\nconnection: close\r\n" in await caller.reader.readuntil(b"\r\n\r\n")
        assert await caller.is_closed() == b""

    play(scene, grace=20, **terms)


def test_a_stop_ends_handshakes_that_do_not_end(play, pair):
    """Whoever has connected gets a moment to say what he wants, and no more."""

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


STREAM = b"GET /stream HTTP/1.1\r\n\r\n"


def test_behind_a_stream_that_was_cut_its_connection_is_closed(play, terms):
    """Its head did not say so, but whoever sent the next call there would wait for an answer that nobody gives."""

    async def scene(it, caller):
        await caller.send(STREAM)
        await caller.reader.readuntil(b"begun\r\n")
        await caller.send(STREAM)  # it waits behind the first
        it.server.should_exit = True
        assert (await caller.is_closed()).endswith(b"ended\r\n0\r\n\r\n")
        assert it.requests == [("GET", "/stream")]

    play(scene, grace=0.1, **terms)


def test_whoever_had_connected_and_asks_after_the_cut_is_told_so_at_once(play, terms):
    """And does not begin what would be severed a moment later."""

    async def scene(it, caller):
        it.server.should_exit = True
        assert await eventually(lambda: it.house.over)
        await caller.send(STREAM)
        head = await caller.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nconnection: close\r\n" in head
        assert b'"code":"overloaded"' in await caller.is_closed()
        assert it.requests == []

    play(scene, grace=0, **terms)


def test_whoever_comes_after_a_cut_before_the_door_is_closed_is_told_so_too(play, terms):
    """A second signal in the pause of a stop: the door closes a moment later. Likewise who came in that very moment."""

    async def scene(it, caller):
        await caller.send(STREAM)
        await caller.reader.readuntil(b"begun\r\n")
        async with it.caller() as late:
            it.server.cut()
            await late.send(STREAM)
            status, body = await late.answer()
            assert (status, await late.is_closed()) == (503, b"")
            assert b'"code":"overloaded"' in body
        assert (await caller.is_closed()).endswith(b"0\r\n\r\n")
        assert len(it.requests) == 1

    play(scene, grace=60, **terms)


def test_a_call_that_is_cut_before_it_has_run_at_all_is_told_so(play):
    """It came in the same moment."""

    async def scene(it, caller):
        began = it.server.config.http._start_asgi_task

        def cut_at_once(self, *cycle_and_app):
            began(self, *cycle_and_app)
            it.server.cut()

        it.server.config.http._start_asgi_task, before = cut_at_once, began
        try:
            await caller.send(GET)
            assert (await caller.answer())[0] == 503
        finally:
            it.server.config.http._start_asgi_task = before

    play(scene, grace=60)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("path", "header", "kind"),
    [
        ("/v1/messages", "x: y", "overloaded_error"),
        ("/v1/models", "anthropic-version: 2023-06-01", "overloaded_error"),
        ("/v1/chat/completions", "x: y", "server_error"),
        ("/v1/models", "x: y", "server_error"),
    ],
)
def test_a_stop_is_told_in_the_shape_of_the_api_that_was_asked(play, path, header, kind, late):
    """To a call that is cut, and to one that comes after the cut; with the ids that its clients tell."""

    async def scene(it, caller):
        it.app.held.add(path)
        if late:
            it.house.over = True
        await caller.send(f"GET {path} HTTP/1.1\r\nconnection: close\r\n{header}\r\n\r\n".encode())
        if not late:
            assert await eventually(lambda: it.app.seen)
            it.server.cut()
        head, _, body = (await caller.is_closed()).partition(b"\r\n\r\n")
        told = json.loads(body)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert told["error"]["type"] == kind
        assert told["request_id"].encode() in head
        assert (b"\r\nrequest-id: " in head) is (told.get("type") == "error") is (kind == "overloaded_error")

    play(scene)


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
