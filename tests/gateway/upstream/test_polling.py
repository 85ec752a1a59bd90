import json

import pytest

from gateway.config.settings import Backend
from gateway.upstream import polling
from gateway.upstream.attempt import Attempt, AttemptFailed
from gateway.upstream.fleet import Fleet, Home
from gateway.upstream.polling import place_of
from policies.failures import FailureKind
from policies.live import Ticket
from tests.gateway.harness import eventually
from tests.parts.http1 import Http1Server
from tests.policies.builders import candidate, deployment


class Functions(Http1Server):
    """Answers 202 to a call, and so many times more to whoever asks for its answer."""

    def __init__(self, later, request_id="6d6f-1", status=200):
        super().__init__()
        self.later = later
        self.request_id = request_id
        self.status = status
        self.asked = []

    async def handle(self, request, connection):
        self.asked.append((request.method, request.path, dict(request.headers)))
        status = 202 if len(self.asked) <= self.later + 1 else self.status
        body = json.dumps({"asked": len(self.asked)}).encode()
        head = f"HTTP/1.1 {status} \r\nnvcf-reqid: {self.request_id}\r\ncontent-length: {len(body)}\r\n\r\n"
        await connection.write(head.encode() + body)


@pytest.fixture(params=["pooled", "httpx"])
def transport(request, monkeypatch):
    monkeypatch.setattr(polling, "PAUSE", 0.01)
    return request.param


async def asked(upstream, transport, kind="nvidia"):
    """Ask once; return what was answered, and the attempt."""
    fleet, chosen = Fleet(), candidate(deployment(kind=kind))
    fleet.add(Backend("gpu-a", kind, f"{upstream.url}/v1", "nvapi-1", transport))
    attempt = Attempt(fleet.homes["gpu-a"], Ticket(fleet.live(chosen.deployment), 100, 0.0), chosen)
    try:
        await attempt.open("chat", b"{}", [(b"x-request-id", b"r")], 7.0)
        parts = []
        while (part := await attempt.read()) is not None:
            parts.append(part)
        return json.loads(b"".join(parts)), attempt
    finally:
        attempt.close()
        await fleet.close()


async def test_an_answer_that_comes_later_is_asked_for_until_it_is_there(transport):
    """By its id, with the call's own credential; then it is an answer like any other."""
    async with Functions(later=2) as upstream:
        answer, attempt = await asked(upstream, transport)

    assert answer == {"asked": 4}
    assert [(method, path) for method, path, _ in upstream.asked] == [
        ("POST", "/v1/chat/completions"),
        *[("GET", "/v2/nvcf/pexec/status/6d6f-1")] * 3,
    ]
    assert all(headers["authorization"] == "Bearer nvapi-1" for _, _, headers in upstream.asked)
    assert upstream.asked[-1][2]["nvcf-poll-seconds"] == "7"
    assert attempt.status == 200
    assert attempt.names["sluiceway.upstream_request_id"] == "6d6f-1"


async def test_the_later_answer_may_be_a_failure(transport):
    """It means what it would have meant at once."""
    async with Functions(later=1, status=429) as upstream:
        with pytest.raises(AttemptFailed) as failed:
            await asked(upstream, transport)

    assert failed.value.failure.kind is FailureKind.RATE_LIMITED


@pytest.mark.parametrize(("kind", "request_id"), [("vllm", "6d6f-1"), ("nvidia", "../keys"), ("nvidia", "..")])
async def test_without_a_way_to_ask_it_is_no_answer(transport, kind, request_id):
    """No other engine has one, and an id that is none must not become a path."""
    async with Functions(later=9, request_id=request_id) as upstream:
        with pytest.raises(AttemptFailed) as failed:
            await asked(upstream, transport, kind)

    assert failed.value.failure.kind is FailureKind.UNAVAILABLE
    assert len(upstream.asked) == 1


async def test_an_upstream_that_breaks_off_while_it_is_asked_has_failed(transport):
    """And nothing of it is left open."""
    async with Functions(later=10**6) as upstream:
        upstream.asked = _Ending(upstream)
        with pytest.raises(AttemptFailed):
            await asked(upstream, transport)
        assert await eventually(lambda: not upstream.connections)


class _Ending(list):
    """What was asked; from the third time on the server's connections end."""

    def __init__(self, upstream):
        super().__init__()
        self._upstream = upstream

    def append(self, one):
        super().append(one)
        if len(self) >= 3:
            for connection in list(self._upstream.connections):
                connection.reset()


async def test_the_hosted_endpoint_is_asked_at_the_host_that_answers_for_it():
    """Its own knows no such path; any other host is asked itself."""
    hosted = Home(Backend("h", "nvidia", "https://integrate.api.nvidia.com/v1", "nvapi-1"))
    own = Home(Backend("o", "nvidia", "http://127.0.0.1:9/some/v1"))
    places = [str(place_of(home, b"6d6f")) for home in (hosted, own)]
    for home in (hosted, own):
        await home.transport.aclose()

    assert places == [
        "https://api.nvcf.nvidia.com/v2/nvcf/pexec/status/6d6f",
        "http://127.0.0.1:9/v2/nvcf/pexec/status/6d6f",
    ]
