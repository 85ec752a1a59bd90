"""Both transports against the servers that stand behind and before engines, with TLS and without."""

import asyncio
import hashlib
import json
import os

import pytest

from gateway.config.settings import TRANSPORTS
from policies.failures import Failure, FailureKind
from tests.parts.transports import begin, connections, fetch, opened
from tests.parts.web_asgi import large, stream
from tests.parts.webservers import KINDS, PROXIES, WebServer

SITES = [
    pytest.param((kind, scheme), id=f"{kind}-{scheme}", marks=[pytest.mark.ci] if kind in PROXIES else [])
    for kind in KINDS
    for scheme in ("http", "https")
    if kind not in PROXIES or os.environ.get("SLUICEWAY_LANE") == "ci"
]


@pytest.fixture(scope="module", params=SITES)
def site(request, tmp_path_factory, certificates):
    kind, scheme = request.param
    started = WebServer(kind, tmp_path_factory.mktemp(kind), certificates if scheme == "https" else None).start()
    yield started
    started.close()


@pytest.fixture(params=TRANSPORTS)
async def transport(request, site, certificates):
    started = opened(request.param, site.url, ca=certificates.ca if site.certificates else None)
    yield started
    await started.aclose()


async def left(transport, site):
    return json.loads((await fetch(transport, f"{site.url}/left"))[2])


async def until_more_left(transport, site, path, before):
    async with asyncio.timeout(10):
        while (await left(transport, site))[path] == before:  # noqa: ASYNC110 - the server is another process
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", ["length", "chunked"])
async def test_a_large_answer_arrives_whole(transport, site, path):
    """Two megabytes, their length told before or not."""
    status, _, body = await fetch(transport, f"{site.url}/large/{path}")

    assert (status, body) == (200, large())


async def test_a_stream_of_events_arrives_whole(transport, site):
    """However the server cuts it."""
    status, _, body = await fetch(transport, f"{site.url}/stream")

    assert (status, body) == (200, stream())


async def test_a_large_request_is_taken_whole(transport, site):
    """Five megabytes, through every buffer."""
    request = bytes(range(256)) * 20_480
    _, _, told = await fetch(transport, f"{site.url}/sum", request)

    assert told.decode() == hashlib.sha256(request).hexdigest()


@pytest.mark.parametrize("status", [404, 500])
async def test_an_error_is_an_answer_like_any_other(transport, site, status):
    """Its body is read and its connection kept."""
    told, _, body = await fetch(transport, f"{site.url}/status/{status}")

    assert (told, body) == (status, b'{"error": "as asked"}')
    assert connections(transport) == 1


async def test_one_after_another_go_over_one_connection(transport, site):
    """Fifty calls, small and large, and the server saw one port."""
    ports = set()
    for number in range(50):
        status, _, port = await fetch(transport, f"{site.url}/small")
        assert status == 200
        ports.add(port)
        if number % 10 == 0:
            assert len((await fetch(transport, f"{site.url}/large/chunked"))[2]) == len(large())

    assert len(ports) == 1
    assert connections(transport) == 1


async def test_calls_at_once_do_not_mix(transport, site):
    """Twenty callers of ten calls each, every answer to its own."""

    async def call(number):
        for turn in range(10):
            request = b"%d-%d" % (number, turn)
            status, _, body = await fetch(transport, f"{site.url}/sum", request)
            assert (status, body.decode()) == (200, hashlib.sha256(request).hexdigest())

    await asyncio.gather(*(call(number) for number in range(20)))

    assert 1 <= connections(transport) <= 20


@pytest.mark.parametrize("path", ["/wait", "/drip"])
async def test_a_caller_who_leaves_is_seen_to_leave(transport, site, path):
    """Before the head and in the body, so that an engine stops its work."""
    before = (await left(transport, site))[path]
    call = asyncio.ensure_future(fetch(transport, f"{site.url}{path}"))
    await asyncio.sleep(0.1)
    assert not call.done()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    await until_more_left(transport, site, path, before)


async def test_a_response_that_is_closed_unread_is_seen_to_be_left(transport, site):
    """And the next answer is the next call's."""
    before = (await left(transport, site))["/drip"]
    (await begin(transport, f"{site.url}/drip")).close()

    await until_more_left(transport, site, "/drip", before)


async def test_a_server_that_is_away_is_a_failed_connect_and_is_found_again(transport, site):
    """On the port where it was; nothing hangs, and the connections of before are not trusted."""
    assert (await fetch(transport, f"{site.url}/small"))[0] == 200
    await asyncio.to_thread(site.stop)
    away = await asyncio.wait_for(fetch(transport, f"{site.url}/small"), 10)
    await asyncio.to_thread(site.start)
    back = await asyncio.wait_for(fetch(transport, f"{site.url}/small"), 10)

    assert isinstance(away, Failure)
    assert away.kind is FailureKind.CONNECT
    assert back[0] == 200
