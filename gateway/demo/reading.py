"""What a caller asked of a simulated backend, read from a body, or refused as vLLM would.

Law: everything that can be wrong with a body is said here, before anything is generated. A prompt counts a token for
every four bytes, rounded up, and never less than one.
"""

import json
from typing import Any, NamedTuple

JSON = dict[str, Any]


class Refused(Exception):  # noqa: N818 - an answer, not a programming error
    """A request that is answered with an error in vLLM's shape."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class Ask(NamedTuple):
    """One generation: its prompt, how many choices of at most `limit` tokens, and how to tell them."""

    prompt: str
    prompt_tokens: int
    choices: int
    limit: int
    endless: bool
    stream: bool
    include_usage: bool


def body_of(raw: bytes, model: str) -> JSON:
    """Return the body as an object that names `model`; raises `Refused`."""
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise _bad(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise _bad("the body is not a JSON object")
    if body.get("model") != model:
        raise Refused(404, "NotFoundError", f"The model `{body.get('model')}` does not exist.", "model")
    return body


def chat(body: JSON, window: int) -> Ask:
    """Read a chat completion for a context of `window` tokens; raises `Refused`."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise _bad("messages must be a list of at least one object", "messages")
    prompt = "\n".join(_text(message.get("content")) for message in messages)
    limit_name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    return _ask(body, [prompt], _whole(body, limit_name, window), window)


def completion(body: JSON, window: int) -> Ask:
    """Read a text completion for a context of `window` tokens; raises `Refused`."""
    return _ask(body, texts_of(body, "prompt"), _whole(body, "max_tokens", 16), window)


def texts_of(body: JSON, name: str) -> list[str]:
    """Return a member that is text or token ids, or a list of such, as a list of texts; raises `Refused`."""
    value = body.get(name)
    if isinstance(value, list) and value and all(isinstance(each, str | list) for each in value):
        return [each if isinstance(each, str) else _ids(each, name) for each in value]
    if isinstance(value, list) and value:
        return [_ids(value, name)]
    if isinstance(value, str):
        return [value]
    raise _bad(f"{name} must be text, token ids, or a list of them", name)


def tokens_in(text: str) -> int:
    """Return how many tokens `text` counts as."""
    return max(1, -(-len(text.encode()) // 4))


def _ask(body: JSON, prompts: list[str], limit: int, window: int) -> Ask:
    prompt_tokens = sum(map(tokens_in, prompts))
    if prompt_tokens >= window:
        told = f"This model's maximum context length is {window} tokens. However, your request has {prompt_tokens}"
        raise _bad(f"{told} input tokens. Please reduce the length of the input messages.")
    options = body.get("stream_options") or {}
    return Ask(
        prompt="\n".join(prompts),
        prompt_tokens=prompt_tokens,
        choices=len(prompts) * _whole(body, "n", 1),
        limit=min(limit, window - prompt_tokens),
        endless=body.get("ignore_eos") is True,
        stream=body.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _whole(body: JSON, name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _bad(f"{name} must be a whole number of at least 1, not {json.dumps(value)}", name)
    return value


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _ids(value: list[Any], name: str) -> str:
    if not all(isinstance(each, int) for each in value):
        raise _bad(f"{name} must be text, token ids, or a list of them", name)
    return " ".join(f"{each:03}" for each in value)


def _bad(message: str, param: str | None = None) -> Refused:
    return Refused(400, "BadRequestError", message, param)
