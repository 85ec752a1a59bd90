"""The bodies that a vLLM server gives, as plain JSON values, for the two generating APIs.

Law: shapes only; nothing here knows time, tokens' text or sockets. A stream is: the opening chunks, a chunk a token
and choice, the closing chunks, and a usage chunk with no choices where the caller asked for it.
"""

from typing import Any, Literal, NamedTuple

JSON = dict[str, Any]


class Head(NamedTuple):
    """What every body of one answer has in common."""

    id: str
    created: int
    model: str


class Tokens(NamedTuple):
    """What one answer has used."""

    prompt: int
    completion: int

    def json(self) -> JSON:
        """Return the `usage` member."""
        return {
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.completion,
            "completion_tokens": self.completion,
            "prompt_tokens_details": None,
        }


class Chat:
    """`/v1/chat/completions`."""

    prefix: Literal["chatcmpl", "cmpl"] = "chatcmpl"

    def whole(self, head: Head, texts: list[str], reason: str, tokens: Tokens) -> JSON:
        """Return a plain answer, one choice a text."""
        choices: list[JSON] = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None, "tool_calls": []},
                "logprobs": None,
                "finish_reason": reason,
            }
            for index, text in enumerate(texts)
        ]
        return _body(head, "chat.completion", choices, tokens)

    def opening(self, head: Head, choices: int) -> list[JSON]:
        """Return the role chunks."""
        return [self._chunk(head, index, {"role": "assistant", "content": ""}, None) for index in range(choices)]

    def token(self, head: Head, index: int, piece: str) -> JSON:
        """Return the chunk of one token of one choice."""
        return self._chunk(head, index, {"content": piece}, None)

    def closing(self, head: Head, choices: int, reason: str) -> list[JSON]:
        """Return the chunks that say why each choice ended."""
        return [self._chunk(head, index, {"content": ""}, reason) for index in range(choices)]

    def usage(self, head: Head, tokens: Tokens) -> JSON:
        """Return the usage chunk."""
        return _body(head, "chat.completion.chunk", [], tokens)

    @staticmethod
    def _chunk(head: Head, index: int, delta: JSON, reason: str | None) -> JSON:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _body(head, "chat.completion.chunk", [choice], None)


class Completions:
    """`/v1/completions`."""

    prefix: Literal["chatcmpl", "cmpl"] = "cmpl"

    def whole(self, head: Head, texts: list[str], reason: str, tokens: Tokens) -> JSON:
        """Return a plain answer, one choice a text."""
        choices = [self._choice(index, text, reason) for index, text in enumerate(texts)]
        return _body(head, "text_completion", choices, tokens)

    def opening(self, head: Head, choices: int) -> list[JSON]:  # noqa: ARG002 - the same signature as Chat
        """Return nothing: this API has no roles."""
        return []

    def token(self, head: Head, index: int, piece: str) -> JSON:
        """Return the chunk of one token of one choice."""
        return _body(head, "text_completion", [self._choice(index, piece, None)], None)

    def closing(self, head: Head, choices: int, reason: str) -> list[JSON]:
        """Return the chunks that say why each choice ended."""
        return [_body(head, "text_completion", [self._choice(index, "", reason)], None) for index in range(choices)]

    def usage(self, head: Head, tokens: Tokens) -> JSON:
        """Return the usage chunk."""
        return _body(head, "text_completion", [], tokens)

    @staticmethod
    def _choice(index: int, text: str, reason: str | None) -> JSON:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason, "stop_reason": None}


def _body(head: Head, kind: str, choices: list[JSON], tokens: Tokens | None) -> JSON:
    body = {"id": head.id, "object": kind, "created": head.created, "model": head.model, "choices": choices}
    return body if tokens is None else {**body, "usage": tokens.json()}
