"""A whole gateway over simulated engines of several kinds, and what is asked about it."""

import contextlib
from dataclasses import dataclass

from gateway.clock import monotonic
from gateway.config.settings import Backend
from policies.domain import Deadlines, Deployment, Model, Price
from policies.terms import RoutingTerms
from tests.fakes.engine import FakeEngine
from tests.fakes.tests.asking import events, told
from tests.gateway.harness import TEXT, running


@dataclass(frozen=True)
class Place:
    """A server behind the gateway: its kind, and what differs from a place that says and is told nothing."""

    kind: str
    server: FakeEngine
    window: int | None = None
    tokenizer: str = "other"
    probe_every: float = 0.0


@contextlib.asynccontextmanager
async def fleet(folder, places, models=None, *, fallbacks=(), deadlines=None, max_wait=30.0):
    """Run a gateway over `places` by name; `models`: by name the (place, model there) that serve it, the best first.

    Without `models` there is `m`, which every place serves as its own model. `fallbacks`: those of the first one.
    `max_wait`: seconds that calls wait for a place.
    """
    models = models or {"m": [(name, place.server.model) for name, place in places.items()]}
    backends = tuple(
        Backend(name, place.kind, f"{place.server.url}/v1", "nvapi-1", probe_every=place.probe_every)
        for name, place in places.items()
    )
    terms, deadlines = RoutingTerms(value_of_time=0, max_wait=max_wait), deadlines or Deadlines(20.0)
    made = tuple(
        Model(name, (), tuple(_deployments(places, where)), () if rank else fallbacks, terms, deadlines)
        for rank, (name, where) in enumerate(models.items())
    )
    async with running(folder, {}, backends=backends, models=made) as gateway:
        yield gateway


def _deployments(places, where):
    for rank, (name, model) in enumerate(where):
        place = places[name]
        yield Deployment(name, place.kind, model, place.window, TEXT, Price(rank * 10**9, rank), place.tokenizer)


def seen(gateway, model="m"):
    """Return what the gateway believes of a model's first deployment."""
    deployment = gateway.services.catalog.find(model).deployments[0]
    return gateway.services.fleet.live(deployment).snapshot(deployment, monotonic())


def state(gateway, model="m"):
    """Say how the gateway takes a model's first deployment."""
    view = seen(gateway, model)
    if view.retired:
        return "retired"
    if view.off is not None:
        return "off"
    if view.ejected:
        return "ejected"
    return "frozen" if view.frozen_for else "well"


def by(answer):
    """Return who served an answer, at which attempt."""
    assert answer.status_code == 200, answer.text
    return answer.headers["x-sluiceway-backend"], answer.headers["x-sluiceway-attempts"]


def wholly(answer):
    """Return the words of a stream that came to its end."""
    found = events(answer)
    assert found[-1] == "[DONE]", answer.text
    assert not any("error" in one for one in found[:-1])
    return told(answer, "content")
