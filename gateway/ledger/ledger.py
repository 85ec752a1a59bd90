"""The ledger: what a call may use is set aside before it runs, and settled to what it used.

Law: exact, all or nothing over all levels, one round trip shared with whoever else waits. With the store gone a call
is decided by this gateway's share of what was left where its plans say so, else `StoreDown` is raised; settlements are
kept and made on its return.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from msgspec import Struct

from gateway import clock
from gateway.ledger import wire
from gateway.ledger.batches import Batches
from gateway.ledger.contact import Contact
from gateway.ledger.holdings import Holdings, Open
from gateway.ledger.leases import Leases
from gateway.ledger.local import Local, Told, ToldGrowth
from gateway.ledger.operations import Admission, Growth, OtherPeriod, Settlement
from gateway.ledger.plans import Packed, Plans
from gateway.ledger.queues import NotToldError
from gateway.store.door import Store, StoreDown
from policies.domain import Bill, Claim, Reservation, Usage
from policies.rejections import Rejection

ORGANIZATIONS = "sw:organizations"
"""The set of organizations that ever had a reservation."""

HEARTBEAT = 5.0
"""Seconds between two heartbeats."""

LOST_AFTER = 15.0
"""Seconds of silence after which a gateway is lost."""

CLOSING = 5.0
"""Seconds that closing waits for the last settlements."""


class Figures(Struct, frozen=True):
    """Counts of one gateway since its start.

    `reaped`: reservations of lost gateways that it ended. `lost`: its settlements of what the store had lost.
    `repeated`: calls of the store's script made once more because another server stood behind the address. `local`:
    calls admitted while the store was away.
    """

    reaped: int
    lost: int
    repeated: int
    local: int


_UNUSED = Bill(Usage(0, 0, estimated=False), outcome="rejected")


class Ledger:
    """The books of every organization, as one gateway writes them.

    `gateway_id` is unique to this process and its life: a gateway that comes back under its old id would take its
    former life's reservations for orphans. `journal`: the folder of what is admitted while the store is away, None
    where no plan allows that.
    """

    def __init__(
        self,
        store: Store,
        gateway_id: str,
        *,
        heartbeat: float = HEARTBEAT,
        lost_after: float = LOST_AFTER,
        journal: Path | None = None,
    ) -> None:
        self._store = store
        self._gateway = gateway_id
        self._ids = count(1)
        self._plans = Plans()
        self._holdings = Holdings()
        self._local = None if journal is None else Local(journal, gateway_id, store)
        contact = Contact(gap=2 * heartbeat)
        self._batches = Batches(store, gateway_id, contact, self._local)
        self._leases = Leases(
            self._holdings, self._batches, contact, self._release, every=heartbeat, lost_after=lost_after
        )
        self._beating: asyncio.Task[None] | None = None

    @property
    def open_reservations(self) -> int:
        """Reservations of this gateway that the store may still hold."""
        return sum(holding.known for holding in self._holdings.all())

    @property
    def organizations(self) -> list[str]:
        """Organizations that this gateway has lately called for."""
        return [holding.organization for holding in self._holdings.all()]

    @property
    def figures(self) -> Figures:
        """Counts since the start."""
        admissions = 0 if self._local is None else self._local.admissions
        return Figures(self._leases.reaped, self._holdings.lost, self._batches.ring.repeated, admissions)

    @property
    def fault(self) -> str | None:
        """Why what is admitted without the store is not on disk, None while it is."""
        return None if self._local is None else self._local.fault

    async def start(self, over: Store | None = None) -> None:
        """Load the script and begin the heartbeat, for every organization at first. Raises `StoreDown`.

        Whoever was killed before us may have left slots in any of them, and nobody else may be there to give them back.
        `over`: the store by another door, where its own is not open yet. May be called again.
        """
        store = self._store if over is None else over
        await store.load(wire.SCRIPT)
        if self._local is not None:
            await self._local.start(store)
        (names,) = await store.send(["SMEMBERS", ORGANIZATIONS])
        for name in names:
            self._holdings.get(name.decode())
        if self._beating is None:
            self._beating = clock.spawn(self._leases.run(), "ledger heartbeat")

    async def close(self) -> int:
        """Stop the heartbeat and make every settlement, waiting 5 s at most; return how many could not be made."""
        if self._beating is not None:
            self._beating.cancel()
            with suppress(asyncio.CancelledError):
                await self._beating
        await self._batches.drain(CLOSING)
        if self._local is not None:
            await self._local.close()
        return sum(len(holding.settling) for holding in self._holdings.all())

    async def admit(self, claim: Claim) -> Reservation | Rejection:
        """Set `claim` aside at every level, or say which meter refuses and until when; a refusal changes nothing.

        Raises `StoreDown` where the store is away and the plans do not say `local`. Whatever was granted to a caller
        that was cancelled or told `StoreDown` is released.
        """
        packed = self._plans.pack(claim)
        try:
            try:
                return await self._ask(claim, packed)
            except OtherPeriod as other:
                return await self._ask(claim, self._plans.pack(claim, other.now_us))
        except StoreDown as error:
            away = self._store.down is not None or isinstance(error, NotToldError)
            answer = self._admit_locally(claim, packed) if away else None
            if answer is None:
                raise
            return answer

    async def _ask(self, claim: Claim, packed: Packed) -> Reservation | Rejection:
        first = claim.organization not in self._holdings
        holding = self._holdings.get(claim.organization)
        holding.touched = clock.monotonic()
        id_ = f"{next(self._ids):x}"
        admission = Admission(id_, f"{self._gateway}-{id_}", claim, packed, holding, release=self._release)
        self._batches.submit(admission)
        if first:
            clock.spawn(self._remember(claim.organization), "remember an organization")
            self._leases.beat(holding)
        try:
            return await admission.outcome
        except asyncio.CancelledError:
            if id_ in holding.open:  # granted, while the caller was being cancelled
                del holding.open[id_]
                self._release(claim.organization, id_)
            raise

    def _admit_locally(self, claim: Claim, packed: Packed) -> Reservation | Rejection | None:
        """Decide by our share of what was left, without the store; None where we cannot."""
        holding = self._holdings.get(claim.organization)
        if self._local is None:
            return None
        answer = self._local.ask(holding, claim)
        if not isinstance(answer, int):
            return answer
        id_ = f"{next(self._ids):x}"
        holding.open[id_] = Open(packed, answer)
        told = Told(id_, claim, packed, answer)
        self._batches.tell(told)
        return Reservation(f"{self._gateway}-{id_}", claim)

    def settle(self, reservation: Reservation, bill: Bill) -> None:
        """End `reservation` with `bill`: booked exactly once, when the store can, without waiting.

        Tokens, money and slots that were not used return; the request stays charged. Only the first call counts.
        """
        holding = self._holdings.get(reservation.claim.organization)
        id_ = self._number(reservation)
        one = holding.open.pop(id_, None)
        if one is None:
            return
        settlement = Settlement(id_, bill, holding)
        if self._local is not None:
            self._local.settled(reservation.claim, one, bill)
        self._batches.submit(settlement)

    def release(self, reservation: Reservation) -> None:
        """End `reservation` of a call that was never tried as if it had never been, the request included.

        One that was admitted without the store counts there until the minute is over, as whatever was told does.
        """
        claim = reservation.claim
        id_ = self._number(reservation)
        one = self._holdings.get(claim.organization).open.pop(id_, None)
        if one is None:
            return
        if self._local is not None:
            self._local.settled(claim, one, _UNUSED)
        self._release(claim.organization, id_)

    def follow(self, reservation: Reservation, so_far: Callable[[], Bill]) -> None:
        """Ask `so_far` at every heartbeat for the bill as it stands: what is charged if this gateway is lost."""
        one = self._holdings.get(reservation.claim.organization).open.get(self._number(reservation))
        if one is not None:
            one.so_far = so_far

    async def grow(self, reservation: Reservation, output_tokens: int, money: int) -> Rejection | None:
        """Set more aside for an open reservation; None if it was granted, else the meter that refuses.

        One that is not open any more needs none. Raises `StoreDown` as `admit` does.
        """
        id_ = self._number(reservation)
        holding = self._holdings.get(reservation.claim.organization)
        one = holding.open.get(id_)
        if one is None:
            return None
        growth = Growth(id_, reservation.claim, one, output_tokens, money)
        self._batches.submit(growth)
        try:
            refused = await growth.outcome
        except StoreDown:
            if self._local is None:
                raise
            refused = self._local.grow(holding, reservation.claim, one, output_tokens, money)
            if refused is None:
                self._batches.tell(ToldGrowth(reservation.claim.organization, growth.body(wire.Arguments())))
        if refused is None:
            one.grown_tokens += output_tokens
            one.grown_money += money
        return refused

    def _number(self, reservation: Reservation) -> str:
        """Return a reservation's id as the books of this gateway have it."""
        return reservation.id[len(self._gateway) + 1 :]

    async def _remember(self, organization: str) -> None:
        """Note that an organization has reservations; a store that is down will be told with its next first call."""
        with suppress(StoreDown):
            await self._store.send(["SADD", ORGANIZATIONS, organization])

    def _release(self, organization: str, id_: str) -> None:
        self._batches.submit(Settlement(id_, None, self._holdings.get(organization)))
