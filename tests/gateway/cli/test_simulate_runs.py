import pytest
from msgspec.structs import replace

from gateway.cli.simulate_runs import FIGURES, Case, apart, dollars_an_hour, is_clear, simulate
from tests.gateway.cli.simulated import SCENARIO, came_to, ran


def test_every_case_meets_every_seed_and_progress_adds_up_to_the_runs():
    """Equal scenarios come to equal outcomes, seed by seed: the calls are the same."""
    short = replace(SCENARIO, calls=40)
    shares = []
    one, other = simulate([Case("a", short, 1.0), Case("b", short, 1.0)], 2, shares.append)

    assert one.outcomes == other.outcomes
    assert one.outcomes[0] != one.outcomes[1]
    assert sum(shares) == pytest.approx(4)


def test_an_hour_costs_what_its_calls_cost():
    """2 USD for 1,000 calls, 7,200 of them an hour."""
    assert dollars_an_hour(came_to(), ran("a").case) == pytest.approx(14.4)


def test_a_difference_is_of_pairs_and_clear_only_off_zero():
    """By how much the later case exceeds the base."""
    good = FIGURES[0]
    base = ran("as it is", came_to(0.5), came_to(0.8))
    better = ran("better", came_to(0.6), came_to(0.9))
    unsure = ran("unsure", came_to(0.9), came_to(0.5))

    assert apart(good, better, base).mean == pytest.approx(10)
    assert is_clear(apart(good, better, base))
    assert not is_clear(apart(good, unsure, base))
    assert not is_clear(apart(good, ran("once", came_to(1.0)), ran("as it is", came_to(0.1))))
