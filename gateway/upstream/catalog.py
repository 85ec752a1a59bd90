"""The models that callers can name, and the deployments behind each.

Law: immutable; built from the file, or from what the backends list where the file names no models; swapped whole. The
same id listed by two backends is one model with two deployments; a deployment on a backend that stands for replicas is
one on each of them. A window that nobody wrote down is the one that the engine told.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec.structs import replace

from gateway.config.settings import Backend, default_price
from gateway.upstream.listing import Listed
from policies.dialects import tokenizer_of
from policies.domain import Deadlines, Deployment, Model, Reach
from policies.reach import named, reachable
from policies.rejections import Reason, Rejection
from policies.terms import RoutingTerms

EVERYTHING = frozenset({"text", "image", "audio", "file"})
"""A listing does not say what a model takes in, so the engine decides."""


class Catalog:
    """Every model by each of its names. `unheard`: backends that have never listed theirs, so that more may exist."""

    def __init__(self, models: Iterable[Model], unheard: Iterable[str] = ()) -> None:
        self.models = tuple(models)
        self.unheard = tuple(unheard)
        self._by_name = {name: model for model in self.models for name in (model.name, *model.aliases)}

    def find(self, name: str) -> Model | None:
        """Return the model of that name or alias, or None."""
        return self._by_name.get(name)

    def missing(self, name: str) -> Rejection:
        """Refuse a model that nobody serves; one that a backend not heard of yet may serve, only for now."""
        shown = repr(name[:128])
        if self.unheard:
            message = f"No model {shown} is known yet; not heard of so far: {', '.join(self.unheard)}."
            return Rejection(Reason.NO_DEPLOYMENT, message, param="model", retry_after_us=5_000_000)
        message = f"The model {shown} does not exist. GET /v1/models lists what this key may use."
        return Rejection(Reason.MODEL_NOT_FOUND, message, param="model")

    def barred(self, name: str, reach: Reach) -> Rejection:
        """Refuse a model that a caller may not use, naming some that it may."""
        usable = [model.name for model in self.models if reachable(reach, model)]
        may = f"It may use {named(usable)}" if usable else "It may use none that are served here"
        message = f"This credential may not use the model {name[:128]!r}. {may}."
        return Rejection(Reason.NOT_ALLOWED, message, param="model")

    def chain(self, model: Model) -> list[Model]:
        """Return `model` and its fallbacks, in order, each once."""
        chain = [model]
        for name in model.fallbacks:
            fallback = self._by_name.get(name)
            if fallback is not None and fallback not in chain:
                chain.append(fallback)
        return chain


def listed(listings: Mapping[str, Sequence[Listed]], backends: Sequence[Backend]) -> Catalog:
    """Build the catalog of what backends list; `listings` is by backend name."""
    found: dict[str, list[Deployment]] = {}
    for backend in backends:
        for entry in listings.get(backend.name, ()):
            found.setdefault(entry.id, []).append(
                Deployment(
                    backend=backend.name,
                    kind=backend.kind,
                    model=entry.id,
                    context_window=entry.context_window,
                    modalities=EVERYTHING,
                    price=default_price(backend.kind),
                    tokenizer=tokenizer_of(backend.kind, entry.id),
                    hosted=backend.hosted,
                    max_in_flight=backend.max_in_flight,
                )
            )
    models = [Model(name, (), tuple(of), (), RoutingTerms(), Deadlines()) for name, of in sorted(found.items())]
    return Catalog(models, [backend.name for backend in backends if backend.name not in listings])


def as_found(
    models: Iterable[Model],
    replicas: Mapping[str, Sequence[str]],
    window: Callable[[Deployment], int | None],
) -> list[Model]:
    """Return `models` over the replicas there are (names by their family), with the windows that were told.

    A deployment whose family has no replica yet stays as it is, so that its model is known.
    """
    found = []
    for model in models:
        places = [replace(one, backend=name) for one in model.deployments for name in _names(one, replicas)]
        known = tuple(replace(one, context_window=window(one)) if one.context_window is None else one for one in places)
        found.append(replace(model, deployments=known))
    return found


def _names(deployment: Deployment, replicas: Mapping[str, Sequence[str]]) -> Sequence[str]:
    return replicas.get(deployment.backend) or (deployment.backend,)
