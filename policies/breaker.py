"""When a deployment is kept out because its calls fail or crawl: a state machine as a table.

Law: only failures that speak against the deployment are reported here (a caller's fault or a 429 never is). It opens on
three in a row, on more than half of twenty calls, and on ten first tokens in a row that are far too late; it stays open
10 s, doubled with each further opening up to 300 s; then one call is let through, and its outcome decides. Once closed
it takes its full share of calls again over `RAMP` seconds. Word that it is back ends a pause, and closes nothing. A
probe that takes long holds up nobody: the next one follows when its answer has begun, or after `LONGEST_PROBE`.

Each gateway has its own, judges by its own calls alone and hears of the others' what spares it a probe. While another
one's probe is under way ours waits; when it ends well ours may go at once; when it ends badly, or another one opens
too, our pause begins anew: so pauses end together, and of those that wait one probes first (`turn`).
"""

import math
from enum import StrEnum

THRESHOLD = 3
"""Failures in a row: with two to six replicas a tenth of the pool, or five in a row, is noticed too late."""

WINDOW = 30.0
LEAST_CALLS = 20
MOST_FAILING = 0.5
"""More than this share of at least so many calls in the last `WINDOW` seconds: one that fails two of three calls looks
idle, draws more of them, and never fails three in a row for long."""

SLOW = 5.0
SLOW_ROW = 10
"""So many first tokens in a row, each later than so many times what it should have been: ten, since a queue or a cold
cache makes a few late; five times, since prediction is wrong by two or three on a good day. A replica that crawls is
worse than one that fails: its calls are held to the end."""

FIRST_PAUSE = 10.0
LONGEST_PAUSE = 300.0

LONGEST_PROBE = 30.0
"""Seconds after which another probe follows one that is under way: a plain answer of minutes tells nothing before."""

FIRST_SHARE, RAMP = 0.25, 30.0
"""The share of its calls that a deployment gets when it has just closed, and the seconds until it is whole: its cache
is cold, and one good answer is no proof. An opening within them is a further one, whose pause is doubled."""

PRIOR = 0.01
WEIGHT = 0.05
HALF_LIFE = 60.0
"""The probability that a call fails: believed without evidence; a call's share in it, so that twenty calls are half of
what is believed; seconds without a call after which half of what was seen is forgotten."""


class State(StrEnum):
    """CLOSED passes calls, OPEN keeps them out, HALF_OPEN has one probe under way."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


CLOSED = State.CLOSED
"""The usual state by itself: an enumeration's member costs more to look up than to compare."""


class Event(StrEnum):
    """What moves a breaker: what the calls so far add up to, or what became of the probe."""

    FAILURES = "failures in a row"
    RATE = "failure rate"
    SLOWNESS = "slowness"
    PROBE = "probe"
    SUCCESS = "success"
    FAILURE = "failure"
    ABANDONED = "abandoned"
    BEGUN = "begun"


# (state, event) -> next state; what is not listed changes nothing.
TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.CLOSED, Event.FAILURES): State.OPEN,
    (State.CLOSED, Event.RATE): State.OPEN,
    (State.CLOSED, Event.SLOWNESS): State.OPEN,
    (State.OPEN, Event.PROBE): State.HALF_OPEN,
    (State.OPEN, Event.SUCCESS): State.CLOSED,
    (State.HALF_OPEN, Event.SUCCESS): State.CLOSED,
    (State.HALF_OPEN, Event.FAILURE): State.OPEN,
    (State.HALF_OPEN, Event.ABANDONED): State.OPEN,
    (State.HALF_OPEN, Event.BEGUN): State.OPEN,
}


