"""Which deployments can serve a call at all, and why the others cannot.

Law: each exclusion has its reason in words. An exclusion is `soft` where it rests on belief (ejected, a prompt that
seems too long, an API once refused): if it would leave nothing, it gives way and the upstream decides.
"""

from msgspec import Struct

from policies.domain import InferenceRequest, Snapshot


class Exclusion(Struct, frozen=True):
    """Why a deployment is out."""

    reason: str
    soft: bool


def exclusion(snapshot: Snapshot, request: InferenceRequest, prompt_tokens: int) -> Exclusion | None:
    """Return why `snapshot`'s deployment cannot take `request`, or None if it can."""
    deployment = snapshot.deployment
    missing = request.modalities - deployment.modalities
    if missing:
        return Exclusion(f"takes no {', '.join(sorted(missing))}", soft=False)
    if snapshot.off is not None:
        return Exclusion(f"off: {snapshot.off}", soft=False)
    if request.api in snapshot.lacks:
        return Exclusion(f"has no {request.api}", soft=True)
    if deployment.context_window is not None and prompt_tokens > deployment.context_window:
        return Exclusion(f"window of {deployment.context_window} tokens < about {prompt_tokens}", soft=True)
    if snapshot.ejected:
        return Exclusion("ejected: its last calls failed", soft=True)
    return None
