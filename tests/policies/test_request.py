import pytest

from policies.domain import InferenceRequest
from policies.rejections import Reason, Rejection
from policies.request import MOST_MARKS, MOST_PROMPTS, read
from tests.policies.builders import request


def test_the_facts_of_a_plain_chat_are_read():
    """Defaults are the API's: not streamed, one choice, no bound."""
    facts = request()

    assert isinstance(facts, InferenceRequest)
    assert (facts.model, facts.stream, facts.choices, facts.max_tokens) == ("m", False, 1, None)
    assert facts.modalities == {"text"}


def test_the_last_of_duplicate_keys_counts_and_is_the_only_one_kept():
    """A second `model`, escaped or not, cannot smuggle another name past the check."""
    facts = read("chat", b'{"model":"a","messages":[],"m\\u006fdel":"b"}')

    assert facts.model == "b"
    assert sorted(facts.members) == ["messages", "model"]


def test_the_larger_of_both_output_bounds_counts():
    """Which of the two an engine heeds is its own affair."""
    assert request(max_tokens=1, max_completion_tokens=20).max_tokens == 20
    assert request(max_tokens=None).max_tokens is None


def test_an_inlined_image_is_media_and_not_text():
    """Its base64 says nothing about tokens."""
    url = "data:image/png;base64," + "A" * 10_000
    parts = [{"type": "text", "text": "what is it"}, {"type": "image_url", "image_url": {"url": url}}]
    facts = request(messages=[{"role": "user", "content": parts}])

    assert facts.modalities == {"text", "image"}
    assert facts.media == 1
    assert facts.text_bytes < 500


def test_text_that_only_mentions_an_image_stays_text():
    """Quotes inside a string are escaped, so words cannot pose as structure."""
    facts = request(messages=[{"role": "user", "content": 'say {"type": "image_url"}'}])

    assert facts.modalities == {"text"}


def test_usage_is_wanted_only_where_it_was_asked_for():
    """The caller gets the usage event that it asked for and no other."""
    assert request(stream=True, stream_options={"include_usage": True}).wants_usage
    assert not request(stream=True, stream_options={"include_usage": False}).wants_usage
    assert not request(stream=True, stream_options=None).wants_usage


@pytest.mark.parametrize(
    ("body", "reason", "param"),
    [
        (b"", Reason.BAD_BODY, None),
        (b"[]", Reason.BAD_BODY, None),
        (b'{"model":', Reason.BAD_BODY, None),
        (b'{"a":' + b"[" * 100_000 + b"}", Reason.BAD_BODY, None),
        (b'{"messages":[]}', Reason.BAD_MEMBER, "model"),
        (b'{"model":"","messages":[]}', Reason.BAD_MEMBER, "model"),
        (b'{"model":7,"messages":[]}', Reason.BAD_MEMBER, "model"),
        (b'{"model":"m"}', Reason.BAD_MEMBER, "messages"),
        (b'{"model":"m","messages":[],"stream":"yes"}', Reason.BAD_MEMBER, "stream"),
        (b'{"model":"m","messages":[],"max_tokens":-1}', Reason.BAD_MEMBER, "max_tokens"),
        (b'{"model":"m","messages":[],"max_tokens":1.5}', Reason.BAD_MEMBER, "max_tokens"),
        (b'{"model":"m","messages":[],"n":"2"}', Reason.BAD_MEMBER, "n"),
        (b'{"model":"m","messages":[],"n":0}', Reason.BAD_MEMBER, "n"),
        (b'{"model":"m","messages":[],"n":1' + b"0" * 30 + b"}", Reason.BAD_MEMBER, "n"),
        (b'{"model":"m","messages":[],"max_tokens":1' + b"0" * 30 + b"}", Reason.BAD_MEMBER, "max_tokens"),
        (b'{"model":"\xff","messages":[]}', Reason.BAD_MEMBER, "model"),
        (
            b'{"model":"m","messages":[],"stream_options":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}",
            Reason.BAD_MEMBER,
            "stream_options",
        ),
        (b'{"model":"m","messages":[],"stream_options":[]}', Reason.BAD_MEMBER, "stream_options"),
    ],
)
def test_bad_input_is_refused_with_the_member_at_fault(body, reason, param):
    """Never a 500, and the caller learns what to mend."""
    rejection = read("chat", body)

    assert isinstance(rejection, Rejection)
    assert (rejection.reason, rejection.param) == (reason, param)
    assert rejection.shape.status == 400


