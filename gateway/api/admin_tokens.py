"""The admin API's route that revokes a token (JWT) before its end.

Law: the token itself is never told here; its issuer and its `jti` name it. It is remembered until it would have ended
by itself, at the latest moment that any gateway would have taken it; no later word makes that any sooner.
"""

import hashlib
import math
from contextlib import suppress
from typing import Annotated

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta, Struct

from gateway import clock
from gateway.api.admin_answers import BODY, AnyRequest, noes, wrong
from gateway.api.admin_authors import author_of
from gateway.api.admin_fields import Moment
from gateway.api.admin_key_terms import moment
from gateway.api.admin_parts import Parts
from gateway.identity.records import Author, TokenRecord, key_of
from gateway.identity.registry import Conflict

LEEWAY = 300
"""Seconds a token may be taken past its end: the most that an issuer's `leeway` can be."""


class RevokedToken(Struct, frozen=True, forbid_unknown_fields=True):
    """Which token: its issuer by the file's name for it, its `jti`, and when it ends (its `exp`)."""

    issuer: Annotated[str, Meta(min_length=1, max_length=128)]
    jti: Annotated[str, Meta(min_length=1, max_length=1024)]
    expires: Moment


def token_routes(parts: Parts) -> list[HTTPRouteHandler]:
    """Build the route that revokes tokens."""

    @post(
        "/tokens/revoke",
        summary="Revoke a token",
        description="Refuses one token from now on, on every gateway within a second. Revoking twice is no error.",
        status_code=204,
        responses=noes("A field is wrong.", **BODY),
    )
    async def revoke_token(request: AnyRequest, data: JSONBody[RevokedToken]) -> None:
        if data.issuer not in parts.issuers:
            known = ", ".join(sorted(parts.issuers)) or "none"
            raise wrong("issuer", f"there is no issuer {data.issuer!r} in gateway.yaml; known: {known}")
        name = hashlib.sha256(data.jti.encode()).hexdigest()
        await _ban(parts, f"{data.issuer}/{name}", moment(data.expires), author_of(request))

    return [revoke_token]


async def _ban(parts: Parts, token: str, expires: int, author: Author) -> None:
    """Refuse `token` until nobody would take it, or for as long as it is refused already. Raises StoreDown."""
    while True:
        there = await parts.registry.get(TokenRecord, token)
        (left,) = await parts.store.send(("PTTL", key_of(TokenRecord.kind, token)))
        now = clock.wall()
        end = max(expires, now) + LEEWAY
        if there is not None and now + left / 1000 >= end:
            return
        expected, before = (0, None) if there is None else (there.version, there.record)
        record = TokenRecord(token=token, seconds=math.ceil(end - now))
        with suppress(Conflict):  # somebody else refuses it just now, perhaps for longer
            await parts.registry.put(record, author, action="revoke", expected=expected, before=before)
            return
