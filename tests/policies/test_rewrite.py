import json

import pytest

from policies.dialects import DIALECTS
from policies.request import read
from policies.rewrite import rewrite
from tests.policies.builders import deployment, request

VLLM = DIALECTS["vllm"]


def test_kept_values_go_byte_for_byte():
    """Numbers, escapes, nested models and spaces arrive as they were written."""
    messages = b'[{"role":"user","content":"\\u00e9\\n"}]'
    body = b'{"model":"x","messages":' + messages + b', "temperature": 1.00, "big":1e400,"o":{"model": "y"} }'

    sent = rewrite(read("chat", body), deployment(), VLLM)

    for value in (messages, b"1.00", b"1e400", b'{"model": "y"}'):
        assert value in sent
    assert json.loads(sent)["model"] == "m"


def test_a_stream_asks_for_usage_beside_what_the_caller_asked():
    """Other stream options stay."""
    facts = request(stream=True, stream_options={"include_usage": False, "extra": [1]})

    assert json.loads(rewrite(facts, deployment(), VLLM))["stream_options"] == {"include_usage": True, "extra": [1]}


def test_a_plain_call_is_not_given_stream_options():
    """Engines refuse them without `stream`."""
    assert "stream_options" not in json.loads(rewrite(request(), deployment(), VLLM))


def test_transformers_is_sent_only_what_it_takes():
    """It answers 422 to members that it does not know."""
    facts = request(stream=True, stream_options={"include_usage": True}, max_completion_tokens=7, tool_choice="auto")

    sent = json.loads(rewrite(facts, deployment(), DIALECTS["transformers"]))

    assert sent["max_tokens"] == 7
    assert not {"stream_options", "max_completion_tokens", "tool_choice"} & set(sent)


@pytest.mark.parametrize("kind", DIALECTS)
def test_every_dialect_is_found_under_its_own_kind(kind):
    """A kind in the file is a kind here."""
    assert DIALECTS[kind].kind == kind
