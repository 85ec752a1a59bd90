"""A place on a deployment, and waiting for one on any of some that are full.

Law: whoever holds a place holds its load, and a call of the deployment's own limit where it has one: first as if it
were sent, so that no more hold one than there is room for, then truly once the limit was asked. A call waits as long as
its terms and its deadline allow, all its attempts together, by the order of the room; what it is worth there is the
work that it brings. Only those that cannot have a place at once are counted, and only those that waited are timed.
"""

from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from gateway import clock
from gateway.planning import Planned, chain_of
from gateway.services import Services
from policies.candidates import taken
from policies.deadlines import EXPIRED
from policies.departures import pace_of
from policies.domain import Candidate, Deployment
from policies.live import Live, Ticket
from policies.needs import Needs, needs_any
from policies.queueing import work_of
from policies.rejections import Reason, Rejection
from policies.terms import RoutingTerms

MINUTE = 60.0


class Held:
    """One call's place at `candidate`; `ticket`: the load that it puts there."""

    __slots__ = ("_counted", "_dropped", "_services", "candidate", "ticket")

    def __init__(self, services: Services, candidate: Candidate, ticket: Ticket) -> None:
        self.candidate = candidate
        self.ticket = ticket
        self._services = services
        self._dropped = False
        self._counted = ticket.live.allowance.limit > 0
        ticket.live.allowance.held += self._counted

    @property
    def where(self) -> str:
        """The id of its deployment."""
        return self.candidate.deployment.id

    def certain(self) -> bool:
        """Say whether there is no limit to ask; True: the call counts as sent."""
        allowance = self.ticket.live.allowance
        if allowance.limit:
            return False
        self._uncount()
        allowance.sent(clock.monotonic())
        return True

    async def asked(self) -> bool:
        """Take one call of the deployment's own limit; where there is none, the place is given back."""
        self._uncount()  # whoever asks is counted there
        granted = False
        try:
            home = self._services.fleet.reached[self.ticket.live.condition]
            granted = not await self._services.allowances.take(self.ticket.live, home, self.candidate.money or 0)
        finally:
            if not granted:
                self.drop()
        return granted

    def drop(self) -> None:
        """Give the place of a call back that is not attempted there; the second time nothing happens."""
        self._uncount()
        if not self._dropped:
            self._dropped = True
            self.ticket.drop()

    def _uncount(self) -> None:
        self.ticket.live.allowance.held -= self._counted
        self._counted = False


def bounded(services: Services, candidate: Candidate) -> bool:
    """Say whether a deployment ever is full, so that its places are for those that wait for them."""
    deployment = candidate.deployment
    return deployment.max_in_flight is not None or services.fleet.live(deployment).allowance.limit > 0


def enter(services: Services, planned: Planned, candidate: Candidate) -> Held | None:
    """Take a place at a deployment; None where it has as many calls as it takes, or its limit has no room."""
    live, now = services.fleet.live(candidate.deployment), clock.monotonic()
    if not _has_room(live, candidate.deployment, now):
        return None
    return Held(services, candidate, Ticket(live, candidate.load, now, planned.begins))


def any_room(services: Services, deployments: Iterable[Deployment]) -> bool:
    """Say whether any of these has room: where none has, ranking them is no use."""
    fleet, now = services.fleet, clock.monotonic()
    return any(_has_room(fleet.live(one), one, now) for one in deployments)


def _has_room(live: Live, deployment: Deployment, now: float) -> bool:
    if taken(deployment.max_in_flight, live.calls, live.condition.foreign, live.breaker.share(now)):
        return False
    return not (live.allowance.limit and live.allowance.wait(now))


async def place(  # noqa: PLR0917 - one wait
    services: Services,
    planned: Planned,
    terms: RoutingTerms,
    full: Sequence[Candidate],
    left: float,
    attempt: Callable[[], Held | Rejection | None],
    *,
    needs: Callable[[], Needs] | None = None,
    free: bool = False,
) -> Held | Rejection:
    """Return what `attempt` returns once it returns something that can be had; a Rejection where that is too far away.

    `full`: where the call could go. `left`: seconds until its deadline. `needs`: says what it needs of a place, as the
    catalog is then (None: that it is at one of these). `free`: a place was free when it was ranked, so that how long
    others wait for theirs says nothing of it.
    """
    room, name = services.room, planned.model.name
    at_once = await room.at_once(name, attempt)
    if at_once is not None:
        return at_once
    begun, outcome, waits = clock.monotonic(), "left", planned.waits
    max_wait, due = waits.left(terms.max_wait, left)
    waiter = room.join(
        name,
        attempt,
        tenant=planned.who.organization,
        priority=terms.priority,
        work=work_of(planned.estimate),
        pace=pace_of(_rooms(services, full)),
        max_wait=max_wait,
        due=due,
        free=free,
        needs=needs() if needs is not None else needs_any(one.deployment.id for one in full),
        anew=needs,
        waited=waits.spent,
        where=(one.id for link in chain_of(services, planned) for one in link.deployments),
    )
    if isinstance(waiter, Rejection):
        services.metrics.waits(name, "refused").inc()
        return _in_words(waiter, planned)
    try:
        found: Held | Rejection = await room.wait(waiter)
        outcome = "refused" if isinstance(found, Rejection) else "placed"
    finally:
        waited = clock.monotonic() - begun
        waits.spent += waited
        services.metrics.waits(name, outcome).inc()
        services.metrics.wait(terms.priority).observe(waited)
    return _in_words(found, planned) if isinstance(found, Rejection) else found


def _in_words(no: Rejection, planned: Planned) -> Rejection:
    """Return a refusal in the words of what it was for: a deadline may be the end of the caller's token."""
    over = no.reason is Reason.DEADLINE and planned.deadlines.of_token
    return replace(no, message=EXPIRED) if over else no


def _rooms(services: Services, full: Sequence[Candidate]) -> list[tuple[float, int]]:
    """Return, of each deployment, for how long a call holds a place and how many places there are."""
    rooms = []
    for candidate in full:
        if candidate.deployment.max_in_flight is not None:
            rooms.append((candidate.seconds, candidate.deployment.max_in_flight))
        elif limit := services.fleet.live(candidate.deployment).allowance.limit:
            rooms.append((MINUTE, limit))
    return rooms
