import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.lessons import HALF, Lesson, Lessons, merged, taught
from policies.line import CONVERGED, RANGE

LOGS = st.floats(-RANGE, RANGE)


def both(samples, *logs):
    return Lessons(taught(samples, *logs), taught(samples, *logs))


@given(st.integers(0, 10**9), st.lists(st.floats(allow_nan=False), max_size=4))
def test_what_is_told_is_bounded(samples, logs):
    """Whatever was learned; and none of it is refused by whoever hears it."""
    told = taught(samples, *logs)

    assert told.samples <= CONVERGED
    assert all(abs(log) <= RANGE for log in told.logs)
    assert told.fits(len(logs)) == (samples > 0)


@pytest.mark.parametrize(
    "lesson",
    [
        Lesson(0, (0.1, 0.1)),
        Lesson(-1, (0.1, 0.1)),
        Lesson(8, (0.1,)),
        Lesson(8, (0.1, 0.1, 0.1)),
        Lesson(8, (0.1, math.nan)),
        Lesson(8, (0.1, math.inf)),
        Lesson(8, (0.1, -RANGE - 0.1)),
    ],
)
def test_what_cannot_have_been_learned_does_not_fit(lesson):
    """It is refused whole: nothing is made of its good half."""
    assert not lesson.fits(2)


@given(
    LOGS, LOGS, st.integers(1, CONVERGED), st.integers(0, 10**6), st.lists(st.floats(0, 1e6), min_size=2, max_size=2)
)
def test_what_two_have_learned_lies_between_and_an_older_word_weighs_less(there, ours, samples, news, ages):
    """And it has been learned, of a bounded number of calls."""
    one, other = both(samples, there), both(samples, ours)
    nearer, further = (merged(one, other, (news, news), age) for age in sorted(ages))

    for made in (nearer.first, further.tokens):
        assert min(there, ours) - 1e-3 <= made.logs[0] <= max(there, ours) + 1e-3
        assert made.fits(1)
    assert abs(further.first.logs[0] - ours) <= abs(nearer.first.logs[0] - ours) + 1e-3


def test_each_weighs_by_its_calls_and_no_more_than_enough():
    """A thousand calls of another gateway do not drown thirty of ours; what is a minute old counts half."""
    there, ours = both(10**6, 1.0), both(100, 0.0)

    assert merged(there, ours, (25, 75), 0.0).first.logs == (0.5,)
    assert merged(there, ours, (25, 75), 0.0).tokens.logs == (0.25,)
    assert merged(there, ours, (25, 75), HALF).first.logs == pytest.approx((1 / 3,), abs=1e-3)


def test_of_what_we_have_not_learned_the_others_word_stays():
    """Short answers tell nothing of pace, and take nothing of it back."""
    there = both(20, 1.0)
    ours = Lessons(taught(20, 0.0), taught(0, 0.0))

    assert merged(there, ours, (20, 0), 0.0).tokens == there.tokens
    assert merged(there, ours, (20, 0), 1e6).tokens.fits(1)
    assert merged(ours, there, (20, 20), 0.0).tokens == there.tokens
    assert merged(Lessons(Lesson(20, (1.0, 1.0)), there.tokens), ours, (20, 0), 0.0).first == ours.first
