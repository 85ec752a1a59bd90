"""Who asks: noted by the guard, read by whatever a request comes to afterwards.

Law: there is no change without an author; a handler that stands behind no guard cannot make one.
"""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.types import Scope

from gateway.identity.records import Author

AnyConnection = ASGIConnection[Any, Any, Any, Any]

_PLACE = "sluiceway_author"


def note(connection: AnyConnection, author: Author) -> None:
    """Note who asks."""
    connection.scope["state"][_PLACE] = author


def author_of(connection: AnyConnection) -> Author:
    """Return who asks. Raises `KeyError` where no guard has noted it."""
    author: Author = connection.scope["state"][_PLACE]
    return author


def request_id_in(scope: Scope) -> str | None:
    """Return the request's id, None where no guard has noted one: the path or the method was wrong."""
    author: Author | None = scope.get("state", {}).get(_PLACE)
    return None if author is None else author.request_id
