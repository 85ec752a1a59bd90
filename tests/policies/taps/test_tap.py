"""What holds of every tap, whatever its API: the network's cuts change nothing, and nothing follows a last word."""

import itertools
import json
from typing import get_args
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import sse, taps
from policies.apis import APIS
from policies.domain import API
from policies.sse import EventTooLargeError
from policies.taps import tap_of
from policies.taps.chat import ChatTap
from policies.taps.tap import Tap

STREAMING = [api for api in get_args(API) if APIS[api].streams]


def named(name, **data):
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


LINES = (
    b'data: {"type":"message_start","message":{"usage":{"input_tokens":3,"cache_read_input_tokens":2}}}',
    b'data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"f"}}',
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}',
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"content_block_delta"}}',
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"message_stop"}}',
    b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}',
    b'data: {"type":"message_stop"}',
    b'data: {"type":"ping"}',
    b'data: {"type":"response.created","response":{"id":"r","usage":null,"error":null}}',
    b'data: {"type":"response.output_text.delta","delta":"a"}',
    b'data: {"delta":"a.delta","type":"response.output_text.delta"}',
    b'data: {"type":"response.completed","response":{"usage":{"input_tokens":3,"output_tokens":2}}}',
    b'data: {"type":"response.failed","response":{"error":{"message":"no"}}}',
    b'data: {"choices":[{"delta":{"content":"a"}}]}',
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"timings":{"prompt_n":1,"predicted_n":2}}',
    b'data: {"error":{"message":"no"}}',
    b'data: {"type":"error"}',
    b'data: {"code":500,"message":"no"}',
    b"data: [DONE]",
    b'data: {"type":"content_',
    b"data: {oops",
    b"event: error",
    b"event: content_block_delta",
    b": ping",
    b"",
    b"",
)
"""What a line of any API's stream can be."""


def facts(tap):
    said = tap.committed, tap.usage, tap.events, tap.finished, tap.done, tap.error, tap.error_shown, tap.malformed
    return *said, tap.number, tap.last


@st.composite
def cut_streams(draw):
    lines = draw(st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from([b"\n", b"\n\n", b"\r\n", b"\r"]))))
    stream = b"".join(line + end for line, end in lines)
    cuts = draw(st.sets(st.integers(0, len(stream)), max_size=8))
    return [stream[start:end] for start, end in itertools.pairwise(sorted({0, *cuts}))]


@pytest.mark.parametrize("api", STREAMING)
@given(parts=cut_streams())
@settings(max_examples=250)
def test_any_stream_cut_anywhere_says_and_gives_the_same(api, parts):
    """After each piece all is as if what came so far had come at once, even where it is another API's."""
    tap, got, came = tap_of(api, withhold_usage=True), b"", b""
    for part in parts:
        got += tap.feed(part)
        came += part
        whole = tap_of(api, withhold_usage=True)
        assert got == whole.feed(came)
        assert facts(tap) == facts(whole)
    assert tap.end() == whole.end() if parts else not tap.end()


@pytest.mark.parametrize("api", STREAMING)
@given(parts=cut_streams())
def test_events_that_come_at_once_are_told_as_when_looked_at_one_by_one(api, parts):
    """Halving what comes only saves looks."""
    halved, singly = tap_of(api, withhold_usage=True), tap_of(api, withhold_usage=True)
    for part in parts:
        with patch.object(taps.tap, "FEW", 8):
            got = halved.feed(part)
        with patch.object(taps.tap, "FEW", len(part)):
            assert got == singly.feed(part)
        assert facts(halved) == facts(singly)


def test_of_a_burst_only_the_ends_are_looked_at_one_by_one():
    """Its first event commits, its last three say how it ended; whatever is between costs a search over all of it."""

    class Counted(ChatTap):
        looks = 0

        def _watch(self, event):
            self.looks += 1
            return super()._watch(event)

    word = b'data: {"choices":[{"delta":{"content":"word"},"finish_reason":null}]}\n\n'
    stop = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    burst = word * 1000 + stop + b"data: [DONE]\n\n"
    tap = Counted(withhold_usage=True)

    assert tap.feed(burst) == burst
    assert tap.events == 1000
    assert tap.finished
    assert tap.looks < 30


@pytest.mark.parametrize("api", STREAMING)
def test_nothing_follows_a_done_nor_a_named_error(api):
    """What did would make a failure look like a clean end."""
    for last in (b"data: [DONE]\n\n", b"event: error\ndata: {}\n\n"):
        tap = tap_of(api, withhold_usage=True)
        tap.feed(last)
        assert tap.over()
        assert tap.feed(LINES[2] + b"\n\n") == tap.end() == b""
        assert tap.events == 0


@pytest.mark.parametrize("api", STREAMING)
def test_an_engine_that_never_says_anything_is_not_held_for_ever(api, monkeypatch):
    """Memory a stream is bounded."""
    monkeypatch.setattr(sse, "MAX_EVENT", 100)
    with pytest.raises(EventTooLargeError):
        tap_of(api, withhold_usage=True).feed(named("ping") * 10)


def test_every_api_that_streams_has_a_tap_of_its_own_or_a_chats():
    """By its name."""
    taps = {api: type(tap_of(api, withhold_usage=True)).__name__ for api in STREAMING}

    assert taps == {
        "chat": "ChatTap",
        "completions": "ChatTap",
        "responses": "ResponsesTap",
        "messages": "MessagesTap",
    }
    assert Tap().last == b""
