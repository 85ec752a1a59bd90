"""The apps that Litestar serves: the callers' routes that are not hot, the admin API, the operations' address.

Law: none has a route that is open by mistake, and each answer tells which configuration is in force. A no is in the
shape of the API that was asked for, whatever said it. What an app can do is told on its page, as JSON: that of the
callers is open, for it says what every gateway does; the admins' stands behind their guard.
"""

from collections.abc import Callable, Iterable
from typing import Any

from litestar import Litestar, Request, Response, Router
from litestar.datastructures import ResponseHeader
from litestar.enums import MediaType
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ControllerRouterHandler, Message, Scope
from msgspec.structs import asdict

from gateway.api.admin import CREDENTIALS, ERROR_ANSWERS, BodySchemas, Parts, admin_router, no_page, page_router
from gateway.api.guards import all_guarded
from gateway.api.inference import inference_router
from gateway.errors import CONFIG, CONFIG_HEADER, new_request_id
from gateway.services import Services
from policies import error_shapes
from policies.apis import APIS, spoken

CONFIG_IS = "The configuration that the answer was made by: 12 digits of the file's SHA-256."
"""What the API's page says of that header, which is on every answer."""

PAGE = JsonRenderPlugin(media_type=MediaType.JSON)
"""How a page is told. Those for people that come with Litestar run scripts from others' servers, in an admin's browser,
and show nothing where these cannot be reached; its YAML is written anew for whoever asks, and holds up every call."""


def callers_app(services: Services) -> Litestar:
    """Return the app of the callers' routes; its page does not even tell which version of the gateway this is."""
    page = OpenAPIConfig(
        "Sluiceway",
        "1",
        description="One endpoint for all models.",
        openapi_router=Router("/schema", route_handlers=[], after_request=no_page, include_in_schema=False),
        render_plugins=[PAGE],
    )
    return guarded_app(services, [inference_router(services)], page)


def admin_app(
    services: Services, parts: Parts, version: str, beside: Iterable[ControllerRouterHandler] = ()
) -> Litestar:
    """Return the app of the admin API and of the routes that are `beside` it; `version`: of the gateway."""
    page = OpenAPIConfig(
        "Sluiceway",
        version,
        description="The admin API.",
        components=CREDENTIALS,
        openapi_router=page_router(parts),
        render_plugins=[PAGE],
    )
    return guarded_app(services, [*beside, admin_router(parts)], page)


def guarded_app(
    services: Services, routes: Iterable[ControllerRouterHandler], page: OpenAPIConfig | None = None
) -> Litestar:
    """Return an app of routes. Raises UnguardedRoute where one of them would answer anybody."""

    async def stamp(message: Message, _: Scope) -> None:
        """Tell which configuration is in force; a call's own answer tells which one it was planned with."""
        if message["type"] == "http.response.start" and all(told != CONFIG_HEADER for told, _ in message["headers"]):
            message["headers"] = [*message["headers"], (CONFIG_HEADER, services.config)]

    app = Litestar(
        [*routes],
        exception_handlers={kind: _fitting(handler) for kind, handler in ERROR_ANSWERS.items()},
        before_send=[stamp],
        response_headers=[ResponseHeader(CONFIG, documentation_only=True, description=CONFIG_IS, required=True)],
        logging_config=None,
        plugins=[BodySchemas()],
        openapi_config=page,
    )
    return all_guarded(app)


def _fitting(handler: Callable[..., Response[Any]]) -> Callable[..., Response[Any]]:
    """Give an error's answer a request id, as every other answer has one, and the shape of the API that was asked."""

    def fitting(request: Request[Any, Any, Any], error: Any) -> Response[Any]:  # noqa: ANN401 - the handlers' own
        answer = handler(request, error)
        request_id = answer.headers.setdefault("x-request-id", new_request_id())
        api = spoken(request.scope["path"], request.scope["headers"])
        if APIS[api].family == "anthropic":
            answer.headers["request-id"] = request_id
            answer.content = error_shapes.body(api, answer.status_code or 500, asdict(answer.content.error), request_id)
        return answer

    return fitting
