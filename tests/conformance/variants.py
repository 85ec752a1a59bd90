"""Requests that an engine is sent straight and through the gateway: every feature, and every way to get one wrong.

Law: `EQUAL` are those whose answers must be the same. The others are written down with the reason: `OURS`, which the
gateway refuses by itself, and `FAILED`, where the engine says 500.
"""

import json
from dataclasses import dataclass
from typing import Any

CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSE, MESSAGE, COUNT = "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"

_SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Zürich"]}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}
_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Tells the "weather" in a \\ city: 東京, Zürich',
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_TOOL = {"name": "weather", "input_schema": _WEATHER["function"]["parameters"]}
_CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
_PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # noqa: E501
_CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich"}'}}


@dataclass(frozen=True)
class Variant:
    """One request: where to, and what. Where the gateway refuses it by itself: why, and the `code` and `param` told."""

    name: str
    path: str
    body: bytes
    why: str = ""
    code: str = ""
    param: str | None = None

    @property
    def model(self) -> str:
        """The model that it asks: the one that serves its API."""
        return "embedder" if self.path == EMBED else "tiny"


def _deep(levels: int) -> Any:
    return {"a": [_deep(levels - 1)]} if levels else "bottom"


def _user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


_CHATS: dict[str, dict[str, Any]] = {
    "plain": {},
    "seed": {"seed": 7},
    "seed-of-64-bits": {"seed": 2**63},
    "top-p-k-min-p": {"top_p": 0.9, "top_k": 5, "min_p": 0.05},
    "penalties": {"presence_penalty": 1.5, "frequency_penalty": -0.5, "repeat_penalty": 1.1},
    "logit-bias-map": {"logit_bias": {"320": 5, "321": -100}},
    "logit-bias-list": {"logit_bias": [[320, 5.5], [" river", False]]},
    "max-completion-tokens": {"max_tokens": None, "max_completion_tokens": 4},
    "both-maxima": {"max_tokens": 3, "max_completion_tokens": 6},
    "no-tokens": {"max_tokens": 0},
    "stop-string": {"stop": " river"},
    "stop-list": {"stop": ["valley", "under", " "]},
    "stop-empty": {"stop": []},
    "two-choices": {"n": 2},
    "logprobs": {"logprobs": True},
    "top-logprobs": {"logprobs": True, "top_logprobs": 5},
    "top-logprobs-alone": {"top_logprobs": 3},
    "logprobs-off": {"logprobs": False},
    "json-object": {"response_format": {"type": "json_object"}},
    "json-schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA}}},
    "json-schema-strict": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": _SCHEMA}},
        "max_tokens": 100,
    },
    "format-text": {"response_format": {"type": "text"}},
    "grammar": {"grammar": 'root ::= "yes" | "no"'},
    "tools": {"tools": [_WEATHER]},
    "tools-two": {"tools": [_WEATHER, _CLOCK], "parallel_tool_calls": True},
    "tools-not-parallel": {"tools": [_WEATHER, _CLOCK], "parallel_tool_calls": False},
    "tools-none": {"tools": [], "tool_choice": "none"},
    "tool-choice-none": {"tools": [_WEATHER], "tool_choice": "none"},
    "tool-choice-required": {"tools": [_WEATHER], "tool_choice": "required"},
    "tool-choice-named": {"tools": [_WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    "tools-and-schema": {
        "tools": [_WEATHER],
        "response_format": {"type": "json_schema", "json_schema": {"schema": _SCHEMA}},
    },
    "functions-of-old": {"functions": [_WEATHER["function"]], "function_call": "auto"},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, *_user("hi")]},
    "developer": {"messages": [{"role": "developer", "content": "Be brief."}, *_user("hi")]},
    "named": {"messages": [{"role": "user", "name": "ann", "content": "hi"}]},
    "tool-history": {
        "messages": [
            *_user("weather?"),
            {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ]
    },
    "parts": {"messages": _user([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])},
    "prefilled": {"messages": [*_user("hi"), {"role": "assistant", "content": "the river"}]},
    "empty-content": {"messages": _user("")},
    "unicode": {"messages": _user("Straße 東京 🙂 e\u0301 \u202eabc\u2028")},
    "escapes": {"messages": _user('"quoted" \\ / \b\f\n\r\t \u0001 \u007f {"model": "x"}')},
    "like-an-image": {"messages": _user('"type": "image_url", "url": "data:image/png;base64,AAAA"')},
    "member-names-in-text": {"messages": _user('{"stream": true, "model": "other", "usage": {"prompt_tokens": 9}}')},
    "unknown-members": {"metadata": {"model": "x"}, "user": "ann", "store": False, "odd": [1, {"b": None}]},
    "service-tier": {"service_tier": "auto", "safety_identifier": "x", "prompt_cache_key": "k"},
    "reasoning": {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}},
    "deep": {"odd": _deep(60)},
    "nulls": dict.fromkeys(("stream", "n", "stop", "tools", "logit_bias", "response_format", "stream_options", "seed")),
    "template-unknown-kwargs": {"chat_template_kwargs": {"a": {"b": [1, "c"]}}},
    "timings-per-token": {"timings_per_token": True},
    "image": {"messages": _user([{"type": "image_url", "image_url": {"url": _PIXEL}}])},
    "image-with-text": {
        "messages": _user([{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": _PIXEL}}])
    },
    "audio": {"messages": _user([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}])},
    "part-unknown": {"messages": _user([{"type": "smell", "smell": "rose"}])},
    "part-without-type": {"messages": _user([{"text": "hi"}])},
    "messages-string": {"messages": "hi"},
    "messages-empty": {"messages": []},
    "messages-null": {"messages": None},
    "message-string": {"messages": ["hi"]},
    "role-missing": {"messages": [{"content": "hi"}]},
    "role-unknown": {"messages": [{"role": "oracle", "content": "hi"}]},
    "content-missing": {"messages": [{"role": "user"}]},
    "content-number": {"messages": _user(5)},
    "temperature-string": {"temperature": "hot"},
    "temperature-negative": {"temperature": -3},
    "top-p-list": {"top_p": []},
    "stop-number": {"stop": 5},
    "seed-string": {"seed": "x"},
    "logit-bias-string": {"logit_bias": "x"},
    "logprobs-string": {"logprobs": "yes"},
    "format-unknown": {"response_format": {"type": "nope"}},
    "format-string": {"response_format": "json"},
    "schema-bad": {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nope"}}}},
    "grammar-bad": {"grammar": "root ::= ("},
    "grammar-and-schema": {"grammar": 'root ::= "a"', "json_schema": _SCHEMA},
    "tools-string": {"tools": "weather"},
    "tool-without-function": {"tools": [{"type": "function"}]},
    "tool-choice-unknown": {"tools": [_WEATHER], "tool_choice": "perhaps"},
    "tool-choice-alone": {"tool_choice": "required"},
}

_STREAMED = (
    "plain", "two-choices", "logprobs", "top-logprobs", "json-schema-strict", "json-object", "grammar", "stop-string",
    "tools", "tool-choice-required", "tool-history", "unicode", "escapes", "member-names-in-text", "timings-per-token",
    "nulls", "no-tokens", "max-completion-tokens", "unknown-members", "messages-empty", "temperature-string",
    "grammar-bad", "role-unknown", "prefilled",
)  # fmt: skip

_STREAM_OPTIONS: dict[str, dict[str, Any]] = {
    "usage": {"stream_options": {"include_usage": True}},
    "no-usage": {"stream_options": {"include_usage": False}},
    "options-empty": {"stream_options": {}},
    "options-unknown": {"stream_options": {"include_usage": True, "include_obfuscation": False, "odd": 1}},
    "usage-two-choices": {"stream_options": {"include_usage": True}, "n": 2},
    "progress": {"stream_options": {"include_usage": True}, "return_progress": True},
}

_TEXTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strings": {"prompt": ["Once", "Twice"]},
    "tokens": {"prompt": [320, 321, 322]},
    "token-lists": {"prompt": [[320, 321], [322]]},
    "strings-and-tokens": {"prompt": ["Once", [320]]},
    "mixed": {"prompt": ["Once", 320]},
    "empty": {"prompt": ""},
    "no-prompts": {"prompt": []},
    "echo": {"echo": True},
    "suffix": {"suffix": " the end"},
    "logprobs": {"logprobs": 3},
    "two-choices": {"n": 2},
    "best-of": {"best_of": 2},
    "stop": {"stop": ["river"]},
    "n-predict": {"max_tokens": None, "n_predict": 3},
    "unicode": {"prompt": "Straße 東京 🙂"},
    "grammar": {"grammar": 'root ::= "yes" | "no"'},
    "schema": {"json_schema": _SCHEMA, "max_tokens": 100},
    "unknown-members": {"odd": {"prompt": "x"}, "user": "ann"},
    "prompt-null": {"prompt": None},
    "prompt-number": {"prompt": 5},
    "prompt-object": {"prompt": {"a": 1}},
    "token-too-large": {"prompt": [99_999]},
    "temperature-list": {"temperature": [1]},
}

_EMBEDS: dict[str, dict[str, Any]] = {
    "string": {},
    "strings": {"input": ["river", "stone bridge", "Straße 東京 🙂"]},
    "tokens": {"input": [320, 321]},
    "token-lists": {"input": [[320], [321, 322]]},
    "floats": {"encoding_format": "float"},
    "base64": {"encoding_format": "base64"},
    "base64-list": {"encoding_format": "base64", "input": ["a", "b"]},
    "dimensions": {"dimensions": 16},
    "user": {"user": "ann", "odd": [1]},
    "empty": {"input": ""},
    "empty-list": {"input": []},
    "longer-than-a-batch": {"input": "a " * 100},
    "objects": {"input": [{"a": 1}]},
    "null": {"input": None},
    "number": {"input": 5},
    "encoding-unknown": {"encoding_format": "int8"},
    "stream": {"stream": True},
}

_FLAT = {"type": "function", **_WEATHER["function"]}
_RESPONSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "instructions": {"instructions": "Be brief."},
    "items": {"input": _user([{"type": "input_text", "text": "Straße 東京 🙂"}])},
    "developer": {"input": [{"role": "developer", "content": "Be brief."}, *_user("hi")]},
    "tools": {"tools": [_FLAT], "tool_choice": "auto", "parallel_tool_calls": False},
    "tool-history": {
        "input": [
            *_user("weather?"),
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Zürich"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        ]
    },
    "schema": {
        "text": {"format": {"type": "json_schema", "name": "x", "strict": True, "schema": _SCHEMA}},
        "max_output_tokens": 100,
    },
    "reasoning": {"reasoning": {"effort": "low"}},
    "not-stored": {"store": False, "metadata": {"a": "b"}, "include": []},
    "unknown-members": {"odd": {"input": [1]}, "user": "ann", "truncation": "auto"},
    "input-number": {"input": 5},
    "input-empty": {"input": []},
    "item-unknown": {"input": [{"type": "smell"}]},
    "temperature-string": {"temperature": "hot"},
}
_MESSAGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "system": {"system": "Be brief."},
    "system-parts": {"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
    "parts": {"messages": _user([{"type": "text", "text": "Straße 東京 🙂"}])},
    "tools": {"tools": [_TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    "tool-any": {"tools": [_TOOL], "tool_choice": {"type": "any"}},
    "tool-history": {
        "messages": [
            *_user("weather?"),
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {"a": 1.50}}],
            },
            *_user([{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]}]),
        ]
    },
    "stop": {"stop_sequences": [" under", "river"]},
    "sampling": {"top_k": 3, "top_p": 0.5},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "metadata": {"metadata": {"user_id": "ann"}, "service_tier": "auto", "odd": [1]},
    "no-maximum": {"max_tokens": None, "stop_sequences": [" "]},
    "messages-empty": {"messages": []},
    "role-unknown": {"messages": [{"role": "oracle", "content": "hi"}]},
    "part-unknown": {"messages": _user([{"type": "smell"}])},
    "temperature-string": {"temperature": "hot"},
}
_COUNTED = ("plain", "system", "parts", "tools", "tool-history", "messages-empty")

