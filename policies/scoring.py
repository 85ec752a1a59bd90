"""What it costs to send a call to one deployment: money and waiting, as nano-dollars.

Law: score = money + value of time x (own expected seconds + seconds imposed on the calls already there). The last term
is n x u / r: n calls in flight wait while our u prompt tokens are prefilled at r tokens a second. Smaller is better. An
unknown price counts as no money here and is ranked after every known one by `routing`.
"""

from policies.domain import Candidate, Estimate, RoutingTerms, Snapshot
from policies.pricing import money


def score(snapshot: Snapshot, estimate: Estimate, terms: RoutingTerms) -> Candidate:
    """Predict the call's seconds and nano-dollars on `snapshot`'s deployment and score them."""
    deployment = snapshot.deployment
    prompt_tokens, output_tokens = estimate.prompt_tokens, estimate.output_tokens
    ttft = snapshot.ttft_fixed + (snapshot.queued_tokens + prompt_tokens) / snapshot.prefill_rate
    seconds = ttft + output_tokens * snapshot.token_time
    imposed = snapshot.in_flight * prompt_tokens / snapshot.prefill_rate
    cost = None if deployment.price is None else money(deployment.price, prompt_tokens, output_tokens)
    return Candidate(
        deployment=deployment,
        ttft=ttft,
        seconds=seconds,
        money=cost,
        score=(cost or 0) + terms.value_of_time * (seconds + imposed),
        reason="late" if terms.ttft_target is not None and ttft > terms.ttft_target else "in time",
    )
