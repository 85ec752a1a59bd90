"""What a call sets aside before it runs, and how much more while it does.

Law: nothing worst-case. A call claims what it will probably use, priced as its route's first deployment; what it
outgrows is claimed in steps, never beyond the caller's own bound; a dearer deployment costs the difference first.
"""

from policies.domain import Claim, Estimate, InferenceRequest, Level, MeterKind, Price, Principal, Route, Usage
from policies.meters import MOST, SORTS, Measure
from policies.pricing import money
from policies.rejections import Rejection

LEAST_STEP = 256
"""Output tokens that a stream grows by at least: some seconds of it, so that the store is asked seldom."""

_OF_OUTPUT = frozenset({Measure.OUTPUT, Measure.TOKENS, Measure.MONEY})


def claim(who: Principal, planned: Route, estimate: Estimate) -> Claim:
    """Return what a call of `who` along the route `planned` asks of every level."""
    first = planned.order[0]
    return Claim(
        organization=who.organization,
        team=who.team,
        key=who.key,
        model=planned.model.name,
        levels=who.levels,
        input_tokens=estimate.prompt_tokens,
        output_tokens=estimate.reserved_output,
        money=cost(first.deployment.price, estimate.prompt_tokens, estimate.reserved_output),
        seconds=first.seconds,
        time_zone=who.time_zone,
    )


def cost(price: Price | None, prompt_tokens: int, output_tokens: int) -> int:
    """Return the nano-dollars to set aside for that many tokens: none of them cached, 0 where no price is known."""
    return min(MOST, money(price, Usage(prompt_tokens, output_tokens, estimated=True)))


def step(reserved: int, counted: int, request: InferenceRequest) -> int:
    """Return how many more output tokens to set aside for a stream that has `counted` and reserved fewer.

    Half of what was reserved, at least `LEAST_STEP`, and enough to be ahead of the stream again; 0 where the caller's
    own bound is set aside already.
    """
    wanted = max(LEAST_STEP, reserved // 2, counted - reserved + LEAST_STEP)
    if request.max_tokens is None:
        return wanted
    return min(wanted, max(0, request.max_tokens * request.choices - reserved))


def counts_output(claimed: Claim) -> bool:
    """Say whether any meter of the claim's levels counts what an answer's length changes."""
    return any(
        SORTS[meter.kind].measure in _OF_OUTPUT and meter.model in (None, claimed.model)
        for level in claimed.levels
        for meter in level.meters
    )


def lacks_money(refusal: Rejection) -> bool:
    """Say whether it is a budget that refuses: then what costs nothing may still serve."""
    return refusal.meter is not None and SORTS[MeterKind(refusal.meter)].measure is Measure.MONEY


def cuts(refusal: Rejection, levels: tuple[Level, ...]) -> bool:
    """Say whether the level that will not let a stream grow has it cut."""
    return any(level.kind == refusal.level and level.overrun == "cut" for level in levels)
