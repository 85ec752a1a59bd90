import json

import openai
import pytest

from tests.conformance.engines.conftest import ASK, CONTEXT, ENGINES, MESSAGE, said

pytestmark = ENGINES


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_response_is_told_and_booked_alike(front, streamed):
    """OpenAI's newer API, served natively; transformers streams it unless it is told not to."""
    client = await front.client()
    asked = {"model": "m", "input": "the river and the garden", "max_output_tokens": 12}

    if streamed:
        events = [event async for event in await client.responses.create(**asked, stream=True)]
        response = events[-1].response
        assert events[-1].type in {"response.completed", "response.incomplete"}
    else:
        response = await client.responses.create(**asked)

    row = await front.row()
    assert said(response.output_text) == response.usage.output_tokens == 12
    assert (row["input_tokens"], row["output_tokens"]) == (response.usage.input_tokens, 12)
    assert row["estimated_tokens"] == 0


async def test_a_response_too_long_for_vllm_is_told_so_in_one_word(front_vllm):
    """In OpenAI's shape."""
    client = await front_vllm.client()

    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="m", input=" river" * (CONTEXT + 50))

    assert refused.value.code == "context_length_exceeded"


async def test_a_message_is_told_and_booked_alike(front_vllm):
    """Anthropic's API, served natively."""
    answer = await front_vllm.raw("/v1/messages", MESSAGE)

    told = answer.json()["usage"]
    row = await front_vllm.row()
    assert said(answer.json()["content"][0]["text"]) == 6
    assert (row["input_tokens"], row["output_tokens"]) == (told["input_tokens"], told["output_tokens"])
    assert row["estimated_tokens"] == 0


async def test_a_streamed_message_is_told_and_booked_alike(front_vllm):
    """Its usage stands in its first and its last events; none is withheld, no `[DONE]` is added."""
    answer = await front_vllm.raw("/v1/messages", MESSAGE | {"stream": True})

    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    row = await front_vllm.row()
    assert events[0]["type"] == "message_start"
    assert events[-1]["type"] == "message_stop"
    assert events[-2]["usage"] == {"input_tokens": row["input_tokens"], "output_tokens": row["output_tokens"]}
    assert (row["output_tokens"], row["estimated_tokens"]) == (6, 0)


async def test_a_message_too_long_for_vllm_is_told_so_in_anthropics_shape(front_vllm):
    """A client of that API reads no other."""
    messages = [{"role": "user", "content": " river" * (CONTEXT + 50)}]

    answer = await front_vllm.raw("/v1/messages", MESSAGE | {"messages": messages})

    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_tokens_are_counted_as_the_engine_counts_them(front_vllm):
    """By `count_tokens` and `tokenize` alike; nothing is booked for it."""
    counted = await front_vllm.raw("/v1/messages/count_tokens", {"model": "m", "messages": ASK["messages"]})
    tokens = await front_vllm.raw("/tokenize", {"model": "m", "messages": ASK["messages"]})

    assert counted.json()["input_tokens"] == tokens.json()["count"] == len(tokens.json()["tokens"])
    assert (await front_vllm.booked())[:2] == (0, 0)
