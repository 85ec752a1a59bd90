"""The records of all tenants, in the store: read, listed, and changed one at a time.

Law: a change is made only to the version that its author saw, and with it, in one script, goes its line in the audit
and its number in the stream of changes: a change without a trace, or one that gateways are not told of, cannot be.
"""

import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any, Generic, TypeVar

import msgspec
import structlog
from msgspec import Struct

from gateway.identity.fence import VERSION, Fence, fence, read_fence
from gateway.identity.records import PREFIX, Author, KeyRecord, Kind, Record, key_of
from gateway.store.door import Command, NoScriptError, Store

log = structlog.get_logger("sluiceway.identity")

R = TypeVar("R", bound=Record)

Named = tuple[type[Record], str]
"""A record by its kind and its name."""

CHANGES_KEPT = 10_000
"""Changes in the stream, about: a gateway that was away for more of them reads everything anew."""

SCRIPT = (files(__package__) / "write.lua").read_bytes()
_SHA = hashlib.sha1(SCRIPT).hexdigest()  # noqa: S324 - the store's own name for a script

CHANGES = f"{PREFIX}changes"
AUDIT = f"{PREFIX}audit"
ALL_KEYS = f"{PREFIX}all:key"


class Stored(Struct, Generic[R], frozen=True):
    """A record as it was read, and its version (1 or more)."""

    record: R
    version: int


class Page(Struct, Generic[R], frozen=True):
    """Some records in the order of their names; `cursor` asks for those after them, None where these are the last."""

    records: tuple[Stored[R], ...]
    cursor: str | None


class Line(Struct, frozen=True):
    """One change, as the audit tells it. `at`: unix milliseconds by the store's clock.

    `version`: the number of the change. `before`, `after`: the fields that differ, as they were and as they are.
    """

    version: int
    at: int
    kind: str
    name: str
    action: str
    who: str
    address: str
    request_id: str
    before: dict[str, Any]
    after: dict[str, Any]


class _Told(Struct, frozen=True):
    """What the audit is told of one change."""

    author: Author
    action: str
    before: dict[str, Any]
    after: dict[str, Any]

    def fields(self) -> dict[str, str | bytes]:
        return {
            "action": self.action,
            "who": self.author.who,
            "address": self.author.address,
            "request_id": self.author.request_id,
            "before": msgspec.json.encode(self.before),
            "after": msgspec.json.encode(self.after),
        }


