"""What mistral-common makes of a call; it templates Mistral's models in vLLM and in what is built on it.

It has no chat template that a caller could replace or fill (vllm/tokenizers/mistral.py, validate_request_params: 400),
and its models know two efforts. The others are mapped as Mistral's own agent does it (mistral-vibe 1115). The Messages
API has no `none` (vllm/entrypoints/anthropic/protocol.py): there it is said by leaving the effort out.
"""

from msgspec import Struct

from policies.domain import API

DROPS = frozenset({"chat_template", "chat_template_kwargs"})


class Effort(Struct, frozen=True):
    """Where an API says the effort: a member, or a `key` inside it; `words`: the efforts by what they become."""

    member: str
    key: str | None
    words: dict[str, str | None]


_UP: dict[str, str | None] = {"medium": "high", "xhigh": "high", "max": "high"}
_WORDS = _UP | {"minimal": "none", "low": "none"}
_OF_MESSAGES = Effort("output_config", "effort", _UP | {"low": None})

EFFORTS: dict[API, Effort] = {
    "chat": Effort("reasoning_effort", None, _WORDS),
    "responses": Effort("reasoning", "effort", _WORDS),
    "messages": _OF_MESSAGES,
    "count_tokens": _OF_MESSAGES,
}
