import pytest
from msgspec import Raw

from policies.dialects import DIALECTS
from policies.wishes import slighted, wished
from tests.policies.builders import request


@pytest.mark.parametrize(
    ("name", "value", "asks"),
    [
        ("n", b"1", False),
        ("n", b"null", False),
        ("n", b"2", True),
        ("logprobs", b"false", False),
        ("logprobs", b"true", True),
        ("logprobs", b"0", True),  # in completions: those of the tokens themselves
        ("tool_choice", b'"auto"', False),
        ("tool_choice", b'"required"', True),
        ("parallel_tool_calls", b"true", False),
        ("parallel_tool_calls", b"false", True),
        ("response_format", b'{ "type": "text" }', False),
        ("response_format", b'{"type":"json_object"}', True),
        ("response_format", b'{"type":"json_schema","json_schema":' + b'{"a":1}' * 40 + b"}", True),
        ("presence_penalty", b"0.0", False),
        ("metadata", b"{}", False),
        ("anything", b"false", True),
    ],
)
def test_a_member_that_says_what_holds_anyway_is_no_wish(name, value, asks):
    """As SDKs send their defaults."""
    assert wished(name, Raw(value)) is asks


def test_what_an_engine_would_not_heed_is_found_in_the_bodys_order():
    """Only what is wished for."""
    facts = request(tool_choice="required", n=1, temperature=0.5, response_format={"type": "json_object"})

    assert slighted(facts, DIALECTS["transformers"]) == ["tool_choice", "response_format"]
    assert slighted(facts, DIALECTS["vllm"]) == []


def test_a_rule_of_one_api_says_nothing_of_another():
    """`messages` are all of a chat, and nothing to llama.cpp's tokenizer."""
    messages = [{"role": "user", "content": "hi"}]

    assert slighted(request(messages=messages), DIALECTS["llamacpp"]) == []
    assert slighted(request("tokenize", messages=messages), DIALECTS["llamacpp"]) == ["messages"]
