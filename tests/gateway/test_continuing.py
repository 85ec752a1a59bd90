import asyncio
import json

import httpx
import msgspec
import pytest

from gateway.config.settings import Shutdown
from gateway.relay import BUFFERED
from policies.continuation import INSTRUCTION
from policies.domain import Deadlines
from tests.gateway.books import Books
from tests.gateway.harness import ASK, eventually, running
from tests.parts.scripted import (
    Bytes,
    Close,
    Hang,
    ScriptedServer,
    Status,
    Until,
    delta,
    error,
    event,
    plain,
    sse,
    usage,
)

TEXT = "The quick brown fox jumps over the lazy dog and sleeps in the sun for an hour or so."
WORDS = [word + " " for word in TEXT.split()]


@pytest.fixture
async def engines():
    async with ScriptedServer() as first, ScriptedServer() as second, ScriptedServer() as third:
        yield first, second, third


def continuing(gateway, **changes):
    """Have the model's streams continued."""
    catalog = gateway.services.catalog
    (model,) = catalog.models
    changed = msgspec.structs.replace(model, on_stream_failure="continue", **changes)
    gateway.services.catalog = type(catalog)([changed])


async def read(gateway, **members):
    """Return (the words, the other events' data, whether `[DONE]` came)."""
    words, others, done = "", [], False
    answer = await gateway.ask(stream=True, **members)
    for line in answer.text.splitlines():
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            done = True
        elif line.startswith("data: "):
            chunk = json.loads(data)
            choice = next(iter(chunk.get("choices") or []), {})
            content = (choice.get("delta") or {}).get("content")
            words += content or ""
            if not content:
                others.append(chunk)
    return words, others, done


def broken(words):
    return [*sse(*words, end=False), Close()]


async def test_a_stream_that_breaks_off_is_gone_on_with(tmp_path, engines):
    """The caller reads one answer; the usage is that of one answer; both attempts are booked right."""
    first, second, _ = engines
    first.enqueue(broken(WORDS[:7]))
    second.enqueue(sse(*WORDS[7:], told=usage(20, 10)))
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        continuing(gateway)
        words, others, done = await read(gateway, stream_options={"include_usage": True})
        booked, wasted = await gateway.usage(), await gateway.usage(platform=True)

    assert words == "".join(WORDS)
    assert done
    told = [chunk["usage"] for chunk in others if chunk.get("usage")]
    assert told == [{"prompt_tokens": 13, "completion_tokens": 17, "total_tokens": 30}]
    assert [(row.requests, row.prompt_tokens, row.completion_tokens) for row in booked] == [(1, 13, 17)]
    assert wasted[0].prompt_tokens + 13 >= 20
    assert gateway.metric("sluiceway_streams_continued_total") == 1
    assert gateway.metric("sluiceway_streams_cut_total", cause="truncated") == 0
    messages = json.loads(second.calls[0].request.body)["messages"]
    assert messages[-2:] == [
        {"role": "assistant", "content": "".join(WORDS[:7])},
        {"role": "user", "content": INSTRUCTION},
    ]


async def test_what_is_said_twice_is_read_once(tmp_path, engines):
    """Engines that begin anew, or repeat the last sentence."""
    first, second, _ = engines
    first.enqueue(broken(WORDS[:12]), broken(WORDS[:12]))
    second.enqueue(sse(*WORDS), sse(*WORDS[9:]))
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        continuing(gateway)
        assert (await read(gateway))[0] == "".join(WORDS)
        assert (await read(gateway))[0] == "".join(WORDS)


async def test_a_third_may_go_on_where_the_second_breaks_off(tmp_path, engines):
    first, second, third = engines
    first.enqueue(broken(WORDS[:5]))
    second.enqueue(broken(WORDS[5:9]))
    third.enqueue(sse(*WORDS[9:], told=usage(20, 8)))
    async with running(tmp_path, {"a": first, "b": second, "c": third}, kind="vllm") as gateway:
        continuing(gateway)
        words, _, done = await read(gateway)
        booked = await gateway.usage()
    assert (words, done) == ("".join(WORDS), True)
    assert [row.completion_tokens for row in booked] == [17]
    asked = json.loads(third.calls[0].request.body)
    assert asked["messages"][-1] == {"role": "assistant", "content": "".join(WORDS[:9])}
    assert asked["continue_final_message"]
    assert not asked["add_generation_prompt"]


async def test_what_was_still_held_at_a_seam_is_neither_read_nor_paid(tmp_path, engines):
    """The second said too little to be joined: the third is asked to go on from what the caller has seen."""
    first, second, third = engines
    first.enqueue(broken(WORDS[:5]))
    second.enqueue(broken(WORDS[5:7]))
    third.enqueue(sse(*WORDS[5:], told=usage(20, 12)))
    async with running(tmp_path, {"a": first, "b": second, "c": third}) as gateway:
        continuing(gateway)
        words, _, done = await read(gateway)
        booked = await gateway.usage()
    assert (words, done) == ("".join(WORDS), True)
    assert [row.completion_tokens for row in booked] == [17]


