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
from policies.domain import Deployment

GONE = "it has gone, and stays only for the calls that may still know of it"
"""What is told of a backend that takes no new calls since the file, or discovery, has it no more."""

MINUTE = 60
"""Seconds from which on a time is told in minutes."""


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
        why=GONE if fleet.leaves(backend.name) else condition.absent or condition.down or _told(out),
        in_flight=fleet.under_way(home),
        models=tuple(served),
        drained=condition.drained,
        out=out,
        unlisted=tuple(model for model in served if unlisted(home, model)),
    )


def _out(fleet: Fleet, served: Iterable[Deployment], now: float) -> Iterable[ModelOut]:
    for one in served:
        found = fleet.live(one).withheld(now)
        if found is not None:
            yield ModelOut(one.model, found.why, None if found.seconds is None else math.ceil(found.seconds))


def _told(out: Sequence[ModelOut]) -> str | None:
    """Return in words what keeps calls from which models; those of which the same is said together."""
    found: dict[str, list[str]] = {}
    for one in out:
        found.setdefault(one.why + _for(one.seconds), []).append(one.model)
    return "; ".join(f"{', '.join(models)} {why}" for why, models in found.items()) or None


def _for(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f" (for {math.ceil(seconds / MINUTE)} min more)" if seconds > MINUTE else f" (for {seconds:.0f} s more)"
