"""The official OpenAI SDK for Python against a whole gateway and a real engine, call by call as its manual has them."""

import asyncio
import json

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.conformance.conftest import ANSWER, STRANGER, WEATHER, WINDOW

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Name a city."}], "max_tokens": 12}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
SHAPED = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER, "strict": True}}


@pytest.fixture
async def client(site, key):
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture
def sync_client(site, key):
    with OpenAI(base_url=f"{site.url}/v1", api_key=key, max_retries=0) as client:
        yield client


async def test_a_chat_is_answered(client):
    """With usage that adds up."""
    answer = await client.chat.completions.create(**CHAT)

    assert answer.choices[0].message.content
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 12)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_the_sync_client_is_answered_too(sync_client):
    """Plain and streamed; its bytes come in its own thread."""
    plain = sync_client.chat.completions.create(**CHAT, temperature=0)
    with sync_client.chat.completions.create(**CHAT, temperature=0, stream=True) as stream:
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert said == plain.choices[0].message.content


async def test_a_stream_tells_usage_once_where_it_was_asked_for(client):
    """In a last chunk without choices."""
    asked = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    chunks = [chunk async for chunk in await client.chat.completions.create(**asked)]
    told = [chunk for chunk in chunks if chunk.usage is not None]

    assert told == chunks[-1:]
    assert (told[0].choices, told[0].usage.completion_tokens) == ([], 12)
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["length"]


async def test_the_stream_helper_gathers_the_answer(client):
    """`stream()` takes every event for what it is, and ends with the whole."""
    async with client.chat.completions.stream(**CHAT | {"max_tokens": 200}, response_format=SHAPED) as stream:
        said = "".join([event.delta async for event in stream if event.type == "content.delta"])
        gathered = await stream.get_final_completion()

    assert gathered.choices[0].message.content == said
    assert json.loads(said)["city"] in {"Rome", "Paris"}


@pytest.mark.parametrize("choice", ["auto", "none", {"type": "function", "function": {"name": "weather"}}], ids=str)
async def test_tools_are_taken(client, choice):
    """With every choice of them, and with an earlier call and its result in the history."""
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich"}'}}
    history = [
        *CHAT["messages"],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    asked = CHAT | {"messages": history, "tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": True}
    answer = await client.chat.completions.create(**asked)

    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12


async def test_a_schema_shapes_the_answer(client):
    """The engine's grammar makes a random model say valid JSON, plain and streamed alike."""
    asked = CHAT | {"max_tokens": 200, "response_format": SHAPED, "temperature": 0}
    plain = await client.chat.completions.create(**asked)
    stream = await client.chat.completions.create(**asked, stream=True)
    said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    read = json.loads(plain.choices[0].message.content)

    assert plain.choices[0].finish_reason == "stop"
    assert read["city"] in {"Rome", "Paris"}
    assert isinstance(read["warm"], bool)
    assert json.loads(said) == read


async def test_models_are_listed_and_described(client):
    """Each by its id, with its window."""
    listed = {model.id: model async for model in client.models.list()}
    described = await client.models.retrieve("embedder")

    assert sorted(listed) == ["embedder", "tiny"]
    assert described == listed["embedder"]
    assert described.model_extra["max_model_len"] == WINDOW


async def test_embeddings_come_in_both_codings(client):
    """Base64, which the SDK asks for by itself, and floats are the same numbers."""
    words = ["river", "stone bridge"]
    coded = await client.embeddings.create(model="embedder", input=words)
    floats = await client.embeddings.create(model="embedder", input=words, encoding_format="float")

    assert [entry.index for entry in coded.data] == [0, 1]
    assert len(coded.data[0].embedding) == 64
    for one, other in zip(coded.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding)


async def test_a_text_is_completed(client):
    """The legacy API, plain and streamed."""
    asked = {"model": "tiny", "prompt": "Once", "max_tokens": 8, "temperature": 0}
    plain = await client.completions.create(**asked)
    stream = await client.completions.create(**asked, stream=True)
    said = "".join([chunk.choices[0].text async for chunk in stream])

    assert plain.choices[0].text == said
    assert plain.usage.completion_tokens == 8


async def test_a_key_that_nobody_has_is_an_authentication_error(client):
    """Of either shape."""
    for bad in (STRANGER, "sk-of-somebody-else"):
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.with_options(api_key=bad).chat.completions.create(**CHAT)
        assert refused.value.code == "invalid_api_key"


async def test_a_model_that_is_not_there_is_a_not_found_error(client):
    """For a call and for its description."""
    with pytest.raises(openai.NotFoundError) as called:
        await client.chat.completions.create(**CHAT | {"model": "nope"})
    with pytest.raises(openai.NotFoundError) as described:
        await client.models.retrieve("nope")

    assert (called.value.code, called.value.param) == ("model_not_found", "model")
    assert described.value.code == "model_not_found"


async def test_a_limit_is_a_rate_limit_error_that_says_when(client, narrow_key):
    """One call a minute: the second waits for most of it."""
    narrow = client.with_options(api_key=narrow_key)
    await narrow.chat.completions.create(**CHAT)
    with pytest.raises(openai.RateLimitError) as refused:
        await narrow.chat.completions.create(**CHAT)

    assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 60
    assert refused.value.request_id == refused.value.response.headers["x-request-id"]


async def test_too_long_a_prompt_is_a_bad_request_with_its_code(client):
    """Streamed too: it is refused before any event."""
    long = CHAT | {"messages": [{"role": "user", "content": "a " * 2 * WINDOW}]}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="maximum context length is 2048 tokens") as refused:
            await client.chat.completions.create(**long, stream=stream)
        assert refused.value.code == "context_length_exceeded"