_CHAT = {"messages": _user("Say something."), "max_tokens": 6, "temperature": 0, "cache_prompt": False}
_TEXT = {"prompt": "Once", "max_tokens": 5, "temperature": 0, "cache_prompt": False}
_EMBED = {"input": "river"}
_RESPONSE = {"input": "Say something.", "max_output_tokens": 6, "temperature": 0, "cache_prompt": False}


def _compact(value: Any) -> bytes:
    """Write JSON as the gateway does, so that an engine's word on a line and column is the same too."""
    return json.dumps(value, separators=(",", ":")).encode()


def _json(path: str, base: dict[str, Any], name: str, changes: dict[str, Any], *facts: Any) -> Variant:
    model = {"model": "embedder" if path == EMBED else "tiny"}
    return Variant(name, path, _compact(model | base | changes), *facts)


def _chat_bytes(name: str, member: bytes, *facts: Any) -> Variant:
    """Make a chat with a member that Python's JSON would not write so."""
    return Variant(name, CHAT, _compact({"model": "tiny"} | _CHAT)[:-1] + b"," + member + b"}", *facts)


_RAW = (
    _chat_bytes("raw-number-large", b'"odd":123456789012345678901234567890'),
    _chat_bytes("raw-number-tiny", b'"odd":1e-400'),
    _chat_bytes("raw-number-minus-zero", b'"odd":[-0,-0.0,0e0,1E+2]'),
    _chat_bytes("raw-pair-escaped", b'"messages":[{"role":"user","content":"\\ud83d\\ude42 \\u00e9 \\/"}]'),
    _chat_bytes("raw-duplicate-member", b'"max_tokens":2,"max_tokens":3'),
    _chat_bytes("raw-name-escaped", b'"max_\\u0074okens":3'),
    _chat_bytes("raw-spaced", b' \n\t"max_tokens" : 3 \r\n '),
    _chat_bytes("raw-nul", b'"messages":[{"role":"user","content":"a\\u0000b"}]'),
    _chat_bytes("raw-latin-1", b'"odd":"caf\xe9"'),
)
_FAILING = ("image", "image-with-text", "audio", "role-missing", "grammar-and-schema", "tools-string",
            "tool-without-function")  # fmt: skip

