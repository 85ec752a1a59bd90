import asyncio
import json

import httpx
import pytest

from gateway.config.settings import Telemetry
from tests.gateway.harness import ASK, running
from tests.parts.otlp import OtlpReceiver
from tests.parts.scripted import DONE, Bytes, Close, Hang, Pause, Status, delta, event, sse, usage

JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream"}


async def test_a_plain_answer_is_the_upstreams_byte_for_byte(gateway, first):
    """`model` included."""
    body = b'{ "model":"scripted", "x": 1.00, "usage":{"prompt_tokens":5,"completion_tokens":3}}'
    first.enqueue([Status(200, JSON | {"x-secret": "1", "server": "vllm"}), Bytes(body)])

    answer = await gateway.ask()

    assert answer.content == body
    assert "x-secret" not in answer.headers
    assert "server" not in answer.headers
    (total,) = await gateway.usage()
    assert (total.prompt_tokens, total.completion_tokens, total.estimated_tokens) == (5, 3, 0)


async def test_a_stream_is_the_upstreams_but_for_the_usage_only_we_asked_for(gateway, first):
    """Asked for, it is passed."""
    script = sse("one", "two", told=usage(3, 2))
    first.enqueue(script, script)
    whole = b"".join(step.data for step in script if isinstance(step, Bytes))

    without = await gateway.ask(stream=True)
    with_usage = await gateway.ask(stream=True, stream_options={"include_usage": True})

    assert with_usage.content == whole
    assert without.content == b"".join(e + b"\n\n" for e in whole.split(b"\n\n") if e and b'"usage"' not in e)
    assert json.loads(first.requests[0].body)["stream_options"] == {"include_usage": True}


async def test_a_missing_done_is_added(gateway, first):
    """As for transformers serve."""
    first.enqueue([step for step in sse("one") if step is not DONE])

    assert (await gateway.ask(stream=True)).text.endswith("data: [DONE]\n\n")


async def test_an_answer_that_tells_no_usage_is_counted(gateway, first):
    """Prompt by estimate, output by events; marked so."""
    first.enqueue(sse("one", "two", "three"))
    await gateway.ask(stream=True)

    (total,) = await gateway.usage()
    assert total.completion_tokens == 3
    assert total.estimated_tokens == total.prompt_tokens + 3


async def test_a_malformed_event_is_passed_on_and_counted(gateway, first):
    """One bad event does not end a stream."""
    first.enqueue([*sse("one", end=False), Bytes(b'data: {"error": oops\n\n'), delta(finish="stop"), DONE])

    answer = await gateway.ask(stream=True)

    assert 'data: {"error": oops\n\n' in answer.text
    assert gateway.metric("sluiceway_malformed_events_total") == 1


async def test_a_json_answer_to_a_streamed_call_is_relayed_as_it_is(gateway, first):
    """Some engines do that."""
    first.enqueue([Status(200, JSON), Bytes(b'{"ok":true}')])

    assert (await gateway.ask(stream=True)).json() == {"ok": True}


async def test_silence_before_the_first_content_moves_on(gateway, first, second, monkeypatch):
    """Headers are no content."""
    monkeypatch.setattr("gateway.relay.first_content", lambda *_, **__: 0.3)
    first.enqueue([Status(200, EVENTS), delta(role="assistant"), Hang()])

    assert (await gateway.ask(stream=True)).headers["x-sluiceway-attempts"] == "2"


async def test_a_stall_after_content_is_told_in_band(gateway, first):
    """The dialect says how long silence may last."""
    home = gateway.services.fleet.homes["a"]
    home.dialect = type(home.dialect)(kind="openai", priors=home.dialect.priors, stall=0.2)
    first.enqueue([*sse("one", end=False), Hang()])

    text = (await gateway.ask(stream=True)).text

    assert "stall" in text
    assert "[DONE]" not in text


async def test_a_huge_plain_answer_is_streamed_once_it_is_too_large_to_hold(gateway, first, monkeypatch):
    """Whole, it is whole; cut, it is an error to every client."""
    monkeypatch.setattr("gateway.relay.BUFFERED", 10_000)
    body = json.dumps({"text": "x" * 50_000}).encode()
    first.enqueue(
        [Status(200, JSON), Bytes(body[:20_000]), Bytes(body[20_000:])],
        [Status(200, JSON), Bytes(body[:20_000]), Close()],
    )

    assert (await gateway.ask()).content == body
    with pytest.raises(httpx.RemoteProtocolError):
        await gateway.ask()


async def test_a_huge_plain_answer_that_only_its_connection_ends_is_cut_where_it_is_no_whole_object(
    gateway, first, monkeypatch
):
    """Its caller must not take it for all."""
    monkeypatch.setattr("gateway.relay.BUFFERED", 10_000)
    first.enqueue([Status(200, JSON | {"connection": "close"}), Bytes(b'{"data": [' + b"1," * 10_000), Close()])

    with pytest.raises(httpx.RemoteProtocolError):
        await gateway.ask()

    assert gateway.metric("sluiceway_attempts_total", backend="a", outcome="truncated") == 1


async def test_an_upstream_faster_than_its_caller_is_paused(gateway, first):
    """Nothing is read while nothing is taken: memory stays flat."""
    part = event({"choices": [{"delta": {"content": "x" * 60_000}}]})
    first.enqueue([Status(200, EVENTS), *[part] * 800, delta(finish="stop"), DONE])
    async with gateway.client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as answer:
        await asyncio.sleep(0.8)
        (connection,) = first.connections
        sent = connection.sent
        assert sent < 20_000_000
        size = sum([len(chunk) async for chunk in answer.aiter_bytes()])

    assert size > 48_000_000


