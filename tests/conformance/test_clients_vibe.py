"""Mistral Vibe, a coding agent, end to end: `vibe -p` against a whole gateway, a real engine, and scripted ones."""

import json
from contextlib import AsyncExitStack

import pytest

from tests.parts.clients import run_vibe
from tests.parts.clients_model import CONTEXT, write_brief_model
from tests.parts.clients_tap import Tap
from tests.parts.gateway import GatewayProcess, write_config
from tests.parts.llamacpp import LlamaServer
from tests.parts.scripted import DONE, ScriptedServer, Status, delta, error, event, sse, usage
from tests.parts.tiny_model import WORDS

pytestmark = pytest.mark.ci

ASK = ("--output", "json", "--max-turns", "4", "-p")
NOTES = "the secret word is mango"


def said(ended):
    """Return what the assistant said last, from the JSON that `vibe` writes."""
    entries = [entry for entry in ended.json if entry["type"] == "message" and entry["role"] == "assistant"]
    return "".join(part["text"] for part in entries[-1]["content"])


def calls_a_tool(name, **arguments):
    """Script a stream that calls a tool, its arguments in two parts."""
    text = json.dumps(arguments)
    parts = [{"id": "call_1", "type": "function", "function": {"name": name, "arguments": text[:5]}},
             {"function": {"arguments": text[5:]}}]  # fmt: skip
    last = {"id": "c-1", "object": "chat.completion.chunk", "created": 0, "model": "scripted", "choices": []}
    return [
        Status(200, {"content-type": "text/event-stream"}),
        delta(role="assistant", content=""),
        *(delta(tool_calls=[{"index": 0} | part]) for part in parts),
        delta(finish="tool_calls"),
        event(last | {"usage": usage(9000, 20)}),
        DONE,
    ]


@pytest.fixture
def home(tmp_path):
    """Make the folder that `vibe` takes for its user's, with a note in its working directory."""
    (tmp_path / "home" / "work").mkdir(parents=True)
    (tmp_path / "home" / "work" / "notes.txt").write_text(f"{NOTES}\n")
    return tmp_path / "home"


@pytest.fixture
async def start(tmp_path):
    """Start a gateway with the model `coder` over backends, in order of price, each of a kind."""
    async with AsyncExitStack() as stack:

        async def started(kind, servers):
            backends = {
                name: {"kind": kind, "base_url": f"{server.url}/v1", "api_key": "of-the-upstream"}
                for name, server in servers.items()
            }
            deployments = [
                {"backend": name, "model": "scripted", "price": {"input": rank, "output": rank}}
                for rank, name in enumerate(servers)
            ]
            patient = {"first_content": 100}  # a busy core reads 30,000 tokens in its own time
            models = {"coder": {"deployments": deployments, "deadlines": patient}}
            config = write_config(tmp_path, {"backends": backends, "models": models})
            return await stack.enter_async_context(GatewayProcess(config))

        yield started


@pytest.fixture
async def scripted(start):
    """Start a gateway over two scripted upstreams, the first the cheaper."""
    async with ScriptedServer() as first, ScriptedServer() as second:
        yield await start("openai", {"first": first, "second": second}), first, second


@pytest.mark.parametrize("style", ["openai", "openai-responses", "anthropic"])
async def test_a_real_engine_answers_vibe(start, tmp_path, home, style):
    """The whole of what it sends, tools and all; the engine's word is what it prints, the books have its tokens."""
    async with LlamaServer(write_brief_model(tmp_path), context=CONTEXT, parallel=1) as engine:
        gateway = await start("llamacpp", {"engine": engine})
        key = await gateway.create_key()
        ended = await run_vibe(home, gateway.url, key, "coder", *ASK, "say a word", style=style)
        assert ended.code == 0, ended.errors
        (booked,) = await gateway.usage()
        made = await engine.generated()

    assert said(ended).strip() in WORDS
    assert (booked["calls"], booked["output_tokens"], booked["estimated_tokens"]) == (1, made, 0)
    assert booked["input_tokens"] > 10_000


async def test_vibe_sends_its_session_and_its_tools(scripted, home):
    """The gateway gets the session's name, the same with each call; the engine gets the tools."""
    gateway, first, _ = scripted
    first.enqueue(calls_a_tool("todo", action="read"), sse("done", told=usage(9100, 1)))
    async with Tap(gateway.url) as tap:
        ended = await run_vibe(home, tap.url, await gateway.create_key(), "coder", *ASK, "what is to be done?")
    body = json.loads(first.calls[0].request.body)

    assert (ended.code, said(ended)) == (0, "done"), ended.errors
    assert len(tap.heads) == len(first.calls) == 2
    assert len({head["x-affinity"] for head in tap.heads}) == 1
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert {"read_file", "bash", "todo"} <= {tool["function"]["name"] for tool in body["tools"]}


async def test_a_tool_that_the_engine_calls_is_run(scripted, home):
    """The file's text goes back to the engine, and its last word is the answer."""
    gateway, first, _ = scripted
    first.enqueue(calls_a_tool("read_file", path="notes.txt"), sse("it is", " mango", told=usage(9100, 4)))
    ended = await run_vibe(home, gateway.url, await gateway.create_key(), "coder", *ASK, "what do my notes say?")
    asked, called, result = json.loads(first.calls[1].request.body)["messages"][-3:]
    (booked,) = await gateway.usage()

    assert (ended.code, said(ended)) == (0, "it is mango"), ended.errors
    assert asked["content"] == "what do my notes say?"
    assert json.loads(called["tool_calls"][0]["function"]["arguments"]) == {"path": "notes.txt"}
    assert result["tool_call_id"] == "call_1"
    assert NOTES in result["content"]
    assert (booked["calls"], booked["input_tokens"], booked["output_tokens"]) == (2, 18_100, 24)


async def test_vibe_sees_nothing_of_an_upstream_that_fails(scripted, home):
    """503 at the first deployment: the second serves, within the one call."""
    gateway, first, second = scripted
    first.enqueue(error(503))
    async with Tap(gateway.url) as tap:
        ended = await run_vibe(home, tap.url, await gateway.create_key(), "coder", *ASK, "say hi")

    assert (ended.code, said(ended)) == (0, "all is well"), ended.errors
    assert (len(tap.heads), len(first.calls), len(second.calls)) == (1, 1, 1)


async def test_vibe_says_that_a_context_is_full(scripted, home):
    """In the words it looks for; it does not send the same again."""
    gateway, *upstreams = scripted
    for upstream in upstreams:
        upstream.enqueue(error(400, "This model's maximum context length is 2048 tokens, your prompt has 9000."))
    async with Tap(gateway.url) as tap:
        ended = await run_vibe(home, tap.url, await gateway.create_key(), "coder", *ASK, "say hi")

    assert ended.code == 2
    assert "maximum context length" in ended.errors
    assert len(tap.heads) == 1


async def test_vibe_says_that_a_key_is_not_known(scripted, home):
    """Without asking any upstream."""
    gateway, first, second = scripted
    ended = await run_vibe(home, gateway.url, "sk-of-somebody-else", "coder", *ASK, "say hi")

    assert ended.code != 0
    assert "Invalid API key" in ended.errors
    assert (first.calls, second.calls) == ([], [])
