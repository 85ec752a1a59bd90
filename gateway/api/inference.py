"""The callers' routes: hot ones hand over to an Exchange, the model list answers by itself.

Law: a hot route is a typed handler only so that it stands in the OpenAPI page and answers 405; it reads nothing of the
request and returns the ASGI app that does. `straight` takes a call that is plainly for one to that same app before any
routing, which is a tenth of what a small call costs.
"""

from typing import Any

from litestar import Router, get, post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Response
from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.errors import error_body, error_headers, new_request_id
from gateway.exchange import Exchange
from gateway.services import Services
from policies.apis import APIS
from policies.domain import API, Model, Principal
from policies.reach import reachable
from policies.rejections import Rejection

OWNER = "sluiceway"


ROUTES: dict[API, tuple[str, str]] = {
    "chat": ("Chat completion", "Answer a chat, plain or as server-sent events."),
    "completions": ("Text completion", "Complete a text, plain or as server-sent events."),
    "embeddings": ("Embeddings", "Embed texts."),
    "responses": ("Response", "Answer in items, plain or as server-sent events; nothing is stored."),
    "messages": ("Message", "Answer a chat as Anthropic's API does, plain or as server-sent events."),
    "count_tokens": ("Count a message's tokens", "Count what a message would have as its prompt; it is not charged."),
    "tokenize": ("Tokenize", "Turn a text or a chat into the model's tokens; it is not charged."),
}
"""What the OpenAPI page says of each hot route: a title and a sentence."""

HOT: dict[str, API] = {("" if shape.at_root else "/v1") + shape.path: api for api, shape in APIS.items()}
"""The hot routes, by their whole path."""


def straight(services: Services, rest: ASGIApp) -> ASGIApp:
    """Return the app that serves the hot routes' calls itself and hands everything else to `rest`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        api = HOT.get(scope["path"]) if scope.get("method") == "POST" else None
        await (rest if api is None else Exchange(services, api))(scope, receive, send)

    return app


def inference_router(services: Services) -> Router:
    """Return the router of the hot routes and of `/v1/models`."""

    @get("/models", summary="List models")
    async def models(request: Request[Any, Any, Any]) -> Response[Any]:
        """List the models that the calling key may use."""
        who = await _caller(services, request)
        if isinstance(who, Rejection):
            return _rejected(who)
        data = [_entry(model) for model in services.catalog.models if reachable(who.reach, model)]
        return Response({"object": "list", "data": data}, headers={"x-request-id": new_request_id()})

    @get("/models/{model_id:path}", summary="Describe a model")
    async def model(request: Request[Any, Any, Any], model_id: FromPath[str]) -> Response[Any]:
        """Describe one model; its id may hold slashes."""
        who = await _caller(services, request)
        if isinstance(who, Rejection):
            return _rejected(who)
        name = model_id.removeprefix("/")
        found = services.catalog.find(name)
        if found is None:
            return _rejected(services.catalog.missing(name))
        if not reachable(who.reach, found):
            return _rejected(services.catalog.barred(name, who.reach))
        return Response(_entry(found), headers={"x-request-id": new_request_id()})

    listing = Router("/v1", route_handlers=[models, model], tags=["OpenAI API"])
    return Router("/", route_handlers=[*(_hot(services, path, api) for path, api in HOT.items()), listing])


def _hot(services: Services, path: str, api: API) -> HTTPRouteHandler:
    """Make the handler of one hot route."""
    summary, description = ROUTES[api]
    family = "Anthropic API" if APIS[api].family == "anthropic" else "OpenAI API"

    @post(path, summary=summary, description=description, operation_id=api, status_code=200, tags=[family])
    async def serve() -> Exchange:
        return Exchange(services, api)

    return serve


async def _caller(services: Services, request: Request[Any, Any, Any]) -> Principal | Rejection:
    """Say who asks; whoever has a credential may ask, whatever its scopes."""
    headers, client = list(request.scope["headers"]), request.scope["client"]
    return await services.identities.identify(headers, client[0] if client else "")


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
