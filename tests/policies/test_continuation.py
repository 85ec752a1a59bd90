import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.continuation import (
    ANEW,
    INSTRUCTION,
    LEAST,
    LONGEST,
    Seam,
    SeamError,
    Transcript,
    continuable,
    continued,
    without_errors,
)
from policies.domain import InferenceRequest
from policies.request import read

TEXT = "The quick brown fox jumps over the lazy dog, and then it sleeps for an hour in the sun."


def request(api="chat", **members):
    ask = {"messages": [{"role": "user", "content": "hi"}]} if api == "chat" else {"prompt": "Once"}
    got = read(api, json.dumps({"model": "m"} | ask | members).encode())
    assert isinstance(got, InferenceRequest)
    return got


def told(one):
    return {name: json.loads(bytes(value)) for name, value in one.members.items()}


def chunk(finish=None, *, text=None, usage=None, **delta):
    choice = {"index": 0, "finish_reason": finish}
    choice |= {"delta": delta} if text is None else {"text": text}
    body = {"id": "c-2", "choices": [choice]} | ({"usage": usage} if usage else {})
    return b"data: %b\n\n" % json.dumps(body).encode()


def tally(usage):
    return b"data: %b\n\n" % json.dumps({"id": "c-2", "choices": [], "usage": usage}).encode()


DONE = b"data: [DONE]\n\n"


def stream(*words, usage=None):
    events = [chunk(role="assistant", content=""), *(chunk(content=word) for word in words), chunk("stop")]
    return [*events, *([tally(usage)] if usage else []), DONE]


def joined(seam, events):
    """Return what a caller reads of the continuation: its words, and the rest of the events."""
    out = b"".join(seam.mend(event) for event in events)
    told = [json.loads(event[6:]) for event in out.split(b"\n\n") if event and event != DONE.strip()]
    choices = [choice for event in told for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices), out


@pytest.mark.parametrize(
    "members",
    [
        {"n": 2},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
    ],
)
def test_what_could_not_be_whole_afterwards_is_not_continued(members):
    """A grammar begins anew, and several choices have several ends."""
    assert continuable(request())
    assert continuable(request(response_format={"type": "text"}, tools=[]))
    assert not continuable(request(**members))


@pytest.mark.parametrize("members", [{"suffix": "end"}, {"echo": True}, {"logprobs": 2}, {"prompt": ["a", "b"]}])
def test_a_completion_is_continued_where_its_prompt_is_one_text(members):
    assert continuable(request("completions"))
    assert continuable(request("completions", echo=False, best_of=1))
    assert not continuable(request("completions", **members))
    assert not continuable(read("embeddings", b'{"model":"m","input":"a"}'))


@pytest.mark.parametrize(
    ("prefill", "more", "flags"),
    [
        ("flags", [{"role": "assistant", "content": "abc"}], {"continue_final_message", "add_generation_prompt"}),
        ("implicit", [{"role": "assistant", "content": "abc"}], set()),
        ("prefix", [{"role": "assistant", "content": "abc", "prefix": True}], set()),
        (None, [{"role": "assistant", "content": "abc"}, {"role": "user", "content": INSTRUCTION}], set()),
    ],
)
def test_each_engine_is_asked_to_go_on_in_its_own_way(prefill, more, flags):
    """The text is given, and what the caller set stays."""
    before = request(max_tokens=60, temperature=0)
    after = continued(before, "abc", 40, prefill)
    assert told(after)["messages"] == [*told(before)["messages"], *more]
    assert told(after)["max_tokens"] == after.max_tokens == 20
    assert set(after.members) - set(before.members) == flags
    assert told(after)["temperature"] == 0


def test_a_completion_goes_on_from_its_prompt():
    after = continued(request("completions"), " upon a", 3, None)
    assert told(after)["prompt"] == "Once upon a"
    assert after.max_tokens is None


def test_without_a_word_so_far_the_call_is_made_again():
    """Thoughts alone are nothing to go on from."""
    assert told(continued(request(), "", 12, "flags")) == told(request())


def test_at_least_one_token_is_asked_for():
    assert continued(request(max_tokens=10), "abc", 10, None).max_tokens == 1


