"""The admin API's routes for keys.

Law: a key's secret is in the answer that creates or replaces it and nowhere else. Revoking asks for no version: it is
the safe direction, and never waits for anybody.
"""

import re
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from litestar import Response, delete, get, patch, post
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody, PathParameter, QueryParameter
from msgspec import Meta, Struct
from msgspec.structs import replace

from gateway import clock
from gateway.api.admin_answers import BODY, CHANGING, AnyRequest, conflict, noes
from gateway.api.admin_authors import author_of
from gateway.api.admin_doubts import Warnings, doubts
from gateway.api.admin_fields import KEY_ID, NAME
from gateway.api.admin_key_terms import KeyChange, NewKey, changed, check_key, made, narrows
from gateway.api.admin_paging import DEFAULT_PAGE, Limit
from gateway.api.admin_parts import Parts
from gateway.api.admin_schemas import OptionalBody
from gateway.api.admin_terms import TermsAnswer, terms_of
from gateway.api.admin_versions import ETAG, IfMatch, Versions, answer, needs_nothing
from gateway.identity.key_making import create_key, rotate_key
from gateway.identity.last_used import last_used
from gateway.identity.records import Former, KeyRecord
from gateway.identity.registry import Conflict, Lacking, Stored
from policies.domain import Scope

AnyOrganization = Annotated[str | None, QueryParameter(pattern=NAME, description="Only this organization's keys.")]
Cursor = Annotated[str | None, QueryParameter(pattern=KEY_ID, description="The `next` of the page before.")]
KeyID = Annotated[str, PathParameter(description="The key's id: the 12 characters after `sw_`.")]

OVERLAP = 3600
"""Seconds for which the secret before is still taken where nobody says: time to hand the new one out."""

MOST_OVERLAP = 30 * 86_400


class Rotation(Struct, frozen=True, forbid_unknown_fields=True):
    """How a key's secret is replaced. `overlap`: seconds for which the one before is still taken."""

    overlap: Annotated[int, Meta(ge=0, le=MOST_OVERLAP)] = OVERLAP


class KeyAnswer(TermsAnswer, frozen=True, kw_only=True):
    """A key without its secret. `created`, `expires`, `last_used` (about) and `former_until` are in unix seconds.

    `former_until`: until when the secret before the last is still taken, null where it is not.
    """

    id: str
    organization: str
    team: str
    name: str
    scopes: tuple[Scope, ...]
    networks: tuple[str, ...] | None
    created: int
    expires: int | None
    routing: dict[str, Any] | None
    revoked: bool
    last_used: int | None
    former_until: int | None
    version: int


class SecretAnswer(KeyAnswer, frozen=True, kw_only=True):
    """A key with a new secret; `key` is shown here and never again."""

    key: str


class MadeAnswer(SecretAnswer, frozen=True, kw_only=True):
    """A key that was made."""

    warnings: Warnings


class ChangedAnswer(KeyAnswer, frozen=True, kw_only=True):
    """A key that was changed."""

    warnings: Warnings


class KeyPage(Struct, frozen=True):
    """Keys in the order of their ids; `next` is the cursor of the page after, null on the last."""

    keys: list[KeyAnswer]
    next: str | None


def key_routes(parts: Parts) -> list[HTTPRouteHandler]:
    """Build the routes that create, list, show, change, rotate and revoke keys."""
    return [_create(parts), _list(parts), _show(parts), _change(parts), _rotate(parts), _revoke(parts)]


def _create(parts: Parts) -> HTTPRouteHandler:
    @post(
        "/keys",
        summary="Create a key",
        description="Makes an API key for a team of an organization, both of which are made if they are not there. "
        "The answer holds the key, which is not kept.",
        response_headers=ETAG,
        responses=noes(
            "A field is wrong.",
            conflict="Somebody removed its organization, its team or its plan just then.",
            **BODY,
        ),
    )
    async def create_key_route(request: AnyRequest, data: JSONBody[NewKey]) -> Response[MadeAnswer]:
        wanted = made(data)
        requires = await check_key(parts, wanted, None)
        warnings = await doubts(parts, wanted)
        try:
            stored, key = await create_key(parts.registry, author_of(request), wanted, requires=requires)
        except Lacking as lacking:
            raise conflict(f"No key was made: {lacking}, since somebody removed it just now.") from lacking
        return answer(MadeAnswer(key=key, warnings=warnings, **_fields(stored, None)), stored.version, 201)

    return create_key_route


def _list(parts: Parts) -> HTTPRouteHandler:
    @get(
        "/keys",
        summary="List keys",
        description="Lists keys in the order of their ids, revoked ones too, a page at a time, without their secrets.",
        responses=noes("A parameter is wrong."),
    )
    async def list_keys(
        organization: AnyOrganization = None, cursor: Cursor = None, limit: Limit = DEFAULT_PAGE
    ) -> KeyPage:
        page = await parts.registry.page(KeyRecord, after=cursor, limit=limit, organization=organization)
        used = await last_used(parts.store, [one.record.key_id for one in page.records])
        return KeyPage([_told(one, when) for one, when in zip(page.records, used, strict=True)], page.cursor)

    return list_keys


def _show(parts: Parts) -> HTTPRouteHandler:
    @get(
        "/keys/{key_id:str}",
        summary="Show a key",
        description="Shows one key, without its secret.",
        response_headers=ETAG,
        responses=noes("The id is wrong.", not_found="There is no such key."),
    )
    async def show_key(key_id: KeyID) -> Response[KeyAnswer]:
        there = await parts.registry.get(KeyRecord, _id(key_id))
        if there is None:
            raise _missing()
        return await _answer(parts, there)

    return show_key


