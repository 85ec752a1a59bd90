import asyncio

import pytest

from tests.fakes.chat import Reasoning
from tests.fakes.lmstudio import LmStudioServer, Overflow
from tests.fakes.tests.asking import HELLO, ask, events, leave, look, sdk, told, until

LONG = [{"role": "user", "content": "a " * 200}]


@pytest.fixture
async def studio():
    async with LmStudioServer(downloads=("small",), time_scale=0.0001) as server:
        yield server


async def test_it_streams_and_answers(studio):
    """The role is in every delta; `max_tokens` -1 is no bound."""
    async with sdk(studio) as client:
        plain = await client.chat.completions.create(model=studio.model, messages=HELLO, max_tokens=-1)
        assert (plain.choices[0].message.content, plain.usage.completion_tokens) == ("w1 w2 w3 w4 w5 ", 5)
    answer = await ask(studio, stream=True, max_tokens=2, stream_options={"include_usage": True})
    chunks = events(answer)
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks[:3]] == ["assistant", "assistant", None]
    assert chunks[2]["choices"][0]["finish_reason"] == "length"
    assert (chunks[3]["usage"]["completion_tokens"], chunks[4]) == (2, "[DONE]")


async def test_the_openai_list_is_of_downloads_and_the_others_tell_what_is_loaded(studio):
    """Only the newest tells the window."""
    assert [card["id"] for card in (await look(studio, "/v1/models")).json()["data"]] == [studio.model, "small"]
    states = [card["state"] for card in (await look(studio, "/api/v0/models")).json()["data"]]
    assert states == ["loaded", "not-loaded"]
    assert (await look(studio, "/api/v0/models/small")).json()["state"] == "not-loaded"
    loaded, not_loaded = (await look(studio, "/api/v1/models")).json()["models"]
    assert loaded["loaded_instances"][0]["config"]["context_length"] == 262144
    assert (not_loaded["loaded_instances"], not_loaded["max_context_length"]) == ([], 262144)
    studio.jit = False
    assert [card["id"] for card in (await look(studio, "/v1/models")).json()["data"]] == [studio.model]


async def test_a_model_is_loaded_when_it_is_first_asked_for(studio):
    """Once for all that wait, and the one that was loaded like this before goes."""
    studio.downloads["other"] = type(studio.downloads["small"])("other")
    await asyncio.gather(*(ask(studio, model="small") for _ in range(3)))
    assert studio.loads == ["small"]
    assert (await ask(studio, model="other")).json()["model"] == "other"
    assert (studio.loads, studio.downloads["small"].loaded) == (["small", "other"], None)
    assert studio.downloads[studio.model].loaded is not None


async def test_unknown_models_are_refused_or_ignored(studio):
    """With one model loaded, any name is that model's."""
    assert (await ask(studio, model="no-such")).json()["model"] == studio.model
    studio.downloads[studio.model].loaded = None
    unknown = await ask(studio, model="no-such")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    studio.jit = False
    refused = await ask(studio)
    assert (refused.status_code, "No models loaded." in refused.text) == (400, True)


async def test_overflow_is_an_error_event_after_a_200():
    """0.4.21."""
    async with LmStudioServer(context=100) as server:
        answer = await ask(server, messages=LONG, stream=True)
        assert answer.status_code == 200
        assert answer.text.startswith("event: error\ndata: ")
        words = "Input does not fit in context length. The input has 200 tokens, but the context length only supports "
        assert events(answer)[0]["error"]["message"] == events(answer)[0]["message"] == words + "100 tokens."
        assert server.generated == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_overflow_is_an_empty_answer_with_usage(stream):
    """GGUF."""
    async with LmStudioServer(context=100, overflow=Overflow.EMPTY) as server:
        answer = await ask(server, messages=LONG, stream=stream, stream_options={"include_usage": True})
        assert answer.status_code == 200
        if stream:
            assert told(answer, "content") == ""
            assert events(answer)[-2]["usage"]["prompt_tokens"] == 200
        else:
            assert answer.json()["choices"][0]["message"]["content"] == ""
            assert answer.json()["usage"]["prompt_tokens"] == 200


async def test_overflow_was_a_400_once():
    """Before 0.3.18."""
    async with LmStudioServer(context=100, overflow=Overflow.STATUS) as server:
        answer = await ask(server, messages=LONG, stream=True)
        assert answer.status_code == 400
        assert "Trying to keep the first 200 tokens when context the overflows." in answer.text


async def test_paths_that_are_not_there_are_a_200(studio):
    """Of any method."""
    for answer in (await look(studio, "/health"), await look(studio, "/metrics")):
        assert (answer.status_code, set(answer.json())) == (200, {"error"})
    answer = await ask(studio, "/chat/completions")
    assert (answer.status_code, answer.json()["error"]) == (
        200,
        "Unexpected endpoint or method. (POST /chat/completions)",
    )


async def test_four_are_served_at_once_and_the_others_wait(studio):
    """The default."""
    studio.flow.clear()
    calls = [asyncio.ensure_future(ask(studio)) for _ in range(6)]
    await until(lambda: studio.unfinished == 6)
    assert (studio.running, studio.waiting) == (4, 2)
    studio.flow.set()
    assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}


async def test_a_caller_who_leaves_ends_the_generation():
    """Believed, not documented."""
    async with LmStudioServer(answer=100_000, pace=0.001) as server:
        await leave(server, after=3)
        await until(lambda: server.aborted == 1)


@pytest.mark.parametrize("form", [Reasoning.FIELD, Reasoning.CONTENT])
async def test_thoughts_are_in_one_of_two_members(studio, form):
    """By model and setting."""
    studio.reasoning, studio.form = 1, form
    assert told(await ask(studio, stream=True), form) == "w1 "


async def test_responses_and_messages_are_served_by_newer_versions(studio):
    """Responses since 0.3.29, messages since 0.4.1."""
    async with sdk(studio) as client:
        assert (await client.responses.create(model=studio.model, input="hi")).output_text.startswith("w1 ")
    assert (await ask(studio, "/v1/messages", max_tokens=5)).json()["type"] == "message"
    studio.messages = False
    assert "Unexpected endpoint" in (await ask(studio, "/v1/messages", max_tokens=5)).text
