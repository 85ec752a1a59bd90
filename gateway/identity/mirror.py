"""The store's records in memory, each with what proves that it is still so.

Law: what is here is believed while the feed says that it would have told of a change, else for `TRUST` from before it
was read. A read that a change overtakes is made again, so an older answer never stays; that there is no such record
is an answer like any other. Whoever needs the same record shares a read, and one read carries all that is wanted.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from gateway import clock
from gateway.identity.changes import Feed
from gateway.identity.fence import Fence
from gateway.identity.records import KeyRecord, Kind, Record
from gateway.identity.registry import Registry
from gateway.identity.strangers import Strangers
from gateway.store.door import StoreDown

log = structlog.get_logger("sluiceway.identity")

TRUST = 0.5
"""Seconds that a record is believed without the feed, from before it was read: half of what a revocation may take."""

REMEMBERED = 100_000
"""Records of a kind kept, present or absent; the one read longest ago goes first. Keys take 2.6 KB each in all."""

STRANGERS_REMEMBERED = 10_000
"""Ids of keys that do not exist kept, about 2 MB; the oldest goes first, and never a key that exists."""

TOGETHER = 500
"""Records in one read: larger ones would hold up the loop for longer than 10 ms."""

UNPROVEN = -1
"""The epoch of what a server said whose changes nobody followed."""

Wanted = tuple[type[Record], str]
"""A record, by its sort and its name."""


class Entry(Struct, eq=False):
    """A record as it was read (None: there is none), and what that is worth.

    `wanted`: its sort and name. `version`: the record's, 0 for none. `asked`: monotonic seconds from before it was
    read; `epoch`: the feed's then. `stale`: it was changed since, or is remembered no more, so nobody would tell.
    """

    wanted: Wanted
    record: Any
    version: int
    asked: float
    epoch: int
    stale: bool = False


class _Reading:
    """A read that is under way or waits for its turn; `told`: the highest version told of meanwhile."""

    __slots__ = ("asked", "done", "epoch", "told", "wanted")

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.done: asyncio.Future[Entry | Exception] = asyncio.get_running_loop().create_future()
        self.told = 0
        self.asked = 0.0
        self.epoch = 0


class Mirror:
    """What is known of the records. `now`: monotonic seconds. `generation` grows whenever an entry becomes stale."""

    def __init__(self, registry: Registry, feed: Feed, now: Callable[[], float] = clock.monotonic) -> None:
        self.generation = 0
        self._registry = registry
        self._feed = feed
        self._now = now
        self._strangers = Strangers(registry)
        self._kept: dict[Kind, dict[str, Entry]] = {}
        self._absent_keys: dict[str, Entry] = {}
        self._reading: dict[tuple[Kind, str], _Reading] = {}
        self._queue: dict[tuple[Kind, str], _Reading] = {}
        self._reader: asyncio.Task[None] | None = None
        feed.on_change(self._told)

    def peek(self, sort: type[Record], name: str) -> Entry | None:
        """Return what is known and proven of a record, None where the store has to be asked."""
        entry = self._known(sort.kind, name)
        return entry if entry is not None and self.proven(entry) else None

    def proven(self, entry: Entry) -> bool:
        """Say whether an entry is still believed."""
        if entry.stale:
            return False
        return (entry.epoch == self._feed.epoch and self._feed.trusted) or self._now() < entry.asked + TRUST

    async def fetch(self, wanted: Sequence[Wanted]) -> list[Entry]:
        """Return records in order, from memory where it has proof. Raises `StoreDown` and `Crowded`."""
        found = [self.peek(sort, name) or self._read(sort, name) for sort, name in wanted]
        entries: list[Entry] = []
        for one in found:
            entry = one if isinstance(one, Entry) else await asyncio.shield(one)
            if isinstance(entry, Exception):
                raise entry
            entries.append(entry)
        return entries

    def _known(self, kind: Kind, name: str) -> Entry | None:
        entry = self._kept.get(kind, {}).get(name)
        return self._absent_keys.get(name) if entry is None and kind == KeyRecord.kind else entry

    def _told(self, kind: Kind, name: str, version: int) -> None:
        """Hear of a change: what was read before it is stale, and a read under way may be older than it."""
        entry = self._known(kind, name)
        if entry is not None and entry.version < version:
            self._spoil(entry)
        reading = self._reading.get((kind, name))
        if reading is not None:
            reading.told = version

    def _spoil(self, entry: Entry) -> None:
        entry.stale = True
        self.generation += 1

    def _read(self, sort: type[Record], name: str) -> "asyncio.Future[Entry | Exception]":
        place = (sort.kind, name)
        reading = self._reading.get(place)
        if reading is None:
            reading = self._reading[place] = _Reading((sort, name))
            if sort is KeyRecord and self._strange(name):
                clock.spawn(self._ask_first(reading), "ask about an unknown key")
            else:
                self._enqueue(reading)
        return reading.done

    def _strange(self, key_id: str) -> bool:
        """Say whether nobody is known to have given out an id: it is not a key's of a moment ago, nor told of."""
        entry = self._known(KeyRecord.kind, key_id)
        return entry is None or (entry.record is None and not entry.stale)

    def _enqueue(self, reading: _Reading) -> None:
        sort, name = reading.wanted
        self._queue[sort.kind, name] = reading
        if self._reader is None:
            self._reader = clock.spawn(self._read_all(), "read records of tenants")

    async def _ask_first(self, reading: _Reading) -> None:
        """Read a key's record only if there is one, at the strangers' pace."""
        self._begin(reading)
        try:
            stood, exists = await self._strangers.exists(reading.wanted[1])
            self._compare(stood, [reading])
        except Exception as error:  # noqa: BLE001 - whoever waits raises it
            self._end(reading, error)
            return
        if exists or reading.told:
            self._enqueue(reading)
        else:
            self._end(reading, self._keep(reading, None, 0))

    async def _read_all(self) -> None:
        """Read what is wanted, one round trip after the other; what is wanted meanwhile goes together in the next."""
        try:
            while self._queue:
                batch = [self._queue.pop(place) for place in list(self._queue)[:TOGETHER]]
                await self._read_batch(batch)
        finally:
            self._reader = None

    async def _read_batch(self, batch: list[_Reading]) -> None:
        for reading in batch:
            self._begin(reading)
        try:
            stood, found = await self._registry.fenced([reading.wanted for reading in batch])
            self._compare(stood, batch)
        except msgspec.DecodeError as error:
            await self._read_apart(batch, error)
            return
        except Exception as error:  # noqa: BLE001 - whoever waits raises it
            for reading in batch:
                self._end(reading, error)
            return
        for reading, stored in zip(batch, found, strict=True):
            version = 0 if stored is None else stored.version
            if version < reading.told:
                self._enqueue(reading)
            else:
                self._end(reading, self._keep(reading, None if stored is None else stored.record, version))

    async def _read_apart(self, batch: list[_Reading], error: Exception) -> None:
        """Find out whose record nobody can read: that one cannot be served, the others can."""
        if len(batch) > 1:
            for reading in batch:
                await self._read_batch([reading])
            return
        sort, name = batch[0].wanted
        log.error("a record cannot be read", kind=sort.kind, name=name, why=str(error))
        self._end(batch[0], StoreDown(f"the record {sort.kind} {name} cannot be read: {error}"))

    def _begin(self, reading: _Reading) -> None:
        reading.told = 0
        reading.asked = self._now()
        reading.epoch = self._feed.epoch

    def _compare(self, stood: Fence, batch: list[_Reading]) -> None:
        """See that what was read is of the history whose changes are followed. Raises `StoreDown`.

        While nobody can tell whether that goes on, what another server says is worth `TRUST` and no more.
        """
        if stood.history == self._feed.history:
            return
        if self._feed.trusted:
            raise StoreDown("another server answers than the one whose changes are followed")
        for reading in batch:
            reading.epoch = UNPROVEN

    def _end(self, reading: _Reading, outcome: Entry | Exception) -> None:
        sort, name = reading.wanted
        self._reading.pop((sort.kind, name), None)
        if not reading.done.done():
            reading.done.set_result(outcome)

    def _keep(self, reading: _Reading, record: Any, version: int) -> Entry:  # noqa: ANN401 - a record of any sort
        """Remember an answer; one that is as before renews its entry, which others hold, in its place.

        As before is what says the same: after a failover one number may have been given to two changes.
        """
        sort, name = reading.wanted
        entry = self._known(sort.kind, name)
        if entry is not None and not entry.stale and (entry.version, entry.record) == (version, record):
            entry.asked, entry.epoch = reading.asked, reading.epoch
        else:
            if entry is not None:
                self._spoil(entry)
            entry = Entry(reading.wanted, record, version, reading.asked, reading.epoch)
        absent_key = sort is KeyRecord and record is None
        self._kept.setdefault(sort.kind, {}).pop(name, None)
        if sort is KeyRecord:
            self._absent_keys.pop(name, None)
        self._remember(self._absent_keys if absent_key else self._kept[sort.kind], entry)
        return entry

    def _remember(self, shelf: dict[str, Entry], entry: Entry) -> None:
        """Put an entry last on its shelf, and let the first one go where that would hold too many."""
        shelf[entry.wanted[1]] = entry
        if len(shelf) > (STRANGERS_REMEMBERED if shelf is self._absent_keys else REMEMBERED):
            self._spoil(shelf.pop(next(iter(shelf))))
