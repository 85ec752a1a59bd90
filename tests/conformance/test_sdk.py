"""Every engine's stream through a whole gateway, read by the official SDKs."""

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.conformance.streams import RETOLD, SEEN, STREAMS, TOO_LONG, UNSEEN
from tests.gateway.harness import ASK, running
from tests.parts.scripted import Bytes, ScriptedServer, Status

GOOD = next(stream for stream in STREAMS if stream.name == "openai_responses")
PIECE = 97
"""Bytes a write: events come in parts, and parts of several events together."""


@pytest.fixture
async def engines():
    async with ScriptedServer() as first, ScriptedServer() as second:
        yield first, second


def script(wire):
    pieces = [Bytes(wire[start : start + PIECE]) for start in range(0, len(wire), PIECE)]
    return [Status(200, {"content-type": "text/event-stream; charset=utf-8"}), *pieces]


class Read:
    """What an application gets of one stream."""

    def __init__(self):
        self.says = ""
        self.thinks = ""
        self.arguments = ""
        self.usage = None
        self.error = None

    async def take(self, stream):
        try:
            async for chunk in stream:
                self._note(chunk)
        except (openai.APIError, anthropic.APIError) as error:
            self.error = error

    def _note(self, chunk):
        self.usage = getattr(chunk, "usage", None) or self.usage
        kind = getattr(chunk, "type", None)
        if kind is None:
            for choice in chunk.choices:
                if choice.index == 0:
                    self._choice(choice)
        elif kind == "content_block_delta":
            self._add(chunk.delta.type, next(iter(chunk.delta.model_dump(exclude={"type"}).values())))
        elif kind.endswith(".delta"):
            self._add(kind, chunk.delta)
        elif kind in {"response.completed", "response.incomplete"}:
            self.usage = chunk.response.usage
        elif kind in {"error", "response.failed"}:
            self.error = chunk

    def _add(self, kind, text):
        if kind in {"text_delta", "response.output_text.delta"}:
            self.says += text
        elif kind in {"thinking_delta", "response.reasoning_text.delta"}:
            self.thinks += text
        elif kind in {"input_json_delta", "response.function_call_arguments.delta"}:
            self.arguments += text

    def _choice(self, choice):
        if not hasattr(choice, "delta"):
            self.says += choice.text
            return
        extra = choice.delta.model_extra or {}
        self.thinks += extra.get("reasoning") or extra.get("reasoning_content") or ""
        if isinstance(choice.delta.content, str):
            self.says += choice.delta.content
        for call in choice.delta.tool_calls or ():
            self.arguments += call.function.arguments


async def read(gateway, stream):
    key, url, got = await gateway.key(), gateway.running.url, Read()
    async with (
        AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client,
        AsyncAnthropic(base_url=url, api_key=key, max_retries=0) as other,
    ):
        asked = {"model": "m", "stream": True}
        told = asked | {"stream_options": {"include_usage": True}}
        if stream.api == "completions":
            answer = await client.completions.with_raw_response.create(prompt="2+2?", **told)
        elif stream.api == "responses":
            answer = await client.responses.with_raw_response.create(input="2+2?", **asked)
        elif stream.api == "messages":
            answer = await other.messages.with_raw_response.create(max_tokens=99, **ASK | asked)
        else:
            answer = await client.chat.completions.with_raw_response.create(**ASK | told)
        parsed = answer.parse()
        await got.take(await parsed if stream.api == "messages" else parsed)
        return got, answer.headers


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
async def test_the_sdk_reads_every_engines_stream(tmp_path, engines, stream):
    """Text, reasoning, usage and failures as the engine meant them; the books say the same."""
    first, second = engines
    first.enqueue(script(stream.wire))
    if stream.api == "responses":
        second.enqueue(script(GOOD.wire))
    upstreams = {"a": first} if stream.ends == TOO_LONG else {"a": first, "b": second}
    async with running(tmp_path, upstreams, kind="vllm") as gateway:
        if stream.ends == TOO_LONG:
            with pytest.raises(openai.BadRequestError, match="context length"):
                await read(gateway, stream)
            return
        got, headers = await read(gateway, stream)
        (booked,) = await gateway.usage()

        if stream.ends == UNSEEN:
            assert (headers["x-sluiceway-attempts"], headers["x-sluiceway-backend"]) == ("2", "b")
            assert (got.says, got.error) == (GOOD.says if stream.api == "responses" else "all is well", None)
            return
        assert headers["x-sluiceway-backend"] == "a"
        assert (got.says, got.thinks) == (stream.says, stream.thinks)
        assert got.arguments == stream.calls
        if stream.ends in {SEEN, RETOLD}:
            assert got.error is not None
            assert (booked.completion_tokens, booked.estimated_tokens > 0) == (stream.events, True)
        elif stream.told is not None:
            assert got.error is None
            assert got.usage is not None
            assert (booked.prompt_tokens, booked.completion_tokens, booked.estimated_tokens) == (*stream.told, 0)
            assert (booked.cached_tokens, booked.reasoning_tokens) == (stream.cached, stream.reasoning)
