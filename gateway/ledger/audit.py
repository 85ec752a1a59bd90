"""The audit: whether what counters say is what the books add up to, while calls go on.

Law: what must agree is read in one transaction; hours that no call can still change are read before it, in pieces. A
difference is told only if two looks in a row see the same one. What cannot be known is told as that, never as right
and never as wrong.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, tzinfo
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from gateway.ledger import hours, wire
from gateway.ledger.counters import Counter, Index, Name, Open, Tally, counters, held, slots
from gateway.ledger.edges import outside
from gateway.ledger.records import HOUR_US
from gateway.store.door import Store

LEVELS = 200
"""Levels that one transaction reads: some milliseconds of the store."""

LOOKS = 4
"""Looks at what did not agree, after the first."""

PAUSE = 0.2
"""Seconds between two looks."""

_SEE = """#!lua flags=no-writes
local seen = { redis.call('GET', KEYS[1]), redis.call('HKEYS', KEYS[2]),
  redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1) }
for i = 4, #KEYS do
  seen[i] = redis.call('HGETALL', KEYS[i])
end
return seen
"""
"""One transaction, as a script that reads: in a cluster, MULTI belongs to no slot and could not be sent."""

GONE = "the records or roll-ups of the hour in which it began or was last counted are gone"
UNKNOWN = "what was owed when that period began, or when it began, is not kept"
MOVED = "it was another at every look"


class Line(Struct, frozen=True):
    """One count and what it should be: `owed` + `recorded` + `reserved`. `why` it cannot be told, else None."""

    name: Name
    counted: int
    owed: int
    recorded: int
    reserved: int
    why: str | None = None

    @property
    def difference(self) -> int:
        """How much more is counted than should be."""
        return self.counted - self.owed - self.recorded - self.reserved

    @property
    def agrees(self) -> bool:
        """Whether there is nothing to tell."""
        return self.why is None and not self.difference

    def is_as(self, other: "Line") -> bool:
        """Whether both looks tell the same."""
        return self.why == other.why and (self.why is not None or self.difference == other.difference)


class Findings(Struct, frozen=True):
    """What an audit of one organization found; `meters` is how many it looked at."""

    organization: str
    meters: int
    differences: list[Line]
    unchecked: list[Line]


async def levels_of(store: Store, organization: str | None = None) -> dict[str, list[str]]:
    """Return the ids of the levels that the store knows, by organization; of one only if it is named.

    Looks at every key of the store, in steps. Raises `StoreDown`.
    """
    found: dict[str, list[str]] = {} if organization is None else {organization: []}
    for key in await store.keys(f"{wire.stem(organization or '*')}:level:*"):
        name, _, level = key.decode().removeprefix("sw:{").partition("}:level:")
        found.setdefault(name, []).append(level)
    return found


async def check(store: Store, organization: str, levels: Sequence[str], zone: tzinfo = UTC) -> Findings:
    """Compare every counter of an organization with its books; `zone` is that of its periods. Raises `StoreDown`."""
    books = _Books(store, organization, zone)
    lines = await books.look(sorted({*levels, *await books.levels_in_use()}))
    doubts = {line.name: line for line in lines if not line.agrees}
    told = []
    for _ in range(LOOKS):
        if not doubts:
            break
        await asyncio.sleep(PAUSE)
        again = {line.name: line for line in await books.look(sorted({name.level for name in doubts}))}
        pairs = [(line, again[name]) for name, line in doubts.items() if name in again and not again[name].agrees]
        told += [now for before, now in pairs if now.is_as(before)]
        doubts = {now.name: now for before, now in pairs if not now.is_as(before)}
    told += [replace(line, why=line.why or MOVED) for line in doubts.values()]
    told.sort(key=lambda line: line.name)
    return Findings(
        organization=organization,
        meters=len({line.name[:2] for line in lines}),
        differences=[line for line in told if line.why is None],
        unchecked=[line for line in told if line.why is not None],
    )


class _Seen(Struct):
    """What one transaction saw; `hour` is that of the organization's last call, `last` the id of its last records."""

    hour: int
    last: bytes | None
    open: Open
    levels: dict[str, hours.Fields]
    hours: dict[int, hours.Fields]


