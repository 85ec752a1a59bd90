import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import sse
from policies.domain import Usage
from policies.sse import DONE, EventTooLargeError, Splitter, Tap, error_event, usage_in, usage_of


def event(**data):
    return b"data: " + json.dumps(data).encode() + b"\n\n"


ROLE = event(choices=[{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
WORD = event(choices=[{"delta": {"content": "word"}, "finish_reason": None}])
STOP = event(choices=[{"delta": {}, "finish_reason": "stop"}])
USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})


def relay(stream, *cuts, withhold=True):
    """Feed `stream` split at `cuts`; return the tap and what the caller got."""
    tap = Tap(withhold_usage=withhold)
    got = b""
    edges = [0, *sorted(cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        got += tap.feed(stream[start:end])
    return tap, got


def test_nothing_is_passed_before_the_first_content():
    """A role chunk commits to nothing, so another deployment may still answer."""
    tap, got = relay(b": ping\n\n" + ROLE)

    assert got == b""
    assert not tap.committed


def test_the_first_content_brings_along_what_was_held():
    """Bytes go out as they came."""
    tap, got = relay(b": ping\n\n" + ROLE + WORD)

    assert got == b": ping\n\n" + ROLE + WORD
    assert tap.committed


@pytest.mark.parametrize(
    "delta", [{"reasoning": "a"}, {"reasoning_content": "a"}, {"refusal": "a"}, {"tool_calls": [{"index": 0}]}]
)
def test_reasoning_refusals_and_tools_commit_as_content_does(delta):
    """A caller has then seen something."""
    assert relay(event(choices=[{"delta": delta}]))[0].committed


def test_a_finish_without_content_commits():
    """An empty answer is an answer."""
    assert relay(ROLE + STOP)[0].committed


def test_usage_that_only_we_asked_for_is_withheld_and_read():
    """The caller's stream looks as without us."""
    tap, got = relay(ROLE + WORD + STOP + USAGE + DONE)

    assert got == ROLE + WORD + STOP + DONE
    assert tap.usage == Usage(3, 2, estimated=False)
    assert tap.finished
    assert tap.done


def test_usage_that_the_caller_asked_for_is_passed():
    """And read all the same."""
    tap, got = relay(WORD + USAGE, withhold=False)

    assert got == WORD + USAGE
    assert tap.usage.completion_tokens == 2


def test_usage_beside_a_choice_is_passed_even_when_withheld():
    """Transformers serve puts it into the last content event."""
    last = event(choices=[{"delta": {"content": "x"}, "finish_reason": "stop"}], usage={"prompt_tokens": 1})

    tap, got = relay(last)

    assert got == last
    assert tap.usage.prompt_tokens == 1


@given(st.sets(st.integers(min_value=1, max_value=len(ROLE + WORD * 3 + STOP + USAGE + DONE) - 1), max_size=12))
def test_every_split_gives_the_same(cuts):
    """Where the network cuts the stream changes nothing."""
    stream = ROLE + WORD * 3 + STOP + USAGE + DONE
    tap, got = relay(stream, *cuts)

    assert got == ROLE + WORD * 3 + STOP + DONE
    assert (tap.events, tap.usage) == (3, Usage(3, 2, estimated=False))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_ends_lines(end):
    """LF, CRLF and CR, at every split."""
    stream = (WORD + STOP + USAGE + DONE).replace(b"\n", end)
    for cut in range(1, len(stream)):
        tap, got = relay(stream, cut)
        assert got == (WORD + STOP + DONE).replace(b"\n", end)
        assert tap.usage is not None


def test_data_over_several_lines_is_one_event():
    """As WHATWG has it."""
    tap, got = relay(b'data: {"choices":\ndata: [{"delta":{"content":"a"}}]}\n\n')

    assert tap.committed
    assert tap.malformed == 0
    assert got


def test_a_malformed_event_is_passed_on_and_counted():
    """It is the upstream's answer, and one bad event does not end it."""
    tap, got = relay(WORD + b'data: {"usage": {oops\n\n' + STOP)

    assert got == WORD + b'data: {"usage": {oops\n\n' + STOP
    assert tap.malformed == 1


def test_an_error_before_content_is_kept_from_the_caller():
    """Another deployment can still answer."""
    tap, got = relay(ROLE + event(error={"message": "no"}))

    assert got == b""
    assert tap.error is not None


def test_an_error_after_content_is_passed_on():
    """The caller must learn of it."""
    tap, got = relay(WORD + event(error={"message": "no"}))

    assert got == WORD + event(error={"message": "no"})
    assert tap.error is not None


def test_the_word_error_in_an_answer_is_no_error():
    """Only a member named so is."""
    tap, _ = relay(WORD + event(choices=[{"delta": {"content": "error"}}], error=None))

    assert tap.error is None


def test_a_missing_done_is_added():
    """And one that came is not doubled."""
    assert relay(WORD + STOP)[0].end() == DONE
    assert relay(WORD + STOP + DONE)[0].end() == b""


def test_an_event_without_bounds_breaks_the_stream(monkeypatch):
    """Memory a stream is bounded."""
    monkeypatch.setattr(sse, "MAX_EVENT", 100)
    with pytest.raises(EventTooLargeError):
        Splitter().feed(b"data: " + b"x" * 200)
    with pytest.raises(EventTooLargeError):
        relay(b": ping\n\n" * 50)


def test_a_plain_answer_tells_its_usage():
    """Or None, or that it is broken."""
    assert usage_of(b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}') == Usage(1, 2, estimated=False)
    assert usage_of(b'{"usage":{"prompt_tokens":9,"total_tokens":9}}') == Usage(9, 0, estimated=False)
    assert usage_of(b"{}") is None
    with pytest.raises(ValueError, match="whole JSON"):
        usage_of(b'{"usage":')


def test_an_error_event_is_one_event():
    """Its body is one line of JSON."""
    assert Splitter().feed(error_event(b'{"error":{}}')) == [b'data: {"error":{}}\n\n']


@pytest.mark.parametrize("odd", ["n/a", {"prompt_tokens": 3.5}, {"prompt_tokens": "9"}, [], 7])
def test_an_odd_usage_is_no_usage_and_no_failure(odd):
    """The answer is whole all the same."""
    assert usage_of(json.dumps({"usage": odd}).encode()) is None
    tap, got = relay(WORD + event(choices=[], usage=odd) + DONE)
    assert tap.usage is None
    assert got.endswith(DONE)


def test_told_usage_is_within_reason():
    """It goes into the books."""
    told = usage_of(b'{"usage":{"prompt_tokens":1' + b"0" * 30 + b',"completion_tokens":-5}}')

    assert told is None or (told.prompt_tokens, told.completion_tokens) == (2**31, 0)
    assert usage_of(b'{"usage":{"prompt_tokens":null,"completion_tokens":-5}}') == Usage(0, 0, estimated=False)


def test_comments_are_no_content():
    """A ping is not a token."""
    tap, _ = relay(WORD + b": ping\n\n" * 200, len(WORD), len(WORD) + 8)

    assert tap.events == 1


def test_the_end_of_a_long_answer_tells_its_usage():
    """Wherever nested members lie."""
    tail = (
        b'..."}],"usage":{"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens":2},"x":1}'
    )

    assert usage_in(tail) == Usage(7, 2, estimated=False)
    assert usage_in(b"nothing here") is None
    assert usage_in(b'"usage": {broken') is None


def test_a_large_event_in_small_pieces_costs_no_more_than_its_length():
    """Each byte is searched about once."""
    splitter, piece = Splitter(), b"x" * 1400
    splitter.feed(b"data: ")
    for _ in range(1500):
        assert splitter.feed(piece) == []

    assert len(splitter.feed(b"\n\n")) == 1
