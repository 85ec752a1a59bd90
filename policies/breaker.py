"""When a deployment is kept out because its calls fail: a state machine as a table.

Law: only failures that speak against the deployment are reported here (a caller's fault or a 429 never is). Three in a
row open the breaker; it stays open 10 s, doubled with each further opening up to 300 s; then one call is let through,
and its outcome decides. Word that it is back ends a pause, and closes nothing. A probe that takes long holds up nobody:
the next one follows when its answer has begun, or after `LONGEST_PROBE`.
"""

import math
from enum import StrEnum

THRESHOLD = 3
FIRST_PAUSE = 10.0
LONGEST_PAUSE = 300.0

LONGEST_PROBE = 30.0
"""Seconds after which another probe follows one that is under way: a plain answer of minutes tells nothing before."""


class State(StrEnum):
    """CLOSED passes calls, OPEN keeps them out, HALF_OPEN has one probe under way."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Event(StrEnum):
    """What a breaker is told: one outcome, or that its next call is the probe."""

    SUCCESS = "success"
    FAILURE = "failure"
    PROBE = "probe"
    ABANDONED = "abandoned"
    BEGUN = "begun"


# (state, event) -> next state; what is not listed changes nothing. A failure in CLOSED opens only at the threshold.
TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.CLOSED, Event.FAILURE): State.OPEN,
    (State.OPEN, Event.PROBE): State.HALF_OPEN,
    (State.OPEN, Event.SUCCESS): State.CLOSED,
    (State.HALF_OPEN, Event.SUCCESS): State.CLOSED,
    (State.HALF_OPEN, Event.FAILURE): State.OPEN,
    (State.HALF_OPEN, Event.ABANDONED): State.OPEN,
    (State.HALF_OPEN, Event.BEGUN): State.OPEN,
}


class Breaker:
    """The breaker of one deployment."""

    __slots__ = ("_failures", "_openings", "_until", "state")

    def __init__(self) -> None:
        self.state = State.CLOSED
        self._failures = 0
        self._openings = 0
        self._until = 0.0

    def passes(self, now: float) -> bool:
        """Say whether a call may be sent at `now`; past a pause, or a probe that is waited for, it is the probe."""
        return self.state is State.CLOSED or now >= self._until

    def sent(self, now: float) -> bool:
        """Note that a call is being sent; True if it is the probe."""
        if self.state is State.CLOSED or now < self._until:
            return False
        self._until = now + LONGEST_PROBE
        self._move(Event.PROBE)
        return True

    def succeeded(self) -> None:
        """Note an answer."""
        self._failures = 0
        self._openings = 0
        self._move(Event.SUCCESS)

    def failed(self, now: float, *, probe: bool) -> None:
        """Note a failure that speaks against the deployment; while half open only the probe's counts."""
        self._failures += 1
        if self.state is not State.CLOSED and not probe:
            return
        if self.state is State.OPEN and now < self._until:  # it was opened anew since that probe began to answer
            return
        if self.state is State.CLOSED and self._failures < THRESHOLD:
            return
        self._openings += 1
        self._until = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._openings - 1))
        self._move(Event.FAILURE)

    def abandoned(self, *, probe: bool) -> None:
        """Note that a call ended without telling anything (its caller left): if it was the probe, one is owed again."""
        if probe and self.state is State.HALF_OPEN:
            self._until = -math.inf
            self._move(Event.ABANDONED)

    def begun(self, *, probe: bool) -> None:
        """Note that an answer has begun: the next probe need not wait for its end."""
        if probe and self.state is State.HALF_OPEN:
            self._until = -math.inf
            self._move(Event.BEGUN)

    def due(self, now: float) -> None:
        """Let the next call be the probe, however long the pause: there is word that the deployment is back."""
        if self.state is State.OPEN:
            self._until = min(self._until, now)

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS.get((self.state, event), self.state)