class Conflict(Exception):  # noqa: N818 - a state of the world, not a programming error
    """The record is not as its author saw it; `version` is what is there, 0 for nothing."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the record is at version {version}" if version else "there is no such record")
        self.version = version


class Lacking(Exception):  # noqa: N818 - a state of the world, not a programming error
    """A record is not there without which another may not be written; `needed` says which."""

    def __init__(self, needed: Named) -> None:
        sort, name = needed
        super().__init__(f"the {sort.kind} {name} is not there")
        self.needed = needed


HIDDEN = frozenset({"digest", "former"})
"""Fields that the audit tells of without their values."""


class Registry:
    """The records. Every method raises `StoreDown`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, sort: type[R], name: str) -> Stored[R] | None:
        """Return a record, None where there is none."""
        (found,) = await self.several([(sort, name)])
        return found

    async def several(self, wanted: Sequence[tuple[type[Any], str]]) -> list[Stored[Any] | None]:
        """Return records of any kinds, in order, in one round trip."""
        return (await self.fenced(wanted))[1] if wanted else []

    async def fenced(self, wanted: Sequence[tuple[type[Any], str]]) -> tuple[Fence, list[Stored[Any] | None]]:
        """Return records likewise, and where the server stood that told of them."""
        stood, *replies = await self._store.send(fence(), *map(_read, wanted))
        return read_fence(stood), [_stored(sort, reply) for (sort, _), reply in zip(wanted, replies, strict=True)]

    async def existing(self, key_ids: Iterable[str]) -> tuple[Fence, frozenset[str]]:
        """Return those of `key_ids` (at least one) that have a record: one command, however many they are."""
        asked = tuple(key_ids)
        stood, found = await self._store.send(fence(), ("ZMSCORE", _index("key"), *asked))
        known = frozenset(key_id for key_id, score in zip(asked, found, strict=True) if score is not None)
        return read_fence(stood), known

    async def page(
        self, sort: type[R], *, after: str | None = None, limit: int = 1000, organization: str | None = None
    ) -> Page[R]:
        """Return up to `limit` records after the name `after`; of one organization for keys and teams, if it is named.

        A record that is removed between the two reads is left out, and one that cannot be read, which is logged.
        """
        index, low, high, start = _index(sort.kind), "-", "+", ""
        if organization is not None and sort.kind == "key":
            index = _keys_of(organization)
        elif organization is not None:
            start = f"{organization}/"
            low, high = f"[{start}", f"({organization}0"  # 0 comes right after / in ASCII
        if after is not None:
            low = f"({after}"
        (names,) = await self._store.send(("ZRANGEBYLEX", index, low, high, "LIMIT", 0, limit + 1))
        asked = [name.decode() for name in names[:limit]]
        found = await self._readable([(sort, name) for name in asked])
        return Page(
            records=tuple(one for one in found if one is not None), cursor=asked[-1] if len(names) > limit else None
        )

    async def _readable(self, wanted: Sequence[tuple[type[R], str]]) -> list[Stored[R] | None]:
        """Return records likewise, None also for one that cannot be read: it must not hide all others from a list."""
        if not wanted:
            return []
        replies = await self._store.send(*map(_read, wanted))
        found: list[Stored[R] | None] = []
        for (sort, name), reply in zip(wanted, replies, strict=True):
            try:
                found.append(_stored(sort, reply))
            except msgspec.DecodeError as error:
                log.error("a record cannot be read", kind=sort.kind, name=name, why=str(error))  # noqa: TRY400 - data
                found.append(None)
        return found

    async def every(self, sort: type[R], *, organization: str | None = None) -> list[Stored[R]]:
        """Return all records of a kind, in as many round trips as their number asks for."""
        found: list[Stored[R]] = []
        after = None
        while True:
            page = await self.page(sort, after=after, organization=organization)
            found += page.records
            if page.cursor is None:
                return found
            after = page.cursor

    async def put(
        self,
        record: Record,
        author: Author,
        *,
        action: str,
        expected: int | None,
        before: Record | None = None,
        requires: Sequence[Named] = (),
    ) -> int:
        """Keep `record` and return its version.

        `expected`: the version that it replaces, 0 where there must be none, None for whatever is there. `before`: what
        it replaces, for the audit, which tells `action` (`create`, `update`, `revoke`, ...). `requires`: records that
        must be there at that moment. Raises Conflict, and Lacking where one of those is not.
        """
        told = _Told(author, action, *_difference(before, record))
        return await self._write(record, msgspec.json.encode(record), expected, told, requires)

    async def remove(self, record: Record, author: Author, *, expected: int | None, action: str = "delete") -> int:
        """Remove a record and return the number of the change. Raises Conflict, also where there is none."""
        return await self._write(record, b"", expected, _Told(author, action, *_difference(record, None)))

    async def audit(self, *, before: int | None = None, limit: int = 100) -> tuple[Line, ...]:
        """Return the last `limit` changes, the newest first; `before`: only those with a smaller number."""
        end = "+" if before is None else f"({before}-0"
        (entries,) = await self._store.send(("XREVRANGE", AUDIT, end, "-", "COUNT", limit))
        return tuple(_line(number, fields) for number, fields in entries)

    async def load(self) -> None:
        """Give the script to the store, which `put` and `remove` do by themselves where it is missing."""
        await self._store.load(SCRIPT)

    async def _write(
        self,
        record: Record,
        body: bytes,
        expected: int | None,
        told: _Told,
        requires: Sequence[Named] = (),
    ) -> int:
        keys = [key_of(record.kind, record.id), _index(record.kind), VERSION, CHANGES, AUDIT]
        keys += [key_of(sort.kind, name) for sort, name in requires]
        if isinstance(record, KeyRecord):
            keys.append(_keys_of(record.organization))
        kept = str(record.kept) if body else "0"
        pairs = [part for pair in told.fields().items() for part in pair]
        wanted = "" if expected is None else str(expected)
        arguments = [record.kind, record.id, wanted, body, kept, str(CHANGES_KEPT), str(len(requires)), *pairs]
        command = ("EVALSHA", _SHA, len(keys), *keys, *arguments)
        try:
            ((done, number),) = await self._store.send(command)
        except NoScriptError:
            await self.load()
            ((done, number),) = await self._store.send(command)
        if done < 0:
            raise Lacking(requires[number])
        if not done:
            raise Conflict(number)
        return int(number)


def _read(wanted: tuple[type[Record], str]) -> Command:
    sort, name = wanted
    return ("HMGET", key_of(sort.kind, name), "v", "b")


def _index(kind: Kind) -> str:
    return f"{PREFIX}all:{kind}"


def _keys_of(organization: str) -> str:
    return f"{PREFIX}keys:{organization}"


def _stored(sort: type[R], reply: Sequence[bytes | None]) -> Stored[R] | None:
    version, body = reply
    return None if version is None or body is None else Stored(msgspec.json.decode(body, type=sort), int(version))


def _difference(before: Record | None, after: Record | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that differ, as they were and as they are; secrets by name only."""
    old, new = (_told(record) for record in (before, after))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return {name: _shown(name, old) for name in names if name in old}, {n: _shown(n, new) for n in names if n in new}


def _told(record: Record | None) -> dict[str, Any]:
    return {} if record is None else msgspec.to_builtins(record)


def _shown(name: str, fields: dict[str, Any]) -> Any:  # noqa: ANN401 - a field of any record
    return "***" if name in HIDDEN and fields[name] is not None else fields[name]


def _line(number: bytes, fields: dict[bytes, bytes] | list[list[bytes]]) -> Line:
    pairs = fields.items() if isinstance(fields, dict) else fields
    told = {name.decode(): value for name, value in pairs}
    texts = ("kind", "name", "action", "who", "address", "request_id")
    return Line(
        version=int(number.partition(b"-")[0]),
        at=int(told["at"]),
        before=msgspec.json.decode(told["before"]),
        after=msgspec.json.decode(told["after"]),
        **{name: told[name].decode() for name in texts},
    )
