import json

import pytest

from policies.domain import Usage
from policies.sse import event_of
from policies.taps.responses import ResponsesTap


def event(kind, **data):
    return event_of(json.dumps({"type": kind, **data}).encode(), kind)


TOLD = {
    "input_tokens": 5,
    "input_tokens_details": {"cached_tokens": 2},
    "output_tokens": 4,
    "output_tokens_details": {"reasoning_tokens": 1},
}
CREATED = event("response.created", response={"id": "r", "status": "in_progress", "usage": None, "error": None})
PROGRESS = event("response.in_progress", response={"id": "r", "status": "in_progress"})
ITEM = event("response.output_item.added", item={"type": "message", "content": []})
WORD = event("response.output_text.delta", delta="word")
TEXT = event("response.output_text.done", text="word")
COMPLETED = event("response.completed", response={"id": "r", "status": "completed", "usage": TOLD, "error": None})


def fed(*events):
    """Feed the events one by one, and return the tap and what the caller got."""
    tap = ResponsesTap()
    return tap, b"".join([tap.feed(one) for one in events])


def test_what_only_opens_a_response_is_held_until_its_first_delta():
    """Another deployment may still answer."""
    tap, got = fed(CREATED, PROGRESS, ITEM)
    assert (tap.committed, got) == (False, b"")

    assert tap.feed(WORD) == CREATED + PROGRESS + ITEM + WORD
    assert (tap.committed, tap.events) == (True, 1)


@pytest.mark.parametrize(
    "kind", ["output_text", "refusal", "function_call_arguments", "reasoning_text", "reasoning_summary_text"]
)
def test_any_delta_commits(kind):
    """A caller has then seen something."""
    assert fed(event(f"response.{kind}.delta", delta="x"))[0].committed


def test_a_whole_stream_ends_with_its_response_and_tells_its_usage_there():
    """All of the prompt is in its input tokens."""
    events = CREATED, ITEM, WORD, WORD, WORD, TEXT, COMPLETED
    tap, got = fed(*events)

    assert got == b"".join(events)
    assert (tap.finished, tap.done, tap.events, tap.error, tap.last) == (True, True, 3, None, b"")
    assert tap.usage == Usage(5, 4, estimated=False, cached_tokens=2, reasoning_tokens=1)


def test_an_answer_that_only_its_bound_ended_is_an_answer():
    """All of it may have been thoughts that nobody streamed."""
    tap, _ = fed(CREATED, event("response.incomplete", response={"usage": TOLD}))

    assert (tap.committed, tap.finished, tap.usage.completion_tokens) == (True, True, 4)


FAILURES = (
    event("response.failed", response={"status": "failed", "error": {"message": "no"}}),
    event("error", code="server_error", message="no", param=None, sequence_number=3),
    event_of(b'{"error":{"message":"no","code":500}}'),
)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_that_clients_know_is_passed_once_they_saw_content(failure):
    """Before, another deployment answers. The last is llama.cpp's."""
    seen, got = fed(CREATED, WORD, failure, WORD, COMPLETED)
    unseen, nothing = fed(CREATED, failure)

    assert (got, seen.error_shown, seen.usage, seen.finished) == (CREATED + WORD + failure, True, None, False)
    assert (nothing, unseen.error is not None, unseen.committed) == (b"", True, False)


def test_an_error_that_is_one_by_its_name_alone_is_told_anew():
    """Clients read the data."""
    tap, got = fed(CREATED, WORD, event_of(b'{"message":"no"}', "error"))

    assert (got, tap.error_shown, tap.over()) == (CREATED + WORD, False, True)


def test_words_of_the_api_inside_a_text_are_text():
    """An answer about streams is no end of one."""
    talk = event("response.output_text.delta", delta='"response.completed" "error" [DONE] error')
    tap, got = fed(CREATED, WORD, talk, WORD)

    assert (tap.done, tap.error, tap.events) == (False, None, 3)
    assert got == CREATED + WORD + talk + WORD


def test_events_are_numbered_as_they_come():
    """So that an event of ours can have the next number; a comment has none."""
    tap, _ = fed(CREATED, ITEM + WORD, b": ping\n\n", WORD + WORD, TEXT[:5], TEXT[5:])

    assert tap.number == 6
