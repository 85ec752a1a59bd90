"""Reading the roll-ups of many hours, without holding the store or this process for long.

Law: what is read at once is bounded by its fields, whatever hours hold; hours without calls cost a length each.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from itertools import islice

from gateway.ledger import wire
from gateway.store.door import Store

KEPT = 400 * 24
"""Hours for which roll-ups are kept."""

AT_ONCE = 500
"""Hours whose lengths are asked for in one round trip."""

FIELDS = 4000
"""Fields that are read in one round trip, and handed on in one piece: some milliseconds of either side."""

Fields = dict[bytes, bytes]


def key(organization: str, hour: int) -> str:
    """Return where the roll-up of that hour (whole hours since 1970) is."""
    return f"{wire.stem(organization)}:hour:{hour}"


async def read(store: Store, organization: str, hours: Iterable[int]) -> AsyncIterator[tuple[int, Fields]]:
    """Yield the roll-ups of `hours` in order, each in one or more pieces. Raises `StoreDown`."""
    rest = iter(hours)
    while asked := list(islice(rest, AT_ONCE)):
        lengths = await store.send(*(["HLEN", key(organization, hour)] for hour in asked))
        for group in _groups(asked, lengths):
            if isinstance(group, int):
                whole = await _scan(store, key(organization, group))
                async for piece in _pieces(whole):
                    yield group, piece
            else:
                found = await store.send(*(["HGETALL", key(organization, hour)] for hour in group))
                for hour, fields in zip(group, found, strict=True):
                    yield hour, fields


def _groups(hours: list[int], lengths: list[int]) -> Iterable[list[int] | int]:
    """Yield the hours in groups to read at once, and one that is too long for that as itself."""
    group: list[int] = []
    together = 0
    for hour, length in zip(hours, lengths, strict=True):
        if group and together + length > FIELDS:
            yield group
            group, together = [], 0
        if length > FIELDS:
            yield hour
        elif length:
            group.append(hour)
            together += length
    if group:
        yield group


async def _scan(store: Store, at: str) -> Fields:
    """Return a long hash; all of it, because a scan may tell a field twice."""
    whole: Fields = {}
    cursor = 0
    while True:
        ((cursor, fields),) = await store.send(["HSCAN", at, cursor, "COUNT", FIELDS])
        whole.update(fields)
        if not cursor:
            return whole


async def _pieces(whole: Fields) -> AsyncIterator[Fields]:
    rest = iter(whole.items())
    while piece := dict(islice(rest, FIELDS)):
        yield piece
        await asyncio.sleep(0)
