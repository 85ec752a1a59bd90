"""How fast places become free for those that wait for them.

Law: what is expected beforehand (Little's law, of what is known of the deployments) counts as one departure, and ever
less as places are seen to become free. What was long ago is forgotten, whether anybody waits or not; one long silence
is a fault that is over, and no pace.
"""

import math
from collections.abc import Iterable

MEMORY = 30.0
"""Seconds over which the pace of a line is remembered, busy or empty: a bad hour does not refuse calls for ever."""

SILENCE, SLOWEST = 10.0, 10.0
"""Seconds, and times its pace, of which the longer is the most that the time to one departure counts: what took longer
was a fault, and is over. (Places of one batch become free together, so that some silence is no fault.)"""

LONGEST = 3600.0
"""Seconds beyond which no wait is predicted."""


def pace_of(rooms: Iterable[tuple[float, int]]) -> float:
    """Return the seconds between two places that become free, as they are to be expected (Little's law).

    `rooms`: of each deployment the seconds that a call holds a place, and how many places it has; or 60 seconds, and
    the requests a minute that it is limited to. `LONGEST` where there is no place at all.
    """
    a_second = sum(places / seconds for seconds, places in rooms if seconds > 0)
    return 1.0 / a_second if a_second else LONGEST


class Pace:
    """How fast places become free for those that wait in one line: departures over seconds, the last counting most."""

    __slots__ = ("_departures", "_seconds", "_since")

    def __init__(self) -> None:
        self._departures = 0.0
        self._seconds = 0.0
        self._since = 0.0

    @property
    def doubt(self) -> float:
        """What is expected beforehand counts so much, 1 where nobody has departed."""
        return (1.0 + self._departures) ** -2

    def begins(self, now: float) -> None:
        """Take in that somebody waits, as nobody did."""
        self._fade(now - self._since)
        self._since = now

    def departs(self, known: float, now: float) -> None:
        """Take in that one of those that wait has been given a place; `known`: as of `interval`."""
        self.passes(known, now)
        self._departures += 1.0

    def passes(self, known: float, now: float) -> None:
        """Take in the time that has passed, in which somebody waited."""
        most = max(SILENCE, SLOWEST * self.interval(known, self._since))
        passed = min(now - self._since, most)
        self._fade(passed)
        self._seconds += passed
        self._since = now

    def interval(self, known: float, now: float) -> float:
        """Return the seconds between two departures, while somebody waits; while nobody departs they grow.

        `known`: what they are expected to be, which counts as a departure at first and ever less.
        """
        weight = self.doubt
        return (self._seconds + now - self._since + weight * known) / (self._departures + weight)

    def _fade(self, seconds: float) -> None:
        kept = math.exp(-seconds / MEMORY)
        self._departures *= kept
        self._seconds *= kept


class Kind:
    """Those of a line whose needs are the same: how many wait, and how fast they find places."""

    __slots__ = ("pace", "waiting")

    def __init__(self) -> None:
        self.pace = Pace()
        self.waiting = 0
