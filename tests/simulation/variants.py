"""What no user can ask of the simulation: baselines that spill over, and our score without one of its terms.

Law: nothing here changes what is measured otherwise: what is put in place of the product's own is there for one run.
"""

import contextlib
from unittest import mock

from msgspec.structs import replace

from policies import routing, scoring
from policies.affinity import NONE
from policies.simulation import gateways
from policies.simulation.baselines import BASELINES


def spilling(choose, hosted, bound):
    """Return a way to choose that takes replicas with less than `bound` calls, and where there is none the endpoint.

    As a reverse proxy does with a bound for each server and a backup (HAProxy: maxconn, backup).
    """

    def spill(call, left, known, dice):
        own = [place for place in left if place != hosted]
        free = [place for place in own if known[place].in_flight < bound]
        if hosted in left and not free:
            return hosted
        return choose(call, free or own, known, dice)

    return spill


@contextlib.contextmanager
def lacking(term):
    """Leave a term out of the score while this lasts."""
    with contextlib.ExitStack() as stack:
        for target, name, instead in _PATCHES[term]():
            stack.enter_context(mock.patch.object(target, name, instead))
        yield


@contextlib.contextmanager
def named(policy, hosted, bound):
    """Have a baseline under a name of its own while this lasts; yield the name."""
    if not bound:
        yield policy
        return
    name = f"{policy} over {bound}"
    with mock.patch.dict(BASELINES, {name: spilling(BASELINES[policy], hosted, bound)}):
        yield name


def _affinity():
    asked = gateways.asked
    yield gateways, "beginning_of", lambda call, request: NONE
    yield gateways, "asked", lambda call: replace(asked(call), session="")


def _term(name):
    score = scoring.score

    def without(snapshot, estimate, terms):
        found = score(snapshot, estimate, terms)
        seconds = getattr(found, name) / snapshot.share
        return replace(found, score=found.score - terms.worth * seconds)

    yield routing, "score", without


_PATCHES = {
    "": list,
    "affinity": _affinity,
    "imposed": lambda: [(scoring, "IMPOSED", 0.0)],
    "risk": lambda: _term("risk"),
    "first token": lambda: [(scoring, "FIRST_TOKEN", 1.0)],
}
