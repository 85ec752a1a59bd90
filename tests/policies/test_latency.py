import random

import pytest

from policies.dialects import Priors
from policies.latency import HALF_LIFE, LEAST_SPREAD, MOST_SPREAD, Latency

PRIORS = Priors(ttft_fixed=0.2, prefill_rate=10_000.0, token_time=0.02)


def test_nothing_seen_is_the_prior():
    """A new deployment gets its chance."""
    assert Latency(PRIORS).predict(1e9) == (0.2, 10_000.0, 0.02)


def test_a_slow_replica_is_seen_within_ten_calls():
    """And the prompt's own prefill time is not held against it."""
    latency = Latency(PRIORS)
    for call in range(10):
        latency.observe_first(float(call), 3.0 + 1.0, tokens_ahead=10_000)
        latency.observe_pace(float(call), 0.1)

    fixed, _, token_time = latency.predict(10.0)
    assert 2.0 < fixed <= 3.0
    assert 0.06 < token_time <= 0.1


def test_what_was_learned_fades_without_news():
    """So that a replica once slow is tried again."""
    latency = Latency(PRIORS)
    for call in range(30):
        latency.observe_first(float(call), 3.0, tokens_ahead=0)
    fresh = latency.predict(29.0)[0]

    assert latency.predict(29.0 + HALF_LIFE)[0] == pytest.approx(0.2 + (fresh - 0.2) / 2)
    assert latency.predict(29.0 + 20 * HALF_LIFE)[0] == pytest.approx(0.2, abs=1e-3)


def test_the_spread_is_what_nineteen_of_twenty_first_tokens_stay_within():
    """By a running quantile: most come after 1 s, some after 6 s; neither the mean nor the worst."""
    latency = Latency(PRIORS)
    dice = random.Random(1)
    for call in range(2000):
        now = call * 0.01
        latency.observe_first(now, 6.0 if dice.random() < 0.1 else 1.0, tokens_ahead=0)
    latest = latency.predict(20.0)[0] + latency.spread(20.0)

    assert 4.0 < latest < 9.0


def test_a_spread_is_found_soon_kept_within_bounds_and_forgotten():
    """A first token that is minutes late ten times in a row must not keep calls waiting for ever."""
    latency = Latency(PRIORS)
    assert latency.spread(0.0) == PRIORS.ttft_fixed
    for call in range(100):
        latency.observe_first(float(call), 10.0**call, tokens_ahead=0)
    assert latency.spread(99.0) == MOST_SPREAD
    assert latency.spread(99.0 + 20 * HALF_LIFE) == pytest.approx(PRIORS.ttft_fixed, abs=1e-3)
    for _ in range(1000):
        latency.observe_first(100.0, 0.2, tokens_ahead=0)
    assert latency.spread(100.0) == pytest.approx(LEAST_SPREAD)


def test_what_nobody_saw_is_told_by_time_and_pace():
    """0.2 s until it begins, then 50 tokens a second for each answer, up to what was asked for."""
    latency = Latency(PRIORS)

    assert latency.unseen_tokens(0.0, 1.0, choices=1, most=1000) == 50
    assert latency.unseen_tokens(0.0, 1.0, choices=16, most=1000) == 800
    assert latency.unseen_tokens(0.0, 1.0, choices=16, most=100) == 100
    assert latency.unseen_tokens(0.0, -0.1, choices=1, most=100) == 0


def test_a_first_token_before_its_prefill_time_is_no_negative_delay():
    """A cached prompt."""
    latency = Latency(PRIORS)
    latency.observe_first(0.0, 0.01, tokens_ahead=100_000)

    assert latency.predict(0.0)[0] >= 0


def test_who_was_away_is_believed_to_be_as_its_kind_is():
    """A deployment that hung was slow before; once it is back it is tried again at once."""
    latency = Latency(PRIORS)
    latency.observe_first(0.0, 60.0, 0)
    latency.forget()
    assert latency.predict(0.0) == Latency(PRIORS).predict(0.0)
    assert latency.spread(0.0) == Latency(PRIORS).spread(0.0)
