"""What a backend says of itself: the models it lists, and which engine it is.

Law: only free questions are asked; an answer that carries `x-sluiceway-config` comes from a gateway, never a backend.
"""

import json

import httpx
from msgspec import Struct

from gateway.config.settings import Backend
from gateway.errors import CONFIG
from gateway.http import cold_client
from gateway.upstream.asking import ask, asked
from gateway.upstream.fleet import Home
from policies.probing import read_models

GATEWAY = "this is a Sluiceway gateway, not a backend"
"""What is told of a place whose answers carry that header: a call there could come back for ever."""

PATIENCE = 10.0
"""Seconds that a backend gets to list its models."""

WITHIN = 2.0
"""Seconds that whoever listens on a local port gets for each question: an engine answers in milliseconds."""

_PLAIN = ((b"accept-encoding", b"identity"),)

USUAL_PORTS = (8000, 30000, 8080, 8081, 1234)
"""Where vLLM, SGLang, llama.cpp, a second engine and LM Studio listen unless told otherwise."""

# Asked in this order: what answers with that member is that engine. LM Studio answers 200 to whatever it does not know
# (lmstudio-bug-tracker 1323), NIM and SGLang answer vLLM's question too.
_TELLS: tuple[tuple[str, str, str], ...] = (
    ("/api/v0/models", "data", "lmstudio"),
    ("/v1/metadata", "modelInfo", "nim"),
    ("/get_model_info", "model_path", "sglang"),
    ("/version", "version", "vllm"),
    ("/props", "total_slots", "llamacpp"),
)


class Listed(Struct, frozen=True):
    """One model as a backend lists it."""

    id: str
    context_window: int | None


async def models_of(home: Home) -> list[Listed] | str:
    """Return the models that a backend lists, asked the way its calls go, or why it could not be asked."""
    try:
        answer = await ask(home, f"{home.backend.base_url}/models", PATIENCE)
    except TimeoutError:
        return f"GET /models was not answered within {PATIENCE:g} s"
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    if CONFIG in answer.headers:
        return GATEWAY
    if answer.status != 200:
        return f"GET /models answered {answer.status}"
    told = read_models(answer.body)
    if told is None:
        return "GET /models answered something that is no list of models"
    return [Listed(name, told.windows.get(name)) for name in told.ids]


def unlisted(home: Home, model: str) -> bool:
    """Say whether a backend has listed its models and not this one, which is wrong unless it takes any name."""
    return not home.dialect.any_name and home.condition.unlisted(model)


async def engine_at(port: int) -> Backend | None:
    """Return the local engine that answers on `port`, told apart by the questions that only it answers."""
    root = f"http://127.0.0.1:{port}"
    try:
        async with cold_client() as client:
            first = await asked(client, f"{root}/v1/models", _PLAIN, WITHIN)
            if CONFIG in first.headers or first.status in {404, 405}:
                return None
            for path, member, kind in _TELLS:
                answer = await asked(client, root + path, _PLAIN, WITHIN)
                if answer.status == 200 and _has(answer.body, member):
                    return Backend(f"{kind}-{port}", kind, f"{root}/v1")
    except (httpx.HTTPError, TimeoutError):
        return None
    if first.status != 200 or read_models(first.body) is None:  # a web server that answers whatever it is asked
        return None
    return Backend(f"transformers-{port}", "transformers", f"{root}/v1")


def _has(body: bytes, member: str) -> bool:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and member in told