async def test_what_nobody_goes_on_with_is_booked_on_who_began(tmp_path, engines):
    """By its backend, and which replica of it that was."""
    first, second, _ = engines
    first.enqueue(broken(WORDS[:5]))
    second.enqueue(error(503))
    async with running(tmp_path, {"gpu@10.0.0.1:8000": first, "gpu@10.0.0.2:8000": second}) as gateway:
        continuing(gateway)
        books = gateway.services.ledger = Books()
        await read(gateway)

    (bill,) = books.bills
    assert (bill.deployment, bill.replica, bill.usage.completion_tokens) == ("gpu/scripted", "10.0.0.1:8000", 5)


async def test_who_fails_before_a_word_is_passed_over(tmp_path, engines):
    """A refusal of the continuation is not the caller's: it never asked for that."""
    first, second, third = engines
    first.enqueue(broken(WORDS[:5]))
    second.enqueue(error(503))
    third.enqueue(sse(*WORDS[5:]))
    async with running(tmp_path, {"a": first, "b": second, "c": third}) as gateway:
        continuing(gateway)
        assert (await read(gateway))[::2] == ("".join(WORDS), True)


async def test_a_refusal_of_what_we_added_is_passed_over(tmp_path, engines):
    """Engines refuse a last message that is not the user's; that message is ours."""
    first, second, third = engines
    first.enqueue(broken(WORDS[:5]))
    second.enqueue(error(400, "the last message must be the user's"))
    third.enqueue(sse(*WORDS[5:]))
    async with running(tmp_path, {"a": first, "b": second, "c": third}) as gateway:
        continuing(gateway)
        assert (await read(gateway))[::2] == ("".join(WORDS), True)
        assert not gateway.services.fleet._live["b/scripted"]._lacks


@pytest.mark.parametrize("second", [error(503), error(400, "the last message must be the user's")])
async def test_with_nobody_to_go_on_the_caller_is_told(tmp_path, engines, second):
    """In-band, without a clean end, and charged what it saw."""
    first, other, _ = engines
    first.enqueue(broken(WORDS[:5]))
    other.enqueue(second)
    async with running(tmp_path, {"a": first, "b": other}) as gateway:
        continuing(gateway)
        words, others, done = await read(gateway)
        booked = await gateway.usage()
    assert words == "".join(WORDS[:5])
    assert not done
    assert others[-1]["error"]["code"] == "upstream_failed"
    assert [row.completion_tokens for row in booked] == [5]


async def test_an_upstreams_own_error_is_not_seen_by_whom_the_answer_is_made_whole_for(tmp_path, engines):
    first, second, _ = engines
    first.enqueue([*sse(*WORDS[:5], end=False), event({"error": {"message": "engine died"}})])
    second.enqueue(sse(*WORDS[5:]))
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        continuing(gateway)
        words, others, done = await read(gateway)
    assert (words, done) == ("".join(WORDS), True)
    assert not any("error" in chunk for chunk in others)


async def test_a_tool_call_that_broke_off_is_told(tmp_path, engines):
    """Half of its arguments cannot be gone on with."""
    first, second, _ = engines
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a'}}
    first.enqueue([*sse(end=False), delta(tool_calls=[call]), Close()])
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        continuing(gateway)
        _, others, done = await read(gateway)
    assert not done
    assert "error" in others[-1]
    assert second.calls == []


async def test_a_model_that_does_not_ask_for_it_is_not_continued(tmp_path, engines):
    first, second, _ = engines
    first.enqueue(broken(WORDS[:5]))
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        _, others, done = await read(gateway)
    assert not done
    assert "error" in others[-1]
    assert second.calls == []


async def test_only_what_is_left_of_the_callers_bound_is_asked_for(tmp_path, engines):
    first, second, _ = engines
    first.enqueue(broken(WORDS[:5]))
    second.enqueue(sse(*WORDS[5:8]))
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        continuing(gateway)
        await read(gateway, max_tokens=8)
    assert json.loads(second.calls[0].request.body)["max_tokens"] == 3


async def test_what_does_not_fit_is_neither_read_nor_paid(tmp_path, engines):
    """Whoever began anew and said something else has shown nothing of it."""
    first, second, third = engines
    first.enqueue(broken(WORDS[:12]))
    second.enqueue(sse(*WORDS[:11], "other ", "words ", "than ", "before "))
    third.enqueue(sse(*WORDS[12:], told=usage(20, 5)))
    async with running(tmp_path, {"a": first, "b": second, "c": third}) as gateway:
        continuing(gateway)
        words, _, done = await read(gateway)
        booked = await gateway.usage()
    assert (words, done) == ("".join(WORDS), True)
    assert [row.completion_tokens for row in booked] == [17]


