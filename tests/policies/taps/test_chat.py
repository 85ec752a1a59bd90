import itertools
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import sse
from policies.domain import Usage
from policies.sse import EventTooLargeError
from policies.taps.chat import DONE, ChatTap, ChoicesTap


def event(**data):
    return b"data: " + json.dumps(data).encode() + b"\n\n"


ROLE = event(choices=[{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
WORD = event(choices=[{"delta": {"content": "word"}, "finish_reason": None}])
STOP = event(choices=[{"delta": {}, "finish_reason": "stop"}])
USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})


def relay(stream, *cuts, withhold=True):
    """Feed `stream` split at `cuts`; return the tap and what the caller got."""
    tap = ChatTap(withhold_usage=withhold)
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


LINES = (
    *(event[:-2] for event in (ROLE, WORD, WORD, WORD, STOP, USAGE, DONE)),
    event(choices=[{"delta": {"content": "x"}, "finish_reason": "stop"}], usage={"completion_tokens": 4})[:-2],
    event(error={"message": "no"})[:-2],
    event(object="error", message="no")[:-2],
    b'data: {"error": "text"}',
    b"event: error",
    b"event: message",
    b'data:{"choices":',
    b'data: [{"delta":{"content":"two lines"}}]}',
    b"data: {oops",
    b"data:",
    b": ping",
    b"id: 1",
    b"retry: 5",
    b"\xef\xbb\xbfdata: [DONE]",
    b"",
    b"",
)
"""What a line of a stream can be; two line ends in a row end an event."""


def facts(tap):
    return tap.committed, tap.usage, tap.events, tap.finished, tap.done, tap.error, tap.error_shown, tap.malformed


@st.composite
def cut_streams(draw):
    """Draw any lines with any ends, and where the network cuts them; the last piece may end anywhere."""
    lines = draw(st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from([b"\n", b"\n\n", b"\r\n", b"\r"]))))
    stream = b"".join(line + end for line, end in lines)
    cuts = draw(st.sets(st.integers(0, len(stream)), max_size=8))
    return [stream[start:end] for start, end in itertools.pairwise(sorted({0, *cuts}))]


@given(cut_streams(), st.booleans())
@settings(max_examples=400)
def test_any_stream_cut_anywhere_says_and_gives_the_same(parts, withhold):
    """After each piece all is as if what came so far had come at once: bytes out, usage, events, commitment, end."""
    tap, got, came = ChatTap(withhold_usage=withhold), b"", b""
    for part in parts:
        got += tap.feed(part)
        came += part
        whole = ChatTap(withhold_usage=withhold)
        assert got == whole.feed(came)
        assert facts(tap) == facts(whole)
    assert tap.end() == whole.end() if parts else not tap.end()


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


def test_a_last_event_without_its_blank_line_is_completed():
    """Some engines end there; what is not whole JSON was cut instead, and is nobody's."""
    finish, cut = relay(WORD + STOP.rstrip())[0], relay(WORD + STOP[:-9])[0]

    assert (finish.end(), finish.finished) == (STOP, True)
    assert (cut.end(), cut.finished, cut.malformed) == (b"", False, 0)
    assert relay(WORD + STOP + DONE)[0].end() == b""


def test_half_of_an_event_is_never_passed_for_one():
    """Its client would fall over it before it reads why the stream broke off."""
    tap = ChatTap(withhold_usage=True)
    tap.feed(WORD + b'data: {"choices":[{"index":0,"delta":{"content":"hel')

    assert tap.committed
    assert tap.end() == b""


def test_what_is_held_without_bounds_breaks_the_stream(monkeypatch):
    """Memory a stream is bounded."""
    monkeypatch.setattr(sse, "MAX_EVENT", 100)
    with pytest.raises(EventTooLargeError):
        relay(b": ping\n\n" * 50)


@pytest.mark.parametrize("odd", ["n/a", {"prompt_tokens": 3.5}, {"prompt_tokens": "9"}, [], 7])
def test_an_odd_usage_is_no_usage_and_no_failure(odd):
    """The answer is whole all the same."""
    tap, got = relay(WORD + STOP + event(choices=[], usage=odd) + DONE)
    assert tap.usage is None
    assert got.endswith(DONE)


def test_comments_are_no_content():
    """A ping is not a token."""
    tap, _ = relay(WORD + b": ping\n\n" * 200, len(WORD), len(WORD) + 8)

    assert tap.events == 1


def test_what_is_held_before_content_costs_by_its_length():
    """However many comments come first."""

    def seconds(comments):
        tap = ChatTap(withhold_usage=True)
        started = time.thread_time()
        for _ in range(comments):
            tap.feed(b": ping\n\n")
        return time.thread_time() - started

    assert seconds(40_000) < 40 * seconds(4_000)


def test_the_largest_event_passes_whole():
    """Of 8 MiB, in the pieces of a socket."""
    whole = b"data: " + b"x" * (sse.MAX_EVENT - 8) + b"\n\n"
    _, got = relay(WORD + whole, *range(65_536, sse.MAX_EVENT, 65_536))

    assert got == WORD + whole


