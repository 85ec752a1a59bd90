"""Which deployments can serve a call at all, and why the others cannot.

Law: each exclusion has its reason in words. An exclusion is `soft` where it rests on belief (ejected, off, a prompt
that seems too long, an API once refused, a freeze): if it would leave nothing, it gives way and the upstream decides
(`policies.routing`). A spent budget is a fact, and so is what a kind of engine does not serve, where a caller may not
go, and what an operator has drained.
"""

import math
from collections.abc import Iterator

from msgspec import Struct

from policies.dialects import DIALECTS
from policies.domain import API, InferenceRequest, Reach, Snapshot
from policies.pricing import free
from policies.reach import out_of_reach
from policies.wishes import slighted

BUDGET = "budget"
"""The reason that a deployment which costs money is out, where money has run out."""

DRAINED = "drained by an operator"
"""The reason that a deployment is out which takes no new calls."""


def missing_api(api: API) -> str:
    """Return the reason that a deployment is out whose kind of engine does not serve `api`."""
    return f"has no {api} API"


class Exclusion(Struct, frozen=True):
    """Why a deployment is out.

    `fits` False: it is the call that suits it badly, as far as we can tell; its own state is good.
    """

    reason: str
    soft: bool
    fits: bool = True


ANYWHERE = Reach()
"""The reach of one who may go everywhere."""


def exclusion(
    snapshot: Snapshot,
    request: InferenceRequest,
    prompt_tokens: int,
    *,
    broke: bool = False,
    reach: Reach = ANYWHERE,
) -> Exclusion | None:
    """Return why `snapshot`'s deployment cannot take `request`, or None if it can.

    `broke`: it must cost nothing; `reach`: where its caller may go.
    """
    return next(_reasons(snapshot, request, prompt_tokens, reach, broke=broke), None)


def _reasons(
    snapshot: Snapshot, request: InferenceRequest, prompt_tokens: int, reach: Reach, *, broke: bool
) -> Iterator[Exclusion]:
    yield from _facts(snapshot, request, reach, broke=broke)
    yield from _beliefs(snapshot, request, prompt_tokens)


def _facts(snapshot: Snapshot, request: InferenceRequest, reach: Reach, *, broke: bool) -> Iterator[Exclusion]:
    deployment, dialect = snapshot.deployment, DIALECTS[snapshot.deployment.kind]
    if (reach.local_only or reach.backends) and (why := out_of_reach(reach, deployment)):
        yield Exclusion(why, soft=False)
    if snapshot.drained:
        yield Exclusion(DRAINED, soft=False)
    if request.api not in dialect.apis:
        yield Exclusion(missing_api(request.api), soft=False)
    if broke and not free(deployment.price):
        yield Exclusion(BUDGET, soft=False)
    if not request.modalities <= deployment.modalities:
        missing = sorted(request.modalities - deployment.modalities)
        yield Exclusion(f"takes no {', '.join(missing)}", soft=False)
    if dialect.max_body is not None and request.size > dialect.max_body:
        yield Exclusion(f"takes at most {dialect.max_body} bytes", soft=False)
    if snapshot.absent is not None:
        yield Exclusion(snapshot.absent, soft=False)
    if snapshot.retired:
        yield Exclusion("retired: its model is gone", soft=False)


def _beliefs(snapshot: Snapshot, request: InferenceRequest, prompt_tokens: int) -> Iterator[Exclusion]:
    deployment = snapshot.deployment
    if snapshot.off is not None:
        yield Exclusion(f"off: {snapshot.off}", soft=True)
    if request.api in snapshot.lacks:
        yield Exclusion(f"has no {request.api}", soft=True)
    if snapshot.down is not None:
        yield Exclusion(f"down: {snapshot.down}", soft=True)
    if snapshot.frozen_for:
        yield Exclusion(f"asked to be left alone for {math.ceil(snapshot.frozen_for)} s", soft=True)
    if snapshot.ejected:
        yield Exclusion("ejected: its last calls failed", soft=True)
    if deployment.context_window is not None and prompt_tokens > deployment.context_window:
        yield Exclusion(f"window of {deployment.context_window} tokens < about {prompt_tokens}", soft=True, fits=False)
    if names := slighted(request, DIALECTS[deployment.kind]):
        yield Exclusion(f"would ignore {', '.join(names)}", soft=True, fits=False)
