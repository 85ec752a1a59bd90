"""The official OpenAI SDK for Node against a whole gateway and a real engine."""

import json

import pytest

from tests.conformance.conftest import STRANGER, WINDOW
from tests.parts.clients import run_node

pytestmark = pytest.mark.ci


@pytest.fixture
def step(site, key):
    """Run one step of the script and return what it told."""

    async def run(name, narrow=""):
        keys = json.dumps({"wide": key, "narrow": narrow, "stranger": STRANGER})
        ended = await run_node("openai.mjs", f"{site.url}/v1", keys, name)
        assert ended.code == 0, ended.errors
        return ended.json

    return run


async def test_a_chat_is_answered_plain_and_streamed(step):
    """The same text; usage once, in a last chunk without choices."""
    plain, streamed = await step("plain"), await step("stream")

    assert plain["text"] == streamed["text"]
    assert plain["usage"]["completion_tokens"] == 12
    assert streamed["usages"] == [{"choices": 0, "tokens": 12}]


async def test_the_stream_helper_gathers_a_shaped_answer(step):
    """Valid JSON from a random model, whole at its end."""
    got = await step("helper")

    assert got["final"] == got["said"]
    assert json.loads(got["final"])["city"] in {"Rome", "Paris"}


async def test_tools_are_taken(step):
    """The engine answers in its own words."""
    assert await step("tools") == {"reason": "length", "tokens": 12}


async def test_models_are_listed_and_described(step):
    """Each by its id, with its window."""
    got = await step("models")

    assert sorted(got["ids"]) == ["embedder", "tiny"]
    assert (got["one"]["id"], got["one"]["max_model_len"]) == ("tiny", WINDOW)


async def test_embeddings_come_in_both_codings(step):
    """Base64, which the SDK asks for by itself, and floats are the same numbers."""
    got = await step("embeddings")

    assert got["sizes"] == [64, 64]
    assert got["apart"] < 1e-6


async def test_a_text_is_completed(step):
    """The legacy API, plain and streamed."""
    got = await step("completions")

    assert got["plain"]
    assert got["plain"] == got["streamed"]


async def test_a_response_is_created(step):
    """Of the Responses API."""
    got = await step("responses")

    assert got["text"]
    assert got["tokens"] == 12


async def test_a_response_is_streamed(step):
    """Its events in their order, usage in the last."""
    got = await step("responsesStream")

    assert got["first"] == "response.created"
    assert got["last"] in {"response.completed", "response.incomplete"}
    assert got["text"]
    assert got["tokens"] == 12


async def test_errors_have_the_sdks_classes(step):
    """401, 404 and 400, each with its code."""
    bad_key, unknown, too_long = [await step(name) for name in ("badKey", "unknownModel", "tooLong")]

    assert (bad_key["class"], bad_key["status"], bad_key["code"]) == ("AuthenticationError", 401, "invalid_api_key")
    assert (unknown["class"], unknown["code"], unknown["param"]) == ("NotFoundError", "model_not_found", "model")
    assert (too_long["class"], too_long["code"]) == ("BadRequestError", "context_length_exceeded")
    assert "maximum context length is 2048 tokens" in too_long["message"]
    assert all(error["requestID"] for error in (bad_key, unknown, too_long))


async def test_a_limit_is_a_rate_limit_error_that_says_when(step, narrow_key):
    """One call a minute: the second waits for most of it."""
    refused = await step("limited", narrow_key)

    assert (refused["class"], refused["code"]) == ("RateLimitError", "rate_limit_exceeded")
    assert 0 < int(refused["after"]) <= 60


async def test_a_stream_that_is_left_stops_the_engine(step, site):
    """It made fewer tokens than it was asked for."""
    engine = site.engines["tiny"]
    before = await engine.generated()
    got = await step("cancelled")

    assert got["aborted"]
    assert 0 < await engine.generated() - before < 1800


async def test_raw_answers_have_the_headers(step):
    """The request's id is the caller's own."""
    got = await step("headers")

    assert got == {"choices": 1, "backend": "tiny", "requestID": "mine-2", "own": "mine-2"}
