"""Filter, score, rank: the deployments to try for one call, in order.

Law: those that will answer in time before those that will not, known prices before unknown ones, then the smaller
score; within one percent the dice decide, so that many gateways with the same view do not all choose the same one,
or the session's own luck, so that its calls find the prompt that is cached where the last one went. A
model's fallbacks come after all of its own deployments. Where nothing fits, what fits badly is tried, before any
fallback; what is in a doubtful state only where nothing else is left, fallbacks included.
"""

import random
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from policies.candidates import ANYWHERE, exclusion, missing_api
from policies.dialects import DIALECTS
from policies.domain import Candidate, Estimate, InferenceRequest, Model, Reach, Route, Snapshot
from policies.reach import LEAVES, NOT_THEIRS
from policies.rejections import Reason, Rejection
from policies.scoring import score

TIE = 0.01
"""Scores closer than this share are equal."""


def route(
    request: InferenceRequest,
    chain: Sequence[Model],
    snapshots: Mapping[str, Sequence[Snapshot]],
    estimate: Estimate,
    dice: random.Random,
    *,
    broke: bool = False,
    reach: Reach = ANYWHERE,
) -> Route | Rejection:
    """Return the route of `request` over `chain` (the model, then its fallbacks), or say that nothing can serve it.

    `snapshots` holds each model's deployments by model name. `broke`: only over those that cost nothing; `reach`: only
    where the caller may go.
    """
    order: list[Candidate] = []
    doubted: list[Candidate] = []
    dropped: list[Candidate] = []
    for model in chain:
        ranked, doubtful, out = _rank(model, snapshots[model.name], request, estimate, dice, broke=broke, reach=reach)
        order += ranked
        doubted += doubtful
        dropped += out
    if order:
        dropped += doubted
    else:
        order = _given_way(doubted)
    if not order:
        if dropped and all(out.dropped == missing_api(request.api) for out in dropped):
            return _unsupported(request, dropped)
        if dropped and all(out.dropped in (LEAVES, NOT_THEIRS) for out in dropped):
            return _unreachable(request, dropped)
        reasons = "; ".join(f"{out.deployment.id} {out.dropped}" for out in dropped) or "it has no deployments"
        return Rejection(Reason.NO_DEPLOYMENT, f"No deployment of {request.model!r} can serve this call: {reasons}.")
    return Route(chain[0], tuple(order), tuple(dropped))


def _unreachable(request: InferenceRequest, dropped: Sequence[Candidate]) -> Rejection:
    """Say that a model is served only where its caller's calls may not go, which waiting does not change."""
    where = "; ".join(f"{out.deployment.id} is {out.dropped}" for out in dropped)
    message = f"No deployment of {request.model!r} may be sent this caller's calls: {where}. Ask your operator."
    return Rejection(Reason.NOT_ALLOWED, message, param="model")


def _unsupported(request: InferenceRequest, dropped: Sequence[Candidate]) -> Rejection:
    """Say that no backend of a model serves the API that was called, and what kinds do."""
    backends = ", ".join(f"{out.deployment.backend} ({out.deployment.kind})" for out in dropped)
    kinds = ", ".join(kind for kind, dialect in DIALECTS.items() if request.api in dialect.apis)
    message = f"No backend of {request.model!r} has the {request.api} API: {backends}. Kinds that have it: {kinds}."
    return Rejection(Reason.API_NOT_SUPPORTED, message)


def _rank(
    model: Model,
    snapshots: Sequence[Snapshot],
    request: InferenceRequest,
    estimate: Estimate,
    dice: random.Random,
    *,
    broke: bool,
    reach: Reach,
) -> tuple[list[Candidate], list[Candidate], list[Candidate]]:
    """Return a model's candidates: those to try, in order, those in a doubtful state, likewise, and those dropped."""
    feasible: list[Candidate] = []
    misfits: list[Candidate] = []
    doubted: list[Candidate] = []
    dropped: list[Candidate] = []
    for snapshot in snapshots:
        candidate = score(snapshot, estimate, model.routing)
        out = exclusion(snapshot, request, estimate.prompt_tokens, broke=broke, reach=reach)
        if out is None:
            feasible.append(candidate)
        else:
            kind = dropped if not out.soft else doubted if out.fits else misfits
            kind.append(replace(candidate, dropped=out.reason))
    if feasible:
        dropped += misfits
    else:
        feasible = _given_way(misfits)
    for candidates in (feasible, doubted):
        if len(candidates) > 1:
            candidates.sort(
                key=lambda c: (
                    c.reason == "late",
                    c.money is None,
                    c.score * (1 + TIE * _luck(request.session, c, dice)),
                )
            )
    return feasible, doubted, dropped


def _luck(session: str, candidate: Candidate, dice: random.Random) -> float:
    """Return a number from 0 to 1 by which equals are told apart: a session's own, so that its calls agree on one.

    Rendezvous hashing (Thaler, Ravishankar 1998): where a deployment is gone only its own sessions go elsewhere.
    """
    return random.Random(f"{session}/{candidate.deployment.id}").random() if session else dice.random()  # noqa: S311 - no secret


def _given_way(soft: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates whose exclusion gives way, since it would leave nothing."""
    return [replace(c, reason=f"nothing else is left ({c.dropped})", dropped=None) for c in soft]
