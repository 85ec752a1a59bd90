from msgspec.structs import replace

from policies.domain import Estimate, RoutingTerms
from policies.scoring import score
from tests.policies.builders import HOSTED, deployment, snapshot

CALL = Estimate(prompt_tokens=10_000, output_tokens=100, reserved_output=200, longest_output=1000)
TERMS = RoutingTerms(ttft_target=2.0, value_of_time=2_000_000)


def test_seconds_are_fixed_queue_prefill_and_decode():
    """0.2 fixed + 20,000 tokens at 10,000 a second + 100 tokens at 10 ms."""
    scored = score(snapshot(queued=10_000), CALL, TERMS)

    assert scored.ttft == 2.2
    assert scored.seconds == 3.2
    assert scored.reason == "late"


def test_money_and_waiting_add_up():
    """10,000 in at 1.5 and 100 out at 7.5 USD a million = 0.01575 USD."""
    scored = score(snapshot(deployment(price=HOSTED)), CALL, TERMS)

    assert scored.money == 15_750_000
    assert scored.score == 15_750_000 + 2_000_000 * scored.seconds


def test_short_prompts_share_equal_deployments_too():
    """Crowding counts where prefill does not, against a head start of 10 ms."""
    short = Estimate(prompt_tokens=10, output_tokens=100, reserved_output=200, longest_output=1000)
    busy, idle = snapshot(in_flight=1, ttft=0.20), snapshot(ttft=0.21)

    assert score(busy, short, TERMS).score > score(idle, short, TERMS).score


def test_calls_already_there_make_it_dearer():
    """They wait for our prefill."""
    assert score(snapshot(in_flight=3), CALL, TERMS).score > score(snapshot(), CALL, TERMS).score


def test_an_unknown_price_is_no_price():
    """Not zero: the ranking puts it last."""
    assert score(snapshot(deployment(price=None)), CALL, TERMS).money is None


def test_what_is_cached_is_not_prefilled_again():
    """Neither does it hold up the calls that are there."""
    warm = replace(snapshot(in_flight=2), cached=0.75)

    scored, cold = score(warm, CALL, TERMS), score(snapshot(in_flight=2), CALL, TERMS)

    assert (scored.prefill, cold.prefill) == (CALL.prompt_tokens // 4, CALL.prompt_tokens)
    assert scored.ttft < cold.ttft
    assert scored.score < cold.score
    assert scored.money == cold.money


def test_a_queue_that_costs_more_than_the_cache_spares_is_not_joined():
    """Affinity gives way by the very seconds of both."""
    spared = CALL.prompt_tokens // 2

    def warm(queued):
        return score(replace(snapshot(queued=queued), cached=0.5), CALL, TERMS).score

    cold = score(snapshot(), CALL, TERMS).score
    assert warm(spared - 100) < cold < warm(spared + 100)
