"""What an application sees: answers, streams, errors, limits; and what the books say of it."""

import asyncio
import base64
import json
import time

import httpx
import openai
import pytest

from tests.e2e.conftest import over
from tests.parts.echo import EchoServer, echoed_body, echoed_headers

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 20}


async def test_told_usage_in_the_books_is_the_sdks_and_the_engines(site, replicas):
    """Plain and streamed calls, summed three ways, equal to the token."""
    client = await site.client()
    usages = []
    for number in range(6):
        plain = await client.chat.completions.create(**CHAT)
        assert plain.choices[0].message.content
        usages.append(plain.usage)
        stream = await client.chat.completions.create(
            **CHAT | {"max_tokens": 10 + number}, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        usages.append(chunks[-1].usage)
    text = await client.completions.create(model="tiny", prompt="Once", max_tokens=7)
    usages.append(text.usage)

    prompt, completion, requests = await site.booked()

    assert prompt == sum(usage.prompt_tokens for usage in usages)
    assert completion == sum(usage.completion_tokens for usage in usages)
    assert completion == sum([await replica.generated() for replica in replicas])
    assert requests == 13


async def test_a_stream_has_no_usage_that_was_not_asked_for(site):
    """Withheld here, booked all the same."""
    client = await site.client()
    chunks = [chunk async for chunk in await client.chat.completions.create(**CHAT, stream=True)]

    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert (await site.booked())[1] == 20


async def test_calls_spread_over_equal_replicas(site, replicas):
    """All three work."""
    client = await site.client()
    await asyncio.gather(*(client.chat.completions.create(**CHAT) for _ in range(30)))

    assert all([await replica.generated() > 0 for replica in replicas])


async def test_every_forwarded_value_is_byte_identical(start, store):
    """Numbers, escapes, nested models, tools and the last of duplicate keys reach the engine as they were sent."""
    async with EchoServer() as echo:
        backend = {"kind": "vllm", "base_url": f"{echo.url}/v1"}
        deployments = {"deployments": [{"backend": "echo", "model": "echo"}]}
        site = await start({"backends": {"echo": backend}, "models": {"m": deployments}} | store)
        client = await site.client(plan=None)
        values = {
            "temperature": b"1.00",
            "top_p": b"1e400",
            "messages": b'[{"role":"user","content":"caf\\u00e9 \\"x\\" \\\\ \xc3\xa9", "model":"nested"} ]',
            "tools": b'[ {"type":"function","function":{"name":"f","parameters":{"model":"other"}}}]',
            "metadata": b'{"model" : "deep", "empty": {} , "n":-0.0}',
        }
        members = [b'"%s":%b' % (name.encode(), value) for name, value in values.items()]
        body = b'{"model":"first","seed":1,' + b",".join(members) + b',"seed":2,"m\\u006fdel":"m"}'
        headers = {"authorization": f"Bearer {client.api_key}", "content-type": "application/json"}
        async with httpx.AsyncClient() as raw:
            answer = (await raw.post(f"{site.process.url}/v1/chat/completions", content=body, headers=headers)).json()
        sent = base64.b64decode(answer["echo"]["body"])
        through_sdk = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], tools=[], extra_body={"odd": {"a": [1, 2.50]}}
        )

    assert all(value in sent for value in values.values())
    assert sent.count(b'"seed"') == 1
    assert b'"seed":2' in sent
    assert sent.count(b'"model":"echo"') == 1
    assert b'"first"' not in sent
    assert json.loads(echoed_body(through_sdk))["odd"] == {"a": [1, 2.5]}
    assert client.api_key not in str(echoed_headers(through_sdk))


async def test_tools_reach_the_engine(site):
    """The real one takes them."""
    client = await site.client()
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]

    answer = await client.chat.completions.create(**CHAT, tools=tools)

    assert answer.choices[0].finish_reason == "length"


async def test_embeddings_come_from_the_replica_that_has_them(site):
    """Whichever is asked first."""
    client = await site.client()
    answers = [await client.embeddings.create(model="tiny", input="hello", encoding_format="float") for _ in range(3)]

    assert all(answer.data[0].embedding for answer in answers)
    assert (await site.booked())[0] == sum(answer.usage.prompt_tokens for answer in answers)


async def test_without_such_a_replica_the_answer_is_a_501(start, replicas, store):
    """In our own words, the same whatever engine it was; an SDK does not repeat it."""
    site = await start(over(replicas[:2]) | store)
    client = await site.client()
    with pytest.raises(openai.InternalServerError) as refused:
        await client.embeddings.create(model="tiny", input="hello")

    assert refused.value.status_code == 501
    assert refused.value.code == "api_not_supported"
    assert refused.value.type == "invalid_request_error"


async def test_errors_are_those_that_the_sdk_knows(start, replicas, store):
    """401, 404, 413 ours; 400 ours or the engine's."""
    site = await start(over(replicas, limits={"body": "100KiB"}) | store)
    client = await site.client()
    stranger = client.with_options(api_key="sw_" + "a" * 12 + "_" + "b" * 49)
    with pytest.raises(openai.AuthenticationError):
        await stranger.chat.completions.create(**CHAT)
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(**CHAT | {"model": "nope"})
    with pytest.raises(openai.APIStatusError) as large:
        await client.chat.completions.create(**CHAT | {"messages": [{"role": "user", "content": "x" * 200_000}]})
    with pytest.raises(openai.BadRequestError) as ours:
        await client.chat.completions.create(**CHAT | {"max_tokens": -5})
    with pytest.raises(openai.BadRequestError) as engines:
        await client.chat.completions.create(**CHAT, extra_body={"temperature": "hot"})
    with pytest.raises(openai.BadRequestError) as overflow:
        await client.chat.completions.create(**CHAT | {"messages": [{"role": "user", "content": "a " * 40_000}]})

    assert unknown.value.param == "model"
    assert large.value.status_code == 413
    assert ours.value.param == "max_tokens"
    assert engines.value.response.headers["x-sluiceway-attempts"] == "1"
    assert overflow.value.code == "context_length_exceeded"
    assert (await site.booked())[:2] == (0, 0)


async def test_a_refusal_tells_the_first_moment_at_which_the_call_is_admitted(site):
    """No call that is sent after it is refused, and none that is answered before it is admitted."""
    client = await site.client(plan="narrow")
    short = CHAT | {"max_tokens": 1}
    for _ in range(2):
        await client.chat.completions.create(**short)
    begun = time.monotonic()
    with pytest.raises(openai.RateLimitError) as refused:
        await client.chat.completions.create(**short)
    wait = int(refused.value.response.headers["retry-after-ms"]) / 1000
    due = begun + wait, time.monotonic() + wait
    answer = None
    while answer is None:
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        try:
            answer = await client.chat.completions.with_raw_response.create(**short)
        except openai.RateLimitError:
            assert begun < due[1]

    assert time.monotonic() > due[0] - 0.001  # it is told in whole milliseconds
    assert 0.0 < wait <= 3.0
    assert refused.value.response.headers["x-sluiceway-meter"] == "requests_per_minute"
    assert answer.headers["x-ratelimit-limit-requests"] == "20"


async def test_models_are_listed_to_the_sdk(site):
    """With the key's eyes."""
    client = await site.client()

    assert [model.id async for model in client.models.list()] == ["tiny"]
    assert (await client.models.retrieve("tiny")).id == "tiny"
