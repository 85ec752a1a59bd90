"""What the report calls met, of differences that are given."""

import pytest

from policies.simulation.comparing import Difference
from tests.simulation.verdicts import knee_over_rival


class Found:
    """Results whose difference at the knee is this."""

    def __init__(self, mean, low):
        self.difference = Difference(mean, low, 2 * mean - low, 10)

    def knee(self, workload):
        return 0.8

    def over(self, other, workload, load):
        return self.difference


@pytest.mark.parametrize(
    ("mean", "low", "met"),
    [(9.0, 6.0, [True, True]), (9.0, 2.0, [True, False]), (9.0, -1.0, [False, False]), (4.0, 3.0, [False, False])],
)
def test_the_gain_at_the_knee_is_told_on_average_and_at_the_lower_end(mean, low, met):
    """One word for both would say more than was found, or less."""
    on_average, at_the_lower_end = knee_over_rival(Found(mean, low))

    assert [on_average.met, at_the_lower_end.met] == met
    assert on_average.name.endswith("5 points better than sglang there, on average")
    assert at_the_lower_end.name.endswith("5 points better than sglang there, at the lower end of the interval")
    assert on_average.told[0].startswith(f"at 0.8: +{mean} ({low:+.1f} to ")
