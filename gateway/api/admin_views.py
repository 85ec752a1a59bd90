"""Backends as the admin API tells them: what probes, calls and operators have found of each.

Law: read from what routing goes by, so that a backend to which no call goes never looks healthy; nothing is asked of
anybody.
"""

import math
from collections.abc import Iterable, Sequence

from gateway.api.admin_parts import BackendView, ModelOut
from gateway.upstream.catalog import Catalog
from gateway.upstream.fleet import Fleet, Home
from gateway.upstream.listing import unlisted
from policies.breaker import Breaker, State
from policies.candidates import EJECTED
from policies.domain import Deployment

GONE = "it has gone, and stays only for the calls that may still know of it"
"""What is told of a backend that takes no new calls since the file, or discovery, has it no more."""

MINUTE = 60
"""Seconds from which on a time is told in minutes."""

TRIED = f"{EJECTED}, and is tried again just now"
DUE = f"{EJECTED}, and the next call that goes there tries it again"
"""What is told of a model that is ejected once its pause is over: until that call's end nobody can say for how long."""


def backends_seen(fleet: Fleet, catalog: Catalog, now: float) -> list[BackendView]:
    """Return every backend of `fleet` as it is at `now` (monotonic seconds), with the models of `catalog` there."""
    served: dict[str, dict[str, Deployment]] = {}
    for deployment in (one for model in catalog.models for one in model.deployments):
        served.setdefault(deployment.backend, {})[deployment.model] = deployment
    return [_seen(fleet, home, served.get(name, {}), now) for name, home in fleet.homes.items()]


def _seen(fleet: Fleet, home: Home, served: dict[str, Deployment], now: float) -> BackendView:
    backend, condition = home.backend, home.condition
    out = tuple(_out(fleet, served.values(), now))
    return BackendView(
        name=backend.name,
        kind=backend.kind,
        hosted=backend.hosted,
        up=condition.down is None if condition.probed else None,
        why=GONE if fleet.leaves(backend.name) else condition.absent or condition.down or _told(out) or condition.doubt,
        in_flight=fleet.under_way(home),
        models=tuple(served),
        drained=condition.drained,
        out=out,
        unlisted=tuple(model for model in served if unlisted(home, model)),
    )


def _out(fleet: Fleet, served: Iterable[Deployment], now: float) -> Iterable[ModelOut]:
    for one in served:
        live = fleet.live(one)
        found = live.withheld(now)
        if found is None:
            continue
        if found.why == EJECTED:
            yield _ejected(one.model, live.breaker, now)
        else:
            yield ModelOut(one.model, found.why, None if found.seconds is None else math.ceil(found.seconds))


def _ejected(model: str, breaker: Breaker, now: float) -> ModelOut:
    """Return when a call may go there again."""
    left = breaker.left(now)
    if not left:
        return ModelOut(model, DUE, None)
    if breaker.state is State.HALF_OPEN:
        return ModelOut(model, TRIED, None)
    return ModelOut(model, EJECTED, math.ceil(left))


def _told(out: Sequence[ModelOut]) -> str | None:
    """Return in words what keeps calls from which models; those of which the same is said together."""
    found: dict[str, list[str]] = {}
    for one in out:
        found.setdefault(one.why + _for(one), []).append(one.model)
    return "; ".join(f"{', '.join(models)} {why}" for why, models in found.items()) or None


def _for(one: ModelOut) -> str:
    if one.seconds is None:
        return ""
    time = f"{math.ceil(one.seconds / MINUTE)} min" if one.seconds > MINUTE else f"{one.seconds:.0f} s"
    return f" (a call tries it again in {time})" if one.why == EJECTED else f" (for {time} more)"
