"""An LM Studio server: several downloaded models, loaded when first asked for.

Law: what goes wrong in a stream is told after a 200; so is a path that is not there.
Sources: github.com/lmstudio-ai/docs, 1_developer: `2_rest/list.md` (/api/v1/models), `2_rest/endpoints.md` (/api/v0),
`api-changelog.md` (versions), `3_openai-compat/`, `4_anthropic-compat/` (/v1/responses since 0.3.29, /v1/messages since
0.4.1); 0_app/5_advanced/parallel-requests.md (4 at once); issues of lmstudio-ai/lmstudio-bug-tracker ("BT").
"""

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.fakes.apis import MessagesShape, ResponsesShape
from tests.fakes.chat import ChatShape, Reasoning, TextShape, event, wants_usage, work_for
from tests.fakes.engine import EVENTS, FakeEngine, Generate, Shape, Trouble, Work, play
from tests.fakes.mistral_vllm import read
from tests.parts.http1 import Received
from tests.parts.scripted import Bytes, Call, Status, Step, whole

PARALLEL = 4
"""Predictions at once, by default (parallel-requests.md)."""

LOAD_SECONDS = 60.0
"""How long a large model takes to load (a guess: minutes for 128 billion weights)."""


class Overflow(StrEnum):
    """How a version tells that a prompt does not fit."""

    EVENT = "event"
    """BT#2322 (0.4.21): 200 and an error event."""
    EMPTY = "empty"
    """BT#2339 (GGUF): 200 and no text, with usage."""
    STATUS = "status"
    """BT#237, BT#546 (before 0.3.18): 400."""


@dataclass
class Download:
    """A downloaded model. `loaded`: the window it is loaded with, in tokens; None while it is not."""

    name: str
    loaded: int | None = None
    largest: int = 262144


