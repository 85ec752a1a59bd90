"""What the runs say: is ours better than theirs, where, by how much, and are the goals met.

Law: every difference is paired by seed and has its 95 % interval; the best baseline of a place is the one with the
highest mean there, known only afterwards, which favours it. Goodput is in points of a hundred.
"""

from statistics import fmean

from msgspec import Struct

from policies.simulation.comparing import difference
from tests.simulation.points import BOUNDS, CURVE, LOADS, ORACLE, OURS, RIVAL, THEIRS, USD, VALUES, WORKLOADS

MARGIN = -1.0
"""Points by which ours may fall behind the best baseline, at the lower end of the interval."""

KNEE = 90.0
"""The knee of a shape is the first load at which not even the best baseline serves so many of a hundred in time."""

KNEE_WORKLOAD, KNEE_GAIN = "conversation", 5.0
"""Where ours must be better, and by how many points than SGLang's: on average, and at the lower end."""


class Goal(Struct, frozen=True):
    """One thing that was to be so: whether it is, and what says so (where it is not: all the places)."""

    name: str
    met: bool
    told: tuple[str, ...]


class Results:
    """Outcomes by point."""

    def __init__(self, plan, found) -> None:
        self.plan = plan
        self.found = found

    def runs(self, *args, **kwargs):
        """Return the outcomes of a point's seeds, in order."""
        return [self.found[point] for point in self.plan.many(*args, **kwargs)]

    def goodput(self, *args, **kwargs):
        """Return the goodput of each seed, in points."""
        return [100 * one.goodput for one in self.runs(*args, **kwargs)]

    def mean(self, figure, *args, **kwargs):
        """Return the mean over seeds of a figure of the outcomes."""
        return fmean(figure(one) for one in self.runs(*args, **kwargs))

    def best(self, workload, load, **kwargs):
        """Return the baseline with the highest mean goodput at a place."""
        return max(THEIRS, key=lambda policy: fmean(self.goodput(workload, load, policy, **kwargs)))

    def over(self, other, workload, load, **kwargs):
        """Return by how many points of goodput ours exceeds another policy at a place."""
        ours = self.goodput(workload, load, OURS, **kwargs)
        return difference(ours, self.goodput(workload, load, other, **kwargs))

    def knee(self, workload):
        """Return the load at which a workload's best baseline begins to fail; None where it never does."""
        for load in LOADS:
            if fmean(self.goodput(workload, load, self.best(workload, load))) < KNEE:
                return load
        return None

    def share_of_oracle(self, workload, load):
        """Return our mean goodput as a share of the oracle's; None where it has none."""
        most = fmean(self.goodput(workload, load, ORACLE))
        return fmean(self.goodput(workload, load, OURS)) / most if most else None


class Spill(Struct, frozen=True):
    """A point of a baseline's cost curve, and ours that costs no more and serves the most in time.

    `value`: our value of time there, in USD a second; None where none of ours is as cheap. `over`: by how many points
    ours is better.
    """

    policy: str
    bound: int
    dollars: float
    goodput: float
    value: float | None
    ours: float
    over: object


def dollars(outcome):
    """Return what 1,000 calls cost."""
    return outcome.money / USD / outcome.calls * 1000


def spills(results):
    """Return each baseline's points of the cost curve beside ours."""
    told = {value: results.mean(dollars, *CURVE, OURS, value=value) for value in VALUES}
    for policy in THEIRS:
        for bound in BOUNDS:
            asked = {"value": 0.0, "bound": bound}
            theirs = results.goodput(*CURVE, policy, **asked)
            paid = results.mean(dollars, *CURVE, policy, **asked)
            cheap = [value for value in VALUES if told[value] <= paid]
            goods = {value: results.goodput(*CURVE, OURS, value=value) for value in cheap}
            value = max(goods, key=lambda value: fmean(goods[value]), default=None)
            ours = goods.get(value, [0.0] * len(theirs))
            yield Spill(policy, bound, paid, fmean(theirs), value, fmean(ours), difference(ours, theirs))


def interval(found):
    """Return a difference in words."""
    return f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f})"


def goals(results):
    """Return the goals, each with whether it is met."""
    return [_never_behind(results), _knee(results), *knee_over_rival(results), _curve(results)]


def _never_behind(results):
    behind = []
    for workload in WORKLOADS:
        for load in LOADS:
            best = results.best(workload, load)
            found = results.over(best, workload, load)
            if found.low < MARGIN:
                behind.append(f"{workload} at {load}: {interval(found)} against {best}")
    places = len(WORKLOADS) * len(LOADS)
    name = f"nowhere more than {-MARGIN:.0f} point behind the best baseline, at the lower end of the interval"
    return Goal(name, not behind, (f"kept at {places - len(behind)} of {places} places", *behind))


def _knee(results):
    load = results.knee(KNEE_WORKLOAD)
    name = f"better than the best baseline at the knee of {KNEE_WORKLOAD}"
    if load is None:
        return Goal(name, False, (f"no load up to {LOADS[-1]} is its knee",))
    best = results.best(KNEE_WORKLOAD, load)
    found = results.over(best, KNEE_WORKLOAD, load)
    return Goal(name, found.low > 0.0, (f"at {load}: {interval(found)} against {best}",))


def knee_over_rival(results):
    """Return the goals over the rival at the knee: on average, and at the lower end."""
    load = results.knee(KNEE_WORKLOAD) or LOADS[-1]
    found = results.over(RIVAL, KNEE_WORKLOAD, load)
    name, told = f"at least {KNEE_GAIN:.0f} points better than {RIVAL} there", (f"at {load}: {interval(found)}",)
    return [
        Goal(f"{name}, on average", found.mean >= KNEE_GAIN and found.low > 0.0, told),
        Goal(f"{name}, at the lower end of the interval", found.low >= KNEE_GAIN, told),
    ]


def _curve(results):
    found = list(spills(results))
    under = [one for one in found if one.value is None or one.over.low < 0.0]
    told = [
        f"{one.policy}, {spill_name(one.bound)}: {one.goodput:.1f} % for {one.dollars:.2f} USD, "
        + ("none of ours is as cheap" if one.value is None else f"ours {interval(one.over)} for no more")
        for one in under
    ]
    name = "the cost curve lies above every baseline's: for no more money, more in time"
    return Goal(name, not under, (f"above at {len(found) - len(under)} of {len(found)} points", *told))


def spill_name(bound):
    """Return in words how a baseline spills over."""
    return f"above {bound} calls a replica" if bound else "as a place like any other"
