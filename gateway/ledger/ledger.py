"""The ledger: what a call may use is set aside before it runs, and settled to what it used.

Law: exact, all or nothing over all levels, one round trip shared with whoever else waits. With the store gone every
question raises `StoreDown` (the stance on that is the caller's), while settlements are kept and made on its return.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from gateway import clock
from gateway.ledger import totals, wire
from gateway.ledger.batches import Batches, Contact
from gateway.ledger.holdings import Holdings
from gateway.ledger.leases import Leases
from gateway.ledger.operations import Admission, Growth, Settlement
from gateway.store.door import Store, StoreDown
from policies.domain import Claim, Reservation, Usage
from policies.rejections import Rejection

ORGANIZATIONS = "sw:organizations"
"""The set of organizations that ever had a reservation."""

HEARTBEAT = 5.0
"""Seconds between two heartbeats."""

LOST_AFTER = 15.0
"""Seconds of silence after which a gateway is lost."""

CLOSING = 5.0
"""Seconds that closing waits for the last settlements."""


class Ledger:
    """The books of every organization, as one gateway writes them.

    `gateway_id` is unique to this process and its life: a gateway that comes back under its old id would take its
    former life's reservations for orphans.
    """

    def __init__(
        self, store: Store, gateway_id: str, *, heartbeat: float = HEARTBEAT, lost_after: float = LOST_AFTER
    ) -> None:
        self._store = store
        self._gateway = gateway_id
        self._ids = count(1)
        self._plans = wire.Plans()
        self._holdings = Holdings()
        contact = Contact(gap=2 * heartbeat)
        self._batches = Batches(store, gateway_id, contact)
        self._leases = Leases(
            self._holdings, self._batches, contact, self._release, every=heartbeat, lost_after=lost_after
        )
        self._beating: asyncio.Task[None] | None = None

    @property
    def open_reservations(self) -> int:
        """Reservations of this gateway that the store may still hold."""
        return sum(holding.known for holding in self._holdings.all())

    @property
    def reaped(self) -> int:
        """Reservations of lost gateways that this one has ended."""
        return self._leases.reaped

    async def start(self) -> None:
        """Load the script and begin the heartbeat, for every organization at first. Raises `StoreDown`.

        Whoever was killed before us may have left slots in any of them, and nobody else may be there to give them back.
        """
        await self._batches.load()
        (names,) = await self._store.send(["SMEMBERS", ORGANIZATIONS])
        for name in names:
            self._holdings.get(name.decode())
        self._beating = clock.spawn(self._leases.run(), "ledger heartbeat")

    async def close(self) -> int:
        """Stop the heartbeat and make every settlement, waiting 5 s at most; return how many could not be made."""
        if self._beating is not None:
            self._beating.cancel()
            with suppress(asyncio.CancelledError):
                await self._beating
        await self._batches.drain(CLOSING)
        return sum(len(holding.settling) for holding in self._holdings.all())

    async def admit(self, claim: Claim) -> Reservation | Rejection:
        """Set `claim` aside at every level, or say which meter refuses and until when; a refusal changes nothing.

        Raises `StoreDown`. Whatever was granted to a caller that was cancelled or told `StoreDown` is released.
        """
        if claim.organization not in self._holdings:
            clock.spawn(self._remember(claim.organization), "remember an organization")
        holding = self._holdings.get(claim.organization)
        holding.touched = clock.monotonic()
        id_ = f"{self._gateway}-{next(self._ids):x}"
        admission = Admission(id_, claim, self._plans.pack(claim.levels), holding, self._release)
        self._batches.submit(admission)
        try:
            return await admission.outcome
        except asyncio.CancelledError:
            if id_ in holding.open:  # granted, while the caller was being cancelled
                del holding.open[id_]
                self._release(claim.organization, id_)
            raise

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """End `reservation` with what was used: booked exactly once, when the store can, without waiting.

        Tokens and slots that were not used return; the request stays charged. Only the first call counts.
        """
        holding = self._holdings.get(reservation.claim.organization)
        if holding.open.pop(reservation.id, None) is not None:
            self._batches.submit(Settlement(reservation.id, usage, holding))

    def follow(self, reservation: Reservation, counted: Callable[[], int]) -> None:
        """Ask `counted` at every heartbeat for the tokens used so far: what is charged if this gateway is lost."""
        one = self._holdings.get(reservation.claim.organization).open.get(reservation.id)
        if one is not None:
            one.counted = counted

    async def grow(self, reservation: Reservation, tokens: int) -> bool:
        """Set `tokens` more aside for an open reservation; False if a meter refuses or it is not open.

        Raises `StoreDown`.
        """
        one = self._holdings.get(reservation.claim.organization).open.get(reservation.id)
        if one is None:
            return False
        one.step += 1
        growth = Growth(reservation, one.step, tokens)
        self._batches.submit(growth)
        return await growth.outcome

    async def usage(self, organization: str) -> list[totals.UsageTotal]:
        """Return what every key has used of every model so far. Raises `StoreDown`."""
        (fields,) = await self._store.send(["HGETALL", f"{wire.stem(organization)}:usage"])
        return totals.read(fields)

    async def _remember(self, organization: str) -> None:
        """Note that an organization has reservations; a store that is down will be told with its next first call."""
        with suppress(StoreDown):
            await self._store.send(["SADD", ORGANIZATIONS, organization])

    def _release(self, organization: str, id_: str) -> None:
        self._batches.submit(Settlement(id_, None, self._holdings.get(organization)))
