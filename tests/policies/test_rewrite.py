import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from policies.apis import APIS
from policies.dialects import DIALECTS
from policies.dialects.mistral_common import DROPS, EFFORTS
from policies.request import read
from policies.rewrite import MOST_CHANGES, rewrite
from tests.policies.builders import deployment, request

VLLM = DIALECTS["vllm"]
MISTRAL = replace(deployment(), tokenizer="mistral")
PROMPTS = {
    "completions": {"prompt": "hi"},
    "embeddings": {"input": "hi"},
    "responses": {"input": "hi"},
    "tokenize": {"prompt": "hi"},
    "messages": {"messages": []},
    "count_tokens": {"messages": []},
}


def sent(facts, kind="vllm", to=None):
    body, changes = rewrite(facts, to or deployment(kind=kind), DIALECTS[kind])
    return json.loads(body), changes


def asked(api="chat", **members):
    return request(api, **PROMPTS.get(api, {}), **members)


def test_kept_values_go_byte_for_byte():
    """Numbers, escapes, nested models and spaces arrive as they were written."""
    messages = b'[{"role":"user","content":"\\u00e9\\n"}]'
    body = b'{"model":"x","messages":' + messages + b', "temperature": 1.00, "big":1e400,"o":{"model": "y"} }'

    out, changes = rewrite(read("chat", body), deployment(), VLLM)

    for value in (messages, b"1.00", b"1e400", b'{"model": "y"}'):
        assert value in out
    assert json.loads(out)["model"] == "m"
    assert changes == ()


OTHERS = st.dictionaries(
    st.text(max_size=12),
    st.sampled_from([b"1.00", b"null", b'"\\u00e9"', b"[1, 2 ]", b'{"model":"x", "n":1}', b"-0", b"true", b'""']),
    max_size=6,
)


@given(others=OTHERS, kind=st.sampled_from(sorted(DIALECTS)), mistral=st.booleans(), stream=st.booleans())
def test_what_no_dialect_names_goes_byte_for_byte(others, kind, mistral, stream):
    """To every kind, under every tokenizer, streamed or not; a kind that keeps a list keeps no more than that."""
    dialect = DIALECTS[kind]
    for api in dialect.apis:
        shape = APIS[api]
        named = {"model", "stream", "stream_options", "n", "best_of", *shape.needs, *shape.bounds, *shape.prompts}
        named |= dialect.drops | dialect.renames.get(api, {}).keys() | set(dialect.renames.get(api, {}).values())
        named |= dialect.adds.get(api, {}).keys() | DROPS | {effort.member for effort in EFFORTS.values()}
        free = {name: value for name, value in others.items() if name not in named}
        body = {"model": b'"x"', shape.needs[0]: b'"hi"', "stream": b"true" if stream else b"false"} | free
        raw = b"{%s}" % b",".join(msgspec.json.encode(name) + b":" + value for name, value in body.items())
        to = replace(deployment(kind=kind), tokenizer="mistral" if mistral else "other")

        out, changes = rewrite(read(api, raw), to, dialect)

        members = msgspec.json.decode(out, type=dict[str, msgspec.Raw])
        kept = dialect.keeps.get(api)
        for name, value in free.items():
            if kept is None or name in kept:
                assert bytes(members[name]) == value
            else:
                assert name not in members
        assert kept is None or members.keys() <= kept
        assert all(change.isascii() and change.isprintable() for change in changes)


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_usage": None}, {"include_usage": True}])
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_stream_is_asked_for_usage_whatever_its_caller_said(api, options):
    """Whoever did not ask does not see it; what is not counted cannot be billed."""
    body, changes = sent(asked(api, stream=True, stream_options=options))

    assert body["stream_options"] == {"include_usage": True}
    assert changes == ()


