from hypothesis import given
from hypothesis import strategies as st

from policies.prefill import ATTENTION, work

counts = st.integers(0, 1_000_000)


def test_a_short_prompt_is_its_tokens_and_a_long_one_more():
    """Twice as much, where it is as long as attention and all else cost alike, on average over its tokens."""
    assert work(0, 600) == 603
    assert work(0, 2 * ATTENTION) == 4 * ATTENTION


def test_what_is_cached_is_attended_to_all_the_same():
    """It costs no prefill of its own."""
    assert work(ATTENTION, 1_000) > 1.9 * work(0, 1_000)
    assert work(ATTENTION, 0) == 0


@given(counts, counts)
def test_a_prompt_in_two_parts_is_as_much_work_as_in_one(first, second):
    """But for rounding."""
    assert abs(work(0, first) + work(first, second) - work(0, first + second)) <= 2
