"""What a run came to: how many calls were served in time, how long they took, what they cost.

Law: goodput is the measure (DistServe, OSDI 2024): the share of calls whose first token and whose pace both kept their
targets; a failed call kept none. The first calls of a run find empty caches and queues, and are not counted.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from policies.simulation.calls import Call

WARM_UP = 0.1
"""Share of a run's calls that only warm it up."""

LEAST_TARGET, PACE_TARGET = 2.0, 5000.0
"""Seconds to the first token that any call has, and prompt tokens a second that a longer prompt is given time for."""

TOKEN_TARGET = 0.05
"""Seconds an output token, on average over an answer."""


class Served(Struct):
    """What became of one call.

    `first`, `ended`: seconds from its arrival to its first token and its end, None where there was none. `place`: who
    served it, -1 where nobody did; `hosted`: that was the hosted endpoint. `attempts`: times that it was sent at all.
    `cached`: prompt tokens that were in that place's cache. `money`: nano-dollars.
    """

    call: Call
    first: float | None = None
    ended: float | None = None
    place: int = -1
    hosted: bool = False
    attempts: int = 0
    cached: int = 0
    money: int = 0

    @property
    def pace(self) -> float:
        """Seconds an output token after the first; 0 where there was one at most."""
        if self.first is None or self.ended is None or self.call.answer < 2:
            return 0.0
        return (self.ended - self.first) / (self.call.answer - 1)

    @property
    def good(self) -> bool:
        """Whether the call kept both targets."""
        if self.first is None or self.ended is None:
            return False
        return self.first <= ttft_target(self.call) and self.pace <= TOKEN_TARGET


class Spread(Struct, frozen=True):
    """The middle and the tail of something, in seconds."""

    p50: float
    p95: float
    p99: float


class Outcome(Struct, frozen=True):
    """What a run came to, its warm-up left out.

    `goodput`: share of calls that kept their targets; `failed`: share that got no whole answer. `ttft`, `tpot` and
    `whole`: of those that did. `money`: nano-dollars, of all. `hits`: share of prompt tokens that were cached where
    they were served. `imbalance`: the most tokens that one replica worked on, cached ones left out, over their mean;
    `hosted`: share of calls that the hosted endpoint served. `attempts`: a call. `seconds`: from the first arrival to
    the last end.
    """

    policy: str
    calls: int
    goodput: float
    ttft: Spread
    tpot: Spread
    whole: Spread
    money: int
    hits: float
    imbalance: float
    hosted: float
    attempts: float
    failed: float
    seconds: float


def ttft_target(call: Call) -> float:
    """Return the seconds within which a call's first token is in time."""
    return max(LEAST_TARGET, call.prompt / PACE_TARGET)


def outcome(policy: str, served: Sequence[Served], replicas: int) -> Outcome:
    """Return what `served`, in the order of their arrival, come to; places below `replicas` are our own.

    Raises ValueError where nothing was called.
    """
    if not served:
        raise ValueError("a run without calls has no outcome")
    counted = served[int(len(served) * WARM_UP) :]
    whole = [s for s in counted if s.first is not None and s.ended is not None]
    prompts = sum(s.call.prompt for s in whole)
    return Outcome(
        policy=policy,
        calls=len(counted),
        goodput=sum(s.good for s in counted) / len(counted),
        ttft=spread(s.first or 0.0 for s in whole),
        tpot=spread(s.pace for s in whole if s.call.answer > 1),
        whole=spread(s.ended or 0.0 for s in whole),
        money=sum(s.money for s in counted),
        hits=sum(s.cached for s in whole) / prompts if prompts else 0.0,
        imbalance=_imbalance(whole, replicas),
        hosted=sum(s.hosted for s in whole) / len(counted),
        attempts=sum(s.attempts for s in counted) / len(counted),
        failed=1.0 - len(whole) / len(counted),
        seconds=max(s.call.at + (s.ended or 0.0) for s in served) - served[0].call.at,
    )


def spread(values: Iterable[float]) -> Spread:
    """Return the middle and the tail of `values`; nothing but 0 of none."""
    ranked = sorted(values)
    return Spread(quantile(ranked, 0.5), quantile(ranked, 0.95), quantile(ranked, 0.99))


def quantile(ranked: Sequence[float], share: float) -> float:
    """Return the least of `ranked`, in rising order, that so large a share does not exceed; 0 of none."""
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else 0.0


def _imbalance(whole: Iterable[Served], replicas: int) -> float:
    loads: Counter[int] = Counter()
    for one in whole:
        if one.place < replicas:
            loads[one.place] += one.call.prompt - one.cached + one.call.answer
    total = sum(loads.values())
    return max(loads.values()) * replicas / total if total else 1.0
