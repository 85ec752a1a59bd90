"""What the store has acknowledged in the last seconds, in case it loses that.

Law: a store that fails over or restarts may have lost its last seconds, acknowledged and all (replication and the
append-only file are asynchronous). Whenever another server stands behind the address, the calls of the last `KEPT`
seconds in which one was answered, however long it was away since, are made once more, before any other: by
(reservation id, step) whatever is still there counts once.
"""

from collections import deque

from msgspec import Struct

from gateway import clock
from gateway.ledger import wire
from gateway.store.door import Store, StoreDown

KEPT = 10.0
"""Seconds that a call is kept: more than a failover may lose, and about 25 MB at 9,000 calls a second."""

STALE = 12 * 3600.0
"""Seconds after the last call from which none is made again: half the time for which a store knows what a gateway that
was taken for lost has asked for."""

TOGETHER = 64
"""Calls in one round trip."""


class Call(Struct, frozen=True):
    """One call of the script: whose books, the packed operations, and the arguments that they name."""

    organization: str
    bodies: bytes
    arguments: list[bytes]

    def command(self, gateway: str, *, touched: bool = False, asked: int = 0) -> wire.Words:
        """Return the command that makes it; `touched` and `asked` as of `wire.call`."""
        return wire.call(self.organization, gateway, self.bodies, self.arguments, touched=touched, asked=asked)


class Ring:
    """The last calls of one gateway, oldest first. `repeated` counts the calls that were made once more."""

    def __init__(self, store: Store, gateway: str) -> None:
        self.repeated = 0
        self._store = store
        self._gateway = gateway
        self._calls: deque[tuple[float, Call, bytes]] = deque()
        self._connects = 0
        self._servers: frozenset[str] = frozenset()
        self._suspected: set[str] = set()

    @property
    def due(self) -> bool:
        """Whether a connection was made since we last looked who is behind it, or somebody's books are behind."""
        return self._connects != self._store.connects or bool(self._suspected)

    def suspect(self, organization: str) -> None:
        """Take it that the store has lost something of an organization."""
        self._suspected.add(organization)

    def keep(self, now: float, call: Call, reply: bytes) -> None:
        """Remember a call and its answer."""
        calls = self._calls
        calls.append((now, call, reply))
        while calls[0][0] < now - KEPT:
            calls.popleft()

    async def tell_again(self) -> None:
        """Make calls again: those of organizations that are behind, or all where another server is behind the address.

        Raises `StoreDown`.
        """
        connects = self._store.connects
        servers = await self._look() if connects != self._connects else self._servers
        if self._servers and servers != self._servers:
            await self._repeat(None)
        elif self._suspected:
            await self._repeat(frozenset(self._suspected))
        self._suspected.clear()
        self._servers = servers
        self._connects = connects

    async def _look(self) -> frozenset[str]:
        """Return who is behind the address. Raises `StoreDown`."""
        told = await self._store.everywhere(("INFO", "server"))
        for (info,) in told.values():
            if isinstance(info, Exception):
                raise StoreDown(f"the store does not say who it is: {info}") from info
        return frozenset(str(info["run_id"]) for (info,) in told.values())

    async def _repeat(self, organizations: frozenset[str] | None) -> None:
        """Make the calls of these organizations again, or (None) all."""
        await self._store.load(wire.SCRIPT)
        oldest = clock.monotonic() - STALE
        bodies = (
            (call, wire.again(call.bodies, reply))
            for at, call, reply in self._calls
            if at >= oldest and (organizations is None or call.organization in organizations)
        )
        commands = [
            Call(call.organization, repeated, call.arguments).command(self._gateway)
            for call, repeated in bodies
            if repeated is not None
        ]
        for first in range(0, len(commands), TOGETHER):
            await self._store.send(*commands[first : first + TOGETHER])
        self.repeated += len(commands)
