"""The admin API's routes for keys.

Law: a key's secret is in the answer that creates it and nowhere else.
"""

from typing import Annotated

from litestar import delete, get, post
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody, PathParameter, QueryParameter
from msgspec import Meta, Struct, convert

from gateway.api.admin_answers import MAX_PAGE, RULES, no, noes, wrong
from gateway.identity import keys
from gateway.identity.directory import Directory
from policies.domain import Plan

DEFAULT_PAGE = 100
"""Keys in one page where nobody says."""

# `(?![\s\S])` instead of `$`, which in Python also matches before a final line feed.
NAME = r"^[A-Za-z0-9._-]{1,64}(?![\s\S])"
_ID = rf"^[0-9A-Za-z]{{{keys.ID_LENGTH}}}(?![\s\S])"

Name = Annotated[str, Meta(pattern=NAME, description="1 to 64 letters, digits, dots, underscores or hyphens.")]
AnyOrganization = Annotated[str | None, QueryParameter(pattern=NAME, description="Only this organization's keys.")]
Cursor = Annotated[str | None, QueryParameter(pattern=_ID, description="The `next` of the page before.")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE, description="Keys in the page.")]
KeyID = Annotated[str, PathParameter(description="The key's id: the 12 characters after `sw_`.")]


class NewKey(Struct, frozen=True, forbid_unknown_fields=True):
    """What a key is made of. `plan` binds the key's own level only; without one only team and organization do."""

    organization: Name
    team: Name
    name: Annotated[str, Meta(min_length=1, max_length=128, description="For people: printable, 1 to 128 characters.")]
    plan: str | None = None


class CreatedKey(Struct, frozen=True):
    """A new key; `key` is shown here and never again."""

    id: str
    key: str
    organization: str
    team: str
    name: str
    plan: str | None


class ListedKey(Struct, frozen=True):
    """A key without its secret; `created` is in unix seconds."""

    id: str
    organization: str
    team: str
    name: str
    plan: str | None
    created: int
    revoked: bool


class KeyPage(Struct, frozen=True):
    """Keys in the order of their ids; `next` is the cursor of the page after, null on the last."""

    keys: list[ListedKey]
    next: str | None


def key_routes(directory: Directory, plans: dict[str, Plan]) -> list[HTTPRouteHandler]:
    """Build the routes that create, list and revoke keys."""
    return [_create_key(directory, plans), _list_keys(directory), _revoke_key(directory)]


def _create_key(directory: Directory, plans: dict[str, Plan]) -> HTTPRouteHandler:
    @post(
        "/keys",
        summary="Create a key",
        description="Makes an API key for a team of an organization. The answer holds the key, which is not kept.",
        responses=noes("A field is wrong."),
    )
    async def create_key(data: JSONBody[NewKey]) -> CreatedKey:
        if not data.name.isprintable() or data.name.isspace():
            raise wrong("name", RULES["name"])
        if data.plan is not None and data.plan not in plans:
            raise wrong("plan", f"there is no plan {data.plan!r}; known: {', '.join(sorted(plans))}")
        record, key = await directory.create(data.organization, data.team, data.name, data.plan)
        return CreatedKey(record.id, key, record.organization, record.team, record.name, record.plan)

    return create_key


def _list_keys(directory: Directory) -> HTTPRouteHandler:
    @get(
        "/keys",
        summary="List keys",
        description="Lists keys in the order of their ids, revoked ones too, a page at a time, without their secrets.",
        responses=noes("A parameter is wrong."),
    )
    async def list_keys(
        organization: AnyOrganization = None, cursor: Cursor = None, limit: Limit = DEFAULT_PAGE
    ) -> KeyPage:
        page = await directory.list(organization, cursor, limit)
        return KeyPage(
            keys=[convert(record, ListedKey, from_attributes=True) for record in page.records], next=page.cursor
        )

    return list_keys


def _revoke_key(directory: Directory) -> HTTPRouteHandler:
    @delete(
        "/keys/{key_id:str}",
        summary="Revoke a key",
        description="Refuses the key from now on, on every gateway within a second. Revoking twice is no error.",
        responses={**noes("A parameter is wrong."), 404: no("There is no such key.")},
    )
    async def revoke_key(key_id: KeyID) -> None:
        if not await directory.revoke(key_id):
            raise NotFoundException("There is no key with this id. `sluiceway keys list` shows the ids.")

    return revoke_key
