import asyncio
import json

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from gateway.demo.backend import DIMENSIONS, Simulated, embedding

MESSAGES = [{"role": "user", "content": "twelve bytes"}]
KEY = {"authorization": "Bearer k"}


@pytest.fixture
async def quick(fleet):
    async with AsyncOpenAI(base_url=fleet["quick"].url + "/v1", api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
async def slow(fleet):
    async with httpx.AsyncClient(base_url=fleet["slow"].url) as client:
        yield client


async def metric(client: httpx.AsyncClient, name: str) -> int:
    (value,) = [
        line.split()[-1] for line in (await client.get("/metrics")).text.splitlines() if line.startswith(f"vllm:{name}")
    ]
    return int(value)


async def until_idle(client: httpx.AsyncClient) -> None:
    for _ in range(1000):
        if not await metric(client, "num_requests_running"):
            return
        await asyncio.sleep(0.005)
    pytest.fail("the backend went on generating")


async def test_a_plain_chat_is_answered_with_usage_and_says_that_it_is_simulated(quick):
    answer = await quick.chat.completions.create(model="m", messages=MESSAGES)
    assert "simulated answer from quick" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 3
    assert answer.usage.total_tokens == 3 + answer.usage.completion_tokens


async def test_a_stream_says_the_same_as_the_plain_answer_a_token_an_event(quick):
    plain = await quick.chat.completions.create(model="m", messages=MESSAGES, max_tokens=7)
    stream = await quick.chat.completions.create(
        model="m", messages=MESSAGES, max_completion_tokens=7, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    pieces = [delta.content for delta in deltas if delta.content]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert "".join(pieces) == plain.choices[0].message.content
    assert len(pieces) == plain.usage.completion_tokens == 7
    assert chunks[-2].choices[0].finish_reason == plain.choices[0].finish_reason == "length"
    assert chunks[-1].usage == plain.usage


async def test_usage_is_not_streamed_to_a_caller_who_did_not_ask(quick):
    stream = await quick.chat.completions.create(model="m", messages=MESSAGES, max_tokens=2, stream=True)
    assert all(chunk.usage is None for chunk in [chunk async for chunk in stream])


async def test_a_stream_ends_with_done(fleet):
    async with httpx.AsyncClient(base_url=fleet["quick"].url, headers=KEY) as client:
        body = {"model": "m", "messages": MESSAGES, "max_tokens": 2, "stream": True}
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["server"] == "sluiceway-simulated"
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_ignore_eos_goes_on_to_the_limit(quick):
    answer = await quick.chat.completions.create(
        model="m", messages=MESSAGES, max_tokens=400, extra_body={"ignore_eos": True}
    )
    assert answer.usage.completion_tokens == 400


async def test_text_completions_take_several_prompts_plain_and_streamed(quick):
    plain = await quick.completions.create(model="m", prompt=["one", "two"], max_tokens=3)
    stream = await quick.completions.create(model="m", prompt=["one", "two"], max_tokens=3, stream=True)
    texts = ["", ""]
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in plain.choices]
    assert plain.usage.completion_tokens == 6


async def test_embeddings_come_as_numbers_and_as_base64_alike(quick):
    told = await quick.embeddings.create(model="m", input=["a", "b"], encoding_format="float")
    packed = await quick.embeddings.create(model="m", input=["a", "b"])
    assert len(told.data[0].embedding) == DIMENSIONS
    assert told.data[0].embedding != told.data[1].embedding
    assert packed.data[1].embedding == pytest.approx(told.data[1].embedding)
    assert told.data[0].embedding == embedding("a")
    assert told.usage.total_tokens == 2


async def test_the_model_is_listed_with_its_window(quick):
    (model,) = (await quick.models.list()).data
    assert (model.id, model.max_model_len) == ("m", 131_072)


async def test_errors_have_vllms_statuses_and_shape(quick, fleet):
    with pytest.raises(openai.NotFoundError, match="`other` does not exist"):
        await quick.chat.completions.create(model="other", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as refused:
        await quick.chat.completions.create(model="m", messages=MESSAGES, max_tokens=0)
    assert refused.value.param == "max_tokens"
    with pytest.raises(openai.AuthenticationError):
        await quick.with_options(api_key="wrong").models.list()
    async with httpx.AsyncClient(base_url=fleet["quick"].url, headers=KEY) as client:
        assert (await client.post("/v1/chat/completions", content=b"{")).json()["error"]["type"] == "BadRequestError"
        assert (await client.get("/v1/chat/completions")).status_code == 405
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.get("/health", headers={"authorization": ""})).status_code == 200


async def test_a_caller_who_leaves_a_stream_stops_it_and_what_was_made_stays_counted(slow):
    before = await metric(slow, "generation_tokens_total")
    seen = 0
    body = {"model": "m", "messages": MESSAGES, "max_tokens": 3000, "ignore_eos": True, "stream": True}
    async with slow.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            seen += '"content":"' in line and '"content":""' not in line
            if seen == 5:
                break
    await until_idle(slow)
    made = await metric(slow, "generation_tokens_total") - before
    await asyncio.sleep(0.1)
    assert 5 <= made < 100
    assert await metric(slow, "generation_tokens_total") == before + made


async def test_a_caller_who_leaves_a_plain_call_in_prefill_stops_it(slow):
    before = await metric(slow, "generation_tokens_total")
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 80_000}]}
    with pytest.raises(httpx.ReadTimeout):
        await slow.post("/v1/chat/completions", json=body, timeout=0.1)
    await until_idle(slow)
    assert await metric(slow, "generation_tokens_total") == before


async def test_no_more_than_its_slots_generate_at_once(slow):
    body = {"model": "m", "messages": MESSAGES, "max_tokens": 50, "ignore_eos": True}  # a second each
    calls = asyncio.gather(*(slow.post("/v1/chat/completions", json=body) for _ in range(5)))
    seen = set()
    while not calls.done():
        seen.add((await metric(slow, "num_requests_running"), await metric(slow, "num_requests_waiting")))
        await asyncio.sleep(0.01)
    assert max(running for running, _ in seen) == 2
    assert max(waiting for _, waiting in seen) == 3
    assert {answer.status_code for answer in await calls} == {200}


def test_the_command_line_tells_the_whole_behaviour():
    arguments = Simulated("a", "m", 0.1, 0.02, api_key="s").arguments()
    assert "--token-time=0.02" in arguments
    assert "--api-key=s" in arguments


async def test_pieces_come_at_the_pace_that_was_asked(slow):
    body = {"model": "m", "messages": MESSAGES, "max_tokens": 10, "ignore_eos": True}
    answer = await slow.post("/v1/chat/completions", json=body)
    assert json.loads(answer.content)["usage"]["completion_tokens"] == 10
    assert answer.elapsed.total_seconds() >= 0.05 + 9 * 0.02