@pytest.mark.parametrize("second", [plain("on"), [*sse(end=False), event({"error": {"message": "no"}})]])
async def test_an_answer_that_is_no_stream_or_begins_with_an_error_is_passed_over(tmp_path, engines, second):
    """The caller has half a stream, and gets the other half."""
    first, other, third = engines
    first.enqueue(broken(WORDS[:5]))
    other.enqueue(second)
    third.enqueue(sse(*WORDS[5:]))
    async with running(tmp_path, {"a": first, "b": other, "c": third}) as gateway:
        continuing(gateway)
        assert (await read(gateway))[::2] == ("".join(WORDS), True)


async def test_a_long_answer_that_is_no_stream_is_not_gone_on_with(tmp_path, engines):
    """Events would stand in the middle of its JSON."""
    first, second, _ = engines
    head = Status(200, {"content-type": "application/json"})
    first.enqueue([head, Bytes(b'{"choices":[{"message":{"content":"' + b"x" * BUFFERED), Bytes(b"yy"), Close()])
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        continuing(gateway)
        with pytest.raises(httpx.RemoteProtocolError):
            await gateway.ask(stream=True)
        assert second.calls == []


async def test_half_a_character_is_told_and_nothing_stays_taken(tmp_path, engines):
    """No prompt can hold it."""
    first, second, _ = engines
    first.enqueue([*sse("a ", "\ud83d", end=False), Close()])
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        continuing(gateway)
        _, others, done = await read(gateway)
        assert all(not live.in_flight for live in gateway.services.fleet._live.values())
    assert (done, others[-1]["error"]["code"]) == (False, "upstream_failed")


async def test_a_body_with_bytes_that_are_no_text_is_served(tmp_path, engines):
    """Whatever it says: engines judge it, and the gateway does not fall over it."""
    first, _, _ = engines
    first.enqueue(sse("a"))
    body = json.dumps(ASK | {"stream": True}).encode()[:-1] + b',"response_format":"\xff"}'
    async with running(tmp_path, {"a": first}) as gateway:
        continuing(gateway)
        answer = await gateway.client.post("/v1/chat/completions", content=body)
        assert answer.status_code == 200
        assert not gateway.services.fleet._live["a/scripted"].in_flight


async def test_a_caller_is_kept_alive_while_nobody_goes_on_yet(tmp_path, engines):
    """As before the first content: a comment now and then, and none once somebody speaks."""
    first, second, _ = engines
    first.enqueue(broken(WORDS[:5]))
    goes_on, text = asyncio.Event(), ""
    second.enqueue([Until(goes_on), *sse(*WORDS[5:])])
    async with running(tmp_path, {"a": first, "b": second}) as gateway:
        continuing(gateway, deadlines=Deadlines(keep_alive=0.05))
        async with gateway.client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as answer:
            async for part in answer.aiter_text():
                text += part
                if text.count(": keep-alive\n\n") >= 2:
                    goes_on.set()
    assert text.count(": keep-alive\n\n") >= 2
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("leaves", [True, False], ids=["the caller leaves", "the gateway stops"])
@pytest.mark.parametrize("where", ["seam", "wait"])
async def test_a_call_that_ends_at_a_seam_is_booked_as_seen(tmp_path, engines, where, leaves):
    """While another one is asked, or while the only one left is waited for; nothing stays open or taken."""
    first, second, _ = engines
    first.enqueue(broken(WORDS[:5]))
    second.enqueue([*sse(end=False), Hang()] if where == "seam" else error(429, retry_after="20"))
    async with running(tmp_path, {"a": first, "b": second}, shutdown=Shutdown(grace=1)) as gateway:
        continuing(gateway)
        call = gateway.client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True})
        async with call as answer:
            lines = answer.aiter_lines()
            async for line in lines:
                if "jumps" in line or "fox" in line:
                    break
            await eventually(lambda: second.calls)
            await asyncio.sleep(0)
            if not leaves:
                stopping = asyncio.ensure_future(gateway.running.stop())
                rest = [line async for line in lines]
                assert "[DONE]" not in "".join(rest)
                assert "error" in "".join(rest)
                await stopping
        if leaves:
            assert await eventually(lambda: not gateway.services.intake.open_calls)
            booked = await gateway.usage()
            assert [(row.requests, row.completion_tokens) for row in booked] == [(1, 5)]
        assert gateway.gateway.ledger.open_reservations == 0
        assert all(not live.in_flight for live in gateway.services.fleet._live.values())
