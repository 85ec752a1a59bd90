"""What a router could do that knew all: the truth of every engine, and how long each answer will be.

Law: the same objective as ours (`policies/scoring.py`), greedy, call by call, over true queues, caches, speeds and
lengths instead of learned ones. It does not know the future, so it is no upper bound; what we lose to it is what
knowing better would be worth.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct

from policies.deadlines import MOST_FIRST
from policies.domain import Usage
from policies.failures import Failure
from policies.pricing import money
from policies.scoring import ANSWER, FIRST_TOKEN, IMPOSED, felt
from policies.simulation.calls import Call, Engine
from policies.simulation.hosted import Hosted
from policies.simulation.replica import Replica
from policies.simulation.scenario import ASK_AGAIN, GIVE_UP, Next, Told
from policies.terms import RoutingTerms


class _Trip(Struct):
    """A call: where it has been, and until when it may wait for a place."""

    call: Call
    tried: set[int]
    wait_until: float


class Oracle:
    """A gateway that sees through the engines.

    `serves` says whether a place takes calls at all just now, `room` whether it has fewer than its bound.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        terms: RoutingTerms,
        serves: Callable[[int], bool],
        room: Callable[[int], bool],
    ) -> None:
        self._engines = engines
        self._terms = terms
        self._serves = serves
        self._room = room
        self._trips: dict[int, _Trip] = {}

    def begin(self, call: Call, now: float) -> Next:
        """Send a call where it costs least."""
        self._trips[call.number] = _Trip(call, set(), now + self._terms.max_wait)
        return self._send(call.number, now)

    def again(self, number: int, now: float) -> Next:
        """Send a call that waited, if there is room by now."""
        return self._send(number, now)

    def first(self, number: int, now: float) -> None:
        """Learn nothing: it knows."""

    def done(self, number: int, now: float, cached: int) -> None:  # noqa: ARG002 - the protocol's
        """Forget a call that is over."""
        del self._trips[number]

    def failed(self, number: int, failure: Failure, now: float) -> Next:  # noqa: ARG002 - the protocol's
        """Send a call elsewhere, as often as ours are."""
        trip = self._trips[number]
        if len(trip.tried) >= self._terms.max_attempts:
            return self._give_up(number)
        trip.wait_until = now + self._terms.max_wait
        return self._send(number, now)

    def broke(self, number: int, failure: Failure, now: float) -> None:  # noqa: ARG002 - the protocol's
        """Forget a call that is over."""
        del self._trips[number]

    def told(self) -> Told:
        """Return nothing: whoever knows all need not be told."""
        return Told()

    def hear(self, loads: object, fresh: object, now: float) -> None:
        """Take in nothing."""

    def _send(self, number: int, now: float) -> Next:
        trip = self._trips[number]
        left = [place for place in range(len(self._engines)) if place not in trip.tried and self._serves(place)]
        free = [place for place in left if self._room(place)]
        if free:
            place = min(free, key=lambda place: self._cost(place, trip.call, now))
            trip.tried.add(place)
            return Next(place, patience=MOST_FIRST)
        return Next(again=ASK_AGAIN) if left and now < trip.wait_until else self._give_up(number)

    def _give_up(self, number: int) -> Next:
        del self._trips[number]
        return GIVE_UP

    def _cost(self, place: int, call: Call, now: float) -> float:
        """Return the nano-dollars of money and time that a call costs at a place."""
        engine = self._engines[place]
        if isinstance(engine, Replica):
            return self._terms.worth * at_replica(engine, call, now)
        if isinstance(engine, Hosted):
            used = Usage(call.prompt, call.answer, estimated=False)
            return money(engine.endpoint.price, used) + self._terms.worth * at_hosted(engine, call)
        raise TypeError(f"nothing is known of a {type(engine).__name__}")


def at_replica(replica: Replica, call: Call, now: float) -> float:
    """Return the seconds that a call costs at a replica: its own, and those it imposes on the calls there."""
    machine, speed, there = replica.hardware, replica.speed, replica.running
    cached = replica.cached(call)
    prefill = machine.prefill(cached, call.prompt - cached) / speed
    context = replica.kv_use * machine.room + call.prompt
    token = (machine.step + machine.per_sequence * (there + 1) + machine.per_context * context) / speed
    slower = (machine.per_sequence + machine.per_context * call.prompt) / speed
    first = replica.ahead(now) + prefill + token
    feeling = sum(1.0 if answer <= ANSWER else felt(answer) for answer in replica.answers)
    imposed = feeling * (prefill + call.answer * slower)
    return FIRST_TOKEN * first + call.answer * token + IMPOSED * imposed


def at_hosted(hosted: Hosted, call: Call) -> float:
    """Return the seconds that a call costs at a hosted endpoint, where nobody slows another; its luck nobody knows."""
    token, _ = hosted.endpoint.token_time
    return (FIRST_TOKEN * hosted.endpoint.first(call) + call.answer * token) / hosted.speed
