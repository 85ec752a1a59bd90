"""The official Anthropic SDK for Python against a whole gateway and a real engine, which speaks that API by itself."""

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.conformance.conftest import STRANGER, WEATHER, WINDOW

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "Name a city."}], "max_tokens": 12}
TOOLS = [{"name": "weather", "description": "Tells the weather.", "input_schema": WEATHER}]


@pytest.fixture
async def client(site, key):
    async with AsyncAnthropic(base_url=site.url, api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture
def sync_client(site, key):
    with Anthropic(base_url=site.url, api_key=key, max_retries=0) as client:
        yield client


def kind(error):
    """Return the `error.type` of an SDK's error: what applications look at."""
    assert error.body["type"] == "error"
    return error.body["error"]["type"]


async def test_a_message_is_answered(client):
    """Its text, why it ended, what it used."""
    answer = await client.messages.create(**ASK, system="Be brief.")

    assert (answer.role, answer.type, answer.stop_reason) == ("assistant", "message", "max_tokens")
    assert answer.content[0].text
    assert answer.usage.output_tokens == 12


def test_the_sync_client_is_answered_too(sync_client):
    """Plain and streamed: the same text, with what the SDK has no name for."""
    plain = sync_client.messages.create(**ASK, extra_body={"temperature": 0})
    with sync_client.messages.stream(**ASK, extra_body={"temperature": 0}) as stream:
        said = "".join(stream.text_stream)

    assert said == plain.content[0].text


async def test_a_stream_is_gathered_to_a_message(client):
    """Its deltas are its text; usage comes of its own accord."""
    async with client.messages.stream(**ASK) as stream:
        said = "".join([text async for text in stream.text_stream])
        gathered = await stream.get_final_message()

    assert gathered.content[0].text == said
    assert (gathered.stop_reason, gathered.usage.output_tokens) == ("max_tokens", 12)


async def test_raw_events_come_in_their_order(client):
    """From message_start to message_stop, one delta a token."""
    kinds = [event.type async for event in await client.messages.create(**ASK, stream=True)]

    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds.count("content_block_delta") == 12
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


async def test_tokens_are_counted_before_the_call(client):
    """As many as the call then says it read."""
    asked = {name: ASK[name] for name in ("model", "messages")}
    counted = await client.messages.count_tokens(**asked)
    used = (await client.messages.create(**ASK)).usage

    assert counted.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0)


@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "weather"}], ids=str)
async def test_tools_are_taken(client, choice):
    """With every choice of them, and with an earlier call and its result in the history."""
    call = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Zürich"}}
    history = [
        *ASK["messages"],
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "sunny"}]},
    ]
    answer = await client.messages.create(**ASK | {"messages": history}, tools=TOOLS, tool_choice=choice)

    assert answer.usage.output_tokens == 12


async def test_a_key_as_a_bearer_token_is_taken(site, key):
    """The SDK's other way to send one."""
    async with AsyncAnthropic(base_url=site.url, auth_token=key, api_key=None, max_retries=0) as client:
        assert (await client.messages.create(**ASK)).content


async def test_a_key_that_nobody_has_is_an_authentication_error(client):
    """For a message and for counting."""
    stranger = client.with_options(api_key=STRANGER)
    with pytest.raises(anthropic.AuthenticationError) as called:
        await stranger.messages.create(**ASK)
    with pytest.raises(anthropic.AuthenticationError) as counted:
        await stranger.messages.count_tokens(model="tiny", messages=ASK["messages"])

    assert {kind(called.value), kind(counted.value)} == {"authentication_error"}


async def test_a_model_that_is_not_there_is_a_not_found_error(client):
    """With its name in the message."""
    with pytest.raises(anthropic.NotFoundError, match="nope") as refused:
        await client.messages.create(**ASK | {"model": "nope"})

    assert kind(refused.value) == "not_found_error"


async def test_a_limit_is_a_rate_limit_error_that_says_when(client, narrow_key):
    """One call a minute: the second waits for most of it."""
    narrow = client.with_options(api_key=narrow_key)
    await narrow.messages.create(**ASK)
    with pytest.raises(anthropic.RateLimitError) as refused:
        await narrow.messages.create(**ASK)

    assert kind(refused.value) == "rate_limit_error"
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 60


async def test_a_member_of_the_wrong_kind_is_a_bad_request(client):
    """Ours."""
    with pytest.raises(anthropic.BadRequestError, match="max_tokens") as refused:
        await client.messages.create(**ASK | {"max_tokens": -5})

    assert kind(refused.value) == "invalid_request_error"


async def test_too_long_a_prompt_is_a_bad_request(client):
    """Streamed too: it is refused before any event."""
    long = ASK | {"messages": [{"role": "user", "content": "a " * 2 * WINDOW}]}
    for stream in (False, True):
        with pytest.raises(anthropic.BadRequestError) as refused:
            await client.messages.create(**long, stream=stream)
        assert kind(refused.value) == "invalid_request_error"


async def test_a_stream_that_is_closed_stops_the_engine(client, site):
    """It made fewer tokens than it was asked for."""
    engine = site.engines["tiny"]
    before = await engine.generated()
    async with client.messages.stream(**ASK | {"max_tokens": 1800}) as stream:
        async for _ in stream.text_stream:
            break

    assert 0 < await engine.generated() - before < 1800


async def test_raw_answers_have_the_headers(client):
    """Those of the gateway."""
    raw = await client.messages.with_raw_response.create(**ASK, extra_headers={"x-request-id": "mine-3"})

    assert (await raw.parse()).content
    assert raw.headers["x-request-id"] == "mine-3"
    assert (raw.headers["x-sluiceway-backend"], raw.headers["x-sluiceway-attempts"]) == ("tiny", "1")


async def test_a_stream_is_booked_as_it_told(client, site):
    """What it used was told without being asked for: nothing is estimated."""
    before = {row["key"] for row in await site.process.usage()}
    async with client.messages.stream(**ASK) as stream:
        told = (await stream.get_final_message()).usage
    while (await site.process.metrics())["sluiceway_open_reservations"]:
        pass
    (booked,) = [row for row in await site.process.usage() if row["key"] not in before]

    assert (booked["output_tokens"], booked["estimated_tokens"]) == (told.output_tokens, 0)
