"""The hours in which counters began and were last counted, call by call.

Law: a roll-up is of a whole hour, and a counter may have begun in the middle of one. What was admitted in that hour
and was not counted is summed from records; they are believed only if all records of the hour add up to its roll-up.
"""

from collections.abc import AsyncIterator, Mapping, Sequence

from gateway.ledger import hours, wire
from gateway.ledger.counters import Counter, Index, Name, Tally, amount
from gateway.ledger.records import HOUR_US, LETTERS, Record, records
from gateway.ledger.retention import DAYS
from gateway.store.door import Store
from policies.meters import Measure

ENTRIES = 100
"""Entries of the stream in one round trip: some milliseconds of work on what they hold."""

LATE = 26
"""Hours within which what was admitted in an hour is recorded: a day for corrections, and what calls may take."""

_TOTALS = (Measure.REQUESTS, Measure.INPUT, Measure.OUTPUT, Measure.MONEY)
"""What of an hour's records must add up to its roll-up."""

_PLACES = [LETTERS.index(letter) for letter in b"niom"]
"""Where a roll-up has these."""


async def outside(
    store: Store,
    organization: str,
    tallies: Sequence[Tally],
    seen: Mapping[int, hours.Fields],
    until: bytes | None,
) -> dict[Name, int]:
    """Return what is recorded in the first and last hours of tallies and is not theirs, as of the entry `until`.

    `seen`: roll-ups as they were then. A tally is left out where the records of an hour are not all there. Raises
    `StoreDown`.
    """
    edges = {tally.counter.name: _edges(tally.counter) for tally in tallies}
    newest = int((until or b"0").partition(b"-")[0]) * 1000 // HOUR_US
    kept = sorted(hour for hour in set().union(*edges.values()) if hour >= newest - DAYS * 24 - 1)
    left = await _totals(store, organization, kept, seen)
    found = dict.fromkeys(edges, 0)
    index = Index(tallies)
    async for page in _pages(store, organization, kept, until):
        for record in page:
            admitted = record.head.admitted_us
            hour = admitted // HOUR_US
            if hour not in left:
                continue
            left[hour] = [rest - amount(record, each) for rest, each in zip(left[hour], _TOTALS, strict=True)]
            for tally in index.of(record.account):
                counter = tally.counter
                if hour in edges[counter.name] and not counter.covers(admitted):
                    found[counter.name] += amount(record, counter.measure)
        if not any(any(rest) for rest in left.values()):
            break
    whole = {hour for hour, rest in left.items() if not any(rest)}
    return {name: sums for name, sums in found.items() if edges[name] <= whole}


def _edges(counter: Counter) -> set[int]:
    """Return the hours that a counter counted only a part of."""
    first, last = counter.hours
    edges = {first} if counter.begun_us % HOUR_US else set()
    return edges | {last} if (counter.last_us + 1) % HOUR_US else edges


async def _totals(
    store: Store, organization: str, wanted: list[int], seen: Mapping[int, hours.Fields]
) -> dict[int, list[int]]:
    """Return what the roll-ups of hours tell in all, in the order of `_TOTALS`."""
    sums = {hour: [0] * len(LETTERS) for hour in wanted}
    for hour in wanted:
        _add(sums[hour], seen.get(hour, {}))
    async for hour, fields in hours.read(store, organization, [hour for hour in wanted if hour not in seen]):
        _add(sums[hour], fields)
    return {hour: [of_one[place] for place in _PLACES] for hour, of_one in sums.items()}


def _add(sums: list[int], fields: hours.Fields) -> None:
    for field, value in fields.items():
        sums[LETTERS.index(field[-1])] += int(value)


async def _pages(
    store: Store, organization: str, wanted: list[int], until: bytes | None
) -> AsyncIterator[list[Record]]:
    """Yield what was recorded from the first of these hours on, while it can be of one of them."""
    if until is None or not wanted:
        return
    stream = f"{wire.stem(organization)}:records"
    since: str | bytes = f"{wanted[0] * HOUR_US // 1000}-0"
    too_late = (wanted[-1] + LATE) * HOUR_US // 1000
    while True:
        (page,) = await store.send(["XRANGE", stream, since, until, "COUNT", ENTRIES])
        yield [record for _, fields in page for record in records(fields[b"r"])]
        if len(page) < ENTRIES or int(page[-1][0].partition(b"-")[0]) > too_late:
            return
        since = b"(" + page[-1][0]
