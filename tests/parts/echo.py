"""An upstream that tells back what it was sent, byte for byte, inside answers that the OpenAI SDK reads.

Law: the member `echo` of every answer holds the request as the socket gave it; nothing is parsed on the way there.
"""

import base64
import json
from typing import Any

from openai import BaseModel

from tests.parts.http1 import Connection, Http1Server, Received

_USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}


class EchoServer(Http1Server):
    """Answers chat, completions and embeddings, plain and streamed, and lists one model."""

    def __init__(self, model: str = "echo") -> None:
        super().__init__()
        self.model = model

    async def handle(self, request: Received, connection: Connection) -> None:
        if request.method == "GET":
            known = request.path == "/v1/models"
            listed = {"object": "list", "data": [{"id": self.model, "object": "model", "created": 0, "owned_by": "-"}]}
            await connection.answer(200 if known else 404, json.dumps(listed if known else {}).encode())
            return
        echo = {
            "method": request.method,
            "path": request.path,
            "headers": request.headers,
            "body": base64.b64encode(request.body).decode(),
        }
        answer = {"id": "echo-1", "created": 0, "model": self.model, "usage": _USAGE, "echo": echo}
        asked = _parsed(request.body)
        if request.path.endswith("/embeddings"):
            vector = {"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}
            await connection.answer(200, json.dumps(answer | {"object": "list", "data": [vector]}).encode())
            return
        chat = request.path.endswith("/chat/completions")
        if asked.get("stream") is True:
            await connection.answer(200, _stream(answer, asked, chat=chat), "text/event-stream")
            return
        said = {"message": {"role": "assistant", "content": "echo"}} if chat else {"text": "echo"}
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None} | said
        kind = "chat.completion" if chat else "text_completion"
        await connection.answer(200, json.dumps(answer | {"object": kind, "choices": [choice]}).encode())


def echoed_body(answer: BaseModel) -> bytes:
    """Return the body that the upstream received, from an answer (or a stream's first chunk) of the OpenAI SDK."""
    return base64.b64decode(_echo(answer)["body"])


def echoed_headers(answer: BaseModel) -> dict[str, str]:
    """Return the headers that the upstream received, names in lower case."""
    return dict(_echo(answer)["headers"])


def _echo(answer: BaseModel) -> dict[str, Any]:
    return answer.model_extra["echo"]


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except ValueError:
        return {}
    return asked if isinstance(asked, dict) else {}


def _stream(answer: dict[str, Any], asked: dict[str, Any], *, chat: bool) -> bytes:
    """Write the events: one that says a word and holds the echo, one that ends, one with usage if asked."""
    kind = "chat.completion.chunk" if chat else "text_completion"
    bare = {name: value for name, value in answer.items() if name not in {"usage", "echo"}} | {"object": kind}
    word = {"delta": {"role": "assistant", "content": "echo"}} if chat else {"text": "echo"}
    end = {"delta": {}} if chat else {"text": ""}
    events = [
        bare | {"choices": [{"index": 0, "finish_reason": None} | word], "echo": answer["echo"]},
        bare | {"choices": [{"index": 0, "finish_reason": "stop"} | end]},
    ]
    if (asked.get("stream_options") or {}).get("include_usage"):
        events.append(bare | {"choices": [], "usage": answer["usage"]})
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"
