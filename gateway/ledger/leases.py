"""Leases: the heartbeat that keeps this gateway's reservations, heals its orphans, and reaps what a lost one held.

Law: a gateway is lost when its last call, as the store tells it, has not changed for `lost_after` seconds (less a round
trip) of our own clock and of unbroken contact with the store, and is that old by the store's clock too: neither a
stopped store, nor a clock that jumped, nor our own sleep makes anybody lost. What the store holds under our name and we
do not know twice in a row is an orphan, and is released. Among many gateways only some heartbeats look at the others,
in turn: whoever did so looks once more, and then knows who has not called since.
"""

import asyncio

from gateway import clock
from gateway.ledger import wire
from gateway.ledger.batches import Batches
from gateway.ledger.contact import Contact
from gateway.ledger.holdings import Holding, Holdings
from gateway.ledger.operations import Release
from gateway.ledger.queues import Operation
from gateway.store.door import StoreDown

SECOND_US = 1_000_000

LINGER = 4
"""Heartbeats go on for this many `lost_after` after the last call for an organization: its slots may all be held by a
gateway that is lost, and only a heartbeat gives them back."""


TOGETHER = 8
"""Organizations that are beaten for at once."""

AGAIN = 1.5
"""Heartbeats after a look at the others before it is made once more: with the second of those that follow."""

ROUND_TRIP = 0.05
"""Heartbeats by which a silence that we have seen may be shorter: it begins when an answer has come, and `lost_after`
later the heartbeat that is to end it is on its way already."""


class Beat(Operation):
    """One heartbeat for one organization."""

    def __init__(self, holding: Holding, leases: "Leases") -> None:
        super().__init__(holding.organization)
        self._holding = holding
        self._leases = leases
        self._must = self._counted = False

    def body(self, arguments: wire.Arguments) -> wire.Body:
        """Return what the script reads."""
        holding, leases = self._holding, self._leases
        bills, suspects = holding.counts(), leases.suspects(holding)
        self._counted = bool(bills)
        self._must = bool(suspects) or leases.due(holding)
        counts = arguments.place(wire.pack_counts(bills)) if bills or holding.counted else None
        holding.counted = holding.counted or self._counted  # until it is answered
        lost_after_us = round(leases.lost_after * SECOND_US)
        return wire.heartbeat(counts, holding.known, lost_after_us, suspects, must_look=self._must)

    def answered(self, answer: wire.Answer, now_us: int) -> None:  # noqa: ARG002 - our own clock counts here
        """Learn who else is there, and what we have forgotten."""
        self._holding.counted = self._counted
        self._leases.heard(self._holding, answer, again=not self._must)

    def failed(self, error: StoreDown) -> bool:  # noqa: ARG002 - the next one says more
        """Do nothing: the next heartbeat comes by itself."""
        return False


class Leases:
    """The heartbeat of one gateway. `reaped` counts the reservations of lost gateways that it has ended."""

    def __init__(
        self,
        holdings: Holdings,
        batches: Batches,
        contact: Contact,
        release: Release,
        *,
        every: float,
        lost_after: float,
    ) -> None:
        self.reaped = 0
        self.lost_after = lost_after
        self._holdings = holdings
        self._batches = batches
        self._contact = contact
        self._release = release
        self._every = every

    async def run(self) -> None:
        """Beat until cancelled: a few organizations at a time, so that no caller waits behind all of them."""
        while True:
            turns = max(1, -(-len(self._holdings.all()) // TOGETHER))
            for turn in range(turns):
                await asyncio.sleep(self._every / turns)
                self._beat(clock.monotonic(), self._holdings.all()[turn::turns])  # those that came meanwhile, too

    def suspects(self, holding: Holding) -> dict[str, str]:
        """Return the gateways that look lost from here, with the last call that we know of each."""
        now = clock.monotonic()
        since = self._contact.since(now)
        if since is None:
            return {}
        latest = now - self.lost_after + ROUND_TRIP * self._every
        return {
            gateway: last
            for gateway, (last, seen) in holding.calls.items()
            if seen < holding.looked and max(seen, since) <= latest
        }

    def due(self, holding: Holding) -> bool:
        """Tell whether to look at the others again: in between all that live have had a heartbeat of their own."""
        return holding.again and clock.monotonic() - holding.looked > AGAIN * self._every

    def heard(self, holding: Holding, answer: wire.Answer, *, again: bool) -> None:
        """Take a heartbeat's answer; `again`: whether, if it has looked at the others, there is to be another look."""
        _, calls, ids, reaped, more = answer
        if calls:
            self._seen(holding, calls)
            holding.again = again
        unknown = {id_ for id_ in ids if id_ not in holding.open and id_ not in holding.settling}
        orphans, holding.unknown = unknown & holding.unknown, unknown
        for id_ in orphans:
            self._release(holding.organization, id_)
        self.reaped += reaped
        if more and reaped:
            self.beat(holding)

    def _seen(self, holding: Holding, calls: list[str]) -> None:
        """Take what a look has found of the others, and of ourselves."""
        holding.looked = now = clock.monotonic()
        before, holding.calls = holding.calls, {}
        for gateway, last in zip(calls[::2], calls[1::2], strict=True):
            known = before.get(gateway)
            holding.calls[gateway] = known if known is not None and known[0] == last else (last, now)

    def beat(self, holding: Holding) -> None:
        """Beat for one organization now."""
        self._batches.submit(Beat(holding, self))

    def _beat(self, now: float, holdings: list[Holding]) -> None:
        for holding in holdings:
            if holding.known or now - holding.touched < LINGER * self.lost_after:
                self.beat(holding)
            else:
                self._holdings.forget(holding)
                self._batches.forget(holding.organization)
