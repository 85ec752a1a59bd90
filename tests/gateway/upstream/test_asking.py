import asyncio

import httpx
import pytest

from gateway.config.settings import Backend
from gateway.upstream.asking import ask
from gateway.upstream.fleet import Home
from tests.parts.http1 import Http1Server


class Pages(Http1Server):
    """Answers every request with `body`, as often as it is told, once `free` is set."""

    def __init__(self, body=b"fine", times=1):
        super().__init__()
        self.body, self.times = body, times
        self.free = asyncio.Event()
        self.free.set()

    async def handle(self, request, connection):
        await self.free.wait()
        await connection.write(b"HTTP/1.1 200 \r\ncontent-length: %d\r\n\r\n" % (len(self.body) * self.times))
        for _ in range(self.times):
            await connection.write(self.body)


@pytest.fixture
async def asked():
    """Ask a server as its backend of some kind, and close what was opened."""
    homes = []

    async def ask_once(server, transport="pooled", within=5.0, **settings):
        homes.append(Home(Backend("a", "vllm", f"{server.url}/v1", "key", transport=transport, **settings)))
        return await ask(homes[-1], f"{server.url}/metrics", within)

    yield ask_once
    for home in homes:
        await home.transport.aclose()


@pytest.mark.parametrize("transport", ["pooled", "httpx"])
async def test_a_question_goes_the_way_of_a_call_with_its_credential(asked, transport):
    """As a GET without a body, for an answer without a coding."""
    async with Pages() as server:
        answer = await asked(server, transport)

        assert (answer.status, answer.body) == (200, b"fine")
        (request,) = server.requests
        assert (request.method, request.path, request.body) == ("GET", "/metrics", b"")
        assert request.header("authorization") == "Bearer key"
        assert request.header("accept-encoding") == "identity"
        assert request.header("content-type") is None
        assert [name for name, _ in request.headers].count("host") == 1


@pytest.mark.parametrize("transport", ["pooled", "httpx"])
async def test_an_answer_without_end_is_given_up(asked, transport):
    """Its connection is closed, and nothing of it is taken for the whole."""
    async with Pages(b"x" * 65536, times=1000) as server:
        assert (await asked(server, transport)).body == b""


async def test_an_answer_that_does_not_come_is_waited_for_that_long(asked):
    """And no longer; whoever is not there is told apart."""
    async with Pages() as server:
        server.free.clear()
        with pytest.raises((TimeoutError, httpx.TimeoutException)):
            await asked(server, within=0.05)
    with pytest.raises(httpx.ConnectError):
        await asked(server)
