"""What vLLM does with a Mistral model: what it refuses, its errors, its metrics.

Law: the words are vLLM's, so that whoever reads errors by their words is tested against them.
"""

import json
from typing import Any

from tests.fakes.apis import MessagesShape, ResponsesShape
from tests.fakes.chat import ChatShape, Reasoning, TextShape, asked_tokens, prompt_tokens, wants_usage
from tests.fakes.engine import FakeEngine, Shape, Work
from tests.parts.scripted import Step, whole

MODEL = "mistralai/mistral-medium-3.5-128b"
EFFORTS = ("none", "high")


def error(status: int, message: str, kind: str, param: str | None = None) -> list[Step]:
    """Script vLLM's error of today (vllm/entrypoints/openai/engine/protocol.py: ErrorResponse)."""
    return whole(status, {"error": {"message": message, "type": kind, "param": param, "code": status}})


def bad(message: str, param: str | None = None) -> list[Step]:
    """Script a 400."""
    return error(400, message, "BadRequestError", param)


def no_such_model(model: Any) -> list[Step]:
    """Script the 404 (vllm/entrypoints/openai/models/serving.py)."""
    return error(404, f"The model `{model}` does not exist.", "NotFoundError", "model")


def read(body: bytes) -> dict[str, Any] | None:
    """Return a request's members, or None where it is no JSON object."""
    try:
        told = json.loads(body)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def refusal(body: dict[str, Any], context: int) -> list[Step] | None:
    """Return the 400 to a request that vLLM refuses for this model, or None.

    Templates and efforts: vllm/tokenizers/mistral.py `validate_request_params`. Priority: "Got priority N but Priority
    scheduling is not enabled." of vllm/v1/engine. Members that vLLM does not know are ignored (`extra="allow"`).
    """
    effort, priority = body.get("reasoning_effort"), body.get("priority")
    if body.get("chat_template") is not None or body.get("chat_template_kwargs") is not None:
        return bad("chat_template is not supported for Mistral tokenizers.")
    if effort is not None and effort not in EFFORTS:
        words = f"reasoning_effort={effort} is not supported by Mistral models. Supported values are: {[*EFFORTS]}."
        return bad(words)
    if priority:
        return bad(f"Got priority {priority} but Priority scheduling is not enabled.")
    return overflow(body, context)


def overflow(body: dict[str, Any], context: int) -> list[Step] | None:
    """Return vLLM's 400 to a prompt that does not fit, or None.

    The prompt is cut where it cannot fit any more, so its told length is just one more than would have fitted, however
    long it was (seen: 8192 = 2048 + 6145 - 1; 92160 = 60000 + 32161 - 1; 524288 = 1 + 524288 - 1).
    """
    output = asked_tokens(body) or 1
    if prompt_tokens(body) + output <= context:
        return None
    least = max(context - output + 1, 1)
    return bad(
        f"This model's maximum context length is {context} tokens. However, you requested {output} output tokens and "
        f"your prompt contains at least {least} input tokens, for a total of at least {least + output} tokens. Please "
        "reduce the length of the input prompt or the number of requested output tokens. "
        f"(parameter=input_tokens, value={least})",
        "input_tokens",
    )


def shape(path: str, work: Work, body: dict[str, Any], form: Reasoning = Reasoning.FIELD) -> Shape:
    """Return how the API at this path tells of a generation."""
    if path == "/v1/responses":
        return ResponsesShape(work)
    if path == "/v1/messages":
        return MessagesShape(work)
    if path == "/v1/completions":
        return TextShape(work, wants_usage(body))
    return ChatShape(work, wants_usage(body), form)


def listing(engine: FakeEngine, owner: str) -> dict[str, Any]:
    """Return `/v1/models` (vllm/entrypoints/openai/models/protocol.py: ModelCard)."""
    card = {"id": engine.model, "object": "model", "created": 1760745801, "owned_by": owner, "root": engine.model}
    return {"object": "list", "data": [card | {"parent": None, "max_model_len": engine.context, "permission": []}]}


def metrics(engine: FakeEngine, prefix: str, labels: str) -> str:
    """Return a page of Prometheus text: gauges and counters of vLLM under `prefix` (docs.vllm.ai, usage/metrics)."""
    usage = {"vllm:": "kv_cache_usage_perc"}.get(prefix, "gpu_cache_usage_perc")
    told = {
        "num_requests_running": ("gauge", engine.running),
        "num_requests_waiting": ("gauge", engine.waiting),
        usage: ("gauge", min(1.0, engine.unfinished / 100)),
        "prompt_tokens_total": ("counter", engine.prompted),
        "generation_tokens_total": ("counter", engine.generated),
    }
    lines = []
    for name, (kind, value) in told.items():
        lines += [f"# TYPE {prefix}{name} {kind}", f"{prefix}{name}{labels} {float(value)}"]
    return "\n".join(lines) + "\n"
