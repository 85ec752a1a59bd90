"""Answers through the gateway are the engine's own: plain, streamed event by event, and every error of it."""

import json

import httpx
import pytest

from tests.conformance.variants import COUNT, EQUAL, FAILED, MESSAGE, OURS

pytestmark = pytest.mark.ci

PASSING = {"id", "item_id", "created", "created_at", "completed_at", "timings", "time_ms", "system_fingerprint"}
"""What differs between two calls to the engine itself."""


def lasting(value):
    """Return a JSON value without what differs between two equal calls, the cache's part, and a usage that is null."""
    if isinstance(value, list):
        return [lasting(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    kept = {name: lasting(entry) for name, entry in value.items() if name not in PASSING}
    if kept.get("usage", ...) is None:
        del kept["usage"]
    if "cached_tokens" in kept:
        kept["cached_tokens"] = 0
    if "cache_read_input_tokens" in kept:
        kept["input_tokens"] += kept.pop("cache_read_input_tokens")
    return kept


def events(text):
    """Split a stream into its events, each by its lines: JSON where a line's data is JSON."""
    return [[line_of(line) for line in part.split("\n")] for part in text.split("\n\n") if part]


def line_of(line):
    """Return a line's field and its value without what differs between two equal calls."""
    field, _, value = line.partition(": ")
    return field, lasting(json.loads(value)) if value.startswith("{") else value


def told(answer):
    """Return what an application can see of an answer: status, kind, body."""
    kind = answer.headers["content-type"].partition(";")[0]
    body = events(answer.text) if kind == "text/event-stream" else lasting(answer.json())
    return answer.status_code, kind, body


@pytest.fixture
async def both(site, key):
    """Send one body to the engine and through the gateway."""
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(headers=headers, timeout=60) as client:

        async def send(variant):
            straight = await client.post(site.engines[variant.model].url + variant.path, content=variant.body)
            bearer = {"authorization": f"Bearer {key}"}
            return straight, await client.post(site.url + variant.path, content=variant.body, headers=bearer)

        yield send


@pytest.mark.parametrize("variant", EQUAL, ids=lambda variant: variant.name)
async def test_the_answer_is_the_engines_own(both, variant):
    """But for what differs between any two calls."""
    straight, through = await both(variant)

    if straight.is_error and variant.path in {MESSAGE, COUNT}:  # llama.cpp has OpenAI's shape there
        error = straight.json()["error"]
        said = {"type": error["type"], "message": error["message"]}
        assert (through.status_code, through.json()["type"]) == (straight.status_code, "error")
        assert through.json()["error"] == said
        return
    assert told(through) == told(straight)
    if straight.is_error:
        assert through.content == straight.content


@pytest.mark.parametrize("variant", OURS, ids=lambda variant: variant.name)
async def test_what_the_gateway_refuses_says_which_member_is_wrong(both, variant):
    """In its own words; the reason of each stands with the variant."""
    straight, through = await both(variant)
    error = through.json()["error"]

    assert (error["code"], error["param"]) == (variant.code, variant.param)
    assert through.status_code == (404 if variant.code == "model_not_found" else 400)
    assert straight.status_code in {200, 400}


@pytest.mark.parametrize("variant", FAILED, ids=lambda variant: variant.name)
async def test_an_engines_500_to_its_callers_mistake_is_a_400_in_its_own_words(both, variant):
    """An SDK would send a 500 again, and an operator would look for a fault."""
    straight, through = await both(variant)
    error = through.json()["error"]

    assert straight.status_code == 500
    assert (through.status_code, error["type"], error["code"]) == (400, "invalid_request_error", None)
    assert error["message"] == straight.json()["error"]["message"]
