"""What a transport promises, ours and the stock one alike, over real sockets and an upstream that does as scripted."""

import asyncio

import httpx
import pytest

from gateway.upstream import transport as module
from policies.failures import FailureKind
from tests.gateway.harness import eventually
from tests.parts.scripted import Bytes, Close, Hang, Pause, Raw, Reset, Status, Until
from tests.parts.transports import begin, fetch, opened

LOOPS = ["uvloop", "asyncio"]
JSON = {"content-type": "application/json"}
HEAD = b"HTTP/1.1 200 OK\r\n"
WHOLE = {
    "by length": [Raw(HEAD + b"content-length: 5\r\n\r\nhello")],
    "chunked": [Raw(HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")],
    "chunked with extensions and trailers": [
        Raw(HEAD + b"transfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n")
    ],
    "to the end of the connection": [Raw(HEAD + b"\r\nhello"), Close()],
    "after interim answers": [
        Raw(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n"
            + HEAD
            + b"content-length: 5\r\n\r\nhello"
        )
    ],
    "by HTTP/1.0": [Raw(b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello")],
}


@pytest.mark.parametrize("framing", WHOLE)
async def test_a_whole_answer_is_read_however_it_is_framed(transport, upstream, framing):
    """And the interim ones are passed over."""
    upstream.enqueue(WHOLE[framing])

    status, headers, body = await fetch(transport, upstream.url)

    assert (status, body) == (200, b"hello")
    assert "link" not in headers


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_has_no_body_has_none(transport, upstream, status):
    """Whatever its headers say."""
    upstream.enqueue([Raw(b"HTTP/1.1 %d X\r\n\r\n" % status)])

    assert (await fetch(transport, upstream.url))[::2] == (status, b"")


BROKEN = {
    "cut in its length": [Raw(HEAD + b"content-length: 50\r\n\r\nhello"), Close()],
    "cut in a chunk": [Raw(HEAD + b"transfer-encoding: chunked\r\n\r\n9\r\nhello"), Close()],
    "cut before the last chunk": [Raw(HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"), Close()],
    "cut in the head": [Raw(b"HTTP/1.1 200 OK\r\ncontent-le"), Close()],
    "closed without a byte": [Close()],
    "reset without a byte": [Reset()],
    "reset after the head": [Raw(HEAD + b"content-length: 50\r\n\r\n"), Pause(0.02), Reset()],
    "reset in the body": [Raw(HEAD + b"content-length: 50\r\n\r\nhello"), Pause(0.02), Reset()],
    "not HTTP": [Raw(b"SSH-2.0-x\r\n\r\n"), Close()],
    "a chunk size that is none": [Raw(HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n"), Close()],
    "two lengths": [Raw(HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!"), Close()],
    "a head without end": [Raw(HEAD + b"x-pad: " + b"a" * 200_000), Hang()],
    "headers without end": [Raw(HEAD + b"".join(b"x-%d: 1\r\n" % n for n in range(20_000))), Hang()],
}
DEADLY = {FailureKind.TRUNCATED, FailureKind.RESET, FailureKind.PROTOCOL}


@pytest.mark.parametrize("how", BROKEN)
async def test_a_broken_answer_is_an_error_and_never_an_end(transport, upstream, how):
    """And its connection is not used again."""
    upstream.enqueue(BROKEN[how])

    failure = await asyncio.wait_for(fetch(transport, upstream.url), 10)

    assert failure.kind in DEADLY
    assert await eventually(lambda: not upstream.connections)
    assert (await fetch(transport, upstream.url))[0] == 200


async def test_a_port_that_is_closed_and_a_name_that_is_unknown_are_failed_connects(transport):
    """As is an upstream that does not speak TLS."""
    for url in ("http://127.0.0.1:9", "http://no-such-host.invalid"):
        assert (await fetch(transport, url)).kind is FailureKind.CONNECT


async def test_connections_are_kept_and_used_again(transport, upstream):
    """One after another over one, at once over as many."""
    for _ in range(3):
        assert (await fetch(transport, upstream.url))[0] == 200
    assert len(upstream.connections) == 1

    await asyncio.gather(*(fetch(transport, upstream.url) for _ in range(5)))
    assert 1 < len(upstream.connections) <= 5


async def test_a_connection_that_its_upstream_closed_is_not_used(transport, upstream):
    """The next call opens another, and its caller notices nothing."""
    await fetch(transport, upstream.url)
    (connection,) = upstream.connections
    connection.close()
    await asyncio.sleep(0.05)

    assert (await fetch(transport, upstream.url))[0] == 200


async def test_cancelling_closes_at_once_in_every_phase(transport, upstream):
    """Before the head, in the body, and while writing a large request."""
    scripts = {
        "prefill": [Hang()],
        "body": [Raw(HEAD + b"content-length: 50\r\n\r\nhello"), Hang()],
    }
    for script in scripts.values():
        upstream.enqueue(script)
        call = asyncio.ensure_future(fetch(transport, upstream.url))
        await eventually(lambda: upstream.calls and upstream.connections)
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await eventually(lambda: not upstream.connections, within=1.0)


async def test_a_body_left_unread_closes_its_connection(transport, upstream):
    """What is still to come must not be taken for another call's."""
    upstream.enqueue([Raw(HEAD + b"content-length: 50\r\n\r\nhello"), Hang()])
    (await begin(transport, upstream.url)).close()

    assert await eventually(lambda: not upstream.connections)
    assert (await fetch(transport, upstream.url))[0] == 200


async def test_a_slow_reader_pauses_the_upstream(transport, upstream):
    """Memory stays flat, whatever the upstream would send."""
    upstream.enqueue([Status(200, JSON), *[Bytes(b"x" * 100_000)] * 400])
    answer = await begin(transport, upstream.url)
    await asyncio.sleep(0.5)
    (connection,) = upstream.connections
    assert connection.sent < 15_000_000

    size = 0
    while (part := await answer.read()) is not None:
        size += len(part)
    assert size == 40_000_000


async def test_any_httpx_client_can_use_it(transport, upstream):
    """For all that is no call: other methods, and answers as httpx has them."""
    upstream.enqueue([Raw(HEAD + b"content-type: text/plain\r\ncontent-length: 5\r\n\r\nhello")])
    client = httpx.AsyncClient(transport=transport)

    listed = await client.get(f"{upstream.url}/v1/models")
    answer = await client.post(upstream.url, json={"a": 1})

    assert listed.json()["object"] == "list"
    assert (answer.text, answer.headers["content-type"]) == ("hello", "text/plain")
    assert len(upstream.connections) == 1


async def test_a_large_request_goes_out_whole(transport, upstream):
    """Though the kernel takes it in parts."""
    body = bytes(range(256)) * 20_000
    upstream.enqueue([Raw(HEAD + b"content-length: 0\r\n\r\n")])

    assert (await fetch(transport, upstream.url, body))[0] == 200
    assert upstream.requests[-1].body == body


async def test_an_answer_before_the_end_of_the_request_is_an_answer(transport, upstream):
    """A 413, say."""
    upstream.enqueue([Raw(b"HTTP/1.1 413 X\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"), Close()])

    assert (await fetch(transport, upstream.url))[::2] == (413, b"no")


@pytest.fixture(params=["pooled", "httpx"])
async def narrow(request, upstream):
    """Open a transport of at most three connections."""
    started = opened(request.param, upstream.url, max_connections=3)
    yield started
    await started.aclose()


async def test_a_bound_on_connections_is_kept_and_calls_take_turns(narrow, upstream):
    """Twelve callers over three connections."""
    at_most = []
    upstream.default = [Pause(0.01), Raw(HEAD + b"content-length: 5\r\n\r\nhello")]

    async def call():
        read = await fetch(narrow, upstream.url)
        at_most.append(len(upstream.connections))
        return read

    reads = await asyncio.gather(*(call() for _ in range(12)))

    assert [read[2] for read in reads] == [b"hello"] * 12
    assert max(at_most) == 3


async def test_a_call_that_gets_no_connection_in_time_is_busy(narrow, upstream, monkeypatch):
    """The calls under way are not disturbed, and their connections are used again."""
    released = asyncio.Event()
    upstream.default = [Until(released), Raw(HEAD + b"content-length: 5\r\n\r\nhello")]
    calls = [asyncio.ensure_future(fetch(narrow, upstream.url)) for _ in range(3)]
    await eventually(lambda: upstream.running == 3)
    monkeypatch.setattr(module, "CONNECT", 0.1)

    assert (await fetch(narrow, upstream.url)).kind is FailureKind.BUSY
    released.set()
    assert [read[0] for read in await asyncio.gather(*calls)] == [200] * 3
    upstream.default = None
    assert (await fetch(narrow, upstream.url))[0] == 200
    assert len(upstream.connections) == 3


async def test_callers_who_leave_while_they_wait_take_nothing_with_them(narrow, upstream):
    """All three connections serve on."""
    upstream.default = [Pause(0.05), Raw(HEAD + b"content-length: 5\r\n\r\nhello")]
    calls = [asyncio.ensure_future(fetch(narrow, upstream.url)) for _ in range(9)]
    await asyncio.sleep(0.02)
    for call in calls[3::2]:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    more = await asyncio.gather(*(fetch(narrow, upstream.url) for _ in range(6)))

    assert [isinstance(result, asyncio.CancelledError) for result in results].count(True) == 3
    assert [read[0] for read in more] == [200] * 6


class TestOurs:
    """What only the pooled one promises."""

    async def test_the_end_of_an_idle_connection_that_crosses_a_request_is_not_a_failure(
        self, pooled, upstream, monkeypatch
    ):
        """The request goes out once more, on a new connection, and was read once."""
        monkeypatch.setattr(module, "STALE", 10.0)  # how late the end may be is another test's
        await fetch(pooled, upstream.url)
        upstream.enqueue([Close()])

        assert (await fetch(pooled, upstream.url))[0] == 200
        assert len(upstream.calls) == 3

    async def test_a_new_connection_that_is_closed_is_a_failure(self, pooled, upstream):
        """Its upstream has read the request."""
        upstream.enqueue([Close()])

        assert (await fetch(pooled, upstream.url)).kind is FailureKind.TRUNCATED
        assert len(upstream.calls) == 1

    async def test_an_old_connection_that_is_closed_late_is_a_failure(self, pooled, upstream):
        """By then somebody worked on it."""
        await fetch(pooled, upstream.url)
        upstream.enqueue([Pause(3 * module.STALE), Close()])

        assert (await fetch(pooled, upstream.url)).kind is FailureKind.TRUNCATED
        assert len(upstream.calls) == 2

    async def test_idle_connections_expire(self, pooled, upstream, monkeypatch):
        """Before their upstream would close them."""
        monkeypatch.setattr("gateway.upstream.pool.KEEP_ALIVE", 0.1)
        await asyncio.gather(*(fetch(pooled, upstream.url) for _ in range(3)))
        assert upstream.connections

        assert await eventually(lambda: not upstream.connections, within=2.0)

    async def test_what_comes_unasked_ends_the_connection(self, pooled, upstream):
        """It must not be read as the next call's answer."""
        wire = HEAD + b"content-length: 2\r\n\r\nok"
        upstream.enqueue([Raw(wire + HEAD + b"content-length: 5\r\n\r\nother")])
        assert (await fetch(pooled, upstream.url))[2] == b"ok"

        assert await eventually(lambda: not upstream.connections)
        assert (await fetch(pooled, upstream.url))[0] == 200

    async def test_callers_who_leave_while_connecting_leak_nothing(self, pooled, upstream):
        """At whichever step of the loop they leave."""
        for steps in range(40):
            call = asyncio.ensure_future(fetch(pooled, upstream.url))
            for _ in range(steps):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        idle = sum(len(pool) for pool in pooled._pools.values())

        assert await eventually(lambda: len(upstream.connections) <= idle)
