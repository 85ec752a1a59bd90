"""Runs of points: over all processes, each outcome kept as a line of JSON as soon as it is there.

Law: what was run is not run again, unless the code of `policies/` has changed since: each line has its digest. A run
that was broken off loses only what was under way.
"""

import hashlib
import os
from concurrent.futures import ProcessPoolExecutor, as_completed

import msgspec
from msgspec import Struct
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from policies.simulation import faults
from policies.simulation.hardware import MACHINES
from policies.simulation.hosted import Endpoint
from policies.simulation.outcome import Outcome
from policies.simulation.scenario import Machine, Scenario, capacity
from policies.simulation.world import World
from policies.terms import RoutingTerms
from tests.house import ROOT
from tests.simulation.points import PER_MINUTE, USD, Point
from tests.simulation.variants import lacking, named

HARDWARE = "8xH200"
REPLICAS = (Machine(MACHINES[HARDWARE]),) * 4


class Line(Struct, frozen=True):
    """One run that is over."""

    code: str
    point: Point
    outcome: Outcome


def scenario_of(point):
    """Return what a point simulates, under a policy's plain name."""
    hosted = None if point.value is None else Endpoint(per_minute=PER_MINUTE)
    return Scenario(
        REPLICAS,
        workload=point.workload,
        load=point.load,
        policy=point.policy,
        seed=point.seed,
        calls=point.calls,
        gateways=2 if point.fault == faults.FaultKind.GATEWAY else 1,
        hosted=hosted,
        faults=_faults(point),
        terms=RoutingTerms() if point.value is None else RoutingTerms(value_of_time=round(point.value * USD)),
    )


def simulated(point):
    """Run a point."""
    scenario = scenario_of(point)
    with named(point.policy, len(REPLICAS), point.bound) as policy, lacking(point.without):
        return World(msgspec.structs.replace(scenario, policy=policy)).run()


def outcomes(points, path, code, processes, console):
    """Return the outcome of every point under `code`, from the lines at `path` where it is there."""
    found = {line.point: line.outcome for line in _lines(path) if line.code == code}
    left = [point for point in points if point not in found]
    if left:
        console.print(f"{len(points) - len(left)} of {len(points)} runs are in {path} (code {code})")
        with path.open("ab") as file:
            for point, outcome in _run(left, processes, console):
                found[point] = outcome
                file.write(msgspec.json.encode(Line(code, point, outcome)) + b"\n")
                file.flush()
    return {point: found[point] for point in points}


def digest():
    """Return a short name of the code that decides what a point comes to."""
    told = hashlib.sha256()
    for path in (*sorted((ROOT / "policies").rglob("*.py")), ROOT / "tests/simulation/variants.py"):
        told.update(path.read_bytes())
    return told.hexdigest()[:12]


def _run(left, processes, console):
    """Yield each point with its outcome, as they are over."""
    columns = TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with ProcessPoolExecutor(processes) as pool, Progress(*columns, console=console) as bar:
        running = {pool.submit(simulated, point): point for point in left}
        try:
            for done in bar.track(as_completed(running), total=len(running), description=""):
                yield running[done], done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _lines(path):
    if not path.exists():
        return
    decoder = msgspec.json.Decoder(Line)
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:  # broken off in the middle of a line
        os.truncate(path, len(whole))
    yield from map(decoder.decode, whole.splitlines())


def _faults(point):
    """Return what goes wrong: from 0.3 to 0.6 of the run, at the first replica (or the first of two gateways)."""
    length = point.calls / (point.load * capacity(REPLICAS, point.workload))
    at, until = 0.3 * length, 0.6 * length
    kinds = faults.FaultKind
    told = {
        kinds.CRASH: faults.crash(at, until),
        kinds.HOLE: faults.black_hole(at, until),
        kinds.STALL: faults.stall(at, 20.0),
        kinds.SLOW: faults.slow(at, until, 3.0),
        kinds.STORM: faults.storm(at, until),
        kinds.COLD: faults.cold(at),
        kinds.GATEWAY: faults.dead_gateway(at, until),
    }
    return (told[kinds(point.fault)],) if point.fault in set(kinds) else ()
