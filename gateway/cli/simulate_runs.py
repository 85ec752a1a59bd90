"""Runs of several cases over the same calls, and what their outcomes differ in.

Law: every case meets the same calls at the same seed, so that what differs is the case; a figure is a mean over seeds,
a difference a mean over pairs with its 95 % interval (`policies/simulation/comparing.py`).
"""

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from msgspec import Struct
from msgspec.structs import replace

from policies.simulation.comparing import Difference, difference
from policies.simulation.outcome import Outcome
from policies.simulation.scenario import Scenario
from policies.simulation.world import run

NANO = 1e9


class Case(Struct, frozen=True):
    """Something to simulate: what it is called, its scenario, whose seed is replaced, and calls a second."""

    label: str
    scenario: Scenario
    rate: float


class Ran(Struct, frozen=True):
    """A case and what each seed came to."""

    case: Case
    outcomes: tuple[Outcome, ...]


class Figure(Struct, frozen=True):
    """One thing that is told of a case: its name, how it is read from an outcome, and how it is written.

    `digits`: behind the point. `unit` stands behind the name.
    """

    name: str
    unit: str
    read: Callable[[Outcome, Case], float]
    digits: int

    def of(self, ran: Ran) -> list[float]:
        """Return the figure of each seed."""
        return [self.read(outcome, ran.case) for outcome in ran.outcomes]

    def mean(self, ran: Ran) -> float:
        """Return its mean over seeds."""
        return fmean(self.of(ran))


def dollars_an_hour(outcome: Outcome, case: Case) -> float:
    """Return the USD that an hour of such calls costs."""
    return outcome.money / NANO / outcome.calls * case.rate * 3600


FIGURES: tuple[Figure, ...] = (
    Figure("in time", "%", lambda o, _: 100 * o.goodput, 1),
    Figure("first token, half within", "s", lambda o, _: o.ttft.p50, 2),
    Figure("first token, 95 % within", "s", lambda o, _: o.ttft.p95, 2),
    Figure("first token, 99 % within", "s", lambda o, _: o.ttft.p99, 2),
    Figure("an output token, half within", "ms", lambda o, _: 1000 * o.tpot.p50, 1),
    Figure("an output token, 95 % within", "ms", lambda o, _: 1000 * o.tpot.p95, 1),
    Figure("whole answer, half within", "s", lambda o, _: o.whole.p50, 1),
    Figure("failed", "%", lambda o, _: 100 * o.failed, 2),
    Figure("prompt tokens cached", "%", lambda o, _: 100 * o.hits, 1),
    Figure("served by the hosted endpoint", "%", lambda o, _: 100 * o.hosted, 1),
    Figure("cost of 1,000 calls", "USD", lambda o, _: o.money / NANO / o.calls * 1000, 2),
    Figure("cost of an hour", "USD", dollars_an_hour, 2),
)
"""What is told of every case, in this order; the first is the measure."""


def simulate(cases: Sequence[Case], seeds: int, told: Callable[[float], None]) -> list[Ran]:
    """Run every case with seeds from 0 on; `told` hears of each call that has ended, as a share of a run."""
    found: list[list[Outcome]] = [[] for _ in cases]
    for seed in range(seeds):
        for case, outcomes in zip(cases, found, strict=True):
            outcomes.append(_one(replace(case.scenario, seed=seed), told))
    return [Ran(case, tuple(outcomes)) for case, outcomes in zip(cases, found, strict=True)]


def apart(figure: Figure, ran: Ran, base: Ran) -> Difference:
    """Return by how much a figure of a case exceeds the base's, seed by seed."""
    return difference(figure.of(ran), figure.of(base))


def is_clear(found: Difference) -> bool:
    """Say whether a difference is on one side of 0 with 95 % confidence."""
    return math.isfinite(found.low) and (found.low > 0.0 or found.high < 0.0)


def _one(scenario: Scenario, told: Callable[[float], None]) -> Outcome:
    before = 0.0

    def progress(done: int, of: int) -> None:
        nonlocal before
        told(done / of - before)
        before = done / of

    return run(scenario, progress)
