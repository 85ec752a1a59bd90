"""Where a call goes first: a place on a deployment, waited for where every one that could serve is full.

Law: a call that has no place holds no load; one that waits goes by the room's order, and whoever comes while others
wait for the same model joins them, but where it can go to a deployment that never is full. A place on a deployment with
a limit of its own is a call less of that limit too: where the other gateways have used it up meanwhile, the call waits
for the next, and is ranked anew whenever there may be one. What a place of such a limit is worth shows only by calls
that were admitted, by each once. Whatever ends a call gives its place back.
"""

from gateway import clock
from gateway.places import Held, any_room, bounded, enter, place
from gateway.planning import Planned, chain_of, ranked
from gateway.services import Services
from policies.domain import Candidate, Route
from policies.live import Ticket
from policies.needs import Needs, needs_of
from policies.rejections import Rejection
from policies.routing import turned_away


class Placing:
    """One call's place. `route`: how it was ranked last; `ticket`: the place once it is settled, None until then."""

    def __init__(self, services: Services, planned: Planned) -> None:
        self.ticket: Ticket | None = None
        self.route: Route | None = None
        self.broke = False
        self._services = services
        self._planned = planned
        self._held: Held | None = None

    def rank(self) -> Route | Rejection:
        """Rank the deployments, and take a place at the first if one is free and nobody waits for it."""
        services, first_time = self._services, self.route is None
        found = self._ranked(curious=first_time)
        if isinstance(found, Rejection):
            return found
        first = found.order[0]
        if not found.waits and not (services.room.busy(self._planned.model.name) and bounded(services, first)):
            self._held = enter(services, self._planned, first)
        return found

    async def settle(self, left: float) -> Rejection | None:
        """Make sure of the place, or wait for one; a Rejection where none will be free in time.

        The call was ranked and admitted. `left`: seconds until its deadline.
        """
        until = clock.monotonic() + left
        if self.route is None:
            raise RuntimeError("a call is settled after it was ranked")
        for one in turned_away(self.route):
            self._missed(one)
        held, self._held = self._held, None
        if held is not None:
            if held.certain() or await held.asked():
                self.ticket = held.ticket
                return None
            self._missed(held.candidate)
        found = await place(
            self._services,
            self._planned,
            self.route.terms,
            self.route.order,
            until - clock.monotonic(),
            self._again,
            needs=self._needs,
            free=not self.route.waits,
        )
        if isinstance(found, Rejection):
            return found
        self.ticket = found.ticket
        return None

    def leave(self) -> None:
        """Give the load back of a call that is not attempted."""
        held, self._held = self._held, None
        if held is not None:
            held.drop()
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            ticket.drop()

    def _ranked(self, *, curious: bool = False) -> Route | Rejection:
        found = ranked(self._services, self._planned, clock.monotonic(), broke=self.broke, curious=curious)
        if not isinstance(found, Rejection):
            self.route = found
        return found

    def _again(self) -> Held | Rejection | None:
        """Rank anew for a call that waits, and take a place; None while all is full.

        One that is ejected meanwhile is no place to go to for a call that can wait: only its probe is sent there.
        Nobody waits for a model that is no longer served.
        """
        name = self._planned.model.name
        if self._services.catalog.find(name) is None:
            return self._services.catalog.missing(name)
        chain = chain_of(self._services, self._planned)
        if not any_room(self._services, (one for link in chain for one in link.deployments)):
            return None
        found = self._ranked()
        if isinstance(found, Rejection):
            return found
        first = found.order[0]
        if found.waits or not self._services.fleet.live(first.deployment).breaker.passes(clock.monotonic()):
            return None
        return enter(self._services, self._planned, first)

    def _needs(self) -> Needs:
        """Return what the call needs of a place, as the catalog is now."""
        planned = self._planned
        return needs_of(
            planned.request,
            chain_of(self._services, planned),
            planned.estimate,
            broke=self.broke,
            reach=planned.who.reach,
            wishes=planned.who.wishes,
            begins=planned.begins,
        )

    def _missed(self, one: Candidate) -> None:
        """Tell a deployment's limit that a call would have gone there."""
        self._services.fleet.live(one.deployment).allowance.missed(one.money or 0, clock.monotonic())
