"""Filter, score, rank: the deployments to try for one call, in order.

Law: those that will answer in time before those that will not, known prices before unknown ones, then the smaller
score; within one percent the dice decide, so that many gateways with the same view do not all choose the same one. A
model's fallbacks come after all of its own deployments.
"""

import random
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from policies.candidates import exclusion
from policies.domain import Candidate, Estimate, InferenceRequest, Model, Route, Snapshot
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
) -> Route | Rejection:
    """Return the route of `request` over `chain` (the model, then its fallbacks), or say that nothing can serve it.

    `snapshots` holds each model's deployments by model name. `broke`: only over those that cost nothing.
    """
    order: list[Candidate] = []
    dropped: list[Candidate] = []
    for model in chain:
        ranked, out = _rank(model, snapshots[model.name], request, estimate, dice, broke=broke)
        order += ranked
        dropped += out
    if not order:
        reasons = "; ".join(f"{out.deployment.id} {out.dropped}" for out in dropped) or "it has no deployments"
        return Rejection(Reason.NO_DEPLOYMENT, f"No deployment of {request.model!r} can serve this call: {reasons}.")
    return Route(chain[0], tuple(order), tuple(dropped))


def _rank(
    model: Model,
    snapshots: Sequence[Snapshot],
    request: InferenceRequest,
    estimate: Estimate,
    dice: random.Random,
    *,
    broke: bool,
) -> tuple[list[Candidate], list[Candidate]]:
    feasible: list[Candidate] = []
    soft: list[Candidate] = []
    dropped: list[Candidate] = []
    for snapshot in snapshots:
        candidate = score(snapshot, estimate, model.routing)
        out = exclusion(snapshot, request, estimate.prompt_tokens, broke=broke)
        if out is None:
            feasible.append(candidate)
        else:
            (soft if out.soft else dropped).append(replace(candidate, dropped=out.reason))
    if feasible:
        dropped += soft
    else:
        feasible = [replace(c, reason=f"nothing else is left ({c.dropped})", dropped=None) for c in soft]
    feasible.sort(key=lambda c: (c.reason == "late", c.money is None, c.score * (1 + TIE * dice.random())))
    return feasible, dropped
