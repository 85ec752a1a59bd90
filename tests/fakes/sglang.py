"""An SGLang server, as of 0.5.23.

Law: what the frontend checks is a 400 with a status of its own; what the scheduler refuses comes as a generation that
ends at once, which a stream tells in its events, after a 200.
Sources: sglang/srt/entrypoints/http_server.py ("HS"), .../openai/serving_chat.py ("SC"), .../openai/serving_base.py
("SB"), sglang/srt/managers/tokenizer_manager.py ("TM"), .../scheduler.py, sglang/srt/observability/
metrics_collector.py.
"""

from http import HTTPStatus

from tests.fakes.apis import MessagesShape, ResponsesShape
from tests.fakes.chat import ChatShape, Reasoning, asked_tokens, event, prompt_tokens, wants_usage, work_for
from tests.fakes.engine import FakeEngine, Generate, Trouble, Work, text
from tests.fakes.mistral_vllm import MODEL, read, shape
from tests.parts.http1 import Received
from tests.parts.scripted import Pause, Status, Step, whole

ABORT_SECONDS = 2.0
"""TM `create_abort_task`: a stream whose caller left is aborted so much later."""

HEALTH_SECONDS = 1.0
"""HS `health_generate`: it looks for a sign of life once a second, the first time after a second."""

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "ultra", "max")
"""sglang/srt/entrypoints/openai/protocol.py: ReasoningEffortTier."""

TEMPLATE_EFFORTS = ("none", "high")
"""What this model's chat template takes (docs.sglang.io, cookbook, Mistral-Medium-3.5)."""


class SglangShape(ChatShape):
    """Chat: thoughts are `reasoning_content`, which every delta has (.../openai/sse_utils.py)."""

    def delta(self, fields):
        return {"reasoning_content": None} | fields

    def extras(self):
        return {"matched_stop": None if self.work.finish == "length" else 2}

    def broken(self, trouble):
        return event({"error": _error(trouble.status, trouble.message, trouble.kind)}) + b"data: [DONE]\n\n"

    def count(self):
        return super().count() | {"prompt_tokens_details": None, "reasoning_tokens": self.work.reasoning}


