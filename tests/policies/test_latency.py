import pytest

from policies.dialects import Priors
from policies.latency import HALF_LIFE, Latency

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


def test_what_nobody_saw_is_told_by_time_and_pace():
    """0.2 s until it begins, then 50 tokens a second for each answer, up to what was asked for."""
    latency = Latency(PRIORS)

    assert latency.unseen_tokens(0.0, 1.2, choices=1, most=1000) == 50
    assert latency.unseen_tokens(0.0, 1.2, choices=16, most=1000) == 800
    assert latency.unseen_tokens(0.0, 1.2, choices=16, most=100) == 100
    assert latency.unseen_tokens(0.0, 0.1, choices=1, most=100) == 0


def test_a_first_token_before_its_prefill_time_is_no_negative_delay():
    """A cached prompt."""
    latency = Latency(PRIORS)
    latency.observe_first(0.0, 0.01, tokens_ahead=100_000)

    assert latency.predict(0.0)[0] >= 0
