"""The gateways that live, and what each runs on.

Law: no clock but the store's is asked: a row vanishes by itself when its gateway has been silent for `LOST`.
"""

import asyncio
from contextlib import suppress

import msgspec
from msgspec import Struct

from gateway import clock
from gateway.identity.records import PREFIX
from gateway.store.door import Store, StoreDown

BEAT = 5.0
"""Seconds between two beats of one gateway."""

LOST = 15
"""Seconds of silence after which a gateway is not listed."""

_ALL = f"{PREFIX}gateways"


class Row(Struct, frozen=True):
    """One gateway. `config`: the digest of its file; `started`: unix seconds; `address`: where callers reach it."""

    instance: str
    config: str
    version: str
    started: int
    address: str


class Roll:
    """Keeps this gateway's row."""

    def __init__(self, store: Store, row: Row) -> None:
        self._store = store
        self._row = row
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._task = clock.spawn(self._beat(), "say that this gateway lives")

    async def close(self) -> None:
        """Take the row back."""
        if self._task is None:
            return
        self._task.cancel()
        instance = self._row.instance
        with suppress(StoreDown):  # it vanishes by itself
            await self._store.send(("DEL", _key(instance)), ("SREM", _ALL, instance))

    async def _beat(self) -> None:
        body = msgspec.json.encode(self._row)
        instance = self._row.instance
        while True:
            with suppress(StoreDown):  # the door has logged it
                await self._store.send(("SET", _key(instance), body, "EX", LOST), ("SADD", _ALL, instance))
            await asyncio.sleep(BEAT)


async def gateways(store: Store) -> list[Row]:
    """Return the gateways that live, the longest running first. Raises StoreDown."""
    (members,) = await store.send(("SMEMBERS", _ALL))
    instances = sorted(member.decode() for member in members)
    if not instances:
        return []
    (bodies,) = await store.send(("MGET", *map(_key, instances)))
    lost = [instance for instance, body in zip(instances, bodies, strict=True) if body is None]
    if lost:
        await store.send(("SREM", _ALL, *lost))
    rows = [msgspec.json.decode(body, type=Row) for body in bodies if body is not None]
    return sorted(rows, key=lambda row: (row.started, row.instance))


def _key(instance: str) -> str:
    return f"{PREFIX}gateway:{instance}"
