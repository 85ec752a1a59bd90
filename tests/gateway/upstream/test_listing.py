import asyncio
import json

import pytest

from gateway.config.settings import Backend
from gateway.upstream import listing as module
from gateway.upstream.fleet import Home
from gateway.upstream.listing import Listed, engine_at, models_of, unlisted
from policies.probing import Told
from tests.parts.http1 import Http1Server

MODELS = {"object": "list", "data": [{"id": "org/m", "object": "model", "max_model_len": 4096}]}


class Engine(Http1Server):
    """Answers GETs from a table of paths; what is not in it is a 404."""

    def __init__(self, **answers):
        super().__init__()
        self.answers = {f"/{path.replace('__', '/')}": answer for path, answer in answers.items()}
        self.header = ""
        self.unknown = 404

    async def handle(self, request, connection):
        found = self.answers.get(request.path)
        body = json.dumps(found).encode()
        status = self.unknown if found is None else 200
        head = f"HTTP/1.1 {status} \r\n{self.header}content-length: {len(body)}\r\n\r\n"
        await connection.write(head.encode() + body)


async def listing(backend):
    """Ask a backend for its models, as a gateway that has it does."""
    home = Home(backend)
    told = await models_of(home)
    await home.transport.aclose()
    return told


# What each engine answers, as BACKENDS' own sources and servers have it.
ENGINES = {
    "vllm": {"version": {"version": "0.32.0"}},
    "sglang": {"get_model_info": {"model_path": "m"}, "version": {"version": "x"}},
    "nim": {"v1__metadata": {"modelInfo": []}, "version": {"version": "x"}},
    "llamacpp": {"props": {"total_slots": 4}},
    "lmstudio": {"api__v0__models": {"data": []}},
    "transformers": {},
}


@pytest.mark.parametrize("kind", ENGINES)
async def test_a_local_engine_is_told_by_what_only_it_answers(kind):
    """And named after its kind and port."""
    async with Engine(v1__models=MODELS, **ENGINES[kind]) as engine:
        found = await engine_at(engine.port)

    assert found == Backend(f"{kind}-{engine.port}", kind, f"http://127.0.0.1:{engine.port}/v1")


async def test_a_gateway_is_never_a_backend():
    """Its answers carry its configuration's name; a loop would be the end of both."""
    async with Engine(v1__models=MODELS, version={"version": "1"}) as engine:
        engine.header = "x-sluiceway-config: abc\r\n"

        assert await engine_at(engine.port) is None
        assert "gateway" in await listing(Backend("x", "vllm", f"{engine.url}/v1"))


async def test_whoever_else_listens_there_is_no_engine():
    """A web server, or nobody."""
    async with Engine() as server:
        assert await engine_at(server.port) is None
    assert await engine_at(9) is None


async def test_a_backend_lists_its_models_with_their_windows():
    """As vLLM does; anything unreadable is no listing."""
    async with Engine(v1__models=MODELS) as engine:
        assert await listing(Backend("x", "vllm", f"{engine.url}/v1", "key")) == [Listed("org/m", 4096)]
        assert engine.requests[0].header("authorization") == "Bearer key"
        engine.answers["/v1/models"] = {"data": "nonsense"}
        assert "no list of models" in await listing(Backend("x", "vllm", f"{engine.url}/v1"))
        engine.answers.clear()
        assert "answered 404" in await listing(Backend("x", "vllm", f"{engine.url}/v1"))
    assert "ConnectError" in await listing(Backend("x", "vllm", "http://127.0.0.1:9/v1"))


async def test_lm_studio_answers_200_to_what_it_does_not_know(monkeypatch):
    """And is told apart all the same."""
    async with Engine(v1__models=MODELS, api__v0__models={"data": []}) as engine:
        engine.unknown = 200
        assert (await engine_at(engine.port)).kind == "lmstudio"


class Camera(Http1Server):
    """Streams to whoever asks, without end: such things listen on 8080 and 8081 as well."""

    def __init__(self, pause):
        super().__init__()
        self.pause = pause

    async def handle(self, request, connection):
        await connection.write(b"HTTP/1.1 200 \r\ncontent-type: multipart/x-mixed-replace\r\n\r\n")
        while True:
            await connection.write(b"x" * 65536)
            await asyncio.sleep(self.pause)


@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_an_answer_without_end_does_not_hold_the_start(monkeypatch, pause):
    """Nor fill the memory: it is no engine."""
    monkeypatch.setattr(module, "WITHIN", 0.3)
    async with Camera(pause) as camera, asyncio.timeout(10):
        assert await engine_at(camera.port) is None


class Nested(Http1Server):
    """Answers brackets."""

    async def handle(self, request, connection):
        await connection.answer(200, b"[" * 100_000)


async def test_an_answer_that_nests_without_end_is_no_engines():
    """And breaks nothing: the ports are anybody's."""
    async with Nested() as server:
        assert await engine_at(server.port) is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("vllm", True), ("openai", True), ("llamacpp", False), ("sglang", False), ("anthropic", False)],
)
async def test_a_name_that_a_list_lacks_is_wrong_but_where_any_name_is_served(kind, expected):
    """llama.cpp and SGLang serve their model by whatever name is asked for; Anthropic lists but a page."""
    home = Home(Backend("a", kind, "http://127.0.0.1:9/v1"))
    home.condition.told = Told(("m",))
    found = [unlisted(home, name) for name in ("m", "n")]
    await home.transport.aclose()

    assert found == [False, expected]