async def test_a_stream_that_is_closed_stops_the_engine(client, site):
    """It made fewer tokens than it was asked for."""
    engine = site.engines["tiny"]
    before = await engine.generated()
    stream = await client.chat.completions.create(**CHAT | {"max_tokens": 1800}, stream=True)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()

    assert 0 < await engine.generated() - before < 1800


async def test_calls_at_once_do_not_mix(client):
    """Each gets the answer that it gets alone."""
    asked = [CHAT | {"messages": [{"role": "user", "content": word * 3}], "temperature": 0} for word in "abcdefgh"]
    alone = [await client.chat.completions.create(**one) for one in asked]
    together = await asyncio.gather(*(client.chat.completions.create(**one) for one in asked))

    assert [one.choices for one in together] == [one.choices for one in alone]


async def test_raw_answers_have_the_headers(client):
    """Those of the gateway, and the limits as OpenAI names them."""
    raw = await client.chat.completions.with_raw_response.create(**CHAT, extra_headers={"x-request-id": "mine-1"})

    assert raw.parse().choices
    assert (raw.headers["x-request-id"], raw.request_id) == ("mine-1", "mine-1")
    assert (raw.headers["x-sluiceway-backend"], raw.headers["x-sluiceway-attempts"]) == ("tiny", "1")
    assert raw.headers["x-ratelimit-limit-requests"] == "60000"


async def test_a_streaming_response_is_read_line_by_line(client):
    """What passes is server-sent events, their end included."""
    asking = client.chat.completions.with_streaming_response.create(**CHAT, stream=True)
    async with asking as raw:
        lines = [line async for line in raw.iter_lines() if line]

    assert raw.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "data: [DONE]"


async def test_a_response_is_created(client):
    """Of the Responses API: its text, its usage, its status."""
    answer = await client.responses.create(model="tiny", input="Name a city.", max_output_tokens=12)

    assert answer.output_text
    assert answer.usage.output_tokens == 12


async def test_a_response_is_streamed(client):
    """Its events in their order, its text the sum of its deltas."""
    asked = {"model": "tiny", "input": "Name a city.", "max_output_tokens": 12, "stream": True}
    events = [event async for event in await client.responses.create(**asked)]
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")

    assert events[0].type == "response.created"
    assert events[-1].type in {"response.completed", "response.incomplete"}
    assert events[-1].response.usage.output_tokens == 12
    assert said == events[-1].response.output_text
