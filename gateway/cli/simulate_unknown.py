"""What a configuration file says and the simulation does not know.

Law: all that could change where a model's calls go, or how they fare there, is either simulated or told here.
"""

from collections.abc import Callable, Sequence

from gateway.config import Settings
from gateway.config.settings import Backend
from policies.domain import Deadlines, Deployment, Model
from policies.terms import NO_WISHES

_TEXT = frozenset({"text"})

_OF_MODEL: tuple[tuple[str, Callable[[Model], object]], ...] = (
    ("fallbacks", lambda model: model.fallbacks),
    ("deadlines", lambda model: model.deadlines != Deadlines()),
    ("priority (of calls that wait any may be next)", lambda model: model.routing.priority != "normal"),
    ("weights", lambda model: any(one.weight != 1 for one in model.deployments)),
)

_OF_PLACE: tuple[tuple[str, Callable[[Deployment], object]], ...] = (
    ("context windows", lambda one: one.context_window),
    ("modalities (every place sees images)", lambda one: one.modalities != _TEXT),
)

_OF_OWN: tuple[tuple[str, Callable[[Deployment, Backend], object]], ...] = (
    ("prices of your own machines", lambda one, _: one.price is not None and (one.price.input or one.price.output)),
    ("requests_per_minute of your own machines", lambda _, backend: backend.requests_per_minute),
)

_OF_HOSTED: tuple[tuple[str, Callable[[Deployment], object]], ...] = (
    (
        "cached_input (the hosted endpoint never caches)",
        lambda one: one.price is not None and one.price.cached_input is not None,
    ),
    ("the price of reasoning", lambda one: one.price is not None and one.price.reasoning is not None),
    ("max_in_flight of the hosted endpoint", lambda one: one.max_in_flight is not None),
)


def unknown(settings: Settings, model: Model, own: Sequence[Deployment], hosted: Sequence[Deployment]) -> list[str]:
    """Return what is said of a model served by these and is not simulated, a few words each."""
    backends = {backend.name: backend for backend in settings.backends}
    told = [what for what, has in _OF_MODEL if has(model)]
    told += [what for what, has in _OF_PLACE if any(has(one) for one in (*own, *hosted))]
    told += [what for what, has in _OF_OWN if any(has(one, backends[one.backend]) for one in own)]
    told += [what for what, has in _OF_HOSTED if any(has(one) for one in hosted[:1])]
    if any(backends[one.backend].max_connections is not None for one in (*own, *hosted)):
        told.append("max_connections")
    if any(plan.wishes != NO_WISHES for plan in settings.plans.values()):
        told.append("the routing that plans wish for")
    if hosted[1:]:
        told.append(f"{', '.join(one.backend for one in hosted[1:])}: one hosted endpoint is simulated, the first")
    return told
