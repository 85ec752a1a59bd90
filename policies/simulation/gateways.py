"""One of our gateways in a simulated fleet: the code of `policies/` itself, with the world in place of the network.

Law: nothing is decided here. What the product's gateway asks `policies`, this one asks at the same moments and in the
same order (`gateway/exchange.py`, `gateway/attempts.py`): estimate, snapshots, route, ticket, what was learned, what
comes after a failure. Of other gateways it knows what they told at their last exchange.
"""

import math
import random
from collections.abc import Mapping, Sequence

from msgspec import Struct

from policies.affinity import BLOCK as BYTES
from policies.affinity import LEAST, NONE, Beginning
from policies.allowance import SECOND, Shared, refused, take
from policies.candidates import taken
from policies.deadlines import first_content
from policies.dialects import DIALECTS
from policies.domain import API, Candidate, Deadlines, Deployment, Estimate, InferenceRequest, Model, Route
from policies.estimates import Estimates
from policies.failures import Failure, FailureKind
from policies.latency import Pool
from policies.live import Elsewhere, Fresh, Live, Ticket
from policies.ordering import Curiosity
from policies.queueing import Waits
from policies.rejections import Rejection
from policies.retries import RetryBudget, next_step
from policies.routing import route, turned_away
from policies.simulation.calls import BLOCK, Call
from policies.simulation.scenario import ASK_AGAIN, GIVE_UP, MODEL, Next, Told
from policies.terms import RoutingTerms

BYTES_PER_TOKEN = 4
"""Bytes of prompt to a token, so that two blocks of 512 tokens are one of `affinity`'s."""

BLOCKS_PER_MARK = BYTES // (BLOCK * BYTES_PER_TOKEN)

LEAST_PACED = 8
"""Output tokens below which an answer says nothing of pace, as in `gateway/upstream/attempt.py`."""

TOKENS_PER_IMAGE = 594
"""Tokens of a prompt to an image that are not text: ServeGen's mean."""

_API: API = "chat"
_TEXT = frozenset({"text"})
_SEEN = frozenset({"text", "image"})


class _Trip(Struct):
    """A call on its way: what is known of it, where it has been, and the load that it holds.

    `full`: after a failure, those of which it waits for whichever has room first. `since`: when it last began to look
    for a place; `waits`: what it has waited for places before. `ranked`: its places were ranked before.
    """

    call: Call
    request: InferenceRequest
    estimate: Estimate
    begins: Beginning
    begun_at: float
    since: float
    waits: Waits
    tried: list[tuple[Candidate, Failure]]
    ranked: bool = False
    route: Route | None = None
    next: Candidate | None = None
    full: Sequence[Candidate] = ()
    candidate: Candidate | None = None
    ticket: Ticket | None = None
    sent_at: float = 0.0
    first_at: float | None = None


class Account:
    """What the store knows of the hosted endpoint's limit; `told`: calls a minute (0: nobody said)."""

    def __init__(self, told: int = 0) -> None:
        self.told = told
        self.shared = Shared()

    def take(self, live: Live, price: int, now: float) -> bool:
        """Take one call of the limit, as `gateway/upstream/allowances.py` does; False where there is no room."""
        allowance = live.allowance
        if not allowance.limit:
            allowance.sent(now)
            return True
        if not allowance.wait(now):
            self.shared, answer = take(self.shared, self.told, round(now * SECOND))
            allowance.told(answer, now)
            if not answer.wait:
                allowance.granted(price, now)
                return True
        return False

    def refused(self, live: Live, failure: Failure, now: float) -> None:
        """Take in that a call was refused."""
        allowance = live.allowance
        pause = -1 if failure.retry_after is None else int(failure.retry_after * SECOND)
        sent, knew = allowance.in_a_minute(now), bool(allowance.limit)
        self.shared, answer = refused(self.shared, self.told, round(now * SECOND), pause=pause, sent=sent, knew=knew)
        allowance.told(answer, now)


