"""A hosted endpoint: nobody sees its engine; it answers at its own pace, fails now and then, and counts our calls.

Law: what befalls a call there depends on the dice, the call and how often it was tried, never on others or on the order
of arrivals: two policies that send it the same call see the same answer. Only its limit looks at the others:
so many calls in a fixed window, which begins with the first call after the last window's end; refused calls count too.
"""

import heapq
from random import Random

from msgspec import Struct

from policies.domain import Price
from policies.simulation.calls import Call, Event


class Endpoint(Struct, frozen=True):
    """How a hosted endpoint behaves.

    `network`: seconds there and back. `delay`: seconds until prefill begins, median and sigma of a lognormal.
    `prefill_rate`: prompt tokens a second. `token_time`: seconds an output token, median and sigma over calls.
    `errors`: the chance that a call fails where its first token should come. `per_minute`: calls in a window; None
    where it has no limit. `price`: of its tokens, for whoever counts the money.

    The defaults are those of NVIDIA's hosted API: 40 calls a minute is forum-confirmed for trial keys; a median near
    1 s, 20,000 tokens a second, 20 ms a token and 2 % errors are guesses from users' reports. The price is Mistral's
    list price of Medium 3.5, USD 1.5 and 7.5 a million tokens.
    """

    network: float = 0.05
    delay: tuple[float, float] = (0.9, 0.6)
    prefill_rate: float = 20_000.0
    token_time: tuple[float, float] = (0.02, 0.2)
    errors: float = 0.02
    per_minute: int | None = 40
    price: Price = Price(1_500_000, 7_500_000)

    def first(self, call: Call) -> float:
        """Return the seconds to a call's first token, of half of all calls at most."""
        return self.network + self.delay[0] + call.prompt / self.prefill_rate


WINDOW = 60.0
"""Seconds of a window (NVCF's rate limiter, `40-M`)."""


class Hosted:
    """One account at a hosted endpoint: an `Engine` of `calls.py`.

    Nothing waits there and no call slows another. A cut call costs it nothing that we could see.
    """

    def __init__(self, endpoint: Endpoint, dice: Random) -> None:
        self.endpoint = endpoint
        self.speed = 1.0
        self.refused = 0
        self._seed = dice.getrandbits(64)
        self._due: list[tuple[float, int, bool, Event]] = []
        self._open: dict[int, int] = {}
        self._tries: dict[int, int] = {}
        self._ticks = 0
        self._window = (-WINDOW, 0)
        self._held_until = 0.0

    @property
    def next_at(self) -> float:
        """The moment of the next first token, end or failure."""
        return self._due[0][0] if self._due else float("inf")

    @property
    def running(self) -> int:
        """Calls that it is answering."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """None: whom it cannot serve it refuses."""
        return 0

    @property
    def kv_use(self) -> float:
        """Nothing: nobody sees it."""
        return 0.0

    def arrive(self, call: Call, now: float) -> int | None:
        """Take in a call, or refuse it with 429 where the window is full."""
        began, count = self._window
        if now >= began + WINDOW:
            began, count = now, 0
        self._window = (began, count + 1)
        if self.endpoint.per_minute is not None and count >= self.endpoint.per_minute:
            self.refused += 1
            return 429
        self._plan(call, now)
        return None

    def cancel(self, number: int, now: float) -> None:  # noqa: ARG002 - the protocol's
        """Forget a call."""
        self._open.pop(number, None)
        self._clean()

    def advance(self, now: float) -> list[Event]:
        """Return what happened up to `now`."""
        events = []
        while self._due and self._due[0][0] <= now:
            *_, event = heapq.heappop(self._due)
            events.append(event)
            if event.kind != "first":
                del self._open[event.number]
            self._clean()
        return events

    def slow(self, speed: float, now: float) -> None:  # noqa: ARG002 - the protocol's
        """Serve calls that come from now on at this share of its usual pace."""
        self.speed = speed

    def stall(self, until: float, now: float) -> None:
        """Send nothing until `until`; all that was due comes that much later."""
        pause = until - max(now, self._held_until)
        if pause <= 0.0:
            return
        self._held_until = until
        self._due = [
            (at + pause, tick, last, Event(at + pause, event.number, event.kind, event.tokens))
            for at, tick, last, event in self._due
        ]

    def crash(self, now: float) -> list[Event]:
        """Fail every call."""
        begun = self._open.keys() - {event.number for *_, event in self._due if event.kind != "done"}
        failed = [Event(now, number, "failed", int(number in begun)) for number in self._open]
        self._open.clear()
        self._due.clear()
        self._held_until = 0.0
        return failed

    def cold(self) -> None:
        """Nothing: whatever it caches is out of sight."""

    def _plan(self, call: Call, now: float) -> None:
        tried = self._tries[call.number] = self._tries.get(call.number, 0) + 1
        dice = Random(f"{self._seed}/{call.number}/{tried}")  # noqa: S311 - no secret
        end = self.endpoint
        delay, pace = (median * dice.lognormvariate(0.0, sigma) for median, sigma in (end.delay, end.token_time))
        begins = (delay + call.prompt / end.prefill_rate) / self.speed
        first = max(now, self._held_until) + end.network + begins
        self._ticks += 1
        self._open[call.number] = self._ticks
        if dice.random() < end.errors:
            self._push(Event(first, call.number, "failed", 0))
            return
        self._push(Event(first, call.number, "first", 1))
        self._push(Event(first + (call.answer - 1) * pace / self.speed, call.number, "done", call.answer))

    def _push(self, event: Event) -> None:
        heapq.heappush(self._due, (event.at, self._ticks, event.kind == "done", event))

    def _clean(self) -> None:
        """Leave no event of a call that left, or of an earlier try, in front, or `next_at` would be in vain."""
        while self._due and self._open.get(self._due[0][3].number) != self._due[0][1]:
            heapq.heappop(self._due)
