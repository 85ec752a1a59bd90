"""Both transports against the real llama.cpp server, whose HTTP is cpp-httplib's."""

import asyncio
import json

import pytest

from gateway.config.settings import TRANSPORTS
from policies.failures import Failure, FailureKind
from tests.parts.llamacpp import LlamaServer
from tests.parts.tiny_model import TINY, write_model
from tests.parts.transports import begin, connections, fetch, opened


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    started = LlamaServer(write_model(tmp_path_factory.mktemp("models"), TINY)).start()
    yield started
    started.stop()


@pytest.fixture(params=TRANSPORTS)
async def transport(request, engine):
    started = opened(request.param, engine.url)
    yield started
    await started.aclose()


def chat(tokens, *, stream):
    messages = [{"role": "user", "content": "hello there"}]
    asked = {"model": "tiny", "messages": messages, "max_tokens": tokens, "stream": stream, "ignore_eos": True}
    return json.dumps(asked).encode()


async def test_one_after_another_are_answered_over_kept_connections(transport, engine):
    """Fifty calls, plain answers and errors among them; it closes a connection after some, which nobody notices."""
    for number in range(50):
        path, expected = ("/nothing", 404) if number % 10 == 9 else ("/tokenize", 200)
        assert (await fetch(transport, f"{engine.url}{path}", b'{"content": "hello"}'))[0] == expected
        assert connections(transport) <= 1


async def test_calls_at_once_do_not_mix(transport, engine):
    """Twenty callers of ten calls each; every answer has as many tokens as its question."""

    async def call(number):
        for _ in range(10):
            status, _, body = await fetch(transport, f"{engine.url}/tokenize", b'{"content": "%b"}' % (b"!" * number))
            assert status == 200
            counts.setdefault(number, set()).add(len(json.loads(body)["tokens"]))

    counts = {}
    await asyncio.gather(*(call(number) for number in range(1, 21)))

    assert counts == {number: {number} for number in range(1, 21)}


async def test_large_requests_and_large_answers_are_whole(transport, engine):
    """Megabytes each way, the answer by its length."""
    asked = json.dumps({"tokens": [40] * 1_000_000}).encode()
    status, headers, body = await fetch(transport, f"{engine.url}/detokenize", asked)

    assert (status, int(headers["content-length"])) == (200, len(body))
    assert len(set(json.loads(body)["content"])) == 1
    assert len(body) >= 1_000_000


async def test_a_stream_arrives_whole(transport, engine):
    """To its last word."""
    url = f"{engine.url}/v1/chat/completions"
    status, headers, body = await fetch(transport, url, chat(200, stream=True))

    assert (status, headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    assert body.count(b"data: ") >= 200
    assert body.endswith(b"data: [DONE]\n\n")


async def test_a_caller_who_leaves_stops_the_engine(transport, engine):
    """In the body, at once: far fewer tokens are made than were asked for."""
    before = await engine.generated()
    answer = await begin(transport, f"{engine.url}/v1/chat/completions", chat(8000, stream=True))
    await answer.read()
    answer.close()

    assert await engine.generated() - before < 4000


async def test_a_stopped_engine_is_a_failed_connect_and_is_found_again(transport, engine):
    """On the port where it comes back."""
    assert (await fetch(transport, f"{engine.url}/tokenize", b'{"content": "a"}'))[0] == 200
    await asyncio.to_thread(engine.stop)
    away = await asyncio.wait_for(fetch(transport, f"{engine.url}/tokenize", b'{"content": "a"}'), 10)
    await asyncio.to_thread(engine.start)

    assert isinstance(away, Failure)
    assert away.kind is FailureKind.CONNECT
    assert (await fetch(transport, f"{engine.url}/tokenize", b'{"content": "a"}'))[0] == 200
