"""Pages of what is in the store and in the file together.

Law: following cursors tells every name once, in the order of bytes, however the pages fall. Names are ASCII.
"""

from collections.abc import Iterable
from typing import Annotated

from litestar.params import QueryParameter

from gateway.api.admin_fields import MAX_PAGE, PLAN

DEFAULT_PAGE = 100
"""Records in one page where nobody says."""

Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE, description="Records in the page.")]
NameCursor = Annotated[str | None, QueryParameter(pattern=PLAN, description="The `next` of the page before.")]


def merged(
    stored: Iterable[str], of_file: Iterable[str], *, after: str | None, until: str | None, limit: int
) -> tuple[list[str], str | None]:
    """Return the names of one page, and the cursor of the next (None: this is the last).

    `stored`: a page of the store's names after `after`; `until`: the last name that this page knows of (None: of all).
    """
    others = (name for name in of_file if (after is None or name > after) and (until is None or name <= until))
    names = sorted({*stored, *others})
    if len(names) > limit:
        return names[:limit], names[limit - 1]
    return names, until