def test_a_transcript_holds_the_words_that_went_out():
    transcript = Transcript()
    transcript.take(chunk(role="assistant", content="") + chunk(content="a\n") + chunk(content="b"))
    transcript.take(chunk(reasoning="hm") + b": comment\n\n" + chunk(text="c") + DONE)
    assert (transcript.text, transcript.whole) == ("a\nbc", True)


@pytest.mark.parametrize(
    "event",
    [
        chunk(tool_calls=[{"index": 0}]),
        chunk(refusal="no"),
        chunk("length"),
        chunk(content=[{"type": "thinking", "thinking": []}]),
    ],
)
def test_a_transcript_with_more_than_words_is_not_whole(event):
    transcript = Transcript()
    transcript.take(event)
    assert not transcript.whole


def test_a_continuation_by_the_engine_itself_is_joined_as_it_is():
    words, _ = joined(Seam("The qui", 2, exact=True), stream("ck", " brown"))
    assert words == "ck brown"


def test_a_space_that_a_template_trimmed_away_is_not_written_twice():
    """Templates strip a message's end; the model then begins with the space that was there."""
    assert joined(Seam("Hello ", 2, exact=True), stream(" world"))[0] == "world"
    assert joined(Seam("Hello ", 2, exact=True), stream("world"))[0] == "world"
    assert joined(Seam("Hello", 2, exact=True), stream(" world"))[0] == " world"


def test_a_doubled_letter_at_an_exact_seam_stays():
    assert joined(Seam("bal", 1, exact=True), stream("loon"))[0] == "loon"


def test_a_repeated_end_is_cut_away():
    text = TEXT[:40]
    for again in (LEAST, 12, 40):
        words, _ = joined(Seam(text, 9, exact=False), stream(*TEXT[40 - again :]))
        assert text + words == TEXT


def test_an_answer_that_begins_anew_and_agrees_is_joined():
    assert joined(Seam(TEXT[:70], 9, exact=False), stream(*TEXT))[0] == TEXT[70:]


def test_an_answer_that_begins_anew_and_differs_is_a_failure():
    """What the caller has seen cannot be taken back."""
    other = TEXT[: ANEW + 5] + "something else altogether"
    with pytest.raises(SeamError, match="anew"):
        joined(Seam(TEXT, 9, exact=False), stream(*other))


def test_thoughts_and_a_second_role_are_dropped():
    """The caller has had a role, and perhaps thoughts, already."""
    events = [chunk(role="assistant"), chunk(reasoning_content="so"), chunk(content="on"), chunk("stop"), DONE]
    words, out = joined(Seam("go ", 1, exact=True), events)
    assert words == "on"
    assert b"role" not in out
    assert b"reasoning" not in out
    assert out.endswith(chunk("stop") + DONE)


