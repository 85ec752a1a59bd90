import json

import pytest

from policies.domain import Usage
from policies.sse import event_of
from policies.taps.messages import MessagesTap


def event(kind, **data):
    return event_of(json.dumps({"type": kind, **data}).encode(), kind)


def start(**usage):
    return event("message_start", message={"id": "m", "content": [], "usage": usage})


START = start(input_tokens=3, cache_read_input_tokens=2, output_tokens=0)
PING = event("ping")
TEXT = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
WORD = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "word"})
CLOSE = event("content_block_stop", index=0)
REASON = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2})
STOP = event("message_stop")


def fed(*events):
    """Feed the events one by one, and return the tap and what the caller got."""
    tap = MessagesTap()
    return tap, b"".join([tap.feed(one) for one in events])


def test_what_only_opens_a_message_is_held_until_its_first_delta():
    """Another deployment may still answer."""
    tap, got = fed(START, PING, TEXT)
    assert (tap.committed, got) == (False, b"")

    assert tap.feed(WORD) == START + PING + TEXT + WORD
    assert (tap.committed, tap.events) == (True, 1)


@pytest.mark.parametrize("kind", ["tool_use", "server_tool_use", "redacted_thinking"])
def test_a_block_that_says_something_as_it_opens_commits(kind):
    """A tool without arguments has no delta."""
    tap, _ = fed(START, event("content_block_start", content_block={"type": kind}))

    assert tap.committed


def test_a_whole_stream_is_finished_by_its_reason_and_done_by_its_stop():
    """And tells its prompt with what was cached, and its output."""
    events = START, TEXT, WORD, WORD, WORD, CLOSE, REASON, STOP
    tap, got = fed(*events)

    assert got == b"".join(events)
    assert (tap.finished, tap.done, tap.events, tap.error, tap.last) == (True, True, 3, None, b"")
    assert tap.usage == Usage(5, 2, estimated=False, cached_tokens=2)


def test_an_empty_answer_is_an_answer():
    """It has a reason to end."""
    assert fed(START, REASON)[0].committed
    assert not fed(START, STOP)[0].committed


@pytest.mark.parametrize(
    ("first", "last", "usage"),
    [
        ({"input_tokens": 9}, {"output_tokens": 4}, Usage(9, 4, estimated=False)),
        (
            {"input_tokens": 9, "output_tokens": 0},
            {"input_tokens": 9, "output_tokens": 4},
            Usage(9, 4, estimated=False),
        ),
        (
            {"input_tokens": 9},
            {"input_tokens": 2, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 3, "output_tokens": 4},
            Usage(9, 4, estimated=False, cached_tokens=4),
        ),
        ({"input_tokens": 9, "output_tokens": 7}, {"input_tokens": None}, Usage(9, 7, estimated=False)),
        ({"input_tokens": "9"}, {"output_tokens": 4}, Usage(0, 4, estimated=False)),
    ],
)
def test_usage_is_what_was_told_last_of_each_part(first, last, usage):
    """llama.cpp tells the prompt at the start alone, vLLM twice, Anthropic again and again."""
    tap, _ = fed(start(**first), WORD, event("message_delta", delta={"stop_reason": "end_turn"}, usage=last))

    assert tap.usage == usage


def test_usage_of_a_cut_stream_is_what_was_told_so_far():
    """The rest is counted."""
    assert fed(START, WORD, WORD)[0].usage == Usage(5, 0, estimated=False, cached_tokens=2)
    assert fed(TEXT, WORD)[0].usage is None


@pytest.mark.parametrize("data", [{"type": "error", "error": {"message": "no"}}, {"code": 500, "message": "no"}])
def test_an_event_named_error_is_one_that_every_client_knows(data):
    """Whatever its data: vLLM's and llama.cpp's. Before content it is kept, and another deployment answers."""
    error = event_of(json.dumps(data).encode(), "error")

    seen, got = fed(START, WORD, error, WORD)
    unseen, nothing = fed(START, error)

    assert (got, seen.error_shown, seen.events) == (START + WORD + error, True, 1)
    assert (nothing, unseen.error) == (b"", json.dumps(data).encode())


@pytest.mark.parametrize("data", [{"type": "error", "error": {"message": "no"}}, {"error": {"message": "no"}}])
def test_an_error_without_its_name_is_told_anew(data):
    """Anthropic's SDKs skip events without a name."""
    tap, got = fed(START, WORD, event_of(json.dumps(data).encode()))

    assert (got, tap.error_shown, tap.over()) == (START + WORD, False, True)


def test_words_of_the_api_inside_a_text_are_text():
    """An answer about streams is no end of one."""
    talk = event("content_block_delta", delta={"type": "text_delta", "text": '"message_stop" "error" [DONE] error'})
    tap, got = fed(START, WORD, talk, WORD)

    assert (tap.done, tap.error, tap.events) == (False, None, 3)
    assert got == START + WORD + talk + WORD


def test_a_malformed_event_is_passed_on_and_counted():
    """An error needs no data at all: its name says enough."""
    odd = event_of(b'{"type":"message_delta",oops', "message_delta")
    tap, got = fed(START, WORD, odd, event_of(b"{oops", "error"))

    assert tap.malformed == 1
    assert got.endswith(odd + event_of(b"{oops", "error"))
    assert tap.error_shown


def test_a_last_event_without_its_blank_line_is_completed():
    """Half of one is nobody's."""
    whole, cut = MessagesTap(), MessagesTap()
    whole.feed(START + WORD + REASON + STOP.rstrip())
    cut.feed(START + WORD + REASON + STOP[:-9])

    assert (whole.end(), whole.done) == (STOP, True)
    assert (cut.end(), cut.done) == (b"", False)