def test_every_choice_that_tells_its_own_usage_counts():
    """As llama.cpp does it; the prompt was one."""

    def ended(index, **more):
        return event(choices=[{"index": index, "delta": {}, "finish_reason": "stop"}], **more)

    own = {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    details = {"prompt_tokens_details": {"cached_tokens": 1}, "completion_tokens_details": {"reasoning_tokens": 1}}
    thought = {"usage": own["usage"] | details}
    assert relay(WORD + ended(0) + USAGE + WORD + ended(1) + USAGE)[0].usage == Usage(3, 4, estimated=False)
    assert relay(ended(0, **own) + ended(1, **own))[0].usage == Usage(3, 4, estimated=False)
    assert relay(ended(0, **own) + ended(1, **own) + USAGE)[0].usage == Usage(3, 2, estimated=False)
    assert relay(ended(0, **thought) + ended(1, **thought))[0].usage == Usage(
        3, 4, estimated=False, cached_tokens=1, reasoning_tokens=2
    )
    assert relay(WORD + ended(0) + event(choices=[], **thought) + WORD + ended(1) + event(choices=[], **thought))[
        0
    ].usage == Usage(3, 4, estimated=False, cached_tokens=1, reasoning_tokens=2)
    assert relay(USAGE + WORD + ended(0) + USAGE)[0].usage == Usage(3, 2, estimated=False)
    assert relay(WORD + ended(0) + ended(1) + USAGE + USAGE)[0].usage == Usage(3, 2, estimated=False)


@pytest.mark.parametrize(
    "last", [event(error={"message": "no"}), STOP + DONE, b'event: error\ndata: {"error":"no"}\n\n']
)
def test_nothing_follows_a_streams_last_word(last):
    """What did would make a failure look like a clean end."""
    tap, got = relay(WORD + last + WORD + USAGE + DONE)

    assert got == WORD + last
    assert tap.feed(WORD) == tap.end() == b""
    assert tap.usage is None


@pytest.mark.parametrize(
    "odd",
    [event(object="error", message="no"), b'event: error\ndata: {"message":"no"}\n\n', b"event:error\ndata: no\n\n"],
)
def test_an_error_that_clients_would_not_know_for_one_is_kept(odd):
    """The gateway tells it in the API's own words."""
    tap, got = relay(WORD + odd + DONE)

    assert got == WORD
    assert (tap.error is not None, tap.error_shown, tap.done) == (True, False, False)


def test_an_empty_finish_reason_is_none():
    """Some engines send it in every chunk."""
    tap, got = relay(event(choices=[{"delta": {"role": "assistant"}, "finish_reason": ""}]))

    assert (tap.committed, tap.finished, got) == (False, False, b"")


def test_timings_tell_what_no_usage_does():
    """llama.cpp's, once a choice; told usage goes before."""

    def ended(index):
        timings = {"cache_n": 2, "prompt_n": 1, "predicted_n": 2}
        return event(choices=[{"index": index, "delta": {}, "finish_reason": "stop"}], timings=timings)

    assert relay(WORD + ended(0) + DONE)[0].usage == Usage(3, 2, estimated=False, cached_tokens=2)
    assert relay(WORD + ended(0) + ended(1) + DONE)[0].usage == Usage(3, 4, estimated=False, cached_tokens=2)
    assert relay(WORD + ended(0) + USAGE + DONE)[0].usage == Usage(3, 2, estimated=False)


def test_a_missing_done_is_owed():
    """One that came is not."""
    assert relay(WORD + STOP)[0].last == DONE
    assert relay(WORD + STOP + DONE)[0].last == b""


def test_a_clean_end_is_said_only_of_what_told_why_it_ends():
    """`[DONE]` alone would make half an answer look whole."""
    tap, got = relay(WORD + DONE)
    assert (got, tap.done, tap.finished) == (WORD, True, False)


def choice(index, finish=None, **delta):
    return event(choices=[{"index": index, "delta": delta, "finish_reason": finish}])


@pytest.mark.parametrize("done", [b"", DONE])
def test_several_choices_are_whole_only_when_each_has_ended(done):
    """One that broke off would look whole by the end of another."""
    begun = choice(0, content="a") + choice(0, content="b") + choice(1, content="a") + choice(0, "stop")
    broken, whole = ChoicesTap(withhold_usage=True), ChoicesTap(withhold_usage=True)

    assert broken.feed(begun + done) == begun
    assert whole.feed(begun + choice(1, "stop") + USAGE + done) == begun + choice(1, "stop") + done
    assert (broken.finished, whole.finished) == (False, True)
    assert broken.events == 3


def test_a_backend_that_makes_one_choice_of_several_is_believed():
    """Some engines know no `n`; what was changed of the caller's wish is told elsewhere."""
    tap = ChoicesTap(withhold_usage=True)

    assert tap.feed(WORD + STOP)
    assert tap.finished


def test_half_a_character_in_a_completion_is_content_like_any():
    """An escape may be cut between two events; the last must still end the answer."""
    tap = ChatTap(withhold_usage=True)
    events = (
        b'data: {"choices":[{"text":"\\ud83d"}]}\n\ndata: {"choices":[{"text":"\\ude00","finish_reason":"stop"}]}\n\n'
    )

    assert tap.feed(events) == events
    assert (tap.finished, tap.malformed) == (True, 0)
