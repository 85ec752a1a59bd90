"""Outcomes of no run, for what is told of them."""

from gateway.cli.simulate_runs import Case, Ran
from policies.simulation.hardware import MACHINES
from policies.simulation.outcome import Outcome, Spread
from policies.simulation.scenario import Machine, Scenario

SCENARIO = Scenario((Machine(MACHINES["8xH200"]),))


def came_to(goodput=0.9, money=2_000_000_000, failed=0.0):
    """Return an outcome of 1,000 calls."""
    seconds = Spread(1.0, 2.0, 3.0)
    return Outcome(
        policy="sluiceway",
        calls=1000,
        goodput=goodput,
        ttft=seconds,
        tpot=Spread(0.01, 0.02, 0.03),
        whole=seconds,
        money=money,
        hits=0.5,
        imbalance=1.0,
        hosted=0.1,
        attempts=1.0,
        failed=failed,
        seconds=500.0,
    )


def ran(label, *outcomes):
    """Return a case of two calls a second with these outcomes."""
    return Ran(Case(label, SCENARIO, 2.0), outcomes)
