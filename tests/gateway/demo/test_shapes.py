from gateway.demo.shapes import Chat, Completions, Head, Tokens

HEAD = Head("x-1", 1_700_000_000, "m")


def test_usage_adds_up():
    assert Tokens(3, 4).json()["total_tokens"] == 7


def test_a_plain_chat_answer_has_a_message_for_each_text():
    body = Chat().whole(HEAD, ["a", "b"], "stop", Tokens(1, 2))
    assert body["object"] == "chat.completion"
    assert [choice["message"]["content"] for choice in body["choices"]] == ["a", "b"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1]


def test_a_chat_stream_opens_with_roles_and_closes_with_reasons():
    (opening,) = Chat().opening(HEAD, 1)
    (closing,) = Chat().closing(HEAD, 1, "length")
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert closing["choices"][0]["finish_reason"] == "length"
    assert Chat().token(HEAD, 0, " word")["choices"][0]["delta"] == {"content": " word"}


def test_a_text_stream_has_no_roles():
    assert Completions().opening(HEAD, 2) == []
    assert Completions().token(HEAD, 1, " word")["choices"][0]["text"] == " word"
    assert [chunk["choices"][0]["index"] for chunk in Completions().closing(HEAD, 2, "stop")] == [0, 1]


def test_the_usage_chunk_has_no_choices():
    for shape in (Chat(), Completions()):
        chunk = shape.usage(HEAD, Tokens(3, 4))
        assert chunk["choices"] == []
        assert chunk["usage"]["completion_tokens"] == 4