def test_every_kind_of_media_is_media():
    """Its bytes teach nothing of text."""
    parts = [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + "A" * 5000}}]
    facts = request(messages=[{"role": "user", "content": parts}])

    assert facts.media == 1
    assert facts.text_bytes < 300


def test_text_that_looks_like_inlined_data_is_text():
    """Only what stands where media stand is media."""
    parts = [{"type": "text", "text": "data:" + "x" * 5000}, {"type": "image_url", "image_url": {"url": "data:a"}}]

    assert request(messages=[{"role": "user", "content": parts}]).text_bytes > 5000


@pytest.mark.parametrize(
    ("members", "choices"),
    [
        ({"prompt": "a"}, 1),
        ({"prompt": ["a", "b", "c"]}, 3),
        ({"prompt": ["a", "b"], "n": 3}, 6),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": [], "n": 2}, 2),
        ({"prompt": "a", "best_of": 5, "n": 2}, 5),
    ],
)
def test_every_prompt_of_a_list_has_its_answers(members, choices):
    """They are all made, and all paid."""
    assert request("completions", **members).choices == choices


@pytest.mark.parametrize(
    ("given", "inputs"), [("a", 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ([], 1)]
)
def test_every_input_has_its_embedding(given, inputs):
    """A list of tokens is one."""
    assert request("embeddings", input=given).choices == inputs


def test_a_prompt_that_is_an_odd_list_is_the_engines_to_judge():
    """Its elements are told apart no further."""
    assert request("completions", prompt=[{"prompt_embeds": "x"}, "b"]).choices == 2
    assert request("completions", prompt={"odd": 1}).choices == 1


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 10_000}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 10_000}}


