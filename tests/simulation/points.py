"""The runs of the report, each a point: what is simulated, under which policy, with which seed.

Law: a point says all that its outcome depends on beside the code; two points that differ in the policy alone meet the
same calls. A point that two parts of the report need is run once.
"""

from typing import get_args

from msgspec import Struct

from policies.simulation.baselines import BASELINES
from policies.simulation.faults import FaultKind
from policies.simulation.workloads import Name

OURS, ORACLE, RIVAL = "sluiceway", "oracle", "sglang"
THEIRS = tuple(BASELINES)
WORKLOADS = get_args(Name)
LOADS = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2)

USD = 10**9
VALUES = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.1)
"""USD a second."""
CURVE = ("conversation", 0.9)
"""The workload and load of the cost curve: more than the replicas alone can serve in time."""
PER_MINUTE = 36
"""Calls that the hosted endpoint takes: 40, less what a careful operator keeps back."""
BOUNDS = (0, 8, 16, 32, 64)
"""How baselines spill over: calls at once on a replica above which the hosted endpoint is asked; 0: it is a place like
any other."""

FAULTED = ("conversation", 0.7)
FAULTS = ("", *FaultKind)
TERMS = ("affinity", "imposed", "risk", "first token")
"""What is left out of the score, one at a time."""
ABLATED = (("conversation", 0.9, ""), ("agent", 1.0, ""), ("reasoning", 0.9, ""), ("conversation", 0.7, FaultKind.HOLE))


class Point(Struct, frozen=True, omit_defaults=True):
    """One run.

    `value`: USD a second, with the hosted endpoint beside the replicas (None: there is none). `bound`: how a baseline
    spills over to it. `fault`: what goes wrong. `without`: the term that our score lacks.
    """

    workload: str
    load: float
    policy: str
    seed: int
    calls: int
    value: float | None = None
    bound: int = 0
    fault: str = ""
    without: str = ""


class Plan(Struct, frozen=True):
    """How much is run."""

    seeds: int
    calls: int

    def many(self, *args, **kwargs):
        """Return a point's runs, a seed each."""
        workload, load, policy = args
        return [Point(workload, load, policy, seed, self.calls, **kwargs) for seed in range(self.seeds)]

    def all(self):
        """Return every point of the report, once."""
        parts = (self.sweep(), self.curve(), self.failures(), self.ablations())
        return list(dict.fromkeys(point for part in parts for point in part))

    def sweep(self):
        """Every policy at every load of every workload."""
        for workload in WORKLOADS:
            for load in LOADS:
                for policy in (OURS, *THEIRS, ORACLE):
                    yield from self.many(workload, load, policy)

    def curve(self):
        """Ours and the oracle over values of time; the baselines over bounds."""
        for value in VALUES:
            for policy in (OURS, ORACLE):
                yield from self.many(*CURVE, policy, value=value)
        for policy in THEIRS:
            for bound in BOUNDS:
                yield from self.many(*CURVE, policy, value=0.0, bound=bound)

    def failures(self):
        """Every policy while something goes wrong."""
        for fault in FAULTS:
            for policy in (OURS, *THEIRS, ORACLE):
                yield from self.many(*FAULTED, policy, fault=fault)

    def ablations(self):
        """Our score without one of its terms."""
        for workload, load, fault in ABLATED:
            for term in ("", *TERMS):
                yield from self.many(workload, load, OURS, fault=str(fault), without=term)
