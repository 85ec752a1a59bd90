import json

import msgspec
import pytest

from policies.continuation import INSTRUCTION
from tests.gateway.harness import running
from tests.parts.scripted import Close, ScriptedServer, delta, error, event, sse, usage

TEXT = "The quick brown fox jumps over the lazy dog and sleeps in the sun for an hour or so."
WORDS = [word + " " for word in TEXT.split()]


@pytest.fixture
async def engines():
    async with ScriptedServer() as first, ScriptedServer() as second, ScriptedServer() as third:
        yield first, second, third


def continuing(gateway):
    """Have the model's streams continued."""
    catalog = gateway.services.catalog
    (model,) = catalog.models
    gateway.services.catalog = type(catalog)([msgspec.structs.replace(model, on_stream_failure="continue")])


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


async def test_who_fails_before_a_word_is_passed_over(tmp_path, engines):
    """A refusal of the continuation is not the caller's: it never asked for that."""
    first, second, third = engines
    first.enqueue(broken(WORDS[:5]))
    second.enqueue(error(503))
    third.enqueue(sse(*WORDS[5:]))
    async with running(tmp_path, {"a": first, "b": second, "c": third}) as gateway:
        continuing(gateway)
        assert (await read(gateway))[::2] == ("".join(WORDS), True)


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