def test_usage_is_that_of_the_whole():
    """The prompt once: what came before stands in the second prompt, and was output."""
    usage = {"prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70, "prompt_tokens_details": None}
    _, out = joined(Seam("abc", 40, exact=True), stream("d", usage=usage))
    summed = json.loads(out.split(b"\n\n")[-3].removeprefix(b"data: "))["usage"]
    assert summed == usage | {"prompt_tokens": 10, "completion_tokens": 60}


def test_a_short_continuation_is_let_go_at_its_end():
    """One that ends before anything is sure is joined all the same, by `[DONE]` too."""
    assert joined(Seam(TEXT, 9, exact=False), stream(" Yes."))[0] == " Yes."
    assert joined(Seam(TEXT, 9, exact=False), [chunk(content=" Yes."), DONE])[0] == " Yes."


@given(st.text(min_size=1), st.integers(0, 300), st.integers(0, 60), st.integers(1, 9))
def test_no_seam_loses_a_word_of_an_engines_own_continuation(text, cut, more, piece):
    """Whatever the text and wherever it is cut, but for space at the cut, which nobody can tell from a repeated one."""
    whole = text * 3 + "x" * more
    before, after = whole[:cut], whole[cut:]
    pieces = [after[at : at + piece] for at in range(0, len(after), piece)]
    words, _ = joined(Seam(before, 1, exact=True), stream(*pieces))
    assert after.endswith(words)
    assert after.lstrip() == words.lstrip()


def test_an_upstreams_own_error_is_not_passed_on():
    """The answer may yet become whole."""
    error = b'data: {"error": {"message": "died"}}\n\n'
    named = b'event: error\ndata: {"message": "died"}\n\n'
    word = chunk(content='an "error"')
    assert without_errors(word + error + named) == word
    assert without_errors(word) == word


def test_what_is_not_what_its_api_has_is_not_continued():
    """An engine may read leniently; nothing can be added to a prompt that is no text, or to messages that are no list.

    Nor is a text that is no UTF-8.
    """
    for api, body in (
        ("chat", b'{"model":"m","messages":{"a":1}}'),
        ("chat", b'{"model":"m","messages":"a"}'),
        ("chat", b'{"model":"m","messages":[],"response_format":"\xff"}'),
        ("completions", b'{"model":"m","prompt":"\xff"}'),
    ):
        asked = read(api, body)
        assert isinstance(asked, InferenceRequest)
        assert not continuable(asked), body


def test_half_a_character_is_not_continued():
    """Engines may cut a pair of surrogates between two events; the caller joins them, and no UTF-8 has one alone."""
    transcript = Transcript()
    transcript.take(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
    transcript.take(b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n')
    assert not transcript.whole
    assert joined(Seam("a", 1, exact=True), stream("\ud83d", "\ude00"))[0] == "\ud83d\ude00"


def test_what_is_not_whole_keeps_nothing():
    """A stream of tool calls may be long, and nobody will go on from it."""
    transcript = Transcript()
    transcript.take(chunk(content="abc"))
    transcript.take(chunk(tool_calls=[{"index": 0}]))
    transcript.take(chunk(content="abc"))
    assert (transcript.text, transcript.whole) == ("", False)


@pytest.mark.parametrize("said", ["many", [1], 1e400, -5, None])
def test_an_odd_usage_of_a_continuation_breaks_nothing(said):
    """Told is told, but what is no usage is an oddity and no failure."""
    event = b'data: {"choices":[],"usage":{"prompt_tokens":%b}}\n\n' % json.dumps(said).encode()
    assert Seam("abc", 1, exact=True).mend(event).startswith(b"data: {")
    assert Seam("abc", 9, exact=True).mend(tally({"prompt_tokens": 9, "cache_read_input_tokens": 9}))


def test_no_more_of_the_prompt_was_cached_than_it_had():
    """What came before may have been cached too, and is no prompt any more."""
    usage = {"prompt_tokens": 50, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 48}}
    out = Seam("abc", 40, exact=True).mend(tally(usage))
    assert json.loads(out.removeprefix(b"data: "))["usage"]["prompt_tokens_details"] == {"cached_tokens": 10}


@pytest.mark.parametrize(
    "event", [chunk(content=[{"type": "text", "text": "on"}]), b'data: {"choices":[{"delta":"x"}]}\n\n']
)
def test_a_continuation_that_speaks_otherwise_is_a_failure(event):
    """Words that were dropped for their shape would be missing from an answer that looks whole."""
    with pytest.raises(SeamError):
        Seam("go ", 1, exact=True).mend(event)


def test_a_seam_that_does_not_fit_has_shown_nothing():
    """So that nobody pays for it."""
    seam = Seam(TEXT, 9, exact=False)
    with pytest.raises(SeamError):
        joined(seam, stream(TEXT[: ANEW + 5] + "something else altogether"))
    assert seam.open


@pytest.mark.parametrize(("before", "again"), [("\n\n" + TEXT[:70], TEXT), (TEXT[:70], " " + TEXT)])
def test_an_answer_that_begins_anew_may_begin_with_other_space(before, again):
    """Templates and engines differ in it."""
    assert joined(Seam(before, 9, exact=False), stream(*again))[0] == TEXT[70:]


def test_only_so_long_a_repetition_is_looked_for():
    """Two megabytes of each would take hours."""
    text = "ab " * LONGEST
    assert joined(Seam(text, 9, exact=False), stream("ba " * LONGEST * 50))[0] == "ba " * LONGEST * 50


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\r\r", b"\n\n"])
def test_an_error_is_left_out_whatever_the_line_ends(end):
    """An event of its own, wherever its name stands."""
    word, stop = chunk(content="a").strip(), b": ping"
    for error in (b'data: {"error": {"message": "died"}}', b'data: {"error": 1}', b"id: 1\nevent:error\ndata: x"):
        out = without_errors(
            b"".join(event.replace(b"\n", end[: len(end) // 2]) + end for event in (word, error, stop))
        )
        assert [event for event in out.split(b"\n\n") if event] == [word, stop]
