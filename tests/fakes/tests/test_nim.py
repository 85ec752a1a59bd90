import asyncio

import openai
import pytest

from tests.fakes.nim import NimServer
from tests.fakes.tests.asking import HELLO, ask, events, leave, look, sdk, told, until


@pytest.fixture
async def nim():
    async with NimServer() as server:
        yield server


async def test_it_answers_plainly_and_streamed(nim):
    """Both through the official client, with usage and within max_tokens."""
    async with sdk(nim) as client:
        plain = await client.chat.completions.create(model=nim.model, messages=HELLO, max_tokens=3)
        assert (plain.usage.prompt_tokens, plain.usage.completion_tokens) == (2, 3)
        assert plain.choices[0].finish_reason == "length"
        stream = await client.chat.completions.create(
            model=nim.model, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "w1 w2 w3 w4 w5 "
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 5)


async def test_it_is_alive_before_it_is_ready(nim):
    """Readiness is 503 until the model is loaded; liveness says nothing of the model."""
    nim.ready = False
    assert (await look(nim, "/v1/health/live")).status_code == 200
    assert (await look(nim, "/v1/health/ready")).status_code == 503
    assert (await ask(nim)).status_code == 502
    nim.ready = True
    assert (await look(nim, "/v1/health/ready")).json() == {
        "object": "health.response",
        "message": "Service is ready.",
        "status": "ready",
    }


@pytest.mark.parametrize(("old", "prefix"), [(False, "vllm:"), (True, "")])
async def test_metrics_have_the_names_of_their_release(old, prefix):
    """1.x has none of vLLM's prefix."""
    async with NimServer(old=old) as server:
        await ask(server)
        page = (await look(server, "/v1/metrics")).text
    assert f"\n{prefix}num_requests_waiting{{" in page
    assert f'{prefix}generation_tokens_total{{model_name="{server.model}"}} 5.0' in page
    assert ("num_request_max" in page) is old


async def test_pages_tell_the_release_and_the_window(nim):
    """What a gateway reads to know whom it talks to."""
    assert (await look(nim, "/v1/version")).json()["release"] == "2.0.6-variant"
    assert (await look(nim, "/v1/metadata")).json()["modelInfo"][0]["shortName"] == nim.model
    assert (await look(nim, "/v1/models")).json()["data"][0]["max_model_len"] == 262144
    assert (await ask(nim, "/tokenize")).json()["count"] == 2


async def test_templates_and_other_efforts_are_refused_in_vllms_words(nim):
    """A Mistral tokenizer takes neither."""
    refused = await ask(nim, chat_template_kwargs={"enable_thinking": False})
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "BadRequestError")
    assert refused.json()["error"]["message"] == "chat_template is not supported for Mistral tokenizers."
    refused = await ask(nim, reasoning_effort="low")
    assert "Supported values are: ['none', 'high']" in refused.json()["error"]["message"]
    assert (await ask(nim, reasoning_effort="high")).status_code == 200
    assert (await ask(nim, priority=3)).status_code == 400
    assert (await ask(nim, temperature=99, top_p="no")).status_code == 200


async def test_overflow_tells_one_more_than_fits_whatever_was_sent():
    """VLLM stops counting there."""
    async with NimServer(context=100) as server:
        for words in (95, 500):
            message = (await ask(server, messages=[{"role": "user", "content": "a " * words}], max_tokens=20)).json()
            assert "maximum context length is 100 tokens" in message["error"]["message"]
            assert "contains at least 81 input tokens" in message["error"]["message"]


async def test_responses_take_text_but_no_input_text(nim):
    """A stated limit of this model."""
    async with sdk(nim) as client:
        assert (await client.responses.create(model=nim.model, input="hello")).output_text == "w1 w2 w3 w4 w5 "
        stream = await client.responses.create(model=nim.model, input="hello", stream=True, max_output_tokens=2)
        kinds = [event.type async for event in stream]
        part = {"role": "user", "content": [{"type": "input_text", "text": "hello"}]}
        with pytest.raises(openai.BadRequestError):
            await client.responses.create(model=nim.model, input=[part])
    assert (kinds[0], kinds[-1]) == ("response.created", "response.incomplete")
    assert kinds.count("response.output_text.delta") == 2


async def test_messages_are_answered_in_anthropics_events(nim):
    """2.x has the endpoint."""
    answer = await ask(nim, "/v1/messages", max_tokens=9, stream=True)
    kinds = [event["type"] for event in events(answer)]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert (await ask(nim, "/v1/messages", max_tokens=2)).json()["stop_reason"] == "max_tokens"


async def test_thoughts_have_a_member_of_their_own(nim):
    """As vLLM names it since 0.17."""
    nim.reasoning = 2
    answer = await ask(nim, stream=True)
    assert (told(answer, "reasoning"), told(answer, "content")) == ("w1 w2 ", "w3 w4 w5 ")


async def test_a_dying_engine_is_told_within_the_stream(nim):
    """After the 200 there is no other place."""
    nim.fails_at = 2
    answer = await ask(nim, stream=True)
    assert answer.status_code == 200
    assert events(answer)[-2]["error"]["code"] == 500
    assert (events(answer)[-1], nim.aborted) == ("[DONE]", 1)
    assert (await ask(nim)).status_code == 500


async def test_a_caller_who_leaves_ends_the_generation():
    """And what was generated is known."""
    async with NimServer(answer=10_000, pace=0.001) as server:
        await leave(server, after=3)
        await until(lambda: server.aborted == 1)
        assert server.unfinished == 0
        assert 2 <= server.generated < 10_000


async def test_others_wait_for_a_slot():
    """The gauges tell how many."""
    async with NimServer(slots=2) as server:
        server.flow.clear()
        async with sdk(server) as client:
            calls = [
                asyncio.ensure_future(client.chat.completions.create(model=server.model, messages=HELLO))
                for _ in range(5)
            ]
            await until(lambda: server.unfinished == 5)
            assert (server.running, server.waiting) == (2, 3)
            assert "vllm:num_requests_waiting{" in (await look(server, "/v1/metrics")).text
            server.flow.set()
            await asyncio.gather(*calls)
    assert server.generated == 25


async def test_an_unknown_model_is_named(nim):
    """As vLLM does."""
    answer = await ask(nim, model="other")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "NotFoundError")
