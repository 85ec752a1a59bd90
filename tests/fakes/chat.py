"""What all the engines' APIs read from a request, and the chat, text, responses and messages APIs they answer in.

Law: a word is a token, so that tests can count. The shapes are OpenAI's and Anthropic's; what an engine adds to them
is in its own module.
"""

import json
import time
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.fakes.engine import Trouble, Work

DONE = b"data: [DONE]\n\n"


class Reasoning(StrEnum):
    """Where thoughts are told: one of two members of a delta, or between tags in its text."""

    FIELD = "reasoning"
    CONTENT = "reasoning_content"
    TAGS = "think"


def prompt_tokens(body: dict[str, Any]) -> int:
    """Count the words of a request's messages, prompt, input or system text."""
    told = [body.get(name) for name in ("messages", "prompt", "input", "system", "instructions")]
    return max(1, sum(_words(one) for one in told))


def _words(value: Any) -> int:
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, list):
        return sum(_words(one) for one in value)
    if isinstance(value, dict):
        return _words(value.get("content")) + _words(value.get("text"))
    return 0


def asked_tokens(body: dict[str, Any]) -> int | None:
    """Return the number of output tokens that a request allows, or None."""
    told = (body.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"))
    return next((count for count in told if isinstance(count, int) and count >= 0), None)


def work_for(body: dict[str, Any], answer: int, *, reasoning: int = 0) -> Work:
    """Make the generation of `answer` tokens, or of fewer where the request allows no more."""
    allowed = asked_tokens(body)
    limit = answer if allowed is None else min(answer, allowed)
    finish = "length" if limit < answer else "stop"
    return Work(str(body.get("model")), prompt_tokens(body), limit, finish, min(reasoning, limit))


def word(number: int) -> str:
    """Return the text of a token."""
    return f"w{number} "


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    """Make one server-sent event."""
    head = b"" if name is None else b"event: %b\n" % name.encode()
    return head + b"data: %b\n\n" % json.dumps(data).encode()


def wants_usage(body: dict[str, Any]) -> bool:
    """Return whether a stream shall tell its usage."""
    return bool((body.get("stream_options") or {}).get("include_usage"))


@dataclass
class ChatShape:
    """`/v1/chat/completions` as vLLM tells it (vllm/entrypoints/openai/chat_completion/serving.py)."""

    work: Work
    usage: bool = False
    """Whether a stream ends with a chunk of usage."""
    form: Reasoning = Reasoning.FIELD

    def __post_init__(self) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def opening(self) -> bytes:
        return self.chunk({"role": "assistant", "content": ""})

    def token(self, number: int) -> bytes:
        thinking = number <= self.work.reasoning and self.form is not Reasoning.TAGS
        return self.chunk({self.form.value if thinking else "content": self.text(number)})

    def closing(self) -> bytes:
        usage = event(self.head() | {"choices": [], "usage": self.count()}) if self.usage else b""
        return self.chunk({}, self.work.finish) + usage + DONE

    def broken(self, trouble: Trouble) -> bytes:
        told = {"message": trouble.message, "type": trouble.kind, "param": None, "code": trouble.status}
        return event({"error": told}) + DONE

    def whole(self) -> dict[str, Any]:
        thoughts, content = self.texts()
        message = {"role": "assistant", "content": content, "tool_calls": []}
        if thoughts and self.form is Reasoning.TAGS:
            message["content"] = thoughts + content
        elif thoughts:
            message[self.form.value] = thoughts
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.work.finish}
        answer = self.head() | {"object": "chat.completion", "choices": [choice | self.extras()]}
        return answer | {"usage": self.count()}

    def head(self) -> dict[str, Any]:
        """Return what every chunk has."""
        return {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.work.model}

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        """Make one event."""
        choice = {"index": 0, "delta": self.delta(delta), "logprobs": None, "finish_reason": finish}
        return event(self.head() | {"choices": [choice | (self.extras() if finish else {})]})

    def delta(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return a delta, given what it tells."""
        return fields

    def extras(self) -> dict[str, Any]:
        """Return what the engine adds to a choice that ends."""
        return {"stop_reason": None}

    def text(self, number: int) -> str:
        """Return a token's text, with the tags where thoughts are in tags."""
        tagged = self.form is Reasoning.TAGS and self.work.reasoning
        before = "<think>" if tagged and number == 1 else ""
        after = "</think>" if tagged and number == self.work.reasoning else ""
        return before + word(number) + after

    def texts(self) -> tuple[str, str]:
        """Return all thoughts and all text."""
        told = [self.text(number) for number in range(1, self.work.generated + 1)]
        return "".join(told[: self.work.reasoning]), "".join(told[self.work.reasoning :])

    def count(self) -> dict[str, Any]:
        """Return the usage."""
        total = self.work.prompt + self.work.generated
        return {"prompt_tokens": self.work.prompt, "total_tokens": total, "completion_tokens": self.work.generated}


class TextShape(ChatShape):
    """`/v1/completions`."""

    def opening(self) -> bytes:
        return b""

    def token(self, number: int) -> bytes:
        return event(self.head() | {"choices": [self._choice(word(number), None)]})

    def closing(self) -> bytes:
        usage = event(self.head() | {"choices": [], "usage": self.count()}) if self.usage else b""
        return event(self.head() | {"choices": [self._choice("", self.work.finish)]}) + usage + DONE

    def whole(self) -> dict[str, Any]:
        words = "".join(word(number) for number in range(1, self.work.generated + 1))
        return self.head() | {"choices": [self._choice(words, self.work.finish)], "usage": self.count()}

    def head(self) -> dict[str, Any]:
        return super().head() | {"object": "text_completion"}

    def _choice(self, words: str, finish: str | None) -> dict[str, Any]:
        return {"index": 0, "text": words, "logprobs": None, "finish_reason": finish}
