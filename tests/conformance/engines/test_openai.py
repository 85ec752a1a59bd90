import json

import openai
import pytest

from tests.conformance.engines.conftest import ASK, CONTEXT, ENGINES, KINDS, heard, said, told

pytestmark = ENGINES

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": SCHEMA}}


async def test_a_plain_chat_is_told_and_booked_alike(front):
    """To the token, and nothing of it estimated."""
    client = await front.client()

    answer = await client.chat.completions.create(**ASK, max_tokens=12)

    row = await front.row()
    assert said(answer.choices[0].message.content) == answer.usage.completion_tokens == 12
    assert answer.choices[0].finish_reason == "length"
    assert (row["input_tokens"], row["output_tokens"]) == told(answer.usage)
    assert row["estimated_tokens"] == 0


async def test_a_streamed_chat_is_told_and_booked_alike(front):
    """Whether the engine was asked for its usage or tells it anyway."""
    client = await front.client()

    stream = await client.chat.completions.create(
        **ASK, max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    text, usage = await heard(stream)

    row = await front.row()
    assert said(text) == usage.completion_tokens == 12
    assert (row["input_tokens"], row["output_tokens"]) == told(usage)
    assert row["estimated_tokens"] == 0


async def test_a_stream_that_asks_for_no_usage_is_booked_to_the_token_and_ends_with_done(front):
    """The event that only the gateway asked for is withheld; the `[DONE]` that an engine leaves out is added."""
    answer = await front.raw("/v1/chat/completions", ASK | {"max_tokens": 12, "stream": True})

    *events, last = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    row = await front.row()
    assert last == "[DONE]"
    assert all(json.loads(event)["choices"] for event in events)
    assert (row["output_tokens"], row["estimated_tokens"]) == (12, 0)


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_completion_is_told_and_booked_alike(front, streamed):
    """The older API, in both ways."""
    client = await front.client()
    asked = {"model": "m", "prompt": "the river", "max_tokens": 9}

    if streamed:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
        text, usage = await heard(await client.completions.create(**asked))
    else:
        answer = await client.completions.create(**asked)
        text, usage = answer.choices[0].text, answer.usage

    row = await front.row()
    assert said(text) == usage.completion_tokens == 9
    assert (row["input_tokens"], row["output_tokens"], row["estimated_tokens"]) == (*told(usage), 0)


async def test_max_completion_tokens_bounds_every_engine(front):
    """The newer name; transformers takes it, ignores it and says a thousand words, so it is renamed."""
    client = await front.client()

    answer = await client.chat.completions.create(**ASK, max_completion_tokens=5)

    assert answer.usage.completion_tokens == 5


async def test_a_member_that_no_engine_knows_harms_no_call(front_vllm):
    """It goes through byte for byte, and vLLM ignores it."""
    client = await front_vllm.client()

    answer = await client.chat.completions.create(**ASK, max_tokens=3, extra_body={"zzz": 1, "min_p": 0.1})

    assert answer.usage.completion_tokens == 3


async def test_transformers_is_sent_nothing_that_it_ignores(front_transformers):
    """It warns in its log of what it was sent in vain."""
    client = await front_transformers.client()

    stream = await client.chat.completions.create(
        **ASK,
        max_completion_tokens=3,
        n=1,
        user="someone",
        store=False,
        parallel_tool_calls=True,
        stream=True,
        stream_options={"include_usage": True},
    )
    _, usage = await heard(stream)

    assert usage.completion_tokens == 3
    assert "Ignoring unsupported fields" not in front_transformers.engine.output


async def test_a_tool_that_must_be_called_is(front_vllm):
    """The SDK reads the deltas of the call, and their tokens are booked as told."""
    client = await front_vllm.client()
    forced = {"type": "function", "function": {"name": "weather"}}

    stream = await client.chat.completions.create(
        **ASK, tools=[TOOL], tool_choice=forced, max_tokens=200, stream=True, stream_options={"include_usage": True}
    )
    calls, usage = [], None
    async for chunk in stream:
        usage = chunk.usage or usage
        calls += [call.function for choice in chunk.choices for call in choice.delta.tool_calls or ()]

    row = await front_vllm.row()
    assert calls[0].name == "weather"
    assert "".join(call.arguments or "" for call in calls).startswith("{")
    assert (row["input_tokens"], row["output_tokens"]) == told(usage)


async def test_a_json_schema_is_kept_to(front_vllm):
    """Structured output is the engine's work; the gateway hands the schema over as it came."""
    client = await front_vllm.client()
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": SCHEMA}}

    answer = await client.chat.completions.create(**ASK, response_format=wanted, max_tokens=60)

    assert json.loads(answer.choices[0].message.content)["city"] in {"Paris", "Rome"}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"messages": [{"role": "user", "content": " river" * (CONTEXT + 50)}]}, id="tokens"),
        pytest.param({"messages": [{"role": "user", "content": " river" * CONTEXT * 2}]}, id="characters"),
        pytest.param({"max_tokens": CONTEXT * 2}, id="output"),
    ],
)
async def test_a_call_too_long_for_vllm_is_told_so_in_one_word(front_vllm, asked, streamed):
    """It has three wordings: by tokens, by characters before it counts any, and of the output that is asked for."""
    client = await front_vllm.client()

    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(**(ASK | {"max_tokens": 5} | asked), stream=streamed)

    assert refused.value.code == "context_length_exceeded"
    assert (await front_vllm.booked())[:2] == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_model_that_the_engine_does_not_serve_is_the_operators_mistake(request, over, kind):
    """The caller asked for what the file offers; the file is wrong."""
    engine = request.getfixturevalue(kind)
    front = await over(kind, engine, models={"m": {"deployments": [{"backend": "gpu", "model": "nowhere"}]}})
    client = await front.client()

    with pytest.raises(openai.APIStatusError) as refused:
        await client.chat.completions.create(**ASK, max_tokens=5)

    assert refused.value.status_code == 502


