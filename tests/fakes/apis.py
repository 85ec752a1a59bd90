"""OpenAI's responses and Anthropic's messages, as engines serve them beside chat.

Law: the events are those of the two companies' API references, in their order; no engine's additions.
"""

import time
import uuid
from dataclasses import dataclass
from typing import Any

from tests.fakes.chat import event, word
from tests.fakes.engine import Trouble, Work


@dataclass
class ResponsesShape:
    """`/v1/responses`: one message of one part of text."""

    work: Work

    def __post_init__(self) -> None:
        self.id = f"resp_{uuid.uuid4().hex}"
        self.item = f"msg_{uuid.uuid4().hex}"
        self.created = int(time.time())
        self._sequence = 0

    def opening(self) -> bytes:
        started = self._response("in_progress", [])
        return (
            self._event("response.created", response=started)
            + self._event("response.in_progress", response=started)
            + self._event("response.output_item.added", output_index=0, item=self._message("in_progress", []))
            + self._part_event("response.content_part.added", part=self._part(""))
        )

    def token(self, number: int) -> bytes:
        return self._part_event("response.output_text.delta", delta=word(number), logprobs=[])

    def closing(self) -> bytes:
        words, whole = self._text(), self.whole()
        return (
            self._part_event("response.output_text.done", text=words, logprobs=[])
            + self._part_event("response.content_part.done", part=self._part(words))
            + self._event("response.output_item.done", output_index=0, item=whole["output"][0])
            + self._event(f"response.{whole['status']}", response=whole)
        )

    def broken(self, trouble: Trouble) -> bytes:
        error = {"code": "server_error", "message": trouble.message}
        return self._event("response.failed", response=self._response("failed", []) | {"error": error})

    def whole(self) -> dict[str, Any]:
        cut = self.work.finish == "length"
        status = "incomplete" if cut else "completed"
        usage = {
            "input_tokens": self.work.prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self.work.generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.work.prompt + self.work.generated,
        }
        why = {"reason": "max_output_tokens"} if cut else None
        output = [self._message(status, [self._part(self._text())])]
        return self._response(status, output) | {"usage": usage, "incomplete_details": why}

    def _response(self, status: str, output: list[Any]) -> dict[str, Any]:
        response = {"id": self.id, "object": "response", "created_at": self.created, "status": status}
        rest = {"error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "usage": None}
        tools = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "temperature": 1.0, "top_p": 1.0}
        return response | {"model": self.work.model, "output": output} | rest | tools

    def _message(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {"id": self.item, "type": "message", "status": status, "role": "assistant", "content": content}

    def _part(self, words: str) -> dict[str, Any]:
        return {"type": "output_text", "text": words, "annotations": [], "logprobs": []}

    def _text(self) -> str:
        return "".join(word(number) for number in range(1, self.work.generated + 1))

    def _part_event(self, name: str, **fields: Any) -> bytes:
        return self._event(name, item_id=self.item, output_index=0, content_index=0, **fields)

    def _event(self, name: str, **fields: Any) -> bytes:
        self._sequence += 1
        return event({"type": name, "sequence_number": self._sequence - 1} | fields, name)


@dataclass
class MessagesShape:
    """`/v1/messages`: one block of text."""

    work: Work

    def __post_init__(self) -> None:
        self.id = f"msg_{uuid.uuid4().hex}"

    def opening(self) -> bytes:
        started = self._message([], None, 0)
        block = {"type": "text", "text": ""}
        return self._event("message_start", message=started) + self._event(
            "content_block_start", index=0, content_block=block
        )

    def token(self, number: int) -> bytes:
        return self._event("content_block_delta", index=0, delta={"type": "text_delta", "text": word(number)})

    def closing(self) -> bytes:
        end = {"stop_reason": self._reason(), "stop_sequence": None}
        return (
            self._event("content_block_stop", index=0)
            + self._event("message_delta", delta=end, usage={"output_tokens": self.work.generated})
            + self._event("message_stop")
        )

    def broken(self, trouble: Trouble) -> bytes:
        kind = "overloaded_error" if trouble.status == 503 else "api_error"
        return self._event("error", error={"type": kind, "message": trouble.message})

    def whole(self) -> dict[str, Any]:
        words = "".join(word(number) for number in range(1, self.work.generated + 1))
        return self._message([{"type": "text", "text": words}], self._reason(), self.work.generated)

    def _reason(self) -> str:
        return "max_tokens" if self.work.finish == "length" else "end_turn"

    def _message(self, content: list[Any], reason: str | None, output: int) -> dict[str, Any]:
        message = {"id": self.id, "type": "message", "role": "assistant", "model": self.work.model, "content": content}
        usage = {"input_tokens": self.work.prompt, "output_tokens": output}
        return message | {"stop_reason": reason, "stop_sequence": None, "usage": usage}

    def _event(self, name: str, **fields: Any) -> bytes:
        return event({"type": name} | fields, name)
