"""A fleet, its gateways and their callers, from one event to the next.

Law: nobody knows the future and nobody looks at a clock: what happens next is the earliest of what is due, and of what
is due at once the engines go first. A call ends in exactly one way. The same scenario and seed make the same calls and
the same faults under every policy.
"""

import heapq
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from policies.dialects import DIALECTS
from policies.domain import Usage
from policies.failures import Failure, FailureKind, classify
from policies.live import Elsewhere
from policies.pricing import money
from policies.simulation.baselines import BASELINES, Baseline
from policies.simulation.calls import Call, Engine, Event
from policies.simulation.faults import Fault, FaultKind
from policies.simulation.gateways import Account, Sluiceway
from policies.simulation.oracle import Oracle
from policies.simulation.outcome import Outcome, Served, outcome
from policies.simulation.scenario import Next, Scenario, Told, calls_of, deployments_of, engines_of

POLICIES: tuple[str, ...] = ("sluiceway", *BASELINES, "oracle")

DROPPED, PATIENCE = 3, 2.0
"""Exchanges, and seconds at least, after which a gateway that is not heard of is dropped from the others' picture, as
in `gateway/peers/peers.py`."""

Progress = Callable[[int, int], None]
"""Told how many calls have ended, of how many."""


class Gateway(Protocol):
    """Whoever chooses places for the calls of one gateway."""

    def begin(self, call: Call, now: float) -> Next:
        """Take in a call that has just arrived."""

    def again(self, number: int, now: float) -> Next:
        """Go on with a call that was to be asked about again."""

    def first(self, number: int, now: float) -> None:
        """Note a first token."""

    def done(self, number: int, now: float, cached: int) -> None:
        """Note a whole answer."""

    def failed(self, number: int, failure: Failure, now: float) -> Next:
        """Note an attempt that failed unseen."""

    def broke(self, number: int, failure: Failure, now: float) -> None:
        """Note an answer that broke off before its caller's eyes."""

    def told(self) -> Told:
        """Return what it tells the other gateways."""

    def hear(self, loads: dict[str, Elsewhere], fresh: Sequence[tuple[str, tuple[int, ...]]], now: float) -> None:
        """Take in what they told."""


class _Trip(Struct):
    """One call on its way: by which gateway, at which place (-1: at none), and the number of its attempt there."""

    served: Served
    gateway: int
    place: int = -1
    attempt: int = 0


class _Place(Struct):
    """One engine, the calls that gateways have there, and the ways in which it is not itself."""

    engine: Engine
    speed: float
    calls: int = 0
    down: bool = False
    refuses: int | None = None