async def test_a_model_that_the_gateway_does_not_offer_is_the_callers_mistake(front):
    """Without a word to the engine."""
    client = await front.client()

    with pytest.raises(openai.NotFoundError, match="nope"):
        await client.chat.completions.create(model="nope", messages=ASK["messages"])


async def test_models_found_by_asking_vllm_tell_their_window(over, vllm):
    """Without `models` in the file, they are those that the backends list."""
    front = await over("vllm", vllm, models=None)
    client = await front.client()

    (model,) = (await client.models.list()).data

    assert model.id == vllm.alias
    assert model.model_extra["max_model_len"] == CONTEXT


async def test_vllm_goes_on_from_what_was_said_before_and_does_not_repeat_it(front_vllm):
    """With two flags, the prompt ends in the middle of the assistant's message: not a token behind it."""
    begun = {"messages": [*ASK["messages"], {"role": "assistant", "content": "of silver and"}]}
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    tokens = (await front_vllm.raw("/tokenize", {"model": "m"} | begun | flags)).json()["tokens"]
    client = await front_vllm.client()

    answer = await client.chat.completions.create(**(ASK | begun), max_tokens=5, extra_body=flags)

    assert answer.usage.prompt_tokens == len(tokens)
    assert said(answer.choices[0].message.content) == 5


async def test_embeddings_are_read_by_the_sdk_and_booked(over, embedder):
    """As numbers and as the SDK asks for them, packed."""
    front = await over("vllm", embedder)
    client = await front.client()

    packed = await client.embeddings.create(model="m", input=["the river", "the garden"])
    plain = await client.embeddings.create(model="m", input=["the river", "the garden"], encoding_format="float")

    assert [len(one.embedding) for one in packed.data] == [len(one.embedding) for one in plain.data]
    row = await front.row()
    assert (row["input_tokens"], row["output_tokens"]) == (packed.usage.prompt_tokens + plain.usage.prompt_tokens, 0)


async def test_embeddings_that_no_deployment_has_are_refused(front):
    """An engine that generates has no such route; the gateway says so in its own words, whether it knew or learned."""
    client = await front.client()

    with pytest.raises(openai.APIStatusError, match="embeddings") as refused:
        await client.embeddings.create(model="m", input="the river")

    assert refused.value.status_code == 501
