"""The OpenAI routes: hot ones hand over to an Exchange, the model list answers by itself.

Law: a hot route is a typed handler only so that it stands in the OpenAPI page and answers 405; it reads nothing of the
request and returns the ASGI app that does. `straight` takes a call that is plainly for one to that same app before any
routing, which is a tenth of what a small call costs.
"""

from typing import Any

from litestar import Router, get, post
from litestar.connection import Request
from litestar.params import FromPath
from litestar.response import Response
from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.errors import error_body, error_headers, new_request_id
from gateway.exchange import Exchange
from gateway.services import Services
from policies.apis import APIS
from policies.domain import API, Model
from policies.rejections import Rejection

OWNER = "sluiceway"


HOT: dict[str, API] = {f"/v1{APIS[api].path}": api for api in ("chat", "completions", "embeddings")}
"""The hot routes, by their whole path."""


def straight(services: Services, rest: ASGIApp) -> ASGIApp:
    """Return the app that serves the hot routes' calls itself and hands everything else to `rest`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        api = HOT.get(scope["path"]) if scope.get("method") == "POST" else None
        await (rest if api is None else Exchange(services, api))(scope, receive, send)

    return app


def inference_router(services: Services) -> Router:
    """Return the router of `/v1`."""

    @post("/chat/completions", summary="Chat completion", status_code=200)
    async def chat() -> ASGIApp:
        """Answer a chat, plain or as server-sent events."""
        return Exchange(services, "chat")

    @post("/completions", summary="Text completion", status_code=200)
    async def completions() -> ASGIApp:
        """Complete a text, plain or as server-sent events."""
        return Exchange(services, "completions")

    @post("/embeddings", summary="Embeddings", status_code=200)
    async def embeddings() -> ASGIApp:
        """Embed texts."""
        return Exchange(services, "embeddings")

    @get("/models", summary="List models")
    async def models(request: Request[Any, Any, Any]) -> Response[Any]:
        """List the models that the calling key may use."""
        refused = await _refused(services, request)
        if refused is not None:
            return refused
        data = [_entry(model) for model in services.catalog.models]
        return Response({"object": "list", "data": data}, headers={"x-request-id": new_request_id()})

    @get("/models/{model_id:path}", summary="Describe a model")
    async def model(request: Request[Any, Any, Any], model_id: FromPath[str]) -> Response[Any]:
        """Describe one model; its id may hold slashes."""
        refused = await _refused(services, request)
        if refused is not None:
            return refused
        name = model_id.removeprefix("/")
        found = services.catalog.find(name)
        if found is None:
            return _rejected(services.catalog.missing(name))
        return Response(_entry(found), headers={"x-request-id": new_request_id()})

    return Router("/v1", route_handlers=[chat, completions, embeddings, models, model], tags=["OpenAI API"])


async def _refused(services: Services, request: Request[Any, Any, Any]) -> Response[Any] | None:
    headers = list(request.scope["headers"])
    who = services.identities.cached(headers) or await services.identities.identify(headers)
    return _rejected(who) if isinstance(who, Rejection) else None


def _rejected(rejection: Rejection) -> Response[Any]:
    request_id = new_request_id()
    headers = {name.decode(): value.decode() for name, value in error_headers(rejection)}
    headers["x-request-id"] = request_id
    return Response(
        error_body(rejection, request_id),
        status_code=rejection.shape.status,
        media_type="application/json",
        headers=headers,
    )


def _entry(model: Model) -> dict[str, Any]:
    """Describe a model as OpenAI does, and its largest context window as vLLM does."""
    windows = [deployment.context_window for deployment in model.deployments if deployment.context_window is not None]
    entry: dict[str, Any] = {"id": model.name, "object": "model", "created": 0, "owned_by": OWNER}
    if windows:
        entry["max_model_len"] = max(windows)
    return entry
