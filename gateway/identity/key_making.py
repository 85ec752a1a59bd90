"""Keys as they are made and replaced: the one place where a whole key exists.

Law: the secret is returned and forgotten; what is kept is its digest. A key's organization and team have a record from
their first key on, so that every tenant is listed: no key is written while one of the two is not there.
"""

from collections.abc import Sequence
from contextlib import suppress

from msgspec.structs import replace

from gateway import clock
from gateway.identity import keys
from gateway.identity.records import Author, Former, KeyRecord, OrganizationRecord, Record, TeamRecord
from gateway.identity.registry import Conflict, Lacking, Named, Registry, Stored

TRIES = 10
"""Times that a key's organization and team are made again, where somebody removes them just then."""


async def create_key(
    registry: Registry, author: Author, wanted: KeyRecord, *, requires: Sequence[Named] = ()
) -> tuple[Stored[KeyRecord], str]:
    """Make a key as `wanted` has it, whose id, digest and time are made here; return its record, and the key itself.

    `requires`: what else must be there. Raises StoreDown; and Lacking where that is not there, or where somebody keeps
    removing the key's organization or team.
    """
    key_id, key = keys.new_key()
    record = replace(wanted, key_id=key_id, digest=keys.digest(key.encode()).hex(), created=int(clock.wall()))
    tries = TRIES
    while True:
        needed = (*await bring(registry, author, record), *requires)
        try:
            version = await registry.put(record, author, action="create", expected=0, requires=needed)
        except Lacking as lacking:
            tries -= 1
            if not tries or lacking.needed in requires:
                raise
        else:
            return Stored(record, version), key


async def bring(registry: Registry, author: Author, record: Record) -> tuple[Named, ...]:
    """Make those records that are not there of the tenants that `record` is of, and return the names of all of them.

    They may be gone again at once: who writes `record` requires them. Raises StoreDown.
    """
    tenants = _above(record)
    named: tuple[Named, ...] = tuple((type(tenant), tenant.id) for tenant in tenants)
    for number, (tenant, there) in enumerate(zip(tenants, await registry.several(named), strict=True)):
        if there is None:
            with suppress(Conflict, Lacking):  # somebody was faster
                await registry.put(tenant, author, action="create", expected=0, requires=named[:number])
    return named


def bare(record: Record) -> Record | None:
    """Return the record of the same tenant as `bring` makes it; None for what it does not make."""
    match record:
        case OrganizationRecord():
            return OrganizationRecord(name=record.name)
        case TeamRecord():
            return TeamRecord(organization=record.organization, name=record.name)
        case _:
            return None


def _above(record: Record) -> tuple[Record, ...]:
    match record:
        case KeyRecord():
            organization = OrganizationRecord(name=record.organization)
            return organization, TeamRecord(organization=record.organization, name=record.team)
        case TeamRecord():
            return (OrganizationRecord(name=record.organization),)
        case _:
            return ()


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
