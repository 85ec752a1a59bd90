import asyncio

import pytest

from tests.fakes.sglang import SglangServer
from tests.fakes.tests.asking import HELLO, ask, events, leave, look, sdk, told, until


@pytest.fixture
async def engine():
    async with SglangServer(time_scale=0.001) as server:
        yield server


async def test_it_streams_and_answers(engine):
    """Thoughts in `reasoning_content`, which is in every delta; a chunk of usage where asked for."""
    engine.reasoning = 2
    async with sdk(engine) as client:
        plain = await client.chat.completions.create(model=engine.model, messages=HELLO, max_tokens=4)
        assert plain.choices[0].message.reasoning_content == "w1 w2 "
        assert (plain.choices[0].finish_reason, plain.usage.completion_tokens) == ("length", 4)
    answer = await ask(engine, stream=True, stream_options={"include_usage": True})
    assert (told(answer, "reasoning_content"), told(answer, "content")) == ("w1 w2 ", "w3 w4 w5 ")
    chunks = events(answer)
    assert all("reasoning_content" in chunk["choices"][0]["delta"] for chunk in chunks[:-2])
    assert (chunks[-2]["choices"], chunks[-2]["usage"]["reasoning_tokens"], chunks[-1]) == ([], 2, "[DONE]")


async def test_health_costs_a_generation(engine):
    """So it must not be asked often; starting servers are spared."""
    assert (await look(engine, "/health")).status_code == 200
    assert (await look(engine, "/health_generate")).status_code == 200
    assert engine.health_generations == 2
    engine.state = "starting"
    assert (await look(engine, "/health")).status_code == 503
    assert engine.health_generations == 2
    assert (await look(engine, "/ready")).status_code == 503
    engine.state = "unhealthy"
    assert (await look(engine, "/health")).status_code == 503


@pytest.mark.parametrize("prefix", ["sglang:", "sglang_", None])
async def test_metrics_have_either_prefix_or_are_off(prefix):
    """Builds differ."""
    async with SglangServer(metrics_prefix=prefix) as server:
        await ask(server)
        page = await look(server, "/metrics")
    if prefix is None:
        assert page.status_code == 404
    else:
        assert f"\n{prefix}num_queue_reqs{{" in page.text
        assert f'{prefix}generation_tokens_total{{engine_type="unified"' in page.text


async def test_pages_tell_the_window(engine):
    """Three places tell it."""
    assert (await look(engine, "/v1/models")).json()["data"][0]["max_model_len"] == 262144
    assert (await look(engine, "/server_info")).json()["max_req_input_len"] == 262138
    assert (await look(engine, "/get_model_info")).json()["model_path"] == engine.model
    assert (await look(engine, "/v1/loads?include=core")).json()["loads"][0]["num_running_reqs"] == 0
    loads = (await look(engine, "/v1/loads?format=prometheus")).text
    assert 'sglang_num_running_reqs{dp_rank="0"} 0' in loads
    assert (await ask(engine, "/tokenize")).json()["count"] == 2


async def test_a_full_queue_is_a_503_or_an_event_after_a_200():
    """The scheduler refuses, when a stream's frontend waits already for its first event."""
    async with SglangServer(slots=1, max_queued=1) as server:
        server.flow.clear()
        calls = [asyncio.ensure_future(ask(server)) for _ in range(2)]
        await until(lambda: server.unfinished == 2)
        plain = await ask(server)
        assert plain.status_code == 503
        message = {"object": "error", "message": "The request queue is full."}
        assert plain.json() == message | {"type": "503", "param": None, "code": 503}
        stream = await ask(server, stream=True)
        assert stream.status_code == 200
        refused = message | {"type": "SERVICE_UNAVAILABLE", "param": None, "code": 503}
        assert events(stream) == [{"error": refused}, "[DONE]"]
        server.flow.set()
        assert [answer.status_code for answer in await asyncio.gather(*calls)] == [200, 200]


@pytest.mark.parametrize(("stream", "kind"), [(False, "BadRequest"), (True, "BadRequestError")])
async def test_overflow_is_a_400_in_one_of_two_sentences(stream, kind):
    """Streamed too, though of another type."""
    async with SglangServer(context=100) as server:
        long = [{"role": "user", "content": "a " * 90}]
        refused = await ask(server, messages=long, max_tokens=20, stream=stream)
        assert (refused.status_code, refused.json()["type"]) == (400, kind)
        assert "maximum context length of 100 tokens. You requested a total of 110 tokens" in refused.text
        refused = await ask(server, messages=[{"role": "user", "content": "a " * 200}], stream=stream)
        assert refused.json()["message"] == (
            "The input (200 tokens) is longer than the model's context length (100 tokens)."
        )


async def test_efforts_are_refused_by_the_schema_or_by_the_template(engine):
    """Both 400; other templates' members are taken."""
    assert (await ask(engine, reasoning_effort="enormous")).json()["type"] == "Bad Request"
    assert (await ask(engine, reasoning_effort="low")).json()["type"] == "BadRequest"
    assert (await ask(engine, reasoning_effort="high")).status_code == 200
    assert (await ask(engine, chat_template_kwargs={"a": 1})).status_code == 200


async def test_a_stream_is_aborted_two_seconds_after_its_caller_left():
    """Scaled here to a tenth: tokens are generated on in between."""
    async with SglangServer(answer=100_000, pace=0.001, time_scale=0.1) as server:
        await leave(server, after=3)
        gone = server.generated
        await until(lambda: server.aborted == 1)
        assert server.generated > gone


async def test_a_key_guards_all_but_health_and_metrics():
    """The error is a string."""
    async with SglangServer(key="secret", time_scale=0.001) as server:
        for answer in (await ask(server, key="other"), await look(server, "/v1/models")):
            assert (answer.status_code, answer.json()) == (401, {"error": "Unauthorized"})
        assert (await ask(server, key="secret")).status_code == 200
        assert (await look(server, "/health", key=None)).status_code == 200


async def test_the_models_name_is_not_looked_at(engine):
    """It is told back."""
    assert (await ask(engine, model="anything")).json()["model"] == "anything"


async def test_responses_and_messages_are_served(engine):
    """Since both are in its frontend."""
    async with sdk(engine) as client:
        stream = await client.responses.create(model=engine.model, input="hello", stream=True)
        assert [event.type async for event in stream][-1] == "response.completed"
    answer = await ask(engine, "/v1/messages", max_tokens=9)
    assert (answer.json()["content"][0]["text"], answer.json()["stop_reason"]) == ("w1 w2 w3 w4 w5 ", "end_turn")
