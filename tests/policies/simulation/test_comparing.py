import math
import random

import pytest

from policies.simulation.comparing import difference


def test_what_both_share_cancels():
    """Seeds differ far more than policies: pairs take that out."""
    ours, theirs = [0.9, 0.5, 0.7], [0.8, 0.4, 0.6]
    found = difference(ours, theirs)
    assert found.mean == pytest.approx(0.1)
    assert found.low == pytest.approx(found.high) == pytest.approx(0.1)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """An interval that is too narrow would call luck a better policy."""
    dice = random.Random(7)
    held = 0
    for _ in range(1000):
        apart = [dice.gauss(0.5, 1.0) for _ in range(10)]
        found = difference(apart, [0.0] * 10)
        held += found.low <= 0.5 <= found.high
    assert 920 <= held <= 980


def test_one_pair_proves_nothing():
    """One seed is an anecdote."""
    assert difference([1.0], [0.0]).low == -math.inf


def test_many_pairs_take_the_quantile_of_fewer():
    """Rounding the degrees of freedom down can only widen the interval."""
    assert difference([1.0, 0.0] * 50, [0.0] * 100).low > 0.39


def test_no_pairs_are_an_error():
    """Nothing compared must not look like no difference."""
    with pytest.raises(ValueError, match="no pairs"):
        difference([], [])