EQUAL: tuple[Variant, ...] = (
    *(_json(CHAT, _CHAT, f"chat-{name}", changes) for name, changes in _CHATS.items() if name not in _FAILING),
    *(_json(CHAT, _CHAT, f"stream-{name}", {**_CHATS[name], "stream": True}) for name in _STREAMED),
    *(_json(CHAT, _CHAT, f"stream-{name}", {**changes, "stream": True}) for name, changes in _STREAM_OPTIONS.items()),
    *(_json(TEXT, _TEXT, f"text-{name}", changes) for name, changes in _TEXTS.items()),
    *(_json(TEXT, _TEXT, f"text-stream-{name}", {**_TEXTS[name], "stream": True})
      for name in ("plain", "strings", "logprobs", "two-choices", "unicode", "prompt-object")),
    _json(TEXT, _TEXT, "text-stream-usage", {"stream": True, "stream_options": {"include_usage": True}}),
    *(_json(EMBED, _EMBED, f"embed-{name}", changes) for name, changes in _EMBEDS.items()),
    *(_json(RESPONSE, _RESPONSE, f"response-{'stream-' * stream}{name}", {**changes, "stream": stream})
      for name, changes in _RESPONSES.items() for stream in (False, True)),
    *(_json(MESSAGE, _CHAT, f"message-{'stream-' * stream}{name}", {**changes, "stream": stream})
      for name, changes in _MESSAGES.items() for stream in (False, True)),
    *(_json(COUNT, {"messages": _user("Say something.")}, f"count-{name}", _MESSAGES[name]) for name in _COUNTED),
    *_RAW,
)  # fmt: skip
"""Those that the gateway passes as they are."""

