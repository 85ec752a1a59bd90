"""OpenAI's SDK for Node, Anthropic's for Python, and Mistral Vibe, over engines that speak for themselves.

`python -m tests.parts.clients` installs the first and the last.
"""

import json
from contextlib import AsyncExitStack

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.conformance.conftest import ANSWER, STRANGER
from tests.conformance.engines.conftest import CONTEXT, ENGINES, KINDS, MESSAGE, said
from tests.conformance.test_clients_anthropic import kind as kind_of
from tests.conformance.test_clients_vibe import ASK
from tests.conformance.test_clients_vibe import said as last_words
from tests.parts.clients import run_node, run_vibe
from tests.parts.tiny_mistral import BRIEF, write_mistral
from tests.parts.tiny_model import WORDS
from tests.parts.transformers import TransformersServer
from tests.parts.vllm import VllmServer

pytestmark = ENGINES


def serving(model, **terms):
    """Configure the models `m` and `tiny`, which are one model of the engine's."""
    offer = {"deployments": [{"backend": "gpu", "model": model}], **terms}
    return {"m": offer, "tiny": offer}


@pytest.fixture(params=KINDS)
def engine(request):
    """Give each engine, and the kind that it is."""
    return request.param, request.getfixturevalue(request.param)


@pytest.fixture
async def node(over, engine):
    """Start a gateway over an engine; return it, and what runs one step of the SDK's script against it."""
    kind, server = engine

    async def started(model=server.alias):
        front = await over(kind, server, models=serving(model))
        keys = json.dumps({"wide": await front.process.create_key(plan="wide"), "stranger": STRANGER})

        async def step(name):
            ended = await run_node("openai.mjs", f"{front.process.url}/v1", keys, name)
            assert ended.code == 0, ended.errors
            return ended.json

        return front, step

    return started


async def test_node_is_answered_plain_and_streamed(node):
    """The same words, usage told once, and both in the books to the token."""
    front, step = await node()

    plain, streamed = await step("plain"), await step("stream")

    row, used = await front.row(), plain["usage"]
    assert plain["text"] == streamed["text"]
    assert said(plain["text"]) == used["completion_tokens"] == 12
    assert [usage["tokens"] for usage in streamed["usages"]] == [12]
    assert (row["calls"], row["input_tokens"], row["output_tokens"]) == (2, 2 * used["prompt_tokens"], 24)
    assert row["estimated_tokens"] == 0


async def test_node_is_answered_by_responses_plain_and_streamed(node):
    """Its events in their order, usage in the last."""
    front, step = await node()

    plain, streamed = await step("responses"), await step("responsesStream")

    row = await front.row()
    assert (streamed["first"], streamed["last"]) in {
        ("response.created", "response.completed"),
        ("response.created", "response.incomplete"),
    }
    assert said(plain["text"]) == said(streamed["text"]) == plain["tokens"] == streamed["tokens"] == 12
    assert (row["calls"], row["output_tokens"], row["estimated_tokens"]) == (2, 24, 0)


async def test_node_raises_the_class_of_the_gateways_refusals(node):
    """Whichever engine it is that is not asked."""
    front, step = await node()

    bad_key, unknown = await step("badKey"), await step("unknownModel")

    assert (bad_key["class"], bad_key["status"], bad_key["code"]) == ("AuthenticationError", 401, "invalid_api_key")
    assert (unknown["class"], unknown["code"], unknown["param"]) == ("NotFoundError", "model_not_found", "model")
    assert await front.booked() == (0, 0, 0)


async def test_node_raises_the_class_of_an_engines_failure(node):
    """A model that the engine does not have is the operator's mistake: nothing that the caller could mend."""
    _, step = await node("nowhere")

    failed = await step("failed")

    assert (failed["class"], failed["status"]) == ("InternalServerError", 502)


@pytest.mark.parametrize("engine", ["vllm"], indirect=True)
async def test_node_raises_the_class_of_vllms_own_refusal(node):
    """Of a stream too, before it has begun; transformers knows no prompt that is too long."""
    _, step = await node()

    refused = await step("tooLong")

    assert (refused["class"], refused["code"]) == ("BadRequestError", "context_length_exceeded")


@pytest.fixture
async def claude():
    """Make clients of Anthropic's SDK for a gateway; they are closed with the test."""
    async with AsyncExitStack() as stack:

        async def made(front):
            key = await front.process.create_key(plan="wide")
            client = AsyncAnthropic(base_url=front.process.url, api_key=key, max_retries=0)
            return await stack.enter_async_context(client)

        yield made


