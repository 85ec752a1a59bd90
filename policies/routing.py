"""Filter, score, rank: the deployments to try for one call, in order.

Law: those that will answer in time before those that will not, known prices before unknown ones, then the smaller
score; within one percent the dice decide, so that many gateways with the same view do not all choose the same one,
or the session's own luck, so that its calls find the prompt that is cached where the last one went. A
model's fallbacks come after all of its own deployments. Those that are full come after those that are not, and where
only they could serve, the call waits. Where nothing fits, what fits badly is tried, before any fallback; what is in a
doubtful state only where nothing else is left, fallbacks included.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from msgspec import Struct, field
from msgspec.structs import replace

from policies.candidates import ANYWHERE, Asked, Kind, exclusion
from policies.domain import Candidate, Estimate, InferenceRequest, Model, Reach, Route, Snapshot
from policies.ordering import QUIET, Curiosity, explored, ranked
from policies.rejections import Rejection
from policies.scoring import score
from policies.terms import BY_RULE, NO_WISHES, RoutingTerms, RoutingWishes, joined
from policies.unserved import unserved

_FULL = attrgetter("full")


class _Found(Struct):
    """A chain's candidates so far: to try, full, in a doubtful state, and dropped."""

    order: list[Candidate] = field(default_factory=list)
    full: list[Candidate] = field(default_factory=list)
    doubted: list[Candidate] = field(default_factory=list)
    dropped: list[Candidate] = field(default_factory=list)


def route(
    request: InferenceRequest,
    chain: Sequence[Model],
    snapshots: Mapping[str, Sequence[Snapshot]],
    estimate: Estimate,
    dice: random.Random,
    *,
    broke: bool = False,
    reach: Reach = ANYWHERE,
    wishes: RoutingWishes = NO_WISHES,
    curiosity: Curiosity | None = None,
    models: Iterable[Model] = (),
) -> Route | Rejection:
    """Return the route of `request` over `chain` (the model, then its fallbacks), or say that nothing can serve it.

    `snapshots` holds each model's deployments by model name. `broke`: only over those that cost nothing; `reach`: only
    where the caller may go; `wishes`: what the caller wants otherwise than the models have it. `curiosity`: what may be
    spent on finding out about the model's deployments (None: nothing). `models`: all that there are; a caller is told
    those that would take what these do not.
    """
    found = _Found()
    tokens = estimate.prompt_tokens + estimate.output_tokens
    for model in chain:
        terms = joined(model.routing, wishes)
        asked = Asked(request, tokens, reach, broke, terms.max_price)
        _take(found, snapshots[model.name], asked, estimate, terms, dice, curiosity if model is chain[0] else None)
    terms = joined(chain[0].routing, wishes)
    order = [*found.order, *found.full] if found.full else found.order
    if order:
        found.dropped += found.doubted
    else:
        order = _given_way(found.doubted)
    if order is not found.order:
        order.sort(key=_FULL)
    if not order:
        return unserved(Asked(request, tokens, reach), found.dropped, models)
    return Route(chain[0], tuple(order), tuple(found.dropped), terms, waits=order[0].full)


def turned_away(found: Route) -> list[Candidate]:
    """Return those that are full and would have been first: what a place there is worth to others shows by them."""
    first = found.order[0]
    return [one for one in found.order if one.full and (one is first or one.score < first.score)]


def _take(  # noqa: PLR0917 - what a model is ranked by
    found: _Found,
    snapshots: Sequence[Snapshot],
    asked: Asked,
    estimate: Estimate,
    terms: RoutingTerms,
    dice: random.Random,
    curiosity: Curiosity | None,
) -> None:
    """Add a model's candidates to those `found`, each kind in order."""
    feasible: list[Candidate] = []
    kinds: dict[Kind, list[Candidate]] = {"fact": found.dropped, "fit": [], "full": [], "state": []}
    quiet: set[str] = set()
    for snapshot in snapshots:
        candidate = score(snapshot, estimate, terms)
        out = exclusion(snapshot, asked, candidate.money)
        if out is None:
            feasible.append(candidate)
            if snapshot.unheard > QUIET and not snapshot.in_flight:
                quiet.add(snapshot.deployment.id)
        else:
            kinds[out.kind].append(replace(candidate, dropped=out.reason, full=out.full))
    if feasible or kinds["full"]:
        found.dropped += kinds["fit"]
    else:
        feasible = _given_way(kinds["fit"])
    session = asked.request.session
    order = ranked(feasible, terms, session, dice)
    if curiosity is not None and terms.policy not in BY_RULE:
        order = explored(order, quiet, curiosity)
    found.order += order
    found.full += [
        replace(one, reason=one.dropped or "", dropped=None) for one in ranked(kinds["full"], terms, session, dice)
    ]
    found.doubted += ranked(kinds["state"], terms, session, dice)


def _given_way(soft: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates whose exclusion gives way, since it would leave nothing."""
    return [replace(c, reason=f"nothing else is left ({c.dropped})", dropped=None) for c in soft]
