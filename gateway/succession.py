"""Who is tried after an attempt that failed, and the place it is given there.

Law: `policies.retries` says who may be; whoever is drained, or dearer than can be set aside, is passed over, once. So
is whoever is no longer what the call was planned for, asked in the very moment in which a place is taken: a name may be
another backend's by now, hosted where it was not. Who is full is waited for only where nobody else is left. A failed
call goes before nobody: while others wait for its model it joins their line for every place that is bounded, for as
long as it has not yet waited of what its terms let one call wait, and where a place is free up to the next round at
least. A place that is returned is held; one that comes to nothing is given back.
"""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from gateway import clock
from gateway.growth import Growing
from gateway.places import Held, any_room, bounded, enter, place
from gateway.planning import Planned, chain_of
from gateway.services import Services
from policies.candidates import DRAINED, FULL
from policies.domain import Candidate, Deployment, Route
from policies.live import Ticket
from policies.needs import needs_any
from policies.rejections import Reason, Rejection
from policies.retries import RetryBudget, Tried, next_step

Following = tuple[Candidate, Ticket]

CHANGED = "gone or changed since the call was planned"
"""The reason that a deployment is passed over which the catalog has no longer, or has as another one."""

_GONE = Rejection(Reason.NO_DEPLOYMENT, "Every deployment that was waited for is drained, gone or changed.")


class Succession:
    """Who follows whom in one call. `skipped`: candidates that were passed over, by id."""

    def __init__(self, services: Services, planned: Planned, growing: Growing) -> None:
        self.skipped: dict[str, Candidate] = {}
        self._services = services
        self._planned = planned
        self._growing = growing
        self._untold: tuple[str, ...] = ()

    def told(self) -> tuple[str, ...]:
        """Return who was passed over since the last time, in words."""
        told, self._untold = self._untold, ()
        return told

    async def after(self, route: Route, tried: Tried, deadline: float, budget: RetryBudget) -> Following | None:
        """Return the candidate to try next and its place, once it is its time; None where it is time to give up."""
        fleet = self._services.fleet
        while True:
            now = clock.monotonic()
            frozen = {before.deployment.id: fleet.live(before.deployment).freeze.asked(now) for before, _ in tried}
            step = next_step(route, tried, frozen, deadline - now, budget, now=now, skipped=self.skipped)
            if step.wait:
                await asyncio.sleep(step.wait)
            held = await self._first(route, step.candidates, deadline)
            if held is not None:
                return held.candidate, held.ticket
            if step.taken:
                budget.give_back()
            if not step.candidates:
                return None

    async def _first(self, route: Route, left: Sequence[Candidate], deadline: float) -> Held | None:
        """Return the place of the first of those `left` that can be had, one that is full if all others cannot.

        None: all of them are skipped.
        """
        full = []
        for candidate in left:
            reason = self._barred(candidate) or await self._growing.covers(candidate.deployment.price)
            reason = reason or self._barred(candidate)  # it may have changed meanwhile
            if reason is not None:
                self._skip(candidate, reason)
                continue
            held = None if self._queues(candidate) else enter(self._services, self._planned, candidate)
            if held is not None and (held.certain() or await held.asked()):
                return held
            full.append(candidate)
        return await self._wait(route, full, deadline) if full else None

    def _queues(self, candidate: Candidate) -> bool:
        """Say whether a place at a deployment is for those that wait."""
        return bounded(self._services, candidate) and self._services.room.busy(self._planned.model.name)

    async def _wait(self, route: Route, full: Sequence[Candidate], deadline: float) -> Held | None:
        """Wait for a place at any of those that are full; None: it was in vain."""
        begun = clock.monotonic()
        for candidate in full:
            self._services.fleet.live(candidate.deployment).allowance.missed(candidate.money or 0, begun)
        found = await place(
            self._services,
            self._planned,
            route.terms,
            full,
            deadline - begun,
            lambda: self._entered(full),
            needs=lambda: needs_any(one.deployment.id for one in full if self._barred(one) is None),
            free=any_room(self._services, (candidate.deployment for candidate in full)),
        )
        if not isinstance(found, Rejection):
            return found
        for candidate in full:
            self._skip(candidate, self._barred(candidate) or FULL)
        return None

    def _entered(self, full: Sequence[Candidate]) -> Held | Rejection | None:
        """Take a place at the first of these that has one; a Rejection where none of them takes calls any more."""
        now, there = clock.monotonic(), [candidate for candidate in full if self._barred(candidate) is None]
        for candidate in there:
            if self._services.fleet.live(candidate.deployment).breaker.passes(now):
                held = enter(self._services, self._planned, candidate)
                if held is not None:
                    return held
        return None if there else _GONE

    def _barred(self, candidate: Candidate) -> str | None:
        """Return why a deployment takes no call of ours any more, None where it does."""
        services, planned = self._services, candidate.deployment
        if not any(same(one, planned) for link in chain_of(services, self._planned) for one in link.deployments):
            return CHANGED
        return DRAINED if services.fleet.live(planned).condition.drained else None

    def _skip(self, candidate: Candidate, reason: str) -> None:
        """Take note that a candidate is passed over, and why at first."""
        if candidate.deployment.id not in self.skipped:
            self.skipped[candidate.deployment.id] = replace(candidate, dropped=reason)
            self._untold += (f"{candidate.deployment.backend} ({reason})",)


def same(now: Deployment, planned: Deployment) -> bool:
    """Say whether a deployment still is what a call was planned for, in all that says where it may go and at what cost.

    How large its window is, how many calls it takes and which share are but how it is ranked.
    """
    if now is planned or now.id != planned.id:
        return now is planned
    alike = replace(
        now, context_window=planned.context_window, max_in_flight=planned.max_in_flight, weight=planned.weight
    )
    return alike == planned
