"""What it costs to send a call to one deployment: money and waiting, as nano-dollars.

Law: score = money + value of time x (own seconds, those to the first token counted `FIRST_TOKEN` times, + `IMPOSED` x
seconds imposed on the calls already there, as far as they are felt, + seconds that failing would cost x how probable it
is). Smaller is better.
What is probably in a deployment's cache (`affinity.py`) is not prefilled there, nor paid in full. Calls already there
wait while the rest of our prompt is prefilled, and each call there slows every other's output, ours too; so equal
deployments share the calls. An unknown price counts as no money here and is ranked after every known one by `routing`.
"""

from policies.domain import Candidate, Estimate, Snapshot, Usage
from policies.prefill import work
from policies.pricing import money
from policies.terms import RoutingTerms

FIRST_TOKEN = 3.0
"""How many times a second before the first token counts: nothing is there to read yet."""

IMPOSED = 2.0
"""How many times a second counts that calls already there lose: those that come soon, whom nobody sees yet, lose it
too. In simulations of five workloads 2 was never worse than 1, and up to seven points of goodput better."""

ANSWER, FADING = 450, 6
"""Output tokens of a long answer (three of four of Mooncake's conversations are shorter), and the power of how much
longer ours is expected by which what others lose is felt less: a stall is nothing in a long answer, and a model's
answers are alike. For the sake of others long prompts are gathered where few calls are, and wait there for many
seconds. In simulations that is worth 12 points of goodput where answers are usual ones, and cost two and a half where
they are three times as long; faded so it costs a quarter of one there, and by the square a whole one."""

RETRY = 0.25
"""Seconds that it takes to notice a failure and to begin anew, beside the wait itself."""

SUREST = 0.99
"""Probability of failing above which it is counted as this: nothing is certain."""

BARRIER = 0.1
"""Seconds at a KV cache that is half full, by which one that fills up is avoided before it preempts."""

FULLEST = 0.98
"""Share of a KV cache in use above which it is counted as this full."""


def felt(output_tokens: int) -> float:
    """Return the share of what the calls there lose that is felt, where answers have more tokens than `ANSWER`."""
    return (ANSWER / output_tokens) ** FADING


def score(snapshot: Snapshot, estimate: Estimate, terms: RoutingTerms) -> Candidate:
    """Predict the call's seconds and nano-dollars on `snapshot`'s deployment and score them."""
    deployment, pace, there = snapshot.deployment, snapshot.pace, snapshot.in_flight
    prompt_tokens, output_tokens = estimate.prompt_tokens, estimate.output_tokens
    prefill = round(prompt_tokens * (1.0 - snapshot.cached)) if snapshot.cached else prompt_tokens
    load = work(prompt_tokens - prefill, prefill)
    ttft = pace.fixed + (snapshot.queued_tokens + load) * pace.prefill
    token_time = pace.token + pace.crowding * there
    decode = output_tokens * token_time
    imposed = there * (load * pace.prefill + pace.crowding * output_tokens)
    if output_tokens > ANSWER:
        imposed *= felt(output_tokens)
    fails = min(SUREST, snapshot.fails)
    risk = fails / (1.0 - fails) * (ttft + RETRY)
    if snapshot.kv_use:
        full = min(snapshot.kv_use, FULLEST)
        imposed += BARRIER * full / (1.0 - full)
    price, cost = deployment.price, 0
    if price is not None and (price.input or price.output):
        told = prompt_tokens - prefill if snapshot.tells_cache else 0
        cost = money(price, Usage(prompt_tokens, output_tokens, estimated=True, cached_tokens=told))
    seconds = (FIRST_TOKEN * ttft + decode + IMPOSED * imposed + risk) / snapshot.share
    late = (terms.ttft_target is not None and ttft > terms.ttft_target) or (
        terms.tpot_target is not None and token_time > terms.tpot_target
    )
    return Candidate(  # by position, as a snapshot is made (`live.py`)
        deployment,
        ttft,
        ttft + decode,
        ttft + estimate.longest_output * token_time,
        None if price is None else cost,
        cost + snapshot.shadow + terms.worth * seconds,
        "late" if late else "in time",
        None,
        ttft + pace.spread,
        prefill,
        imposed,
        risk,
        snapshot.shadow,
        snapshot.cached,
        load,
    )
