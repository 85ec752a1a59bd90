import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest

from tests.parts.llamacpp import LlamaServer
from tests.parts.tiny_model import SLOW, TINY, WORDS, write_model

HELLO = [{"role": "user", "content": "hello there"}]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def tiny(models):
    engine = LlamaServer(write_model(models, TINY), parallel=2, embeddings=True).start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def slow(models):
    engine = LlamaServer(write_model(models, SLOW), alias="slow", parallel=2).start()
    yield engine
    engine.stop()


def caller(engine):
    # The engine closes idle connections while the next request may be under way; SDKs repeat that by default.
    return openai.AsyncOpenAI(base_url=f"{engine.url}/v1", api_key="none", max_retries=2)


def ask_for_long(url, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        httpx.get(url, trust_env=False)


def is_words(text):
    return set(text.split()) <= set(WORDS)


async def test_the_model_says_words_only_and_never_ends_by_itself_whatever_the_sampler(tiny):
    async with caller(tiny) as client:
        for settings in ({"temperature": 0}, {"temperature": 2.0, "top_p": 1.0}, {}):
            answer = await client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=400, **settings)
            assert answer.choices[0].finish_reason == "length"
            assert is_words(answer.choices[0].message.content)
            assert len(answer.choices[0].message.content.split()) == answer.usage.completion_tokens == 400


async def test_every_token_is_one_content_event_with_and_without_tools(tiny):
    async with caller(tiny) as client:
        for extra in ({}, {"tools": [WEATHER]}, {"tools": [WEATHER], "tool_choice": "required"}):
            stream = await client.chat.completions.create(
                model="tiny",
                messages=HELLO,
                max_tokens=50,
                stream=True,
                stream_options={"include_usage": True},
                **extra,
            )
            chunks = [chunk async for chunk in stream]
            said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
            assert sum(map(bool, said)) == chunks[-1].usage.completion_tokens == 50


async def test_a_forced_schema_lets_bytes_and_the_end_of_text_out(tiny):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}}
    async with caller(tiny) as client:
        answer = await client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=200, response_format=form
        )
    assert answer.choices[0].finish_reason == "stop"
    assert re.fullmatch(r'\{\s*"ok"\s*:\s*(true|false)\s*\}', answer.choices[0].message.content)


async def test_one_word_of_the_vocabulary_is_one_prompt_token(tiny):
    async with caller(tiny) as client:
        answer = await client.completions.create(model="tiny", prompt=" " + " ".join(WORDS), max_tokens=1)
    assert answer.usage.prompt_tokens == 1 + len(WORDS)


async def test_embeddings_are_told_by_the_engine_that_has_them_and_refused_with_501_by_the_other(tiny, slow):
    async with caller(tiny) as client:
        assert len((await client.embeddings.create(model="tiny", input="river")).data[0].embedding) == TINY.width
    async with caller(slow) as client:
        with pytest.raises(openai.APIStatusError) as refusal:
            await client.embeddings.create(model="slow", input="river")
    assert refusal.value.status_code == 501


async def test_the_engine_counts_what_it_told_and_what_it_made_for_a_cut_call(slow):
    before = await slow.generated()
    async with caller(slow) as client:
        answer = await client.chat.completions.create(model="slow", messages=HELLO, max_tokens=20)
        assert await slow.generated() - before == answer.usage.completion_tokens == 20
        stream = await client.chat.completions.create(model="slow", messages=HELLO, max_tokens=3000, stream=True)
        seen = 0
        async for chunk in stream:
            seen += bool(chunk.choices[0].delta.content)
            if seen == 30:
                break
        assert await slow.generating() >= 30
        assert not await slow.idle()
        await stream.close()
    assert await slow.wait_idle() < 5
    assert 30 <= await slow.generated() - before - 20 < 3000


async def test_the_slow_model_is_slow_enough_to_be_cut(slow):
    async with caller(slow) as client:
        answer = await client.chat.completions.create(model="slow", messages=HELLO, max_tokens=60)
    assert answer.model_extra["timings"]["predicted_per_second"] < 1000


async def test_a_suspended_engine_answers_nobody_and_a_killed_one_is_gone(models):
    async with LlamaServer(write_model(models, TINY)) as engine, caller(engine) as client:
        engine.suspend()
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.3).models.list()
        engine.resume()
        assert [model.id async for model in client.models.list()] == ["tiny"]
        engine.kill()
        with pytest.raises(openai.APIConnectionError):
            await client.models.list()


def test_the_engine_dies_with_its_parent(models):
    code = (
        "import sys, pathlib, time; from tests.parts.llamacpp import LlamaServer;"
        "engine = LlamaServer(pathlib.Path(sys.argv[1])).start(); print(engine.url, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, write_model(models, TINY)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True) as parent:
        url = parent.stdout.readline().strip()
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        parent.send_signal(signal.SIGKILL)
    with pytest.raises(httpx.TransportError):
        ask_for_long(f"{url}/health")


def test_an_engine_that_cannot_start_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"nothing\.gguf"):
        LlamaServer(tmp_path / "nothing.gguf").start()
