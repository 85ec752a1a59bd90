"""What a call needs of the place that it waits for, by which those that wait are alike or not.

Law: needs are what changes only with the catalog while a call waits: where it may go, by the facts of the call, of its
caller and of the deployments. What state these are in is the same for all, so that of two calls with the same needs one
finds a place wherever the other does. Where it goes only if nothing suits it better is told apart: whether anything
does is a matter of their state. What is cached of a prompt is state of that prompt alone, and changes what its call
costs: where that decides whether a call may pay, only those whose prompts begin alike are alike. A call that has failed
may go where its route still leads, whatever else would suit it. Deployments that no call's needs can tell apart are
looked at once: calls come, and a catalog finds very many of them waiting, while streams are under way.
"""

from collections.abc import Iterable
from functools import lru_cache

from policies.affinity import NONE, Beginning
from policies.candidates import ANYWHERE, Asked, at_best
from policies.domain import Deployment, Estimate, InferenceRequest, Model, Price, Reach, Usage
from policies.pricing import free, money
from policies.reach import out_of_reach
from policies.terms import NO_WISHES, RoutingWishes, joined

Needs = tuple[str, frozenset[str], frozenset[str], tuple[object, ...]]
"""The API that was called ("": any), ids of the deployments that may suit the call, of those that do only if none
of them can, and what its costs hang on where what is cached decides whether it may pay them (else nothing)."""

ALIKE: Needs = ("", frozenset(), frozenset(), ())
"""The needs of calls of which nothing is known: they are taken for alike."""

KEPT = 128
"""Models as callers of one reach see them, and unions of sorts, that are remembered: some may be of old catalogs."""


def needs_of(
    request: InferenceRequest,
    chain: Iterable[Model],
    estimate: Estimate,
    *,
    broke: bool = False,
    reach: Reach = ANYWHERE,
    wishes: RoutingWishes = NO_WISHES,
    begins: Beginning = NONE,
) -> Needs:
    """Return what a call needs; all as of `routing.route`. `begins`: its prompt, of which that much may be cached."""
    suits: list[frozenset[str]] = []
    ill: list[frozenset[str]] = []
    doubtful: list[int] = []
    tokens = estimate.prompt_tokens + estimate.output_tokens
    for model in chain:
        most = joined(model.routing, wishes).max_price
        asked = Asked(request, tokens, reach, broke, most)
        for one, ids in _sorts(_Same(model), reach, priced=most is not None):
            least, dearest = (None, 0) if most is None else _costs(one.price, estimate, begins)
            out = at_best(one, asked, least)
            if out is None:
                suits.append(ids)
            elif out.kind == "fit":
                ill.append(ids)
            else:
                continue
            if most is not None and dearest > most:
                doubtful.append(most)
    own = (begins, estimate.prompt_tokens, estimate.output_tokens, *doubtful) if doubtful else ()
    return request.api, _union(tuple(suits)), _union(tuple(ill)), own


def needs_any(ids: Iterable[str]) -> Needs:
    """Return what a call needs that has failed, and may yet go to any of these."""
    return "", frozenset(ids), frozenset(), ()


class _Same:
    """A model by its identity: what makes up one that is served by hundreds is dear to compare."""

    __slots__ = ("model",)

    def __init__(self, model: Model) -> None:
        self.model = model

    def __hash__(self) -> int:
        return id(self.model)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.model is self.model


@lru_cache(KEPT)
def _sorts(of: _Same, reach: Reach, *, priced: bool) -> tuple[tuple[Deployment, frozenset[str]], ...]:
    """Return one of each sort of a model's deployments, and the ids of all that are like it to calls of this reach.

    `priced`: what exactly they cost may tell them apart.
    """
    sorts: dict[tuple[object, ...], list[Deployment]] = {}
    for one in of.model.deployments:
        cost = one.price if priced else free(one.price)
        sort = one.kind, one.context_window, one.modalities, cost, out_of_reach(reach, one)
        sorts.setdefault(sort, []).append(one)
    return tuple((alike[0], frozenset(one.id for one in alike)) for alike in sorts.values())


@lru_cache(KEPT)
def _union(sorts: tuple[frozenset[str], ...]) -> frozenset[str]:
    """Return the ids of all of these, the very same set each time: such needs are compared at once."""
    return frozenset().union(*sorts)


def _costs(price: Price | None, estimate: Estimate, begins: Beginning) -> tuple[int | None, int]:
    """Return the least and the most nano-dollars that a call may be expected to cost, by what is cached of its prompt.

    None, 0: nobody knows.
    """
    if price is None:
        return None, 0
    if not (price.input or price.output):
        return 0, 0
    prompt, output = estimate.prompt_tokens, estimate.output_tokens
    costs = [
        money(price, Usage(prompt, output, estimated=True, cached_tokens=cached))
        for cached in ((0, prompt) if begins.marks else (0,))
    ]
    return min(costs), max(costs)
