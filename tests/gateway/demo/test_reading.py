import json

import pytest

from gateway.demo.reading import Refused, body_of, chat, completion, texts_of, tokens_in

MESSAGES = [{"role": "user", "content": "12345678"}]


def test_a_chat_is_read_with_its_limits_and_options():
    ask = chat(
        {"messages": MESSAGES, "max_tokens": 9, "stream": True, "stream_options": {"include_usage": True}, "n": 2}, 100
    )
    assert (ask.prompt_tokens, ask.limit, ask.stream, ask.include_usage, ask.choices) == (2, 9, True, True, 2)


def test_max_completion_tokens_comes_before_max_tokens():
    assert chat({"messages": MESSAGES, "max_tokens": 9, "max_completion_tokens": 4}, 100).limit == 4


def test_without_a_limit_the_window_is_the_limit():
    assert chat({"messages": MESSAGES}, 100).limit == 98


def test_text_parts_of_a_message_count():
    parts = [{"type": "text", "text": "1234"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    assert chat({"messages": [{"role": "user", "content": parts}]}, 100).prompt_tokens == 2


def test_a_prompt_may_be_text_ids_or_lists_of_them():
    assert texts_of({"prompt": "a"}, "prompt") == ["a"]
    assert texts_of({"prompt": ["a", "b"]}, "prompt") == ["a", "b"]
    assert texts_of({"prompt": [1, 2]}, "prompt") == ["001 002"]
    assert texts_of({"prompt": [[1], [2]]}, "prompt") == ["001", "002"]
    assert completion({"prompt": ["a", "b"], "n": 2}, 100).choices == 4


def test_a_token_is_four_bytes_rounded_up():
    assert [tokens_in(text) for text in ("", "a", "1234", "12345", "ééé")] == [1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("raw", "status", "says"),
    [
        (b"{", 400, "not JSON"),
        (b"\xff", 400, "not JSON"),
        (b"[]", 400, "not a JSON object"),
        (b"{}", 404, "does not exist"),
        (b'{"model": "other"}', 404, "`other` does not exist"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_in_vllms_shape(raw, status, says):
    with pytest.raises(Refused, match=says) as refused:
        body_of(raw, "m")
    assert refused.value.status == status
    assert json.loads(json.dumps(refused.value.body))["error"]["code"] == status


@pytest.mark.parametrize(
    ("member", "value"),
    [("messages", []), ("messages", ["hi"]), ("max_tokens", 0), ("max_tokens", "9"), ("n", True), ("n", 0)],
)
def test_a_member_that_makes_no_sense_is_refused_by_name(member, value):
    with pytest.raises(Refused) as refused:
        chat({"messages": MESSAGES, member: value}, 100)
    assert refused.value.body["error"]["param"] == member


@pytest.mark.parametrize("prompt", [None, [], 5, [{}], [["a"]]])
def test_a_prompt_of_the_wrong_kind_is_refused(prompt):
    with pytest.raises(Refused):
        texts_of({"prompt": prompt}, "prompt")


def test_a_prompt_longer_than_the_window_is_refused():
    with pytest.raises(Refused, match="maximum context length is 2 tokens"):
        chat({"messages": MESSAGES}, 2)
