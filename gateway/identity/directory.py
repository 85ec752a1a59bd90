"""The key records in the store.

Law: a record holds the hash of a key, never the key. It is written before any index names it, and no index ever
forgets one, so an id found in an index has a record; a revoked key keeps its record, for those who ask what it was.

    sw:key:<id>              hash  hash, organization, team, name, plan ("" for none), created, revoked (0 or 1)
    sw:keys                  set   every id
    sw:keys:<organization>   set   the ids of one organization
"""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from gateway import clock
from gateway.identity import keys
from gateway.store.door import Store

INDEX = "sw:keys"


class KeyRecord(Struct, frozen=True):
    """One key as the store knows it.

    `digest`: the SHA-256 of the whole key. `plan`: the plan that binds the key's level, None for none. `created`: unix
    seconds.
    """

    id: str
    digest: bytes
    organization: str
    team: str
    name: str
    plan: str | None
    created: int
    revoked: bool


class Page(Struct, frozen=True):
    """Some records in the order of their ids; `cursor` asks for those after them, None where these are the last."""

    records: tuple[KeyRecord, ...]
    cursor: str | None


class Directory:
    """The keys of all organizations. Every method is at most two round trips and raises `StoreDown`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, organization: str, team: str, name: str, plan: str | None) -> tuple[KeyRecord, str]:
        """Make a key and keep its record; return the record and the key, which nobody can read again."""
        key_id, key = keys.new_key()
        record = KeyRecord(
            id=key_id,
            digest=keys.digest(key.encode()),
            organization=organization,
            team=team,
            name=name,
            plan=plan,
            created=int(clock.wall()),
            revoked=False,
        )
        await self._store.send(
            ("HSET", _record_key(key_id), *_fields(record)),
            ("SADD", _index(organization), key_id),
            ("SADD", INDEX, key_id),
        )
        return record, key

    async def get(self, key_id: str) -> KeyRecord | None:
        """Return the record of `key_id`, None where there is none."""
        (reply,) = await self._store.send(("HGETALL", _record_key(key_id)))
        return _record(key_id, reply) if reply else None

    async def existing(self, key_ids: Iterable[str]) -> frozenset[str]:
        """Return those of `key_ids` (at least one) that have a record: one command, however many they are."""
        asked = tuple(key_ids)
        (found,) = await self._store.send(("SMISMEMBER", INDEX, *asked))
        return frozenset(key_id for key_id, known in zip(asked, found, strict=True) if known)

    async def list(self, organization: str | None, cursor: str | None, limit: int) -> Page:
        """Return up to `limit` records after `cursor` (None: from the first), of one organization or of all."""
        (members,) = await self._store.send(("SMEMBERS", INDEX if organization is None else _index(organization)))
        ids = sorted(member.decode() for member in members)
        after = [key_id for key_id in ids if cursor is None or key_id > cursor]
        asked = after[:limit]
        replies = await self._store.send(*(("HGETALL", _record_key(key_id)) for key_id in asked)) if asked else []
        records = tuple(_record(key_id, reply) for key_id, reply in zip(asked, replies, strict=True))
        return Page(records=records, cursor=asked[-1] if len(after) > limit else None)

    async def revoke(self, key_id: str) -> bool:
        """Refuse `key_id` from now on (again, if it was revoked before); False where there is no such key."""
        if not await self.existing((key_id,)):
            return False
        await self._store.send(("HSET", _record_key(key_id), "revoked", 1))
        return True


def _record_key(key_id: str) -> str:
    return f"sw:key:{key_id}"


def _index(organization: str) -> str:
    return f"{INDEX}:{organization}"


def _fields(record: KeyRecord) -> tuple[str | int, ...]:
    return (
        *("hash", record.digest.hex()),
        *("organization", record.organization),
        *("team", record.team),
        *("name", record.name),
        *("plan", record.plan or ""),
        *("created", record.created),
        *("revoked", int(record.revoked)),
    )


def _record(key_id: str, reply: dict[bytes, bytes]) -> KeyRecord:
    fields: dict[str, Any] = {field.decode(): value.decode() for field, value in reply.items()}
    return KeyRecord(
        id=key_id,
        digest=bytes.fromhex(fields["hash"]),
        organization=fields["organization"],
        team=fields["team"],
        name=fields["name"],
        plan=fields["plan"] or None,
        created=int(fields["created"]),
        revoked=fields["revoked"] == "1",
    )
