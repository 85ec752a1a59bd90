"""Why nothing can serve a call, and whose matter that is: its caller's, its operator's, or the moment's.

Law: what waiting does not change is told as no outage. A call is its caller's to mend where every deployment is out for
what the call itself is (its API, its media, its size); where one is out for anything else, that may come back.
"""

from collections.abc import Iterable, Sequence

from policies.apis import APIS
from policies.candidates import DEAR, Asked, at_best, missing_api, missing_media, too_large
from policies.dialects import DIALECTS
from policies.domain import Candidate, Deployment, InferenceRequest, Model
from policies.reach import LEAVES, NOT_THEIRS, may_use, named
from policies.rejections import Reason, Rejection


def unserved(asked: Asked, dropped: Sequence[Candidate], models: Iterable[Model] = ()) -> Rejection:
    """Say why nothing can serve a call, in words that say what would be right.

    `dropped`: every deployment of its model and fallbacks, each with its reason. `models`: all that there are, of which
    those are named that would take what these do not.
    """
    request = asked.request
    if dropped and all(out.dropped == missing_api(request.api) for out in dropped):
        return _unsupported(request, dropped)
    if dropped and all(out.dropped in (LEAVES, NOT_THEIRS) for out in dropped):
        return _unreachable(request, dropped)
    reasons = "; ".join(f"{out.deployment.id} {out.dropped}" for out in dropped) or "it has no deployments"
    if dropped and all(DEAR in (out.dropped or "") for out in dropped):
        message = f"No deployment of {request.model!r} serves this call for what it may cost: {reasons}."
        return Rejection(Reason.NOT_ALLOWED, message, param="model")
    if dropped and all(out.dropped in _of_the_call(request, out.deployment) for out in dropped):
        return _unfit(asked, dropped, f"No deployment of {request.model!r} takes this call: {reasons}.", models)
    return Rejection(Reason.NO_DEPLOYMENT, f"No deployment of {request.model!r} can serve this call: {reasons}.")


def _of_the_call(request: InferenceRequest, deployment: Deployment) -> tuple[str, ...]:
    """Return the reasons to be out that lie in the call and in what is known of the deployment for good."""
    return missing_api(request.api), missing_media(request, deployment), too_large(deployment)


def _unfit(asked: Asked, dropped: Sequence[Candidate], message: str, models: Iterable[Model]) -> Rejection:
    """Say what of a call no deployment takes, and which of the `models` that its caller may use would."""
    request = asked.request
    takers = [model.name for model in models if may_use(asked.reach, model) and _takes(model, asked)]
    if takers:
        message += f" Models that would take it: {named(takers)}."
    if any(out.dropped == too_large(out.deployment) for out in dropped):  # which takes all but its size
        return Rejection(Reason.TOO_LARGE, message)
    holder = next((name for name in APIS[request.api].needs if name in request.members), None)
    return Rejection(Reason.BAD_MEMBER, message, param=holder)


def _takes(model: Model, asked: Asked) -> bool:
    """Say whether a deployment of a model would take a call, if all were well with it."""
    return any(at_best(one, asked, 0) is None for one in model.deployments)


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