def test_other_stream_options_stay_as_they_were_sent():
    """`continuous_usage_stats` among them."""
    options = {"include_usage": False, "continuous_usage_stats": True, "extra": [1]}

    body, _ = sent(asked(stream=True, stream_options=options))

    assert body["stream_options"] == options | {"include_usage": True}


@pytest.mark.parametrize("api", ["chat", "responses", "messages", "count_tokens", "tokenize", "embeddings"])
def test_a_call_that_cannot_be_asked_for_usage_is_given_no_stream_options(api):
    """Engines refuse them without `stream`; the newer APIs tell usage unasked, and may refuse them."""
    stream = {"stream": True} if api in {"responses", "messages"} else {}

    assert "stream_options" not in sent(asked(api, **stream))[0]


@pytest.mark.parametrize(
    ("api", "members", "kept", "changes"),
    [
        ("chat", {"max_completion_tokens": 7}, {"max_tokens": 7}, ()),
        ("chat", {"max_completion_tokens": 7, "max_tokens": 9}, {"max_tokens": 7}, ()),
        ("chat", {"max_tokens": 9, "max_completion_tokens": None}, {"max_tokens": 9}, ()),
        ("chat", {"tool_choice": "auto", "n": 1, "logprobs": False}, {}, ()),
        ("chat", {"tool_choice": "required", "n": 2}, {}, ("tool_choice: dropped", "n: dropped")),
        ("chat", {"reasoning_effort": "low", "stop": ["x"]}, {"stop": ["x"]}, ("reasoning_effort: dropped",)),
        ("chat", {"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}, ()),
        ("chat", {"top_k": 5}, {}, ("top_k: dropped",)),
        ("completions", {"echo": True, "suffix": "s"}, {"suffix": "s"}, ("echo: dropped",)),
        ("completions", {"stream": True}, {"stream": True}, ()),
        ("responses", {"text": {"format": {"type": "text"}}}, {"stream": False}, ()),
        ("responses", {"stream": True, "store": True}, {"stream": True}, ("store: dropped",)),
    ],
)
def test_transformers_is_sent_only_what_it_reads(api, members, kept, changes):
    """It answers 422 to members that it does not know, and streams Responses unless told not to."""
    body, told = sent(asked(api, **members), "transformers")

    assert told == changes
    for name in ("model", *APIS[api].needs):
        body.pop(name)
    assert body == kept


@pytest.mark.parametrize(
    ("kind", "api", "members", "kept"),
    [
        ("llamacpp", "tokenize", {"prompt": "hi", "add_special_tokens": True}, {"content": "hi", "add_special": True}),
        ("vllm", "tokenize", {"content": "hi", "add_special": True}, {"prompt": "hi", "add_special_tokens": True}),
        ("nim", "tokenize", {"content": "hi"}, {"prompt": "hi"}),
        ("sglang", "tokenize", {"content": "hi"}, {"prompt": "hi"}),
        ("vllm", "tokenize", {"prompt": "hi"}, {"prompt": "hi"}),
        ("llamacpp", "completions", {"prompt": "hi"}, {"prompt": "hi"}),
        ("nvidia", "completions", {"prompt": "hi", "max_tokens": 3}, {"prompt": "hi", "max_tokens": 3}),
    ],
)
def test_each_engine_is_asked_in_its_own_words(kind, api, members, kept):
    """A caller need not know who serves."""
    assert sent(request(api, **members), kind) == ({"model": "m"} | kept, ())


@pytest.mark.parametrize(
    ("kind", "named"),
    [("lmstudio", "max_tokens"), ("nvidia", "max_tokens"), ("vllm", "max_completion_tokens")],
)
def test_the_bound_has_the_name_that_the_engine_knows(kind, named):
    """VLLM and SGLang prefer the newer one, llama.cpp takes either."""
    body, changes = sent(asked(max_completion_tokens=7), kind)

    assert body[named] == 7
    assert len({"max_tokens", "max_completion_tokens"} & body.keys()) == 1
    assert changes == ()


@pytest.mark.parametrize("kind", ["vllm", "sglang", "nim", "nvidia"])
@pytest.mark.parametrize(("value", "changes"), [(-1000, ("priority: dropped",)), (0, ()), (None, ())])
def test_no_caller_sets_a_priority_in_an_engine(kind, value, changes):
    """It would be served before all others there."""
    body, told = sent(asked(priority=value), kind)

    assert "priority" not in body
    assert told == changes


@pytest.mark.parametrize(
    ("asks", "becomes"),
    [
        ("none", "none"),
        ("minimal", "none"),
        ("low", "none"),
        ("medium", "high"),
        ("high", "high"),
        ("xhigh", "high"),
        ("max", "high"),
        ("enormous", "enormous"),
        (None, None),
        (3, 3),
    ],
)
def test_mistrals_models_are_asked_for_an_effort_that_they_have(asks, becomes):
    """As Mistral's own agent does; what is no effort is the engine's to refuse; others' models have them all."""
    body, changes = sent(asked(reasoning_effort=asks), to=MISTRAL)

    assert body["reasoning_effort"] == becomes
    assert changes == (() if asks == becomes else (f"reasoning_effort: {asks} -> {becomes}",))
    assert sent(asked(reasoning_effort=asks))[0]["reasoning_effort"] == asks


@pytest.mark.parametrize(
    ("api", "member", "value", "becomes", "changes"),
    [
        ("responses", "reasoning", {"effort": "medium", "summary": "auto"}, {"effort": "high", "summary": "auto"}, 1),
        ("responses", "reasoning", {"effort": "low"}, {"effort": "none"}, 1),
        ("responses", "reasoning", {"summary": "auto"}, {"summary": "auto"}, 0),
        ("responses", "reasoning", None, None, 0),
        ("responses", "reasoning", "high", "high", 0),
        ("messages", "output_config", {"effort": "medium"}, {"effort": "high"}, 1),
        ("messages", "output_config", {"effort": "low", "format": {"a": 1}}, {"format": {"a": 1}}, 1),
        ("count_tokens", "output_config", {"effort": "max"}, {"effort": "high"}, 1),
        (
            "messages",
            "thinking",
            {"type": "enabled", "budget_tokens": 2000},
            {"type": "enabled", "budget_tokens": 2000},
            0,
        ),
    ],
)
def test_an_effort_inside_an_object_is_mapped_where_it_stands(api, member, value, becomes, changes):
    """The rest of the object stays; Messages has no `none`, and says it by saying nothing."""
    body, told = sent(asked(api, **{member: value}), to=MISTRAL)

    assert body[member] == becomes
    assert len(told) == changes
    assert all(change.startswith(f"{member}.effort: ") for change in told)


@pytest.mark.parametrize("name", sorted(DROPS))
def test_a_callers_template_goes_only_where_there_are_templates(name):
    """mistral-common has none to fill."""
    facts = asked(**{name: {"enable_thinking": True}})

    assert sent(facts, to=MISTRAL)[1] == (f"{name}: dropped",)
    assert name not in sent(facts, to=MISTRAL)[0]
    assert name in sent(facts)[0]


def test_a_wish_that_will_be_ignored_is_told_though_it_is_sent():
    """Newer versions may know it."""
    body, changes = sent(asked(n=2), "lmstudio")

    assert body["n"] == 2
    assert changes == ("n: ignored",)


def test_what_is_told_is_short_and_never_a_callers_text():
    """It goes into a header."""
    names = [f"member_{number}" for number in range(2 * MOST_CHANGES)]
    strange = {"a: b\r\nset-cookie": 1, "x: dropped": 1, "é": 1, "": 1, "y" * 41: 1}

    _, changes = sent(asked(**strange, **dict.fromkeys(names, 1)), "transformers")

    assert changes == (*(f"{name}: dropped" for name in names[:MOST_CHANGES]), f"{MOST_CHANGES + len(strange)} more")
