"""The admin API's route that revokes a token (JWT) before its end.

Law: the token itself is never told here; its issuer and its `jti` name it. It is remembered until it would have ended
by itself, at the latest moment that any gateway would have taken it.
"""

import hashlib
from typing import Annotated

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta, Struct

from gateway import clock
from gateway.api.admin_answers import AnyRequest, noes, wrong
from gateway.api.admin_authors import author_of
from gateway.api.admin_fields import Moment
from gateway.api.admin_key_terms import moment
from gateway.api.admin_parts import Parts
from gateway.identity.records import TokenRecord

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
        responses=noes("A field is wrong."),
    )
    async def revoke_token(request: AnyRequest, data: JSONBody[RevokedToken]) -> None:
        if data.issuer not in parts.issuers:
            known = ", ".join(sorted(parts.issuers)) or "none"
            raise wrong("issuer", f"there is no issuer {data.issuer!r} in gateway.yaml; known: {known}")
        seconds = moment(data.expires) - int(clock.wall()) + LEEWAY
        name = hashlib.sha256(data.jti.encode()).hexdigest()
        record = TokenRecord(token=f"{data.issuer}/{name}", seconds=seconds)
        await parts.registry.put(record, author_of(request), action="revoke", expected=None)

    return [revoke_token]
