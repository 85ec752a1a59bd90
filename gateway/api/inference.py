"""The callers' routes: hot ones hand over to an Exchange, the model list answers by itself, in the asker's own shape.

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

from gateway.api.model_lists import list_of_openai, of_anthropic, of_openai, page_of_anthropic
from gateway.errors import Headers, id_headers, new_request_id, refusal
from gateway.exchange import Exchange
from gateway.services import Services
from policies.apis import APIS, PATHS, spoken
from policies.domain import API, Principal
from policies.reach import reachable
from policies.rejections import Rejection

ADMINS = "/admin/v1"
"""What the admin API's paths begin with."""

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


def straight(services: Services, rest: ASGIApp, admins: ASGIApp) -> ASGIApp:
    """Return the app that serves the hot routes' calls itself; `admins` serves what is the admins', `rest` the rest."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        api = PATHS.get(scope["path"]) if scope.get("method") == "POST" else None
        if api is not None:
            await Exchange(services, api)(scope, receive, send)
        else:
            await (admins if scope["path"].startswith(f"{ADMINS}/") else rest)(scope, receive, send)

    return app


def inference_router(services: Services) -> Router:
    """Return the router of the hot routes and of `/v1/models`."""

    @get("/models", summary="List models")
    async def models(request: Request[Any, Any, Any]) -> Response[Any]:
        """List the models that the calling key may use; with `anthropic-version` in pages, as Anthropic's API does."""
        who = await _caller(services, request)
        if isinstance(who, Rejection):
            return _answered(request, who)
        usable = [model for model in services.catalog.models if reachable(who.reach, model)]
        if _of_anthropic(request):
            return _answered(request, page_of_anthropic(usable, request.query_params.dict()))
        return _answered(request, list_of_openai(usable))

    @get("/models/{model_id:path}", summary="Describe a model")
    async def model(request: Request[Any, Any, Any], model_id: FromPath[str]) -> Response[Any]:
        """Describe one model; its id may hold slashes."""
        who = await _caller(services, request)
        if isinstance(who, Rejection):
            return _answered(request, who)
        name = model_id.removeprefix("/")
        found = services.catalog.find(name)
        if found is None:
            return _answered(request, services.catalog.missing(name))
        if not reachable(who.reach, found):
            return _answered(request, services.catalog.barred(name, who.reach))
        return _answered(request, (of_anthropic if _of_anthropic(request) else of_openai)(found))

    listing = Router("/v1", route_handlers=[models, model], tags=["OpenAI API", "Anthropic API"])
    return Router("/", route_handlers=[*(_hot(services, path, api) for path, api in PATHS.items()), listing])


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


def _of_anthropic(request: Request[Any, Any, Any]) -> bool:
    """Say whether one of Anthropic's clients asks."""
    return APIS[_spoken(request)].family == "anthropic"


def _spoken(request: Request[Any, Any, Any]) -> API:
    return spoken(request.scope["path"], request.scope["headers"])


def _answered(request: Request[Any, Any, Any], outcome: dict[str, Any] | Rejection) -> Response[Any]:
    """Return the answer that tells `outcome` to whoever asks, in his API's shape."""
    request_id, api = new_request_id(), _spoken(request)
    if isinstance(outcome, Rejection):
        headers, body = refusal(outcome, request_id, api)
        return Response(body, status_code=outcome.shape.status, headers=_decoded(headers))
    return Response(outcome, headers=_decoded(id_headers(request_id, api)))


def _decoded(headers: Headers) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}