class Breaker:
    """The breaker of one deployment, in one gateway.

    `turn`: seconds after a pause's end that our probe gives to the gateways whose turn is before ours; 0 where alone.
    `openings`, `reopenings`, `closings`: how often calls opened it, a probe found it still ill, an answer closed it.
    """

    __slots__ = (
        "_closed_at",
        "_failed_at",
        "_failing",
        "_failures",
        "_held",
        "_recent",
        "_row",
        "_slow",
        "_unproven",
        "_until",
        "closings",
        "openings",
        "reopenings",
        "state",
        "turn",
    )

    def __init__(self) -> None:
        self.state = State.CLOSED
        self.turn = 0.0
        self.openings = self.reopenings = self.closings = 0
        self._failures = 0
        self._slow = 0
        self._recent = _Recent()
        self._row = 0
        self._unproven = False
        self._until = 0.0
        self._held = -math.inf
        self._closed_at = -math.inf
        self._failing = PRIOR
        self._failed_at = 0.0

    def passes(self, now: float) -> bool:
        """Say whether a call may be sent at `now`; past a pause, or a probe that is waited for, it is the probe."""
        return self.state is State.CLOSED or not self.left(now)

    def left(self, now: float) -> float:
        """Return the seconds until a call may be sent, 0.0: one may; under a probe, until another would follow it."""
        if self.state is State.CLOSED:
            return 0.0
        turn = self.turn if self.state is State.OPEN else 0.0
        return max(0.0, self._until + turn - now, self._held - now)

    def share(self, now: float) -> float:
        """Return the share of its calls that it should get: 1 but for a while after it has closed, rising."""
        since = now - self._closed_at
        return 1.0 if since >= RAMP else FIRST_SHARE + (1.0 - FIRST_SHARE) * max(0.0, since) / RAMP

    def fails(self, now: float) -> float:
        """Return the probability, 0 to 1, that a call fails, as believed at `now`."""
        since = now - self._failed_at
        return PRIOR + (self._failing - PRIOR) * math.exp2(-since / HALF_LIFE) if since > 0.0 else self._failing

    def sent(self, now: float) -> bool:
        """Note that a call is being sent; True if it is the probe."""
        if self.state is State.CLOSED or not self.passes(now):
            return False
        self._until = now + LONGEST_PROBE
        self._unproven = False
        self._move(Event.PROBE)
        return True

    def succeeded(self, now: float) -> None:
        """Note an answer.

        Where it was opened though calls succeed (many fail, all crawl), those sent before a probe prove nothing.
        """
        self._learn(now, failed=False)
        self._failures = 0
        if self.state is State.CLOSED:
            self._recent.add(now, failed=False)
            if now - self._closed_at >= RAMP:
                self._row = 0
        elif not self._unproven:
            self._closed_at = now
            self._slow = 0
            self.closings += 1
            self._move(Event.SUCCESS)

    def failed(self, now: float, *, probe: bool) -> None:
        """Note a failure that speaks against the deployment; while half open only the probe's counts."""
        self._learn(now, failed=True)
        if self.state is State.CLOSED:
            self._failures += 1
            self._recent.add(now, failed=True)
            if self._failures >= THRESHOLD:
                self._open(now, Event.FAILURES)
            elif self._recent.mostly_fails(now):
                self._open(now, Event.RATE)
        elif probe and (self.state is State.HALF_OPEN or now >= self._until):
            # An open one whose pause is not over was opened anew since that probe began to answer.
            self._open(now, Event.FAILURE)

    def slow(self, now: float, ratio: float) -> None:
        """Note how late a first token was: seconds it took, over seconds it should have taken.

        What it should have taken must come from figures that the slowness itself has not moved (the pool's, the
        prior's, those of before): against its own learned ones a slow replica is as expected after three calls.
        """
        if self.state is State.CLOSED:
            self._slow = self._slow + 1 if ratio > SLOW else 0
            if self._slow >= SLOW_ROW:
                self._open(now, Event.SLOWNESS)

    def abandoned(self, *, probe: bool) -> None:
        """Note that a call ended without telling anything (its caller left): if it was the probe, one is owed again."""
        self._owe_again(Event.ABANDONED, probe=probe)

    def begun(self, *, probe: bool) -> None:
        """Note that an answer has begun: the next probe need not wait for its end."""
        self._owe_again(Event.BEGUN, probe=probe)

    def due(self, now: float) -> None:
        """Let the next call be the probe, however long the pause: there is word that the deployment is back."""
        if self.state is State.OPEN:
            self._until = min(self._until, now)

    def elsewhere(self, until: float) -> None:
        """Note that another gateway's probe is under way: ours waits until then, or until we hear of it again."""
        self._held = until

    def well_elsewhere(self) -> None:
        """Note that another gateway has found it well: our next call is a probe, out of turn."""
        if self.state is State.OPEN:
            self._until = self._held = -math.inf

    def ill_elsewhere(self, now: float, *, probe: bool) -> None:
        """Note that another gateway has opened too, or that its `probe` has failed, which counts as if it were ours.

        Unless our own probe is under way our pause begins anew.
        """
        if self.state is State.OPEN:
            self._row += probe
            self._pause(now)

    def _open(self, now: float, event: Event) -> None:
        """Open, by an event that the table has for where we are; what was counted so far is done with."""
        self._unproven = event in (Event.RATE, Event.SLOWNESS)
        self._recent = _Recent()
        self._slow = 0
        self._closed_at = -math.inf
        if event is Event.FAILURE:
            self.reopenings += 1
        else:
            self.openings += 1
        self._row += 1
        self._pause(now)
        self._move(event)

    def _pause(self, now: float) -> None:
        """Begin a pause: as long as the number of openings in a row makes it."""
        self._until = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._row - 1, 10))

    def _owe_again(self, event: Event, *, probe: bool) -> None:
        if probe and self.state is State.HALF_OPEN:
            self._until = -math.inf
            self._move(event)

    def _learn(self, now: float, *, failed: bool) -> None:
        believed = self.fails(now)
        self._failing = believed + WEIGHT * (failed - believed)
        self._failed_at = now

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS.get((self.state, event), self.state)


class _Recent:
    """Calls and failures of the last `WINDOW` seconds: those of this window, and an even part of those of the last."""

    __slots__ = ("_before", "_calls", "_failures", "_failures_before", "_since")

    def __init__(self) -> None:
        self._since = -math.inf
        self._calls = self._failures = 0
        self._before = self._failures_before = 0

    def add(self, now: float, *, failed: bool) -> None:
        """Count a call that ended at `now`."""
        past = now - self._since
        if past >= WINDOW:
            just = past < 2 * WINDOW
            self._before, self._failures_before = (self._calls, self._failures) if just else (0, 0)
            self._calls = self._failures = 0
            self._since = self._since + WINDOW if just else now
        self._calls += 1
        self._failures += failed

    def mostly_fails(self, now: float) -> bool:
        """Say whether more than half of enough calls have failed; asked right after one was counted."""
        left = 1.0 - max(0.0, now - self._since) / WINDOW
        calls = self._calls + left * self._before
        return calls >= LEAST_CALLS and self._failures + left * self._failures_before > MOST_FAILING * calls