class World:
    """One run of a scenario."""

    def __init__(self, scenario: Scenario, progress: Progress | None = None) -> None:
        self._scenario = scenario
        self._progress = progress
        self._calls = calls_of(scenario)
        self._deployments = deployments_of(scenario)
        self._places = [_Place(engine, 1.0) for engine in engines_of(scenario)]
        for place, machine in zip(self._places, scenario.replicas, strict=False):
            place.speed = machine.speed
            place.engine.slow(machine.speed, 0.0)
        self._account = Account(scenario.told)
        self._gateways: list[Gateway] = [self._gateway(number) for number in range(scenario.gateways)]
        self._dead: set[int] = set()
        self._rows: dict[int, tuple[float, Told]] = {}
        self._trips: dict[int, _Trip] = {}
        self._served: list[Served] = []
        self._ended = 0
        self._turn = 0
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._entries = 0

    def run(self) -> Outcome:
        """Return what the scenario comes to."""
        for call in self._calls:
            self._at(call.at, self._arrive, call)
        for fault in self._scenario.faults:
            self._at(fault.at, self._begin_fault, fault)
            if fault.until > fault.at:
                self._at(fault.until, self._end_fault, fault)
        if self._scenario.gateways > 1:
            self._at(self._scenario.stale, self._exchange)
        while self._ended < len(self._calls):
            self._step()
        return outcome(self._scenario.policy, self._served, len(self._scenario.replicas))

    def _step(self) -> None:
        """Let the next thing happen."""
        due = self._agenda[0][0] if self._agenda else math.inf
        number = min(range(len(self._places)), key=lambda place: self._places[place].engine.next_at)
        soonest = self._places[number].engine.next_at
        if soonest <= due:
            if soonest == math.inf:
                raise RuntimeError("calls are left and nothing is due")
            self._advance(number, soonest)
            return
        moment, _, act, what = heapq.heappop(self._agenda)
        act(*what, moment)

    def _at(self, moment: float, act: Callable[..., None], *what: object) -> None:
        self._entries += 1
        heapq.heappush(self._agenda, (moment, self._entries, act, what))

    def _gateway(self, number: int) -> Gateway:
        scenario = self._scenario
        dice = random.Random(f"{scenario.seed}/{scenario.policy}/{number}")  # noqa: S311 - no secret
        if scenario.policy == "sluiceway":
            return Sluiceway(self._deployments, scenario.terms, self._account, dice)
        if scenario.policy == "oracle":
            return Oracle([p.engine for p in self._places], scenario.terms, self._serves, self._has_room)
        choose = BASELINES[scenario.policy]
        return Baseline(choose, len(self._deployments), dice, self._has_room, scenario.terms)

    def _serves(self, number: int) -> bool:
        """Say whether a place takes calls at all just now."""
        place = self._places[number]
        return not place.down and place.refuses is None

    def _has_room(self, number: int) -> bool:
        """Say whether a place has fewer calls than its bound, of all gateways."""
        most = self._deployments[number].max_in_flight
        return most is None or self._places[number].calls < most

    def _arrive(self, call: Call, now: float) -> None:
        served = Served(call)
        self._served.append(served)
        self._call(served, now)

    def _call(self, served: Served, now: float) -> None:
        """Hand a call to the gateway whose turn it is; the balancer before them knows which ones live."""
        alive = [number for number in range(len(self._gateways)) if number not in self._dead]
        if not alive:
            self._end()
            return
        self._turn += 1
        trip = _Trip(served, alive[self._turn % len(alive)])
        self._trips[served.call.number] = trip
        self._follow(trip, self._gateways[trip.gateway].begin(served.call, now), now)

    def _follow(self, trip: _Trip, step: Next, now: float) -> None:
        """Do what a gateway has decided, and what it decides when that fails at once."""
        number = trip.served.call.number
        gateway = self._gateways[trip.gateway]
        while step.place is not None:
            trip.attempt += 1
            trip.served.attempts += 1
            failure = self._send(trip, step.place, now)
            if failure is None:
                self._at(now + step.patience, self._silent, trip, trip.attempt)
                return
            step = gateway.failed(number, failure, now)
        if step.again is None:
            self._drop(trip)
        else:
            self._at(now + step.again, self._again, trip, trip.attempt)

    def _send(self, trip: _Trip, number: int, now: float) -> Failure | None:
        """Send a call to a place; return the failure where it is not taken."""
        place = self._places[number]
        if place.down:
            return Failure(FailureKind.CONNECT, "refused")
        status = place.refuses
        if status is None:
            self._advance(number, now)
            status = place.engine.arrive(trip.served.call, now)
        if status is not None:
            return classify(status, b"", None)
        trip.place = number
        place.calls += 1
        return None

    def _again(self, trip: _Trip, attempt: int, now: float) -> None:
        if self._is_on(trip, attempt):
            self._follow(trip, self._gateways[trip.gateway].again(trip.served.call.number, now), now)

    def _silent(self, trip: _Trip, attempt: int, now: float) -> None:
        """Give an attempt up that has had no first token for as long as it is waited for."""
        if trip.place >= 0 and self._is_on(trip, attempt) and trip.served.first is None:
            self._cancel(trip, now)
            self._fail(trip, Failure(FailureKind.SILENCE, "no first token"), now)

    def _is_on(self, trip: _Trip, attempt: int) -> bool:
        return trip.attempt == attempt and self._trips.get(trip.served.call.number) is trip

    def _cancel(self, trip: _Trip, now: float) -> None:
        if trip.place >= 0:
            self._advance(trip.place, now)
            self._places[trip.place].engine.cancel(trip.served.call.number, now)

    def _advance(self, number: int, now: float) -> None:
        for event in self._places[number].engine.advance(now):
            self._happen(number, event)

    def _happen(self, number: int, event: Event) -> None:
        """Take in what became of a call at a place."""
        trip = self._trips.get(event.number)
        if trip is None or trip.place != number:
            return
        served, gateway = trip.served, self._gateways[trip.gateway]
        if event.kind == "failed":
            self._fail(trip, Failure(FailureKind.RESET, "broken off"), event.at)
        elif event.kind == "first":
            served.first = event.at - served.call.at
            served.cached = event.cached
            gateway.first(event.number, event.at)
        else:
            deployment = self._deployments[number]
            served.ended = event.at - served.call.at
            served.place, served.hosted = number, deployment.hosted
            usage = Usage(served.call.prompt, event.tokens, estimated=False, cached_tokens=served.cached)
            served.money = money(deployment.price, usage)
            gateway.done(event.number, event.at, served.cached)
            self._drop(trip)

    def _fail(self, trip: _Trip, failure: Failure, now: float) -> None:
        """Take in that an attempt failed: before its caller saw anything there may be another."""
        number, gateway = trip.served.call.number, self._gateways[trip.gateway]
        self._leave(trip)
        if trip.served.first is None:
            self._follow(trip, gateway.failed(number, failure, now), now)
        else:
            gateway.broke(number, failure, now)
            self._drop(trip)

    def _leave(self, trip: _Trip) -> None:
        if trip.place >= 0:
            self._places[trip.place].calls -= 1
            trip.place = -1

    def _drop(self, trip: _Trip) -> None:
        self._leave(trip)
        del self._trips[trip.served.call.number]
        self._end()

    def _end(self) -> None:
        """Count a call that is over."""
        self._ended += 1
        if self._progress is not None:
            self._progress(self._ended, len(self._calls))

    def _exchange(self, now: float) -> None:
        """Let every gateway tell the others of its load and its beginnings; whoever is gone is dropped."""
        stale = self._scenario.stale
        silence = max(DROPPED * stale, PATIENCE)
        for number, gateway in enumerate(self._gateways):
            if number not in self._dead:
                self._rows[number] = (now, gateway.told())
        for number, gateway in enumerate(self._gateways):
            heard = [row for other, row in self._rows.items() if other != number and now - row[0] <= silence]
            fresh = [noted for at, row in heard if at == now for noted in row.fresh]
            gateway.hear(_together(row for _, row in heard), fresh, now)
        self._at(now + stale, self._exchange)

    def _begin_fault(self, fault: Fault, now: float) -> None:
        if fault.kind is FaultKind.GATEWAY:
            self._kill(fault.which, now)
            return
        place = self._places[fault.which]
        self._advance(fault.which, now)
        if fault.kind is FaultKind.CRASH:
            place.down = True
            for event in place.engine.crash(now):
                self._happen(fault.which, event)
        elif fault.kind is FaultKind.STALL:
            place.engine.stall(fault.until, now)
            silence = DIALECTS[self._deployments[fault.which].kind].stall
            if fault.until - now > silence:
                self._at(now + silence, self._stalled, fault.which, now)
        elif fault.kind is FaultKind.SLOW:
            place.engine.slow(place.speed * fault.speed, now)
        elif fault.kind is FaultKind.COLD:
            place.engine.cold()
        else:
            place.refuses = 503 if fault.kind is FaultKind.HOLE else 429

    def _end_fault(self, fault: Fault, now: float) -> None:
        if fault.kind is FaultKind.GATEWAY:
            self._gateways[fault.which] = self._gateway(fault.which)
            self._dead.discard(fault.which)
            return
        place = self._places[fault.which]
        self._advance(fault.which, now)
        if fault.kind is FaultKind.CRASH:
            place.down = False
        elif fault.kind is FaultKind.SLOW:
            place.engine.slow(place.speed, now)
        elif fault.kind in (FaultKind.HOLE, FaultKind.STORM):
            place.refuses = None

    def _stalled(self, number: int, since: float, now: float) -> None:
        """Give the answers up that had begun at a place before it hung, and have been silent since."""
        begun = [trip for trip in self._trips.values() if trip.place == number and trip.served.first is not None]
        for trip in begun:
            if trip.served.call.at + (trip.served.first or 0.0) <= since:
                self._cancel(trip, now)
                self._fail(trip, Failure(FailureKind.STALL, "silent"), now)

    def _kill(self, number: int, now: float) -> None:
        """Let a gateway die: its upstreams see closed connections, and its callers call again."""
        self._dead.add(number)
        lost = [trip for trip in self._trips.values() if trip.gateway == number]
        for trip in lost:
            self._cancel(trip, now)
            self._leave(trip)
            del self._trips[trip.served.call.number]
            trip.served.first = None
            self._call(trip.served, now)


def run(scenario: Scenario, progress: Progress | None = None) -> Outcome:
    """Run a scenario to its end. Raises ValueError for a policy that is not one of `POLICIES`, or nothing to call."""
    if scenario.policy not in POLICIES:
        raise ValueError(f"{scenario.policy!r} is no policy; there are {', '.join(POLICIES)}")
    return World(scenario, progress).run()


def _together(rows: Iterable[Told]) -> dict[str, Elsewhere]:
    """Return the load of several gateways by deployment."""
    loads: dict[str, Elsewhere] = {}
    for row in rows:
        for name, load in row.loads.items():
            before = loads.get(name, Elsewhere())
            loads[name] = Elsewhere(before.in_flight + load.in_flight, before.queued_tokens + load.queued_tokens)
    return loads
