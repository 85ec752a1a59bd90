"""Keys as they are made and replaced: the one place where a whole key exists.

Law: the secret is returned and forgotten; what is kept is its digest. A key's organization and team have a record from
their first key on, so that every tenant is listed.
"""

from contextlib import suppress

from msgspec.structs import replace

from gateway import clock
from gateway.identity import keys
from gateway.identity.records import Author, Former, KeyRecord, OrganizationRecord, TeamRecord
from gateway.identity.registry import Conflict, Registry, Stored


async def create_key(registry: Registry, author: Author, wanted: KeyRecord) -> tuple[Stored[KeyRecord], str]:
    """Make a key as `wanted` has it, whose id, digest and time are made here; return its record, and the key itself.

    Raises StoreDown.
    """
    for tenant in (
        OrganizationRecord(name=wanted.organization),
        TeamRecord(organization=wanted.organization, name=wanted.team),
    ):
        if await registry.get(type(tenant), tenant.id) is None:
            with suppress(Conflict):  # somebody was faster
                await registry.put(tenant, author, action="create", expected=0)
    key_id, key = keys.new_key()
    record = replace(wanted, key_id=key_id, digest=keys.digest(key.encode()).hex(), created=int(clock.wall()))
    version = await registry.put(record, author, action="create", expected=0)
    return Stored(record, version), key


def blank(organization: str, team: str, name: str, plan: str | None = None) -> KeyRecord:
    """Return what `create_key` makes a key of, with nothing else said of it."""
    return KeyRecord(key_id="", organization=organization, team=team, name=name, plan=plan, digest="", created=0)


async def rotate_key(
    registry: Registry, author: Author, stored: Stored[KeyRecord], overlap: int
) -> tuple[Stored[KeyRecord], str]:
    """Give a key another secret, under the same id; the one before opens for `overlap` seconds more.

    Of three secrets the oldest is taken back at once. Raises StoreDown, and Conflict where the record has changed.
    """
    before = stored.record
    key = keys.new_secret(before.key_id)
    former = Former(before.digest, int(clock.wall()) + overlap) if overlap else None
    record = replace(before, digest=keys.digest(key.encode()).hex(), former=former)
    version = await registry.put(record, author, action="rotate", expected=stored.version, before=before)
    return Stored(record, version), key