async def test_anthropics_sdk_is_answered_plain_and_streamed(front_vllm, claude):
    """Both with their usage, as the books have it; the prompt counted beforehand as it was then read."""
    client = await claude(front_vllm)

    counted = await client.messages.count_tokens(model="m", messages=MESSAGE["messages"])
    plain = await client.messages.create(**MESSAGE)
    async with client.messages.stream(**MESSAGE) as stream:
        heard = "".join([text async for text in stream.text_stream])
        gathered = await stream.get_final_message()

    row = await front_vllm.row()
    assert said(plain.content[0].text) == said(heard) == plain.usage.output_tokens == gathered.usage.output_tokens == 6
    assert gathered.content[0].text == heard
    assert plain.stop_reason == gathered.stop_reason == "max_tokens"
    assert counted.input_tokens == plain.usage.input_tokens == gathered.usage.input_tokens
    assert (row["calls"], row["input_tokens"], row["output_tokens"]) == (3, 2 * counted.input_tokens, 12)
    assert row["estimated_tokens"] == 0


async def test_anthropics_sdk_reads_the_call_of_a_tool(front_vllm, claude):
    """Its arguments, which come in parts, make one object that keeps to the schema."""
    client = await claude(front_vllm)
    tool = {"name": "weather", "strict": True, "input_schema": ANSWER}
    forced = {"tools": [tool], "tool_choice": {"type": "tool", "name": "weather"}, "max_tokens": 200}

    async with client.messages.stream(**MESSAGE | forced) as stream:
        (call,) = (await stream.get_final_message()).content

    assert (call.type, call.name) == ("tool_use", "weather")
    assert call.input["city"] in {"Rome", "Paris"}


async def test_anthropics_sdk_raises_the_class_of_vllms_own_refusal(front_vllm, claude):
    """Streamed too: it is refused before any event."""
    client = await claude(front_vllm)
    long = MESSAGE | {"messages": [{"role": "user", "content": " river" * (CONTEXT + 50)}]}

    for stream in (False, True):
        with pytest.raises(anthropic.BadRequestError) as refused:
            await client.messages.create(**long, stream=stream)
        assert kind_of(refused.value) == "invalid_request_error"


async def test_anthropics_sdk_is_told_that_transformers_has_no_such_api(front_transformers, claude):
    """In that API's own shape, for a message, a stream and a count; nothing is translated, and nothing is booked."""
    client = await claude(front_transformers)
    calls = {
        "plain": lambda: client.messages.create(**MESSAGE),
        "streamed": lambda: client.messages.create(**MESSAGE, stream=True),
        "counted": lambda: client.messages.count_tokens(model="m", messages=MESSAGE["messages"]),
    }

    for call in calls.values():
        with pytest.raises(anthropic.APIStatusError, match="No backend of 'm' has the") as refused:
            await call()
        assert (refused.value.status_code, kind_of(refused.value)) == (501, "invalid_request_error")

    assert await front_transformers.booked() == (0, 0, 0)


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    """Write the model that ends what it says: an agent asks again for what was cut off."""
    return write_mistral(tmp_path_factory.mktemp("brief"), BRIEF)


@pytest.fixture(scope="module")
def brief_vllm(brief):
    server = VllmServer(brief, context=BRIEF.context)
    yield server.start()
    server.stop()


@pytest.fixture(scope="module")
def brief_transformers(brief):
    server = TransformersServer(brief)
    yield server.start()
    server.stop()


@pytest.fixture
def vibe(request, over, tmp_path):
    """Return what lets `vibe` speak, in some style, to an engine of some kind: how it ended, and the books' row."""

    async def run(kind, style):
        server = request.getfixturevalue(f"brief_{kind}")
        patient = {"first_content": 100}  # a busy core reads 30,000 tokens in its own time
        front = await over(kind, server, models=serving(server.alias, deadlines=patient))
        home = tmp_path / "home"
        home.mkdir()
        key = await front.process.create_key(plan="wide")
        ended = await run_vibe(home, front.process.url, key, "m", *ASK, "say a word", style=style)
        return ended, front

    return run


@pytest.mark.parametrize("style", ["openai", "openai-responses", "anthropic"])
async def test_vibe_is_answered_by_vllm(vibe, brief_vllm, style):
    """The whole of what it sends, tools and all; the engine's word is what it prints, the books have its tokens."""
    before = await brief_vllm.generated()

    ended, front = await vibe("vllm", style)

    assert ended.code == 0, ended.errors
    row = await front.row()
    made = await brief_vllm.generated() - before
    assert last_words(ended).strip() in WORDS
    assert (row["calls"], row["output_tokens"], row["estimated_tokens"]) == (1, made, 0)
    assert row["input_tokens"] > 10_000


@pytest.mark.parametrize("style", ["openai", "openai-responses"])
async def test_vibe_is_answered_by_transformers(vibe, style):
    """As far as it reads what it is sent: it takes the tools, and is not sent how to choose among them."""
    ended, front = await vibe("transformers", style)

    assert ended.code == 0, ended.errors
    row = await front.row()
    assert last_words(ended).strip() in WORDS
    assert (row["calls"], row["output_tokens"], row["estimated_tokens"]) == (1, 2, 0)
    assert row["input_tokens"] > 10_000


async def test_vibe_says_that_transformers_has_not_the_api_that_it_speaks(vibe):
    """In the gateway's words."""
    ended, front = await vibe("transformers", "anthropic")

    assert ended.code != 0
    assert "No backend of 'm' has the messages API" in ended.errors
    assert await front.booked() == (0, 0, 0)