@pytest.mark.parametrize("api", ["messages", "count_tokens"])
def test_anthropics_blocks_are_media_and_not_text(api):
    """Those in a tool's result too."""
    result = {"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]}
    content = [{"type": "text", "text": "what is it"}, IMAGE, PDF, result]
    facts = request(api, messages=[{"role": "user", "content": content}])

    assert facts.modalities == {"text", "image", "file"}
    assert facts.media == 3
    assert facts.text_bytes < 1000


def test_what_a_tool_was_given_is_text_however_it_looks():
    """It is the caller's own JSON."""
    used = {"type": "tool_use", "id": "t", "name": "draw", "input": {"type": "image", "source": {"type": "url"}}}
    facts = request("messages", messages=[{"role": "assistant", "content": [used]}], max_tokens=5)

    assert (facts.modalities, facts.media) == ({"text"}, 0)


@pytest.mark.parametrize(
    "odd", [7, "image", [7], [{"content": [{"type": 7}]}], {"image": 1}, [{"content": [IMAGE, 7]}]]
)
def test_odd_messages_are_the_engines_to_judge(odd):
    """It says what is wrong with them."""
    assert isinstance(request("messages", messages=odd, x='"image"'), InferenceRequest)


def test_the_inputs_of_responses_are_media_and_not_text():
    """Images and files, inlined or linked."""
    content = [
        {"type": "input_text", "text": "what is it"},
        {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 10_000},
        {"type": "input_file", "filename": "a.pdf", "file_data": "A" * 10_000},
    ]
    facts = request("responses", input=[{"role": "user", "content": content}], max_output_tokens=7, stream=True)

    assert facts.modalities == {"text", "image", "file"}
    assert (facts.media, facts.max_tokens, facts.choices, facts.stream) == (2, 7, 1, True)
    assert facts.text_bytes < 1000


def test_the_prompt_of_a_message_is_all_of_its_members():
    """System and tools are read by the model too; its bound is its own."""
    short = request("messages", messages=[], max_tokens=9)
    long = request("messages", messages=[], max_tokens=9, system="x" * 500, tools=[{"name": "y" * 500}])

    assert long.text_bytes - short.text_bytes > 1000
    assert (long.max_tokens, long.choices) == (9, 1)


@pytest.mark.parametrize("given", [{"prompt": "a"}, {"messages": []}, {"content": "a"}])
def test_tokenize_takes_what_either_engine_does(given):
    """VLLM a prompt or messages, llama.cpp a content; it never streams."""
    facts = request("tokenize", **given, stream="yes", n=7)

    assert (facts.stream, facts.choices, facts.max_tokens) == (False, 1, None)
    assert facts.text_bytes > 0


@pytest.mark.parametrize(
    ("api", "members", "param"),
    [
        ("tokenize", {"prompt": "a", "model": None}, "model"),
        ("tokenize", {}, "prompt"),
        ("messages", {"max_tokens": 5}, "messages"),
        ("messages", {"messages": [], "max_tokens": -1}, "max_tokens"),
        ("responses", {}, "input"),
        ("responses", {"input": "a", "max_output_tokens": "x"}, "max_output_tokens"),
        ("count_tokens", {}, "messages"),
    ],
)
def test_what_an_api_needs_is_named_where_it_is_missing(api, members, param):
    """As for a chat."""
    rejection = request(api, **members)

    assert isinstance(rejection, Rejection)
    assert (rejection.reason, rejection.param) == (Reason.BAD_MEMBER, param)


def test_only_one_level_of_what_tools_said_is_looked_through():
    """The API has no more, and each would be read once more for every level around it."""
    image = {"type": "image", "source": {"data": "x" * 9}}

    def within(levels):
        content = [image]
        for _ in range(levels):
            content = [{"type": "tool_result", "content": content}]
        return request("messages", max_tokens=1, messages=[{"role": "user", "content": content}]).media

    assert [within(0), within(1), within(2), within(400)] == [1, 1, 0, 0]


@pytest.mark.parametrize("part", [b'""', b"[]", b"{}", b'"a" '])
def test_more_prompts_than_anyone_has_are_refused(part):
    """Read one by one they would take thirty times their bytes."""
    most = read("completions", b'{"model":"m","prompt":[' + b",".join([part] * MOST_PROMPTS) + b"]}")
    more = read("completions", b'{"model":"m","prompt":[' + b",".join([part] * (MOST_PROMPTS + 2)) + b"]}")

    assert most.choices == MOST_PROMPTS
    assert more.param == "prompt"


def test_a_long_list_of_tokens_is_one_prompt():
    """However long, and not taken apart."""
    assert read("embeddings", b'{"model":"m","input":[' + b"1," * MOST_PROMPTS * 2 + b"1]}").choices == 1


def test_no_more_parts_are_looked_for_than_any_model_takes():
    part = {"type": "image_url", "image_url": {"url": "x"}}
    assert request("chat", messages=[{"role": "user", "content": [part] * MOST_MARKS * 2}]).media == MOST_MARKS


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b'{"a":' * 5000, "it is nested too deeply"),
        (b"\x1f\x8b\x08\x00", "content-encoding is not supported; send it uncompressed"),
        (b'{"model":"m","a":"\\ud83d and more"}', "half of a surrogate pair"),
    ],
)
def test_what_is_wrong_with_a_body_is_told_in_plain_words(body, words):
    """A validator's own are of offsets and bytes."""
    refused = read("chat", body)
    assert isinstance(refused, Rejection)
    assert words in refused.message
