import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.claims import LEAST_STEP, claim, cost, counts_output, cuts, lacks_money, step
from policies.domain import Claim, Level, Meter, MeterKind, Price, Principal
from policies.estimates import Estimates
from policies.meters import MOST
from policies.rejections import Reason, Rejection
from tests.policies.builders import FREE, HOSTED, candidate, deployment, request, route

BUDGET = 25 * 10**9
KEY = Level("key", "key:k", (Meter(MeterKind.BUDGET_PER_DAY, BUDGET, BUDGET),))
WHO = Principal("acme", "core", "k", "agent", (KEY,), "Europe/Berlin")
PAID = candidate(deployment("hosted", price=HOSTED), seconds=7.5)
AGENT = request(stream=True, max_tokens=32_000, messages=[{"role": "user", "content": "def f(x): return x " * 20_000}])
"""A coding agent's call: about 100,000 tokens of code, and a bound that no answer comes near."""


def test_a_claim_is_what_the_call_will_probably_use_at_the_first_deployments_price():
    """For everybody who pays, in whose time zone, for how long."""
    estimate = Estimates().of("k", request())
    planned = route(PAID, candidate(deployment("gpu", price=FREE)))

    claimed = claim(WHO, planned, estimate)

    tokens = estimate.prompt_tokens, estimate.reserved_output
    assert (claimed.organization, claimed.team, claimed.key, claimed.model) == ("acme", "core", "k", "m")
    assert (claimed.levels, claimed.time_zone, claimed.seconds) == ((KEY,), "Europe/Berlin", 7.5)
    assert (claimed.input_tokens, claimed.output_tokens) == tokens
    assert claimed.money == cost(HOSTED, *tokens) > 0


@pytest.mark.parametrize("price", [FREE, None])
def test_what_costs_nothing_or_nobody_knows_what_claims_no_money(price):
    """A hosted deployment without a price under a budget is refused at start."""
    planned = route(candidate(deployment("gpu", price=price)))

    assert claim(WHO, planned, Estimates().of("k", request())).money == 0


def test_a_coding_agent_reserves_a_small_part_of_a_budget_of_which_it_has_spent_nothing():
    """By the priors already, and however large the bound: twenty calls at once have room, and once learned, more."""
    learner, planned = Estimates(), route(PAID)
    estimate = learner.of("k", AGENT)
    at_first = claim(WHO, planned, estimate)
    for _ in range(60):
        learner.learn("k", AGENT, 100_000, 80, 60)
    learned = claim(WHO, planned, learner.of("k", AGENT))

    assert 90_000 <= estimate.prompt_tokens <= 110_000
    assert 20 * at_first.money < BUDGET / 4
    assert learned.output_tokens < 200
    assert learned.money < 1.02 * cost(HOSTED, 100_000, 80)


def test_a_stream_grows_by_half_and_at_least_by_some_seconds():
    """And past what it has already, if that came at once."""
    facts = request()

    assert step(100, 100, facts) == LEAST_STEP
    assert step(4000, 4000, facts) == 2000
    assert step(100, 5000, facts) == 4900 + LEAST_STEP


def test_nothing_is_set_aside_beyond_the_callers_own_bound():
    """For all of its choices."""
    facts = request(max_tokens=1100, n=2)

    assert step(2000, 2000, facts) == 200
    assert step(2200, 2300, facts) == 0


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(1, 10**7))
def test_a_stream_that_grew_is_ahead_again_or_at_its_bound(reserved, over, bound):
    """However far it was."""
    free, bounded = request(), request(max_tokens=bound)

    assert reserved + step(reserved, reserved + over, free) >= reserved + over + LEAST_STEP
    assert step(reserved, reserved + over, bounded) <= max(0, bound - reserved)


def refusal(meter, level="key"):
    return Rejection(Reason.RATE_LIMITED, "no", level=level, meter=meter)


@pytest.mark.parametrize("kind", MeterKind)
def test_only_budgets_lack_money(kind):
    """Whether they come back or not."""
    assert lacks_money(refusal(kind.value)) == kind.value.startswith("budget")
    assert not lacks_money(Rejection(Reason.STORE_DOWN, "no"))


def test_the_refusing_level_says_whether_a_stream_is_cut():
    """Not another one."""
    levels = (msgspec.structs.replace(KEY, overrun="cut"), Level("team", "team:t", ()))

    assert cuts(refusal("tokens_per_day", "key"), levels)
    assert not cuts(refusal("tokens_per_day", "team"), levels)
    assert not cuts(refusal("tokens_per_day", "organization"), levels)


@pytest.mark.parametrize(
    ("meter", "counts"),
    [
        (Meter(MeterKind.REQUESTS_PER_MINUTE, 1, 1), False),
        (Meter(MeterKind.CONCURRENT_REQUESTS, 1, 1), False),
        (Meter(MeterKind.INPUT_TOKENS_PER_MINUTE, 1, 1), False),
        (Meter(MeterKind.OUTPUT_TOKENS_PER_HOUR, 1, 1), True),
        (Meter(MeterKind.TOKENS_PER_DAY, 1, 1), True),
        (Meter(MeterKind.BUDGET_IN_ALL, 1, 1), True),
        (Meter(MeterKind.TOKENS_PER_DAY, 1, 1, model="m"), True),
        (Meter(MeterKind.TOKENS_PER_DAY, 1, 1, model="other"), False),
    ],
)
def test_growth_concerns_only_meters_that_count_output(meter, counts):
    """Of this model."""
    assert counts_output(Claim("acme", "t", "k", "m", (Level("key", "key:k", (meter,)),), 1, 1)) == counts


def test_reasoning_that_is_dearer_is_not_claimed_in_advance():
    """Nobody knows how much there will be; it is settled."""
    assert cost(Price(1000, 2000, 0, 9000), 10, 10) == 30


def test_no_claim_is_larger_than_what_the_store_counts_exactly():
    """However odd the estimate."""
    assert cost(Price(10**9, 10**9), 2**40, 2**50) == MOST