async def test_a_huge_plain_answer_that_stalls_ends_with_the_calls_deadline(tmp_path, first, monkeypatch):
    """Nothing is held for ever."""
    monkeypatch.setattr("gateway.relay.BUFFERED", 10_000)
    first.enqueue([Status(200, JSON), Bytes(b"{" + b" " * 20_000), Hang()])
    async with running(tmp_path, {"a": first}, total=0.5) as gateway:
        with pytest.raises(httpx.RemoteProtocolError):
            await gateway.ask()
        await gateway.usage()

        assert gateway.gateway.ledger.open_reservations == 0


@pytest.mark.parametrize(("most", "least"), [(10_000, 5_000), (100, 100)])
async def test_a_huge_plain_answer_that_is_cut_is_paid_by_what_was_sent_of_it(gateway, first, monkeypatch, most, least):
    """However quickly: the seconds that it took say less than its caller has read. Never by more than was asked for."""
    monkeypatch.setattr("gateway.relay.BUFFERED", 10_000)
    first.enqueue([Status(200, JSON), Bytes(b'{"choices":[{"message":{"content":"' + b"x" * 20_000), Close()])
    with pytest.raises(httpx.RemoteProtocolError):
        await gateway.ask(max_tokens=most)

    (total,) = await gateway.usage()
    assert least <= total.completion_tokens <= most
    assert total.estimated_tokens == total.prompt_tokens + total.completion_tokens


async def test_a_huge_plain_answers_usage_is_read_at_its_end(gateway, first, monkeypatch):
    """As told, though it was streamed."""
    monkeypatch.setattr("gateway.relay.BUFFERED", 10_000)
    first.enqueue([Status(200, JSON), Bytes(b'{"data":"' + b"x" * 90_000 + b'","usage":{"prompt_tokens":777}}')])
    await gateway.ask("embeddings", input="x")

    (total,) = await gateway.usage()
    assert (total.prompt_tokens, total.estimated_tokens) == (777, 0)


async def test_an_upstream_that_lingers_after_its_last_word_is_not_waited_for(gateway, first):
    """Nor told as a failure."""
    first.enqueue([*sse("one", told=usage(1, 1)), Hang()])

    answer = await gateway.ask(stream=True)

    assert answer.text.endswith("data: [DONE]\n\n")
    assert gateway.metric("sluiceway_attempts_total", backend="a", outcome="ok") == 1


async def test_usage_told_at_the_beginning_of_a_cut_stream_is_not_all_of_it(gateway, first):
    """The caller saw more."""
    early = event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 0}})
    words = sse(*("w" * 20), end=False)
    first.enqueue([words[0], early, *words[1:], Close()])
    await gateway.ask(stream=True)

    (total,) = await gateway.usage()
    assert (total.prompt_tokens, total.completion_tokens) == (9, 20)


async def test_half_of_a_json_answer_is_a_failed_attempt_in_the_metrics_too(gateway, first):
    """It was once counted as a good one."""
    first.enqueue([Status(200, JSON), Bytes(b'{"id":')])
    await gateway.ask()

    assert gateway.metric("sluiceway_attempts_total", backend="a", outcome="truncated") == 1
    assert gateway.metric("sluiceway_attempts_total", backend="a", outcome="ok") == 0


async def test_a_long_event_that_comes_slowly_is_no_stall(gateway, first):
    """Silence is; its parts are none."""
    home = gateway.services.fleet.homes["a"]
    home.dialect = type(home.dialect)(kind="openai", priors=home.dialect.priors, stall=1.0)
    slow = delta(content="x" * 400).data
    pieces = [step for start in range(0, len(slow), 20) for step in (Bytes(slow[start : start + 20]), Pause(0.06))]
    first.enqueue([*sse("one", end=False), *pieces, delta(finish="stop"), DONE])

    assert "x" * 400 in (await gateway.ask(stream=True)).text
    assert len(pieces) / 2 * 0.06 > 1.0


async def test_a_last_event_without_its_blank_line_is_passed_whole(gateway, first):
    """The upstream ended well all the same."""
    first.enqueue([*sse("one", end=False), Bytes(delta(finish="stop").data.rstrip())])

    text = (await gateway.ask(stream=True)).text

    assert text.endswith('"finish_reason": "stop"}]}\n\ndata: [DONE]\n\n')


async def test_an_error_event_in_the_last_bytes_is_an_error(gateway, first):
    """Blank line or not."""
    first.enqueue([*sse("one", end=False), delta(finish="stop"), Bytes(b'data: {"error": "no"}')])

    text = (await gateway.ask(stream=True)).text

    assert text.endswith('data: {"error": "no"}\n\n')
    assert gateway.metric("sluiceway_streams_cut_total", cause="error_event") == 1


async def test_a_cut_stream_is_a_failed_call_in_its_trace(tmp_path, first):
    """Though its status was 200."""
    first.enqueue([*sse("one", end=False), Close()])
    with OtlpReceiver() as receiver:
        async with running(tmp_path, {"a": first}, telemetry=Telemetry(receiver.endpoint)) as gateway:
            await gateway.ask(stream=True)
        spans = await receiver.wait_for(lambda spans: len(spans) == 2)

    (call,) = [span for span in spans if span.name.startswith("POST")]
    assert call.attributes["http.response.status_code"] == 200
    assert call.attributes["error.type"] == "truncated"
