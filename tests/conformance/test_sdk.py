"""Every engine's stream through a whole gateway, read by the official SDK."""

import openai
import pytest
from openai import AsyncOpenAI

from tests.conformance.streams import RETOLD, SEEN, STREAMS, TOO_LONG, UNSEEN
from tests.gateway.harness import ASK, running
from tests.parts.scripted import Bytes, ScriptedServer, Status

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
                self.usage = getattr(chunk, "usage", None) or self.usage
                for choice in chunk.choices:
                    if choice.index == 0:
                        self._choice(choice)
        except openai.APIError as error:
            self.error = error

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
    url = f"{gateway.running.url}/v1"
    async with AsyncOpenAI(base_url=url, api_key=await gateway.key(), max_retries=0) as client:
        got = Read()
        asked = {"stream": True, "stream_options": {"include_usage": True}}
        if "completions" in stream.name:
            answer = await client.completions.with_raw_response.create(model="m", prompt="2+2?", **asked)
        else:
            answer = await client.chat.completions.with_raw_response.create(**ASK, **asked)
        await got.take(answer.parse())
        return got, answer.headers


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
async def test_the_sdk_reads_every_engines_stream(tmp_path, engines, stream):
    """Text, reasoning, usage and failures as the engine meant them; the books say the same."""
    first, second = engines
    first.enqueue(script(stream.wire))
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        if stream.ends == TOO_LONG:
            with pytest.raises(openai.BadRequestError, match="context length"):
                await read(gateway, stream)
            return
        got, headers = await read(gateway, stream)
        (booked,) = await gateway.usage()

        if stream.ends == UNSEEN:
            assert (headers["x-sluiceway-attempts"], headers["x-sluiceway-backend"]) == ("2", "b")
            assert (got.says, got.error) == ("all is well", None)
            return
        assert headers["x-sluiceway-backend"] == "a"
        assert (got.says, got.thinks) == (stream.says, stream.thinks)
        assert got.arguments == ('{"city": "Zürich"}' if "tool" in stream.name else "")
        if stream.ends in {SEEN, RETOLD}:
            assert got.error is not None
            assert (booked.completion_tokens, booked.estimated_tokens > 0) == (stream.events, True)
        elif stream.told is not None:
            assert got.error is None
            assert got.usage is not None
            assert (booked.prompt_tokens, booked.completion_tokens, booked.estimated_tokens) == (*stream.told, 0)
            assert (booked.cached_tokens, booked.reasoning_tokens) == (stream.cached, stream.reasoning)
