"""What a call needs of the place that it waits for, by which those that wait are alike or not.

Law: needs are what changes only with the catalog while a call waits: where it may go, by the facts of the call, of its
caller and of the deployments. What state these are in is the same for all, so that of two calls with the same needs one
finds a place wherever the other does. Where it goes only if nothing suits it better is told apart: whether anything
does is a matter of their state. A call that has failed may go where its route still leads, whatever else would suit it.
"""

from collections.abc import Iterable, Mapping

from policies.candidates import ANYWHERE, Asked, at_best
from policies.domain import Estimate, InferenceRequest, Model, Reach, Usage
from policies.pricing import money
from policies.terms import NO_WISHES, RoutingWishes, joined

Needs = tuple[str, frozenset[str], frozenset[str]]
"""The API that was called ("": any), ids of the deployments that suit the call, and of those that do only if none
of them can."""

ALIKE: Needs = ("", frozenset(), frozenset())
"""The needs of calls of which nothing is known: they are taken for alike."""


def needs_of(
    request: InferenceRequest,
    chain: Iterable[Model],
    costs: Mapping[str, int | None],
    estimate: Estimate,
    *,
    broke: bool = False,
    reach: Reach = ANYWHERE,
    wishes: RoutingWishes = NO_WISHES,
) -> Needs:
    """Return what a call needs; all as of `routing.route`.

    `costs`: nano-dollars that it would probably cost, by the deployment's id; None: unknown, nothing: by its price.
    """
    suits: set[str] = set()
    ill: set[str] = set()
    tokens = estimate.prompt_tokens + estimate.output_tokens
    for model in chain:
        asked = Asked(request, tokens, reach, broke, joined(model.routing, wishes).max_price)
        for one in model.deployments:
            cost = costs.get(one.id)
            if asked.max_price is not None and one.price is not None and one.id not in costs:
                cost = money(one.price, Usage(estimate.prompt_tokens, estimate.output_tokens, estimated=True))
            out = at_best(one, asked, cost)
            if out is None:
                suits.add(one.id)
            elif out.kind == "fit":
                ill.add(one.id)
    return request.api, frozenset(suits), frozenset(ill)


def needs_any(ids: Iterable[str]) -> Needs:
    """Return what a call needs that has failed, and may yet go to any of these."""
    return "", frozenset(ids), frozenset()