class _Books:
    """The books of one organization."""

    def __init__(self, store: Store, organization: str, zone: tzinfo) -> None:
        self._store = store
        self._organization = organization
        self._stem = wire.stem(organization)
        self._zone = zone
        self._gateways: set[str] = set()

    async def levels_in_use(self) -> set[str]:
        """Return the levels that open reservations are charged to."""
        return {name.level for name in (await self._see([], [])).open.held}

    async def look(self, levels: Sequence[str]) -> list[Line]:
        """Compare the counters of `levels` with their books."""
        pages = [levels[at : at + LEVELS] for at in range(0, len(levels), LEVELS)]
        before = [await self._see(page, []) for page in pages]
        lively = {hour for seen in before for hour in (*seen.open.hours, seen.hour, seen.hour + 1)}
        tallies = [Tally(counter) for seen in before for counter in self._counters(seen)]
        await self._add_quiet(tallies, lively, max(lively, default=0))
        known = {tally.counter.name: tally for tally in tallies}
        return [line for page in pages for line in await self._judge(await self._see(page, sorted(lively)), known)]

    async def _add_quiet(self, tallies: list[Tally], lively: set[int], now: int) -> None:
        """Add the hours that no call can still change."""
        first = min((tally.counter.hours[0] for tally in tallies), default=now)
        quiet = [hour for hour in range(max(first, now - hours.KEPT), now) if hour not in lively]
        index = Index(tallies)
        async for hour, fields in hours.read(self._store, self._organization, quiet):
            index.add(hour, fields)

    async def _judge(self, seen: _Seen, known: dict[Name, Tally]) -> list[Line]:
        """Compare what one transaction saw, and what is known of the hours before it."""
        lines = []
        tallies = []
        for counter in self._counters(seen):
            before = known.get(counter.name)
            if before is None:
                continue  # it has begun just now
            if counter.hours[0] != before.counter.hours[0]:
                lines.append(Line(counter.name, counter.counted, 0, 0, 0, MOVED))
                continue
            moved = counter.hours[1] != before.counter.hours[1]
            tallies.append(Tally(counter, before.recorded + (before.after if moved else 0)))
        index = Index(tallies)
        for hour, fields in seen.hours.items():
            index.add(hour, fields)
        lines += await self._lines(seen, tallies)
        return lines + _slots(seen) + _missing(seen)

    async def _lines(self, seen: _Seen, tallies: list[Tally]) -> list[Line]:
        """Return a line a tally; where whole hours do not add up, with what records say of the first and last hour."""
        lines = [_line(tally.counter, tally.recorded, seen) for tally in tallies]
        doubtful = [tally for tally, line in zip(tallies, lines, strict=True) if not line.agrees]
        if not doubtful:
            return lines
        beyond = await outside(self._store, self._organization, doubtful, seen.hours, seen.last)
        kept_since = (seen.hour - hours.KEPT) * HOUR_US
        for at, tally in enumerate(tallies):
            counter = tally.counter
            if lines[at].agrees:
                continue
            amount = beyond.get(counter.name)
            if amount is not None and counter.begun_us >= kept_since:
                lines[at] = _line(counter, tally.recorded - amount, seen)
                if counter.owed is None and not lines[at].agrees:
                    lines[at] = replace(lines[at], why=UNKNOWN)
            else:
                lines[at] = replace(lines[at], why=GONE)
        return lines

    def _counters(self, seen: _Seen) -> list[Counter]:
        return [each for level, fields in seen.levels.items() for each in counters(level, fields, self._zone)]

    async def _see(self, levels: Sequence[str], of_hours: Sequence[int]) -> _Seen:
        """Read levels and roll-ups with every open reservation, all of one moment."""
        while True:
            gateways = sorted(self._gateways)
            keys = [f"{self._stem}:clock", f"{self._stem}:gateways", f"{self._stem}:records"]
            keys += [f"{self._stem}:reservations:{gateway}" for gateway in gateways]
            keys += [f"{self._stem}:level:{level}" for level in levels]
            keys += [hours.key(self._organization, hour) for hour in of_hours]
            ((now, known, newest, *flat),) = await self._store.send(["EVAL", _SEE, len(keys), *keys])
            self._gateways.update(name.decode() for name in known if not name.endswith(b"#"))
            if len(gateways) == len(self._gateways):
                break  # else there was one whose reservations were not read
        found = [_hash(one) for one in flat]
        end = len(gateways) + len(levels)
        return _Seen(
            hour=int(now or 0) // HOUR_US,
            last=newest[0][0] if newest else None,
            open=held(packed for one in found[: len(gateways)] for packed in one.values()),
            levels=dict(zip(levels, found[len(gateways) : end], strict=True)),
            hours=dict(zip(of_hours, found[end:], strict=True)),
        )


def _hash(flat: list[Any]) -> hours.Fields:
    """Return a hash as a dictionary: a script tells it flat."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _line(counter: Counter, recorded: int, seen: _Seen) -> Line:
    return Line(counter.name, counter.counted, counter.owed or 0, recorded, seen.open.of(counter))


def _slots(seen: _Seen) -> list[Line]:
    """Compare slots in use with the open reservations that hold one."""
    return [
        Line(name, in_use, 0, 0, len(seen.open.held.get(name, ())))
        for level, fields in seen.levels.items()
        for name, in_use in slots(level, fields).items()
    ]


def _missing(seen: _Seen) -> list[Line]:
    """Tell counters that open reservations are charged to and that are not there."""
    return [
        Line(name, 0, 0, 0, sum(one.amount for one in held))
        for name, held in seen.open.held.items()
        if name.level in seen.levels and name.field.encode() not in seen.levels[name.level]
    ]
