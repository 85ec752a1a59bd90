"""The order of policies on a few of the report's points: what a change of the score must not turn round."""

from concurrent.futures import ProcessPoolExecutor
from statistics import fmean

import pytest

from tests.simulation.points import ORACLE, OURS, RIVAL, THEIRS, Plan
from tests.simulation.runs import simulated
from tests.simulation.verdicts import Results

PLAN = Plan(seeds=3, calls=1500)
LOADS = {"conversation": (0.5, 0.7, 0.8), "agent": (0.7, 0.9, 1.1)}
PLACES = [(workload, load) for workload, loads in LOADS.items() for load in loads]
KNEE = ("conversation", 0.8)

MARGIN = 3.0
"""Points of goodput that three seeds may differ by where policies are equal."""

BLIND = ("random", "round_robin", "least_outstanding")
"""Policies that know nothing of what is cached."""


@pytest.fixture(scope="module")
def results():
    """Run every policy at every place, on both cores."""
    points = [p for place in PLACES for policy in (OURS, *THEIRS, ORACLE) for p in PLAN.many(*place, policy)]
    with ProcessPoolExecutor(2) as pool:
        return Results(PLAN, dict(zip(points, pool.map(simulated, points), strict=True)))


@pytest.mark.ci
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("workload", "load"), PLACES)
class TestEverywhere:
    def test_ours_is_not_behind_the_best_baseline(self, results, workload, load):
        """Whichever that is at this place."""
        best = results.best(workload, load)

        assert results.over(best, workload, load).mean >= -MARGIN, best

    def test_those_that_know_nothing_of_caches_are_behind(self, results, workload, load):
        """Prompts that begin alike are most of these workloads' work."""
        blind = max(fmean(results.goodput(workload, load, policy)) for policy in BLIND)
        seeing = max(fmean(results.goodput(workload, load, policy)) for policy in THEIRS if policy not in BLIND)

        assert blind < seeing

    def test_nobody_beats_who_knows_all(self, results, workload, load):
        """The oracle is greedy, so it may be beaten by luck."""
        oracle = fmean(results.goodput(workload, load, ORACLE))

        assert all(fmean(results.goodput(workload, load, policy)) <= oracle + MARGIN for policy in (OURS, *THEIRS))


@pytest.mark.ci
@pytest.mark.timeout(300)
def test_at_the_knee_ours_is_ahead(results):
    """Where it matters whom a call goes to: neither all are served in time nor hardly any."""
    assert results.over(results.best(*KNEE), *KNEE).mean > 0.0
    assert results.over(RIVAL, *KNEE).mean > MARGIN


@pytest.mark.ci
def test_the_same_point_comes_to_the_same(results):
    """The dice are the seed's: otherwise nothing could be compared."""
    point = PLAN.many(*KNEE, OURS)[0]

    assert simulated(point) == results.found[point]
