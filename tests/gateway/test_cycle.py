import asyncio
import logging

import pytest

from gateway.cycle import PRESENCE, Cycle, Presence, body_ended


class Transport:
    """Keeps what is written, one entry a write."""

    def __init__(self):
        self.writes = []
        self.closed = self.aborted = False

    def abort(self):
        self.aborted = self.closed = True

    def write(self, data):
        self.writes.append(bytes(data))

    def writelines(self, parts):
        self.writes.append(b"".join(parts))

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True


class Flow:
    write_paused = False

    async def drain(self):
        await asyncio.Event().wait()

    def resume_reading(self):
        pass


@pytest.fixture
def begin():
    def made(method="POST", keep_alive=True, version="1.1"):
        presence, transport = Presence(), Transport()
        cycle = Cycle(
            presence,
            transport.close,
            scope={"method": method, "http_version": version, "extensions": {PRESENCE: presence}},
            transport=transport,
            flow=Flow(),
            logger=logging.getLogger(__name__),
            access_logger=None,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=lambda: None,
        )
        return cycle, cycle.transport

    return made


def start(*headers, status=200):
    return {"type": "http.response.start", "status": status, "headers": headers}


def part(body, *, more=False):
    return {"type": "http.response.body", "body": body, "more_body": more}


LENGTH = (b"content-length", b"2")


async def test_a_head_goes_out_with_the_first_of_its_body(begin):
    """One write, one segment."""
    cycle, transport = begin()

    await cycle.send(start(LENGTH))
    assert transport.writes == []
    await cycle.send(part(b"ok"))

    assert transport.writes == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]
    assert cycle.response_complete
    assert not transport.closed


async def test_a_body_of_unknown_length_is_chunked(begin):
    """An empty part is no chunk, for that would be the last one."""
    cycle, transport = begin()

    for message in (start(), part(b"one", more=True), part(b"", more=True), part(b"two")):
        await cycle.send(message)

    head, body = b"".join(transport.writes).split(b"\r\n\r\n", 1)
    assert head == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked"
    assert body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


async def test_a_large_body_is_the_same_on_the_wire(begin):
    """It is not copied behind its head."""
    cycle, transport = begin()
    body = b"x" * 200_000

    await cycle.send(start((b"content-length", b"200000")))
    await cycle.send(part(body))

    assert transport.writes == [b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n" + body]


@pytest.mark.parametrize("said", [(), ((b"connection", b"close"),)])
async def test_a_connection_that_will_not_be_kept_is_said_to_be_closed_and_is(begin, said):
    """Whoever wants it: the caller or the application."""
    cycle, transport = begin(keep_alive=bool(said))

    await cycle.send(start(LENGTH, *said))
    await cycle.send(part(b"ok"))

    assert transport.writes[0].count(b"connection: close\r\n") == 1
    assert transport.closed


async def test_an_old_caller_is_sent_no_chunks(begin):
    """Its answer's end is the connection's."""
    cycle, transport = begin(keep_alive=False, version="1.0")

    for message in (start(), part(b"one", more=True), part(b"two")):
        await cycle.send(message)

    assert b"".join(transport.writes) == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nonetwo"
    assert transport.closed


async def test_an_old_callers_answer_that_breaks_off_is_a_reset(begin):
    """A plain end would be taken for the answer's."""
    cycle, transport = begin(keep_alive=False, version="1.0")

    async def app(scope, receive, send):
        await send(start())
        await send(part(b"one", more=True))

    await cycle.run_asgi(app)

    assert transport.aborted


async def test_who_has_not_read_earlier_answers_is_not_waited_for_long(begin, monkeypatch):
    """It would hold one of the calls that may be open."""
    monkeypatch.setattr("gateway.cycle.UNREAD", 0.05)
    cycle, transport = begin()
    cycle.flow.write_paused = True

    await cycle.send(start(LENGTH))

    assert transport.aborted
    assert cycle.disconnected


async def test_the_answer_to_a_head_request_has_no_body(begin):
    """Though its head tells the length."""
    cycle, transport = begin("HEAD")

    await cycle.send(start(LENGTH))
    await cycle.send(part(b"ok"))

    assert transport.writes == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"]


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_is_not_chunked(begin, status):
    """A client would wait for a chunk."""
    cycle, transport = begin()

    await cycle.send(start(status=status))
    await cycle.send(part(b""))

    assert b"chunked" not in transport.writes[0]


@pytest.mark.parametrize(
    "messages",
    [
        [part(b"ok")],
        [start(), start()],
        [start(LENGTH), part(b"ok"), part(b"ok")],
        [start(LENGTH), part(b"longer")],
        [start(LENGTH), part(b"s")],
        [start((b"x", b"a\r\nset-cookie: b"))],
        [start((b"x", b"a\nb"))],
    ],
)
async def test_an_application_that_breaks_the_protocol_is_told(begin, messages):
    """Before a caller could be misled."""
    cycle, _ = begin()

    async def answer():
        for message in messages:
            await cycle.send(message)

    with pytest.raises(RuntimeError):
        await answer()


async def test_who_wants_to_know_is_told_that_the_caller_left_and_nothing_is_sent_any_more(begin):
    """At once, and by a plain call."""
    cycle, transport = begin()
    told = []
    cycle.scope["extensions"][PRESENCE].then = lambda: told.append("left")

    cycle.disconnected = True
    await cycle.send(start(LENGTH))

    assert told == ["left"]
    assert transport.writes == []


async def test_a_caller_who_leaves_when_nobody_listens_is_no_matter(begin):
    """As in the moments before a call is known."""
    cycle, _ = begin()
    cycle.disconnected = True

    assert cycle.disconnected
    assert await cycle.receive() == {"type": "http.disconnect"}


async def test_a_body_that_is_all_here_can_be_had_at_once(begin):
    """Not one of which a part was taken: the rest would be taken for all."""
    whole, _ = begin()
    whole.body += b"{}"
    body_ended(whole)
    parts, _ = begin()
    parts.body += b"{"
    parts.message_event.set()
    await parts.receive()
    parts.body += b"}"
    body_ended(parts)

    assert whole.scope["extensions"][PRESENCE].body == b"{}"
    assert parts.scope["extensions"][PRESENCE].body is None
