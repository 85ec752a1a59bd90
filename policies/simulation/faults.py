"""What goes wrong in a run, and when.

Law: a fault is a fact of the scenario, the same for every policy. It begins at a moment and ends at another, and what
it does meanwhile is told by its kind alone.
"""

from enum import StrEnum

from msgspec import Struct


class FaultKind(StrEnum):
    """What goes wrong at one place; the last, at one gateway.

    CRASH: its calls break off, nobody can connect until it ends, and its cache is lost. HOLE: every new call is refused
    at once with a 503, so that it looks idle. STALL: nothing moves and nothing is refused. SLOW: it works, at a share
    of its speed. STORM: every new call is refused with a 429. COLD: its cache is lost, at a moment. GATEWAY: a gateway
    is gone, with the calls it had under way, whose callers call again.
    """

    CRASH = "crash"
    HOLE = "hole"
    STALL = "stall"
    SLOW = "slow"
    STORM = "storm"
    COLD = "cold"
    GATEWAY = "gateway"


class Fault(Struct, frozen=True):
    """One thing that goes wrong.

    `at`, `until`: seconds from the run's beginning. `which`: the place's number, or the gateway's. `speed`: what is
    left of its own under SLOW.
    """

    kind: FaultKind
    at: float
    until: float
    which: int = 0
    speed: float = 0.4


def crash(at: float, until: float, place: int = 0) -> Fault:
    """Return a replica that is killed, and is back empty."""
    return Fault(FaultKind.CRASH, at, until, place)


def black_hole(at: float, until: float, place: int = 0) -> Fault:
    """Return a replica that answers 503 to everything, faster than any other serves."""
    return Fault(FaultKind.HOLE, at, until, place)


def stall(at: float, seconds: float, place: int = 0) -> Fault:
    """Return a replica that hangs for so long (8 to 60 s in what operators report)."""
    return Fault(FaultKind.STALL, at, at + seconds, place)


def slow(at: float, until: float, times: float, place: int = 0) -> Fault:
    """Return a replica that takes so many times as long (2 to 5: a GPU that throttles, a neighbour)."""
    return Fault(FaultKind.SLOW, at, until, place, 1.0 / times)


def storm(at: float, until: float, place: int = 0) -> Fault:
    """Return a replica that refuses everything for being too much."""
    return Fault(FaultKind.STORM, at, until, place)


def cold(at: float, place: int = 0) -> Fault:
    """Return a replica that loses its cache."""
    return Fault(FaultKind.COLD, at, at, place)


def dead_gateway(at: float, until: float, gateway: int = 0) -> Fault:
    """Return a gateway that is killed, and is back knowing nothing."""
    return Fault(FaultKind.GATEWAY, at, until, gateway)