FAILED: tuple[Variant, ...] = tuple(
    _json(CHAT, _CHAT, f"{'stream' if stream else 'chat'}-{name}", {**_CHATS[name], "stream": stream})
    for name in _FAILING
    for stream in (False, True)
)
"""Where llama.cpp says 500 to a mistake that is the caller's."""

_NAMES = "who is to answer, and what is metered, is read from it"
_COUNTS = "what the call may use is reckoned from it"
_STREAMS = "how the answer is relayed hangs on it"
_READING = "nothing is forwarded that was not read"
_WINDOW = "a context that is too small has one wording, whatever the engine"
_VALUE, _BODY, _LENGTH = "invalid_value", "invalid_body", "context_length_exceeded"
_HI = b'"model":"tiny","messages":[{"role":"user","content":"hi"}]'
_LONG = "a " * 4096

OURS: tuple[Variant, ...] = (
    Variant("model-missing", CHAT, b'{"messages":[{"role":"user","content":"hi"}]}', _NAMES, _VALUE, "model"),
    _json(CHAT, _CHAT, "model-number", {"model": 5}, _NAMES, _VALUE, "model"),
    _json(CHAT, _CHAT, "model-unknown", {"model": "nope"}, _NAMES, "model_not_found", "model"),
    Variant("messages-missing", CHAT, b'{"model":"tiny"}', _COUNTS, _VALUE, "messages"),
    Variant("prompt-missing", TEXT, b'{"model":"tiny"}', _COUNTS, _VALUE, "prompt"),
    Variant("input-missing", EMBED, b'{"model":"embedder"}', _COUNTS, _VALUE, "input"),
    *(_json(CHAT, _CHAT, f"max-tokens-{value}", {"max_tokens": value}, _COUNTS, _VALUE, "max_tokens")
      for value in (-1, "5", 1.5, 4.0, 10**8)),
    *(_json(CHAT, _CHAT, f"n-{value}", {"n": value}, _COUNTS, _VALUE, "n") for value in (0, "2", 129)),
    _json(TEXT, _TEXT, "best-of-0", {"best_of": 0}, _COUNTS, _VALUE, "best_of"),
    *(_json(CHAT, _CHAT, f"stream-{value}", {"stream": value}, _STREAMS, _VALUE, "stream") for value in ("yes", 1)),
    *(_json(CHAT, _CHAT, f"options-{name}", {"stream": True, "stream_options": is_}, _STREAMS, _VALUE, "stream_options")
      for name, is_ in {"string": "x", "usage-string": {"include_usage": "x"}, "large": {"x": "y" * 600}}.items()),
    Variant("not-json", CHAT, b"hello", _READING, _BODY),
    Variant("no-body", CHAT, b"", _READING, _BODY),
    Variant("a-list", CHAT, b"[{%b}]" % _HI, _READING, _BODY),
    Variant("trailing-comma", CHAT, b"{%b,}" % _HI, _READING, _BODY),
    Variant("cut", CHAT, b"{%b" % _HI, _READING, _BODY),
    _chat_bytes("not-a-number", b'"odd":NaN', _READING, _BODY),
    _chat_bytes("comment", b'/* odd */ "odd":1', _READING, _BODY),
    _chat_bytes("lone-surrogate", b'"messages":[{"role":"user","content":"a\\ud800b"}]', _READING, _BODY),
    _chat_bytes("control-character", b'"odd":"a\nb"', _READING, _BODY),
    _chat_bytes("very-deep", b'"odd":' + b"[" * 5000 + b"]" * 5000, _READING, _BODY),
    *(_json(CHAT, _CHAT, f"too-long-{stream}", {"messages": _user(_LONG), "stream": stream}, _WINDOW, _LENGTH)
      for stream in (False, True)),
    _json(TEXT, _TEXT, "too-long-text", {"prompt": _LONG}, _WINDOW, _LENGTH),
    _json(EMBED, _EMBED, "too-long-embedding", {"input": _LONG}, _WINDOW, _LENGTH),
)  # fmt: skip
"""Those that the gateway refuses by itself."""