class Sluiceway:
    """One gateway; `deployments` are the places, in their order, `account` the hosted one's limit."""

    def __init__(
        self, deployments: Sequence[Deployment], terms: RoutingTerms, account: Account, dice: random.Random
    ) -> None:
        self._account = account
        self._fresh: Fresh = Fresh()
        pools = {d.kind: Pool(DIALECTS[d.kind].priors) for d in deployments}
        self._lives = {
            d.id: Live(
                d.id,
                DIALECTS[d.kind],
                fresh=self._fresh,
                per_minute=account.told if d.hosted else None,
                pool=pools[d.kind],
            )
            for d in deployments
        }
        self._places = {d.id: place for place, d in enumerate(deployments)}
        self._model = Model(MODEL, (), tuple(deployments), (), terms, Deadlines())
        self._estimates = Estimates()
        self._budget = RetryBudget(0.0)
        self._curiosity = Curiosity()
        self._dice = dice
        self._trips: dict[int, _Trip] = {}

    def begin(self, call: Call, now: float) -> Next:
        """Route a call that has just arrived."""
        request = asked(call)
        estimate = self._estimates.of(call.tenant, request)
        self._budget.call()
        begins = beginning_of(call, request)
        trip = self._trips[call.number] = _Trip(call, request, estimate, begins, now, now, Waits(), [])
        return self._route(trip, now)

    def again(self, number: int, now: float) -> Next:
        """Go on with a call that waited: for whoever asked for it, or for a place."""
        trip = self._trips[number]
        if trip.full:
            return self._try(trip.full, trip, now)
        if trip.next is None:
            return self._route(trip, now)
        candidate, trip.next = trip.next, None
        return self._follow([candidate], trip, now)

    def first(self, number: int, now: float) -> None:
        """Note a first token."""
        trip = self._trips[number]
        ticket = trip.ticket
        if ticket is None:
            raise RuntimeError("a first token comes after its call was sent")
        trip.first_at = now
        ticket.prefilled(now)
        ticket.live.breaker.begun(probe=ticket.probe)
        ticket.live.first_token(now, now - trip.sent_at, ticket.ahead)

    def done(self, number: int, now: float, cached: int) -> None:
        """Note a whole answer, with what its upstream told of its usage."""
        trip = self._trips.pop(number)
        ticket, candidate, output = trip.ticket, trip.candidate, trip.call.answer
        if ticket is None or candidate is None or trip.first_at is None:
            raise RuntimeError("an answer ends after its first token")
        live = ticket.live
        ticket.close()
        live.answered(_API, now)
        live.prefilled.told(candidate.cached, cached / trip.call.prompt)
        if output >= LEAST_PACED and now > trip.first_at:
            ticket.paced(now, now - trip.first_at, output - 1)
        self._estimates.learn(trip.call.tenant, trip.request, trip.call.prompt, output, output)

    def failed(self, number: int, failure: Failure, now: float) -> Next:
        """Note an attempt that failed before its caller saw anything, and say what comes next."""
        trip = self._trips[number]
        candidate = trip.candidate
        if candidate is None or trip.route is None:
            raise RuntimeError("an attempt fails after it was made")
        self._fall(trip, failure, now)
        trip.tried.append((candidate, failure))
        frozen = {c.deployment.id: self._lives[c.deployment.id].freeze.asked(now) for c, _ in trip.tried}
        remaining = trip.begun_at + self._model.deadlines.total - now
        step = next_step(trip.route, trip.tried, frozen, remaining, self._budget, now=now)
        if step.candidates and step.wait:
            trip.next = step.candidates[0]
            return Next(again=step.wait)
        return self._follow(step.candidates, trip, now)

    def broke(self, number: int, failure: Failure, now: float) -> None:
        """Note an answer that broke off once its caller had seen some of it."""
        self._fall(self._trips.pop(number), failure, now)

    def told(self) -> Told:
        """Return what the other gateways are told: the load that is its own, and the beginnings since last time."""
        loads = {
            name: Elsewhere(live.in_flight, live.queued_tokens) for name, live in self._lives.items() if live.in_flight
        }
        fresh = tuple(self._fresh)
        self._fresh.clear()
        return Told(loads, fresh)

    def hear(self, loads: Mapping[str, Elsewhere], fresh: Sequence[tuple[str, tuple[int, ...]]], now: float) -> None:
        """Take in the load of all the others together, and what they have noted since last time."""
        for name, live in self._lives.items():
            live.others = loads.get(name, Elsewhere())
        for name, marks in fresh:
            self._lives[name].prefilled.note(Beginning(marks), now)

    def _route(self, trip: _Trip, now: float) -> Next:
        """Rank the places, again where the first is one whose limit the other gateways have used up.

        Only at first may it find out about one, and tell a limit that it would have gone there.
        """
        deployments = self._model.deployments
        while True:
            anew, trip.ranked = trip.ranked, True
            snapshots = [self._lives[d.id].snapshot(d, now, trip.begins) for d in deployments]
            planned = route(
                trip.request,
                [self._model],
                {MODEL: snapshots},
                trip.estimate,
                self._dice,
                curiosity=None if anew else self._curiosity,
            )
            if isinstance(planned, Rejection):
                return self._give_up(trip)
            for one in () if anew else turned_away(planned):
                self._missed(one, now)
            if planned.waits:
                return self._wait(trip, planned.terms, now)
            first = planned.order[0]
            if self._allowed(first, now):
                trip.route = planned
                return self._send(trip, first, now)
            if not anew:
                self._missed(first, now)

    def _missed(self, one: Candidate, now: float) -> None:
        """Tell a place's limit that a call would have gone there."""
        self._lives[one.deployment.id].allowance.missed(one.money or 0, now)

    def _follow(self, candidates: Sequence[Candidate], trip: _Trip, now: float) -> Next:
        """Send a call that failed to one of `candidates`, for whose room it may wait what is left of its patience."""
        trip.since = now
        step = self._try(candidates, trip, now)
        for one in trip.full:
            self._missed(one, now)
        return step

    def _try(self, candidates: Sequence[Candidate], trip: _Trip, now: float) -> Next:
        """Send a call to the first of `candidates` that has room; where none has, it waits."""
        found = next((one for one in candidates if self._takes(one, now)), None)
        if found is not None:
            trip.full = ()
            return self._send(trip, found, now)
        if not candidates:
            return self._give_up(trip)
        trip.full = candidates
        return self._wait(trip, self._model.routing if trip.route is None else trip.route.terms, now)

    def _wait(self, trip: _Trip, terms: RoutingTerms, now: float) -> Next:
        """Ask again soon, as long as there is patience."""
        patience, _ = trip.waits.left(terms.max_wait, math.inf)
        return self._give_up(trip) if now - trip.since >= patience else Next(again=ASK_AGAIN)

    def _takes(self, candidate: Candidate, now: float) -> bool:
        """Say whether a place takes a call after a failure, which `route` was not asked about."""
        live, most = self._lives[candidate.deployment.id], candidate.deployment.max_in_flight
        if taken(most, live.calls, live.condition.foreign, live.breaker.share(now)):
            return False
        return self._allowed(candidate, now)

    def _allowed(self, candidate: Candidate, now: float) -> bool:
        """Take one call of a place's own limit."""
        if not candidate.deployment.hosted:
            return True
        return self._account.take(self._lives[candidate.deployment.id], candidate.money or 0, now)

    def _give_up(self, trip: _Trip) -> Next:
        del self._trips[trip.call.number]
        return GIVE_UP

    def _send(self, trip: _Trip, candidate: Candidate, now: float) -> Next:
        name = candidate.deployment.id
        trip.candidate, trip.sent_at, trip.first_at = candidate, now, None
        trip.waits.spent += now - trip.since
        trip.ticket = Ticket(self._lives[name], candidate.load, now, trip.begins)
        order = trip.route.order if trip.route is not None else ()
        last = len(trip.tried) + 1 >= min(len(order), self._model.routing.max_attempts)
        return Next(self._places[name], patience=first_content(candidate, self._model.deadlines, last=last))

    def _fall(self, trip: _Trip, failure: Failure, now: float) -> None:
        """Give an attempt's load back and hold its failure against whom it speaks."""
        ticket, candidate = trip.ticket, trip.candidate
        if ticket is None or candidate is None:
            raise RuntimeError("an attempt fails after it was made")
        if failure.kind is FailureKind.SILENCE:
            ticket.live.first_token(now, now - trip.sent_at, ticket.ahead)
        ticket.close()
        ticket.live.failed(failure, _API, now, probe=ticket.probe)
        if failure.kind is FailureKind.RATE_LIMITED and candidate.deployment.hosted:
            self._account.refused(ticket.live, failure, now)


def asked(call: Call) -> InferenceRequest:
    """Return the facts that a gateway reads from a call's body; it names no session, as most callers do not."""
    text = (call.prompt - call.images * TOKENS_PER_IMAGE) * BYTES_PER_TOKEN
    return InferenceRequest(
        _API,
        MODEL,
        stream=True,
        wants_usage=True,
        max_tokens=call.bound,
        choices=1,
        size=call.prompt * BYTES_PER_TOKEN,
        text_bytes=max(BYTES_PER_TOKEN, text),
        media=call.images,
        modalities=_SEEN if call.images else _TEXT,
        members={},
    )


def beginning_of(call: Call, request: InferenceRequest) -> Beginning:
    """Return a call's beginning as the product reads it from the body: a mark for each whole block of its bytes."""
    if request.size < LEAST:
        return NONE
    whole = call.blocks[: call.prompt // BLOCK]
    return Beginning(whole[BLOCKS_PER_MARK - 1 :: BLOCKS_PER_MARK], request.size)
