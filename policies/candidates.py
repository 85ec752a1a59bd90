"""Which deployments can serve a call at all, and why the others cannot.

Law: each exclusion has its reason in words. One that rests on belief (ejected, off, a prompt that seems too long, an
API once refused, a freeze) gives way if it would leave nothing, and the upstream decides (`policies.routing`). Being
full never does: one that is full, by its own bound or by an upstream's, is waited for. A spent budget is a fact,
and so is what a kind of engine does not serve, where a caller may not go, what a call may not cost, and what an
operator has drained.
"""

import math
from typing import Literal

from msgspec import Struct

from policies.dialects import DIALECTS
from policies.domain import API, Deployment, InferenceRequest, Pace, Reach, Snapshot
from policies.limits import usd
from policies.pricing import free
from policies.reach import out_of_reach
from policies.wishes import slighted

BUDGET = "budget"
"""The reason that a deployment which costs money is out, where money has run out."""

_ANY_PACE = Pace(0.0, 0.0, 0.0, 0.0)

ANYWHERE = Reach()
"""The reach of one who may go everywhere."""

FULL = "full"
"""The reason in one word that a deployment is passed over which has as many calls as it takes."""

DEAR = ", more than the call may cost"
"""How the reason goes on that a deployment is out which costs too much."""

EJECTED = "ejected: its last calls failed"
"""The reason that a deployment is out whose breaker is open."""

DRAINED = "drained by an operator"
"""The reason that a deployment is out which takes no new calls."""


def missing_api(api: API) -> str:
    """Return the reason that a deployment is out whose kind of engine does not serve `api`."""
    return f"has no {api} API"


def missing_media(request: InferenceRequest, deployment: Deployment) -> str:
    """Return the reason that a deployment is out which does not take what a request holds beside text."""
    return f"takes no {', '.join(sorted(request.modalities - deployment.modalities))}"


def too_large(deployment: Deployment) -> str:
    """Return the reason that a deployment is out whose kind of engine does not take that many bytes."""
    return f"takes at most {DIALECTS[deployment.kind].max_body} bytes"


Kind = Literal["fact", "state", "fit", "full"]
"""What an exclusion rests on: a fact; a belief about the deployment's state; one about how the call suits it; or only
on its being full."""


class Exclusion(Struct, frozen=True, gc=False):
    """Why a deployment is out. `full`: it has as many calls as it takes, whatever else speaks against it."""

    reason: str
    kind: Kind
    full: bool = False


class Asked(Struct, frozen=True, gc=False):
    """What a call asks of every deployment.

    `tokens`: of prompt and expected output together. `broke`: it must cost nothing; `reach`: where its caller may go;
    `max_price`: nano-dollars that it may be expected to cost (None: any).
    """

    request: InferenceRequest
    tokens: int
    reach: Reach = ANYWHERE
    broke: bool = False
    max_price: int | None = None


def exclusion(snapshot: Snapshot, asked: Asked, cost: int | None) -> Exclusion | None:
    """Return why `snapshot`'s deployment cannot take a call, or None if it can.

    `cost`: nano-dollars that the call would probably cost there, None where its price is unknown.
    """
    why = _fact(snapshot, asked, cost)
    if why is not None:
        return why
    why, full = _belief(snapshot, asked), _fullness(snapshot)
    if why is None or full is None:
        return why or full
    return Exclusion(f"{why.reason}; {full.reason}", why.kind, full=True)


def at_best(deployment: Deployment, asked: Asked, cost: int | None) -> Exclusion | None:
    """Return what `exclusion` does of a deployment with which all is well: what waiting does not change."""
    return exclusion(Snapshot(deployment, 0, 0, _ANY_PACE, ejected=False, off=None), asked, cost)


def _fact(snapshot: Snapshot, asked: Asked, cost: int | None) -> Exclusion | None:
    request, reach = asked.request, asked.reach
    deployment = snapshot.deployment
    dialect = DIALECTS[deployment.kind]
    why: str | None = None
    if (reach.local_only or reach.backends) and (away := out_of_reach(reach, deployment)):
        why = away
    elif snapshot.drained:
        why = DRAINED
    elif request.api not in dialect.apis:
        why = missing_api(request.api)
    elif asked.broke and not free(deployment.price):
        why = BUDGET
    elif not request.modalities <= deployment.modalities:
        why = missing_media(request, deployment)
    elif dialect.max_body is not None and request.size > dialect.max_body:
        why = too_large(deployment)
    elif snapshot.absent is not None:
        why = snapshot.absent
    elif snapshot.retired:
        why = "retired: its model is gone"
    elif asked.max_price is not None and (cost is None or cost > asked.max_price):
        told = "has no known price" if cost is None else f"would cost about {usd(cost)}"
        why = f"{told}{DEAR} ({usd(asked.max_price)})"
    return None if why is None else Exclusion(why, "fact")


def _belief(snapshot: Snapshot, asked: Asked) -> Exclusion | None:
    request, deployment, window = asked.request, snapshot.deployment, snapshot.deployment.context_window
    why: str | None = None
    if snapshot.off is not None:
        why = f"off: {snapshot.off}"
    elif snapshot.lacks and request.api in snapshot.lacks:
        why = f"has no {request.api}"
    elif snapshot.down is not None:
        why = f"down: {snapshot.down}"
    elif snapshot.frozen_for:
        why = f"asked to be left alone for {math.ceil(snapshot.frozen_for)} s"
    elif snapshot.ejected:
        why = EJECTED
    if why is not None:
        return Exclusion(why, "state")
    if window is not None and asked.tokens > window:
        return Exclusion(f"window of {window} tokens < about {asked.tokens}", "fit")
    if names := slighted(request, DIALECTS[deployment.kind]):
        return Exclusion(f"would ignore {', '.join(names)}", "fit")
    return None


def taken(most: int | None, there: int, foreign: int, share: float) -> bool:
    """Say whether every place of a deployment is taken: `most` there are, a `share` of them while it warms up.

    `there`: calls, `foreign` ones among them. Whoever calls past us fills nothing alone: what an engine counts may be
    wrong.
    """
    return most is not None and there > foreign and there >= max(1.0, most * share)


def _fullness(snapshot: Snapshot) -> Exclusion | None:
    most, there = snapshot.deployment.max_in_flight, snapshot.in_flight
    if most is not None and taken(most, there, snapshot.foreign, snapshot.share):
        warming = f", and fewer while it warms up ({snapshot.share:.0%})" if snapshot.share < 1.0 else ""
        return Exclusion(f"full: it has {there} of {most} calls at most{warming}", "full", full=True)
    if snapshot.allowance_wait:
        return Exclusion(f"its own limit has room in {snapshot.allowance_wait:.1f} s", "full", full=True)
    return None