class LmStudioShape(ChatShape):
    """Chat: the role is in every delta, and there is no chunk before the first token (lmstudio-js#320)."""

    def opening(self) -> bytes:
        return b""

    def delta(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {"role": "assistant"} | fields if fields else {}

    def head(self) -> dict[str, Any]:
        return super().head() | {"system_fingerprint": self.work.model}

    def extras(self) -> dict[str, Any]:
        return {}

    def whole(self) -> dict[str, Any]:
        return super().whole() | {"stats": {}}  # the OpenAI API's is empty; /api/v0 fills it


class LmStudioServer(FakeEngine):
    """One application with its server on.

    `downloads`: other models than `model`. `jit`: whether a model is loaded when it is asked for. `overflow`: how the
    version tells it. `reasoning`: tokens of thoughts. `form`: their member, `reasoning` (gpt-oss) or
    `reasoning_content` (the setting of 0.3.9). `messages`: whether the version has /v1/messages.
    """

    def __init__(
        self,
        model: str = "mistralai/mistral-medium-3.5",
        *,
        downloads: tuple[str, ...] = (),
        jit: bool = True,
        loaded: bool = True,
        overflow: Overflow = Overflow.EVENT,
        messages: bool = True,
        **engine,
    ) -> None:
        super().__init__(model, **{"slots": PARALLEL} | engine)
        self.jit, self.overflow, self.messages = jit, overflow, messages
        self.downloads = {name: Download(name) for name in (model, *downloads)}
        self.downloads[model].loaded = self.context if loaded else None
        self.reasoning, self.form = 0, Reasoning.CONTENT
        self.loads: list[str] = []
        """The models that were loaded because they were asked for, in order."""
        self._loading = asyncio.Lock()

    def failed(self, trouble: Trouble) -> list[Step]:
        """Answer what failed, in LM Studio's own words (a guess)."""
        return _error(trouble.status, trouble.message, None)

    def page(self, request: Received) -> list[Step]:
        path = request.path.partition("?")[0]
        models = self.downloads.values()
        if path == "/v1/models":
            # With JIT loading all downloads are listed, else what is loaded (3_openai-compat/models.md).
            shown = [one for one in models if self.jit or one.loaded is not None]
            cards = [{"id": one.name, "object": "model", "owned_by": "organization_owner"} for one in shown]
            return whole(200, {"data": cards, "object": "list"})
        if path == "/api/v0/models":
            return whole(200, {"object": "list", "data": [_card_v0(one) for one in models]})
        if path.startswith("/api/v0/models/") and path.removeprefix("/api/v0/models/") in self.downloads:
            return whole(200, _card_v0(self.downloads[path.removeprefix("/api/v0/models/")]))
        if path == "/api/v1/models":
            return whole(200, {"models": [self._card_v1(one) for one in models]})
        return unexpected(request)

    def script(self, request: Received) -> list[Step]:
        served = ["/v1/chat/completions", "/v1/completions", "/v1/responses"] + ["/v1/messages"] * self.messages
        if request.path not in served:
            return unexpected(request)
        body = read(request.body)
        if body is None:
            return _error(400, "Invalid JSON in request body", None)
        loaded = [one for one in self.downloads.values() if one.loaded is not None]
        wanted = self.downloads.get(str(body.get("model")))
        if wanted is None and len(loaded) == 1:
            wanted = loaded[0]  # BT#619: the name is not looked at where one model is loaded
        if wanted is None and self.jit:
            names = "\n".join(self.downloads)
            words = f'Model "{body.get("model")}" not found. Please specify a valid model.\n\nYour models:\n\n{names}\n'
            return _error(404, words, "model_not_found")  # letta-ai/letta#1876
        if wanted is None or (wanted.loaded is None and not self.jit):
            words = "No models loaded. Please load a model in the developer page or use the 'lms load' command."
            return _error(400, words, None)  # BT#1730; 404 with a code in 0.3.5
        return [Predict(self, wanted, request.path, body)]

    async def load(self, download: Download) -> None:
        """Load a model, and unload the one that was loaded like this before (ttl-and-auto-evict.md)."""
        async with self._loading:
            if download.loaded is None:
                await asyncio.sleep(LOAD_SECONDS * self.time_scale)
                for name in self.loads[-1:]:
                    self.downloads[name].loaded = None
                download.loaded = self.context
                self.loads.append(download.name)

    def shape(self, path: str, work: Work, body: dict[str, Any]) -> Shape:
        """Return how the API at this path tells of a generation."""
        if path == "/v1/responses":
            return ResponsesShape(work)
        if path == "/v1/messages":
            return MessagesShape(work)
        kind = TextShape if path == "/v1/completions" else LmStudioShape
        return kind(work, wants_usage(body), self.form)

    def _card_v1(self, download: Download) -> dict[str, Any]:
        config = {"context_length": download.loaded, "parallel": self.slots, "flash_attention": True}
        instances = [] if download.loaded is None else [{"id": download.name, "config": config}]
        return {
            "type": "llm",
            "publisher": download.name.partition("/")[0],
            "key": download.name,
            "display_name": download.name.rpartition("/")[2],
            "architecture": "mistral3",
            "quantization": {"name": "Q4_K_M", "bits_per_weight": 4},
            "size_bytes": 77_000_000_000,
            "params_string": "128B",
            "loaded_instances": instances,
            "max_context_length": download.largest,
            "format": "gguf",
            "capabilities": {"vision": True, "trained_for_tool_use": True},
            "description": None,
        }


@dataclass(frozen=True)
class Predict(Step):
    """Load the model where it is not loaded, see whether the prompt fits, generate."""

    server: LmStudioServer
    download: Download
    path: str
    body: dict[str, Any]

    async def play(self, call: Call) -> None:
        server, stream = self.server, bool(self.body.get("stream"))
        if self.download.loaded is None:
            await server.load(self.download)
        work = work_for(self.body | {"model": self.download.name}, server.answer, reasoning=server.reasoning)
        room = self.download.loaded or server.context
        if work.prompt <= room:
            shape = server.shape(self.path, work, self.body)
            await Generate(server, work, shape, stream).play(call)
        elif server.overflow is Overflow.STATUS:
            await play(call, _error(400, _too_long_once(work.prompt, room), None))
        elif server.overflow is Overflow.EMPTY:
            work.limit = 0
            await Generate(server, work, server.shape(self.path, work, self.body), stream).play(call)
        else:
            words = (
                f"Input does not fit in context length. The input has {work.prompt} tokens, but the context length "
                f"only supports {room} tokens."
            )
            told = {"error": {"message": words}, "message": words}
            # The issue shows the stream; that a plain answer is a 400 of the same words is a guess.
            steps = [Status(200, EVENTS), Bytes(event(told, "error"))] if stream else whole(400, told)
            await play(call, steps)


def unexpected(request: Received) -> list[Step]:
    """Script the 200 to a path that is not there (BT#618, BT#1323, and still of 0.4.17 in BT#2085)."""
    return whole(200, {"error": f"Unexpected endpoint or method. ({request.method} {request.path})"})


def _card_v0(download: Download) -> dict[str, Any]:
    card = {"id": download.name, "object": "model", "type": "vlm", "publisher": download.name.partition("/")[0]}
    kind = {"arch": "mistral3", "compatibility_type": "gguf", "quantization": "Q4_K_M"}
    if download.loaded is None:
        return card | kind | {"state": "not-loaded", "max_context_length": download.largest}
    state = {"state": "loaded", "max_context_length": download.largest, "loaded_context_length": download.loaded}
    return card | kind | state


def _too_long_once(prompt: int, room: int) -> str:
    return (
        f"Trying to keep the first {prompt} tokens when context the overflows. However, the model is loaded with "
        f"context length of only {room} tokens, which is not enough. Try to load the model with a larger context "
        "length, or provide a shorter input"
    )


def _error(status: int, message: str, code: str | None) -> list[Step]:
    told = {"message": message, "type": "invalid_request_error", "param": "model" if code else None, "code": code}
    return whole(status, {"error": told})
