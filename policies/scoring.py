"""What it costs to send a call to one deployment: money and waiting, as nano-dollars.

Law: score = money + value of time x (own expected seconds + seconds imposed on the calls already there). What is
probably in a deployment's cache (`affinity.py`) is not prefilled there. Calls already there wait while the rest of our
prompt is, and each call there slows every other's output by `CROWDING`, ours too; so
equal deployments share the calls. Smaller is better. An unknown price counts as no money here and is ranked after every
known one by `routing`.
"""

from policies.domain import Candidate, Estimate, RoutingTerms, Snapshot, Usage
from policies.pricing import money

CROWDING = 0.02
"""Share by which one more call in a batch slows every call's output tokens: vLLM's step on large GPUs grows by 0.3 % a
sequence, llama.cpp's on a CPU by far more; between them, it is enough to tell an idle replica from a busy one."""


def score(snapshot: Snapshot, estimate: Estimate, terms: RoutingTerms) -> Candidate:
    """Predict the call's seconds and nano-dollars on `snapshot`'s deployment and score them."""
    deployment = snapshot.deployment
    prompt_tokens, output_tokens = estimate.prompt_tokens, estimate.output_tokens
    prefill = round(prompt_tokens * (1.0 - snapshot.cached)) if snapshot.cached else prompt_tokens
    ttft = snapshot.ttft_fixed + (snapshot.queued_tokens + prefill) / snapshot.prefill_rate
    decode = output_tokens * snapshot.token_time
    crowding = CROWDING * snapshot.in_flight * decode
    seconds = ttft + decode + crowding
    imposed = snapshot.in_flight * prefill / snapshot.prefill_rate + crowding
    price, expected = deployment.price, Usage(prompt_tokens, output_tokens, estimated=True)
    cost = None if price is None else money(price, expected)
    return Candidate(
        deployment=deployment,
        ttft=ttft,
        seconds=seconds,
        longest=ttft + estimate.longest_output * snapshot.token_time,
        money=cost,
        score=(cost or 0) + terms.value_of_time * (seconds + imposed),
        latest=ttft + snapshot.ttft_spread,
        prefill=prefill,
        imposed=imposed,
        reason="late" if terms.ttft_target is not None and ttft > terms.ttft_target else "in time",
    )