def _change(parts: Parts) -> HTTPRouteHandler:
    @patch(
        "/keys/{key_id:str}",
        summary="Change a key",
        description="Changes the fields that the body has, and no other; a plan takes the place of meters, and meters "
        "that of a plan. In force on every gateway within a second.",
        response_headers=ETAG,
        responses=noes(
            "A field is wrong.", not_found="There is no such key.", conflict="The key is revoked.", **BODY, **CHANGING
        ),
    )
    async def change_key(
        request: AnyRequest, key_id: KeyID, data: JSONBody[KeyChange], if_match: IfMatch = None
    ) -> Response[ChangedAnswer]:
        def merged(before: KeyRecord) -> KeyRecord:
            return changed(_live(before), data)

        stored = await Versions(parts.registry).change(
            KeyRecord,
            _id(key_id),
            merged,
            author_of(request),
            if_match=if_match,
            missing=_missing(),
            needs=partial(check_key, parts),
        )
        (used,) = await last_used(parts.store, [stored.record.key_id])
        warnings = await doubts(parts, stored.record) if narrows(data) else ()
        return answer(ChangedAnswer(warnings=warnings, **_fields(stored, used)), stored.version)

    return change_key


def _rotate(parts: Parts) -> HTTPRouteHandler:
    @post(
        "/keys/{key_id:str}/rotate",
        summary="Rotate a key",
        description="Gives the key another secret under the same id; the answer holds it, and it is not kept. The one "
        "before is taken for `overlap` seconds more, and the one before that no longer.",
        operation_class=OptionalBody,
        status_code=200,
        response_headers=ETAG,
        responses=noes(
            "A field is wrong.",
            not_found="There is no such key.",
            conflict="The key is revoked or has expired, or the secret before is still taken.",
            **BODY,
        ),
    )
    async def rotate(
        request: AnyRequest, key_id: KeyID, data: JSONBody[Rotation | None] = None
    ) -> Response[SecretAnswer]:
        overlap = OVERLAP if data is None else data.overlap
        while True:
            there = await parts.registry.get(KeyRecord, _id(key_id))
            if there is None:
                raise _missing()
            expires = _live(there.record).expires
            if expires is not None and expires <= clock.wall():
                raise conflict("The key has expired, and so would its new secret. Change its `expires` first.")
            former = there.record.former
            if former is not None and overlap and former.until > clock.wall():
                raise conflict(_still_taken(former))
            try:
                stored, key = await rotate_key(parts.registry, author_of(request), there, overlap)
            except Conflict:
                continue  # somebody changed it meanwhile, which a rotation leaves as it is
            (used,) = await last_used(parts.store, [key_id])
            return answer(_secret(stored, used, key), stored.version)

    return rotate


def _revoke(parts: Parts) -> HTTPRouteHandler:
    @delete(
        "/keys/{key_id:str}",
        summary="Revoke a key",
        description="Refuses the key from now on, on every gateway within a second. Revoking twice is no error.",
        responses=noes("The id is wrong.", not_found="There is no such key."),
    )
    async def revoke_key(request: AnyRequest, key_id: KeyID) -> None:
        def revoked(before: KeyRecord) -> KeyRecord:
            return replace(before, revoked=True, former=None)

        await Versions(parts.registry).change(
            KeyRecord,
            _id(key_id),
            revoked,
            author_of(request),
            if_match="*",
            missing=_missing(),
            needs=needs_nothing,
            action="revoke",
        )

    return revoke_key


def _still_taken(former: Former) -> str:
    """Say why a key is not rotated again: whoever was promised time for the last rotation would lose it."""
    until = datetime.fromtimestamp(former.until, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return (
        f"The key was rotated, and its secret before is taken until {until}; another rotation would end that. "
        "Rotate after that, or with an overlap of 0, which ends both of its secrets at once."
    )


def _id(told: str) -> str:
    """Return what may be an id: a whole key in its place, put there by mistake, goes no further. Raises NotFound."""
    if re.fullmatch(KEY_ID, told) is None:
        raise _missing()
    return told


def _missing() -> NotFoundException:
    return NotFoundException("There is no key with this id. `sluiceway keys list` shows the ids.")


def _live(record: KeyRecord) -> KeyRecord:
    """Return a record that may be changed. Raises HTTPException."""
    if record.revoked:
        raise conflict("The key is revoked, for good. Create another.")
    return record


async def _answer(parts: Parts, stored: Stored[KeyRecord]) -> Response[KeyAnswer]:
    (used,) = await last_used(parts.store, [stored.record.key_id])
    return answer(_told(stored, used), stored.version)


def _secret(stored: Stored[KeyRecord], used: int | None, key: str) -> SecretAnswer:
    return SecretAnswer(key=key, **_fields(stored, used))


def _told(stored: Stored[KeyRecord], used: int | None) -> KeyAnswer:
    return KeyAnswer(**_fields(stored, used))


def _fields(stored: Stored[KeyRecord], used: int | None) -> dict[str, Any]:
    record = stored.record
    former = None if record.former is None or record.former.until <= clock.wall() else record.former.until
    return {
        "id": record.key_id,
        "organization": record.organization,
        "team": record.team,
        "name": record.name,
        **terms_of(record),
        "scopes": record.scopes,
        "networks": record.networks,
        "created": record.created,
        "expires": record.expires,
        "routing": record.routing,
        "revoked": record.revoked,
        "last_used": used,
        "former_until": former,
        "version": stored.version,
    }
