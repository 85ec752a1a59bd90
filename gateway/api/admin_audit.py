"""The admin API's route for the audit: who changed what, and when.

Law: it is read and nothing else; no route shortens it.
"""

from typing import Annotated

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter
from msgspec import Struct

from gateway.api.admin_answers import noes
from gateway.api.admin_paging import DEFAULT_PAGE, Limit
from gateway.api.admin_parts import Parts
from gateway.identity.registry import Line

Cursor = Annotated[
    str | None, QueryParameter(pattern=r"^[1-9][0-9]{0,18}(?![\s\S])", description="The `next` of the page before.")
]


class AuditPage(Struct, frozen=True):
    """Changes, the newest first; `next` is the cursor of the page after, null on the last."""

    lines: list[Line]
    next: str | None


def audit_routes(parts: Parts) -> list[HTTPRouteHandler]:
    """Build the route that tells the audit."""

    @get(
        "/audit",
        summary="Audit of changes",
        description="Tells every change of a record in the last 400 days: when, by whom, from where, and the fields "
        "that it changed.",
        responses=noes("A parameter is wrong."),
    )
    async def list_changes(cursor: Cursor = None, limit: Limit = DEFAULT_PAGE) -> AuditPage:
        lines = await parts.registry.audit(before=None if cursor is None else int(cursor), limit=limit + 1)
        following = str(lines[limit - 1].version) if len(lines) > limit else None
        return AuditPage(list(lines[:limit]), following)

    return [list_changes]
