"""What is decided of a call before anything is paid: its facts, its model, what it will use, and where it could go.

Law: nothing here waits, takes or gives back; the same plan can be ranked again and again as the fleet changes. A dry
run plans and ranks exactly as a call does.
"""

import math
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from gateway import clock
from gateway.services import Services
from policies.affinity import NONE, Beginning, beginning
from policies.deadlines import HEADER, asked_total
from policies.domain import API, Deadlines, Estimate, InferenceRequest, Model, Principal, Route
from policies.queueing import Waits
from policies.reach import may_use
from policies.rejections import Rejection
from policies.request import read
from policies.routing import route
from policies.shortlist import ALL
from policies.terms import BY_RULE, joined

_TIMEOUT = HEADER.encode()

_SESSIONS = (b"x-affinity", b"x-session-id")
"""The headers by which callers name what their calls have in common; the first is Mistral Vibe's."""

_CACHE_KEY = "prompt_cache_key"
"""OpenAI's member of the same meaning, as it stands in the body."""

_UNNAMED = (b"null", b'""')
"""What that member is where a client writes out that it names none."""

MOST_SESSION = 128
"""Bytes of a session's name that count."""


class Planned(Struct, frozen=True):
    """A call of `who` that was understood. `begins`: of its prompt, NONE where there is only one place to go.

    `waits`: its waits for places, of all its attempts.
    """

    who: Principal
    request: InferenceRequest
    model: Model
    estimate: Estimate
    deadlines: Deadlines
    begins: Beginning
    waits: Waits


def plan(  # noqa: PLR0917 - what a call is
    services: Services,
    who: Principal,
    api: API,
    body: bytes,
    told: Mapping[bytes, bytes],
    begun_at: float,
    *,
    dry: bool = False,
) -> Planned | Rejection:
    """Read a body's facts and find its model and what it will use.

    `told`: the call's headers by name. `dry`: the call is not made, and nothing is remembered of it.
    """
    request = read(api, body)
    if isinstance(request, Rejection):
        return request
    model = services.catalog.find(request.model)
    if model is None:
        return services.catalog.missing(request.model)
    if not may_use(who.reach, model):
        return services.catalog.barred(request.model, who.reach)
    total = asked_total(told.get(_TIMEOUT), model.deadlines.total)
    if isinstance(total, Rejection):
        return total
    if model.name != request.model:
        request = replace(request, model=model.name)
    session = told.get(_SESSIONS[0]) or told.get(_SESSIONS[1]) or _cache_key(request)
    if session:
        request = replace(request, session=f"{who.key}/{session[:MOST_SESSION].decode('latin-1')}")
    estimates = services.estimates
    estimate = (estimates.peek if dry else estimates.of)(who.key, request)
    begins = beginning(request, who.organization) if len(model.deployments) > 1 else NONE
    return Planned(who, request, model, estimate, _deadlines(model, total, who, begun_at), begins, Waits())


def ranked(
    services: Services, planned: Planned, now: float, *, broke: bool = False, curious: bool = False
) -> Route | Rejection:
    """Rank the deployments that the call may go to, as they are at `now`, by the catalog of that moment.

    `broke`: only those that cost nothing. `curious`: the call may find out about one that nobody has heard of.
    """
    found = _ranked(services, planned, now, broke=broke, curious=curious, every=False)
    if isinstance(found, Rejection) or found.waits:  # those that were not looked at may do better
        chain = chain_of(services, planned)
        if any(len(link.deployments) > ALL for link in chain):
            return _ranked(services, planned, now, broke=broke, curious=curious, every=True)
    return found


def chain_of(services: Services, planned: Planned) -> list[Model]:
    """Return the call's model as it is now, and its fallbacks, as far as its caller may use them; none if it has gone.

    The old one is of no use then: its backends' names may be others' by now.
    """
    model = services.catalog.find(planned.model.name)
    chain = [] if model is None else services.catalog.chain(model)
    return [link for link in chain if may_use(planned.who.reach, link)]


def _ranked(
    services: Services, planned: Planned, now: float, *, broke: bool, curious: bool, every: bool
) -> Route | Rejection:
    """Rank those that the call looks at, or `every` one."""
    who, request, chain = planned.who, planned.request, chain_of(services, planned)
    if not chain:
        gone = services.catalog.find(request.model) is None
        return services.catalog.missing(request.model) if gone else services.catalog.barred(request.model, who.reach)
    snapshots = {
        link.name: services.fleet.snapshots(
            link,
            now,
            planned.begins,
            request.session,
            every=every or joined(link.routing, who.wishes).policy in BY_RULE,
        )
        for link in chain
    }
    return route(
        request,
        chain,
        snapshots,
        planned.estimate,
        clock.dice,
        broke=broke,
        reach=who.reach,
        wishes=who.wishes,
        curiosity=services.curiosity(planned.model.name) if curious else None,
        models=services.catalog.models,
    )


def _cache_key(request: InferenceRequest) -> bytes:
    """Return the beginning of what the body names its session; nothing where it is null, or empty."""
    said = request.members.get(_CACHE_KEY)
    named = b"" if said is None else bytes(memoryview(said)[:MOST_SESSION])
    return b"" if named in _UNNAMED else named


def _deadlines(model: Model, total: float, who: Principal, begun_at: float) -> Deadlines:
    """Return the call's own: what its caller asked for, or until its token ends, if its issuer has that so."""
    left = math.inf
    if who.cut and who.expires is not None:
        left = clock.monotonic() - begun_at + max(who.expires - clock.wall(), 0.0)
    if min(total, left) >= model.deadlines.total:
        return model.deadlines
    return replace(model.deadlines, total=min(total, left), of_token=left < total)
