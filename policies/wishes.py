"""What the members of a body wish for, and which of them a deployment's engine would not heed.

Law: a member that says what holds anyway is no wish. Values are compared as written, without their spaces.
"""

from msgspec import Raw

from policies.dialects import Dialect
from policies.domain import InferenceRequest

LONGEST = 64
"""Bytes beyond which a value is no default."""

_DEFAULTS: dict[str, frozenset[bytes]] = {
    "background": frozenset({b"false"}),
    "best_of": frozenset({b"1"}),
    "echo": frozenset({b"false"}),
    "functions": frozenset({b"[]"}),
    "include": frozenset({b"[]"}),
    "logit_bias": frozenset({b"{}"}),
    "logprobs": frozenset({b"false"}),
    "metadata": frozenset({b"{}"}),
    "modalities": frozenset({b'["text"]'}),
    "n": frozenset({b"1"}),
    "parallel_tool_calls": frozenset({b"true"}),
    "presence_penalty": frozenset({b"0", b"0.0"}),
    "priority": frozenset({b"0"}),
    "reasoning": frozenset({b"{}"}),
    "repetition_penalty": frozenset({b"1", b"1.0"}),
    "response_format": frozenset({b'{"type":"text"}'}),
    "service_tier": frozenset({b'"auto"', b'"default"'}),
    "store": frozenset({b"false"}),
    "text": frozenset({b"{}", b'{"format":{"type":"text"}}'}),
    "tool_choice": frozenset({b'"auto"'}),
    "top_k": frozenset({b"-1", b"0"}),
    "min_p": frozenset({b"0", b"0.0"}),
    "top_logprobs": frozenset({b"0"}),
    "truncation": frozenset({b'"disabled"'}),
}
"""What each of these is when a caller leaves it out: platform.openai.com/docs/api-reference; vLLM's own members,
vllm/entrypoints/openai/chat_completion/protocol.py."""


def wished(name: str, value: Raw) -> bool:
    """Say whether a member asks for anything that its absence would not."""
    said = bytes(value) if len(memoryview(value)) <= LONGEST else b""
    return said != b"null" and said.translate(None, b" \t\r\n") not in _DEFAULTS.get(name, ())


def slighted(request: InferenceRequest, dialect: Dialect) -> list[str]:
    """Return the members whose wish an engine would not heed though it changes the answer, in the body's order."""
    names = dialect.slights.get(request.api)
    if names is None or names.isdisjoint(request.members):
        return []
    return [name for name, value in request.members.items() if name in names and wished(name, value)]
