"""The gateways that live, and what each runs on and has to do.

Law: no clock but the store's is asked: a row vanishes by itself when its gateway has been silent for `LOST`. A gateway
of another version may tell more or less; what it does not tell is not known.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from gateway import clock
from gateway.identity.records import PREFIX
from gateway.store.door import Store, StoreDown

BEAT = 5.0
"""Seconds between two beats of one gateway."""

LOST = 15
"""Seconds of silence after which a gateway is not listed."""

EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - nothing is bound here
"""Addresses that stand for all of a machine's, and tell nobody where it is."""

_ALL = f"{PREFIX}gateways"


class Row(Struct, frozen=True):
    """One gateway. `config`: the digest of its file; `started`: unix seconds; `address`: where callers reach it.

    `open_calls`: calls under way, `waiting` those of them that wait for a place; `refused`: its file was changed, has
    mistakes, and is not what it runs on. None: it does not tell.
    """

    instance: str
    config: str
    version: str
    started: int
    address: str
    open_calls: int | None = None
    waiting: int | None = None
    refused: bool | None = None


class Listed(Row, frozen=True):
    """A gateway as it told of itself `lag` seconds ago, by the store's clock."""

    lag: float = 0.0


class Roll:
    """Keeps this gateway's row, which is asked for at every beat."""

    def __init__(self, store: Store, row: Callable[[], Row]) -> None:
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
        await asyncio.wait({self._task})  # a beat that is under way would bring it back
        instance = self._row().instance
        with suppress(StoreDown):  # it vanishes by itself
            await self._store.send(("DEL", _key(instance)), ("SREM", _ALL, instance))

    async def _beat(self) -> None:
        while True:
            row = self._row()
            body = msgspec.json.encode(row)
            with suppress(StoreDown):  # the door has logged it
                await self._store.send(("SET", _key(row.instance), body, "EX", LOST), ("SADD", _ALL, row.instance))
            await asyncio.sleep(BEAT)


async def gateways(store: Store) -> list[Listed]:
    """Return the gateways that live, the longest running first. Raises StoreDown."""
    (members,) = await store.send(("SMEMBERS", _ALL))
    instances = sorted(member.decode() for member in members)
    if not instances:
        return []
    keys = [_key(instance) for instance in instances]
    bodies, *left = await store.send(("MGET", *keys), *(("PTTL", key) for key in keys))
    told = list(zip(instances, bodies, left, strict=True))
    lost = [instance for instance, body, _ in told if body is None]
    if lost:
        await store.send(("SREM", _ALL, *lost))
    rows = [_listed(body, left_ms) for _, body, left_ms in told if body is not None]
    return sorted(rows, key=lambda row: (row.started, row.instance))


def reached_at(host: str, port: int) -> str:
    """Return where callers reach a gateway that listens on `host`: by this machine's name, where that is all it has."""
    name = socket.gethostname() if host in EVERYWHERE else host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _listed(body: bytes, left_ms: int) -> Listed:
    row = msgspec.json.decode(body, type=Row)
    silent = LOST - max(left_ms, 0) / 1000  # it ended by itself a moment after it was read
    return Listed(**asdict(row), lag=round(max(silent, 0.0), 3))


def _key(instance: str) -> str:
    return f"{PREFIX}gateway:{instance}"
