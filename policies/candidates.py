"""Which deployments can serve a call at all, and why the others cannot.

Law: each exclusion has its reason in words. An exclusion is `soft` where it rests on belief (ejected, off, a prompt
that seems too long, an API once refused): if it would leave nothing, it gives way and the upstream decides. A spent
budget is a fact.
"""

from collections.abc import Iterator

from msgspec import Struct

from policies.domain import InferenceRequest, Snapshot
from policies.pricing import free

BUDGET = "budget"
"""The reason that a deployment which costs money is out, where money has run out."""


class Exclusion(Struct, frozen=True):
    """Why a deployment is out."""

    reason: str
    soft: bool


def exclusion(
    snapshot: Snapshot, request: InferenceRequest, prompt_tokens: int, *, broke: bool = False
) -> Exclusion | None:
    """Return why `snapshot`'s deployment cannot take `request`, or None if it can; `broke`: it must cost nothing."""
    return next(_exclusions(snapshot, request, prompt_tokens, broke=broke), None)


def _exclusions(
    snapshot: Snapshot, request: InferenceRequest, prompt_tokens: int, *, broke: bool
) -> Iterator[Exclusion]:
    deployment = snapshot.deployment
    if broke and not free(deployment.price):
        yield Exclusion(BUDGET, soft=False)
    missing = request.modalities - deployment.modalities
    if missing:
        yield Exclusion(f"takes no {', '.join(sorted(missing))}", soft=False)
    if snapshot.retired:
        yield Exclusion("retired: its model is gone", soft=False)
    if snapshot.off is not None:
        yield Exclusion(f"off: {snapshot.off}", soft=True)
    if request.api in snapshot.lacks:
        yield Exclusion(f"has no {request.api}", soft=True)
    if deployment.context_window is not None and prompt_tokens > deployment.context_window:
        yield Exclusion(f"window of {deployment.context_window} tokens < about {prompt_tokens}", soft=True)
    if snapshot.ejected:
        yield Exclusion("ejected: its last calls failed", soft=True)
