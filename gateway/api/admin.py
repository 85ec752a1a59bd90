"""The admin API: organizations, teams, keys, plans, backends, the books, the audit and dry runs.

Law: every route stands behind one guard, every answer is JSON, every no is an error in the OpenAI shape that says what
would be right. What a caller sends is typed and bounded before a handler sees it, so bad input cannot be a 500.
"""

from litestar import Router
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.admin_answers import ERROR_ANSWERS, no_page
from gateway.api.admin_audit import audit_routes
from gateway.api.admin_authors import request_id_in
from gateway.api.admin_backends import backend_routes
from gateway.api.admin_books import book_routes
from gateway.api.admin_explain import explain_routes
from gateway.api.admin_fleet import fleet_routes
from gateway.api.admin_keys import key_routes
from gateway.api.admin_organizations import organization_routes
from gateway.api.admin_parts import BackendView, Parts
from gateway.api.admin_plans import plan_routes
from gateway.api.admin_requests import MAX_BODY, JSONRequest
from gateway.api.admin_schemas import CREDENTIAL, CREDENTIALS, BodySchemas
from gateway.api.admin_teams import team_routes
from gateway.api.admin_tokens import token_routes
from gateway.api.guards import Guard

__all__ = [
    "CREDENTIALS",
    "ERROR_ANSWERS",
    "MAX_BODY",
    "BackendView",
    "BodySchemas",
    "Parts",
    "admin_router",
    "no_page",
    "page_router",
]


def admin_router(parts: Parts) -> Router:
    """Build the routes under `/admin/v1`. Raises `ValueError` on an empty admin key, which would open the door."""
    return Router(
        "/admin/v1",
        route_handlers=[
            *organization_routes(parts),
            *team_routes(parts),
            *key_routes(parts),
            *plan_routes(parts),
            *backend_routes(parts),
            *fleet_routes(parts),
            *token_routes(parts),
            *audit_routes(parts),
            *book_routes(parts),
            *explain_routes(parts),
        ],
        middleware=[_stamped],
        guards=[Guard(parts.admin_key, parts.callers)],
        exception_handlers=ERROR_ANSWERS,
        request_class=JSONRequest,
        request_max_body_size=MAX_BODY,
        security=[{CREDENTIAL: []}],
        tags=["admin"],
    )


def page_router(parts: Parts) -> Router:
    """Build the router of the admin API's OpenAPI page, behind the same guard: it says what can be changed, and how.

    Raises `ValueError` on an empty admin key.
    """
    return Router(
        "/admin/v1/schema",
        route_handlers=[],
        middleware=[_stamped],
        guards=[Guard(parts.admin_key, parts.callers)],
        after_request=no_page,
        include_in_schema=False,
    )


def _stamped(app: ASGIApp) -> ASGIApp:
    """Give every answer the request's id, by which the audit names it."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start" and (request_id := request_id_in(scope)):
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        await app(scope, receive, stamped)

    return run