class SglangServer(FakeEngine):
    """One server.

    `max_queued`: how many may wait (`--max-queued-requests`). `metrics_prefix`: `sglang:`, or `sglang_` as some builds
    have it; None without `--enable-metrics`. `key`: `--api-key`. `state`: `up`, `starting` or `unhealthy`.
    """

    early_head = False  # SC `_handle_streaming_request` waits for the first event

    def __init__(
        self,
        model: str = MODEL,
        *,
        max_queued: int | None = None,
        metrics_prefix: str | None = "sglang:",
        key: str | None = None,
        **engine,
    ) -> None:
        super().__init__(model, **engine)
        self.max_queued, self.metrics_prefix, self.key = max_queued, metrics_prefix, key
        self.state = "up"
        self.reasoning = 0
        self.health_generations = 0
        """Generations of one token that looking after the health has cost."""

    def lingering(self, work: Work) -> float | None:
        return ABORT_SECONDS * self.time_scale

    def failed(self, trouble: Trouble) -> list[Step]:
        # TM `_handle_abort_finish_reason` raises an HTTPException, whose type SB makes the number's text.
        return whole(trouble.status, _error(trouble.status, trouble.message, str(trouble.status)))

    def page(self, request: Received) -> list[Step]:
        path = request.path.partition("?")[0]
        if path in ("/health", "/health_generate"):
            return self._health()
        if path == "/metrics":
            return self._metrics()
        if self._denied(request):
            return whole(401, {"error": "Unauthorized"})
        pages = {
            "/ready": lambda: [Status(200 if self.state == "up" else 503, {"content-length": "0"})],
            "/get_model_info": self._model_info,
            "/model_info": self._model_info,
            "/get_server_info": self._server_info,
            "/server_info": self._server_info,
            "/v1/models": self._models,
            "/v1/loads": lambda: self._loads("format=prometheus" in request.path),
        }
        return pages[path]() if path in pages else whole(404, {"detail": "Not Found"})

    def script(self, request: Received) -> list[Step]:
        if self._denied(request):
            return whole(401, {"error": "Unauthorized"})  # sglang/srt/utils/auth.py
        body = read(request.body)
        if body is None:
            return _bad("1 validation error: JSON decode error", "Bad Request")
        if request.path in ("/tokenize", "/v1/tokenize"):
            count = prompt_tokens(body)
            return whole(200, {"tokens": list(range(count)), "count": count, "max_model_len": self.context})
        served = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
        if request.path not in served:
            return whole(404, {"detail": "Not Found"})
        refused = self._refusal(body)
        return refused or self._generate_for(request.path, body)

    def _generate_for(self, path: str, body: dict) -> list[Step]:
        # The model's name is not looked at: it is told back (SC `_generate_chat_stream`).
        work = work_for(body, self.answer, reasoning=self.reasoning)
        if path == "/v1/chat/completions":
            told = SglangShape(work, wants_usage(body), Reasoning.CONTENT)
        elif path == "/v1/responses":
            told = ResponsesShape(work)
        elif path == "/v1/messages":
            told = MessagesShape(work)
        else:
            told = shape(path, work, body)
        stream = bool(body.get("stream"))
        if self.max_queued is not None and self.slots is not None:
            full = self.unfinished >= self.slots + self.max_queued
            if full:  # scheduler.py `_abort_on_queued_limit`
                kind = HTTPStatus.SERVICE_UNAVAILABLE.name
                self.refuse(work, Trouble(503, "The request queue is full.", kind))
        return [Generate(self, work, told, stream)]

    def _refusal(self, body: dict) -> list[Step] | None:
        effort = body.get("reasoning_effort")
        if effort is not None and effort not in EFFORTS:
            words = f"Input should be {', '.join(repr(one) for one in EFFORTS[:-1])} or {EFFORTS[-1]!r}"
            return _bad(f"1 validation error: {words}", "Bad Request")  # HS: RequestValidationError is a 400
        if effort not in (None, *TEMPLATE_EFFORTS):
            # The model's template raises; SC makes that a ValueError (sglang PR 36746). The words are a guess.
            return _bad(f"Unsupported reasoning_effort: {effort}", "BadRequest")
        prompt, output = prompt_tokens(body), asked_tokens(body)
        kind = "BadRequestError" if body.get("stream") else "BadRequest"  # SC catches the one, SB the other
        if prompt >= self.context:  # TM `_validate_one_request`
            words = f"The input ({prompt} tokens) is longer than the model's context length ({self.context} tokens)."
            return _bad(words, kind)
        if output is not None and prompt + output > self.context:
            return _bad(
                f"Requested token count exceeds the model's maximum context length of {self.context} tokens. You "
                f"requested a total of {prompt + output} tokens: {prompt} tokens from the input messages and {output} "
                "tokens for the completion. Please reduce the number of tokens in the input messages or the completion "
                "to fit within the limit.",
                kind,
            )
        return None

    def _denied(self, request: Received) -> bool:
        return self.key is not None and request.header("authorization") != f"Bearer {self.key}"

    def _health(self) -> list[Step]:
        if self.state == "starting":
            return [Status(503, {"content-length": "0"})]
        self.health_generations += 1
        code = 200 if self.state == "up" else 503
        return [Pause(HEALTH_SECONDS * self.time_scale), Status(code, {"content-length": "0"})]

    def _metrics(self) -> list[Step]:
        if self.metrics_prefix is None:
            return whole(404, {"detail": "Not Found"})
        gauges = {
            "num_running_reqs": self.running,
            "num_queue_reqs": self.waiting,
            "token_usage": min(1.0, self.unfinished / 100),
            "gen_throughput": 0.0,
            "cache_hit_rate": 0.0,
        }
        labels = f'{{engine_type="unified",model_name="{self.model}",pp_rank="0",tp_rank="0"}}'
        lines = []
        for name, value in gauges.items():
            full = self.metrics_prefix + name
            lines += [f"# TYPE {full} gauge", f"{full}{labels} {float(value)}"]
        for name, value in {"prompt_tokens_total": self.prompted, "generation_tokens_total": self.generated}.items():
            full = self.metrics_prefix + name
            counted = labels.replace("}", ',is_streaming="True"}')
            lines += [f"# TYPE {full} counter", f"{full}{counted} {float(value)}"]
        head = {"content-type": "text/plain; version=0.0.4; charset=utf-8"}
        return text(200, "\n".join(lines) + "\n", **head)

    def _model_info(self) -> list[Step]:
        return whole(
            200,
            {
                "model_path": self.model,
                "served_model_name": self.model,
                "tokenizer_path": self.model,
                "is_generation": True,
                "preferred_sampling_params": None,
                "weight_version": "default",
                "reasoning_parser": "mistral",
                "tool_call_parser": "mistral",
                "has_image_understanding": True,
                "has_audio_understanding": False,
                "model_type": "mistral3",
            },
        )

    def _server_info(self) -> list[Step]:
        room = {"max_total_num_tokens": self.context * 4, "max_req_input_len": self.context - 6}
        told = {"context_length": self.context, "max_running_requests": self.slots or 256}
        return whole(200, room | told | {"internal_states": [{"last_gen_throughput": 0.0}], "version": "0.5.23"})

    def _models(self) -> list[Step]:
        card = {"id": self.model, "object": "model", "created": 1760745801, "owned_by": "sglang", "root": self.model}
        return whole(200, {"object": "list", "data": [card | {"parent": None, "max_model_len": self.context}]})

    def _loads(self, prometheus: bool) -> list[Step]:
        load = {"dp_rank": 0, "num_running_reqs": self.running, "num_waiting_reqs": self.waiting}
        if not prometheus:
            return whole(200, {"version": "0.5.23", "dp_rank_count": 1, "loads": [load]})
        # v1_loads.py: this page has the prefix `sglang_` in the same build whose /metrics has `sglang:`.
        names = ["num_running_reqs", "num_waiting_reqs"]
        lines = [f'# TYPE sglang_{name} gauge\nsglang_{name}{{dp_rank="0"}} {load[name]}\n' for name in names]
        return text(200, "".join(lines), **{"content-type": "text/plain; version=0.0.4; charset=utf-8"})


def _error(status: int, message: str, kind: str) -> dict:
    return {"object": "error", "message": message, "type": kind, "param": None, "code": status}


def _bad(message: str, kind: str) -> list[Step]:
    return whole(400, _error(400, message, kind))
