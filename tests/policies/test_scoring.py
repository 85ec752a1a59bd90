import pytest
from msgspec.structs import replace

from policies.domain import Estimate, Price
from policies.prefill import work
from policies.scoring import ANSWER, FIRST_TOKEN, RETRY, felt, score
from policies.terms import RoutingTerms
from tests.policies.builders import HOSTED, deployment, snapshot

CALL = Estimate(prompt_tokens=10_000, output_tokens=100, reserved_output=200, longest_output=1000)
TERMS = RoutingTerms(ttft_target=2.0, value_of_time=2_000_000)


def test_seconds_are_fixed_queue_prefill_and_decode():
    """0.2 fixed + 10,000 queued and 10,833 of work for as many tokens, 10,000 a second, + 100 tokens at 10 ms."""
    scored = score(snapshot(queued=10_000), CALL, TERMS)

    assert scored.ttft == pytest.approx(0.2 + (10_000 + work(0, 10_000)) / 10_000)
    assert scored.seconds == pytest.approx(scored.ttft + 1.0)
    assert scored.reason == "late"


def test_money_and_waiting_add_up():
    """10,000 in at 1.5 and 100 out at 7.5 USD a million = 0.01575 USD."""
    scored = score(snapshot(deployment(price=HOSTED)), CALL, TERMS)

    assert scored.money == 15_750_000
    assert scored.score == pytest.approx(15_750_000 + 2_000_000 * (scored.seconds + (FIRST_TOKEN - 1) * scored.ttft))


def test_short_prompts_share_equal_deployments_too():
    """Crowding counts where prefill does not, against a head start of 10 ms."""
    short = Estimate(prompt_tokens=10, output_tokens=100, reserved_output=200, longest_output=1000)
    busy, idle = snapshot(in_flight=1, ttft=0.20), snapshot(ttft=0.21)

    assert score(busy, short, TERMS).score > score(idle, short, TERMS).score


def test_calls_already_there_make_it_dearer():
    """They wait for our prefill."""
    assert score(snapshot(in_flight=3), CALL, TERMS).score > score(snapshot(), CALL, TERMS).score


def test_what_others_lose_is_felt_less_where_answers_are_long():
    """In full up to a long one; in one three times as long next to nothing is left of it, and our own is as it was."""

    def imposed(tokens):
        call = replace(CALL, output_tokens=tokens, longest_output=4000)
        busy, idle = score(snapshot(in_flight=50), call, TERMS), score(snapshot(), call, TERMS)
        assert busy.ttft == idle.ttft
        return busy.imposed

    assert imposed(ANSWER) > imposed(ANSWER - 100)
    assert imposed(ANSWER + 1) == pytest.approx(imposed(ANSWER), rel=0.02)
    assert imposed(3 * ANSWER) < imposed(ANSWER) / 20
    assert felt(2 * ANSWER) == pytest.approx(1 / 64)


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
    spared = work(0, CALL.prompt_tokens) - work(CALL.prompt_tokens // 2, CALL.prompt_tokens // 2)

    def warm(queued):
        return score(replace(snapshot(queued=queued), cached=0.5), CALL, TERMS).score

    cold = score(snapshot(), CALL, TERMS).score
    assert warm(spared - 100) < cold < warm(spared + 100)


def test_what_is_cached_is_paid_at_its_own_price():
    """Where it has one, and the upstream tells of its cache: a bill is no place for guesses."""
    dear = deployment(price=Price(1_500_000, 7_500_000, cached_input=150_000))
    cold = score(snapshot(dear), CALL, TERMS)
    warm, guessed = (score(snapshot(dear, cached=0.5, tells_cache=tells), CALL, TERMS) for tells in (True, False))

    assert guessed.money == cold.money
    assert cold.money - warm.money == 5_000 * (1_500_000 - 150_000) // 1000


def test_a_deployment_that_fails_costs_the_seconds_of_failing():
    """In proportion to how probable it is."""
    scored = score(snapshot(fails=0.2), CALL, TERMS)

    assert scored.risk == pytest.approx(0.25 * (scored.ttft + RETRY))
    assert scored.score - score(snapshot(), CALL, TERMS).score == pytest.approx(TERMS.value_of_time * scored.risk)
    assert score(snapshot(fails=1.0), CALL, TERMS).score > scored.score


def test_a_cache_that_fills_up_is_avoided_the_fuller_the_more():
    """And one that is unknown is not guessed."""
    scores = [score(snapshot(kv_use=use), CALL, TERMS).score for use in (None, 0.1, 0.5, 0.9, 1.0)]

    assert scores == sorted(scores)
    assert scores[0] == score(snapshot(), CALL, TERMS).score
    assert scores[-1] - scores[-2] > 3 * (scores[2] - scores[1])


def test_a_scarce_place_costs_what_others_would_give_for_it():
    """In nano-dollars, beside the price."""
    scored = score(snapshot(shadow=5_000_000), CALL, TERMS)

    assert scored.score - score(snapshot(), CALL, TERMS).score == pytest.approx(5_000_000)
    assert scored.money == 0


def test_one_that_warms_up_is_scored_as_so_many_times_slower():
    """Its share of the calls comes back bit by bit."""
    assert score(snapshot(share=0.25), CALL, TERMS).score == pytest.approx(4 * score(snapshot(), CALL, TERMS).score)


def test_a_pace_beyond_its_target_is_late():
    """As a first token is."""
    terms = RoutingTerms(tpot_target=0.02)

    assert score(snapshot(token_time=0.01), CALL, terms).reason == "in time"
    assert score(snapshot(token_time=0.01, in_flight=100), CALL, terms).reason == "late"


@pytest.mark.parametrize(("policy", "first"), [("cheapest", "free"), ("fastest", "paid")])
def test_policies_are_settings_of_the_one_score(policy, first):
    """A second next to nothing, or a second above all money."""
    terms = RoutingTerms(policy=policy)
    free, paid = score(snapshot(ttft=30.0), CALL, terms), score(snapshot(deployment(price=HOSTED)), CALL, terms)

    assert (free.score < paid.score) == (first == "free")
