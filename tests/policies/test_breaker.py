import pytest

from policies.breaker import FIRST_PAUSE, LONGEST_PAUSE, LONGEST_PROBE, THRESHOLD, Breaker, State


def opened(now=0.0):
    breaker = Breaker()
    for _ in range(THRESHOLD):
        breaker.failed(now, probe=False)
    return breaker


def test_fewer_failures_than_the_threshold_change_nothing():
    """And a success forgets them."""
    breaker = Breaker()
    for _ in range(10):
        breaker.failed(0.0, probe=False)
        breaker.failed(0.0, probe=False)
        breaker.succeeded()

    assert breaker.passes(0.0)


def test_three_failures_in_a_row_open_it_for_ten_seconds():
    """Then one call may try."""
    breaker = opened()

    assert not breaker.passes(FIRST_PAUSE - 0.01)
    assert breaker.passes(FIRST_PAUSE)


def test_half_open_lets_exactly_one_call_through():
    """Its outcome decides."""
    breaker = opened()
    breaker.sent(FIRST_PAUSE)

    assert breaker.state is State.HALF_OPEN
    assert not breaker.passes(FIRST_PAUSE + 20)
    breaker.succeeded()
    assert breaker.passes(FIRST_PAUSE + 20)


def test_a_long_call_as_the_probe_keeps_nobody_out_for_long():
    """An answer of ten minutes would else keep a deployment that is well again out for as long."""
    breaker = opened()
    assert breaker.sent(FIRST_PAUSE)
    assert not breaker.passes(FIRST_PAUSE + LONGEST_PROBE - 0.01)

    assert breaker.sent(FIRST_PAUSE + LONGEST_PROBE)
    assert not breaker.sent(FIRST_PAUSE + LONGEST_PROBE)


def test_a_probe_whose_answer_has_begun_lets_the_next_one_follow():
    """That is no proof yet: an answer that then breaks off begins the next pause, and one that ends well closes."""
    for well in (True, False):
        breaker = opened()
        breaker.sent(FIRST_PAUSE)
        breaker.begun(probe=True)
        assert breaker.state is State.OPEN
        assert breaker.passes(FIRST_PAUSE)
        if well:
            breaker.succeeded()
            assert breaker.state is State.CLOSED
        else:
            breaker.failed(FIRST_PAUSE + 1, probe=True)
            assert not breaker.passes(FIRST_PAUSE + 1)
            breaker.failed(FIRST_PAUSE + 2, probe=True)  # of the same opening
            assert breaker.passes(FIRST_PAUSE + 1 + 2 * FIRST_PAUSE)


def test_an_answer_that_begins_elsewhere_in_time_is_no_probes():
    """Of a call that was sent before the breaker opened."""
    breaker = opened()
    breaker.sent(FIRST_PAUSE)
    breaker.begun(probe=False)

    assert breaker.state is State.HALF_OPEN


def test_a_failed_probe_doubles_the_pause():
    """Up to five minutes."""
    breaker, now, pause = opened(), 0.0, FIRST_PAUSE
    for _ in range(10):
        now += pause
        assert breaker.sent(now)
        breaker.failed(now, probe=True)
        pause = min(LONGEST_PAUSE, pause * 2)
        assert not breaker.passes(now + pause - 0.01)
        assert breaker.passes(now + pause)


def test_a_probe_whose_caller_left_is_owed_again():
    """Nobody may be kept out for good by a caller who left."""
    breaker = opened()
    breaker.sent(FIRST_PAUSE)
    breaker.abandoned(probe=True)

    assert breaker.passes(FIRST_PAUSE)


@pytest.mark.parametrize("late", [0.0, 5.0])
def test_late_failures_of_calls_already_under_way_do_not_lengthen_the_pause(late):
    """Forty calls that die together are one opening."""
    breaker = opened()
    for _ in range(40):
        breaker.failed(late, probe=False)

    assert breaker.passes(FIRST_PAUSE)


def test_only_the_probe_decides_while_half_open():
    """Calls sent before the breaker opened end in their own time."""
    breaker = opened()
    assert breaker.sent(FIRST_PAUSE)
    assert not breaker.sent(FIRST_PAUSE)
    breaker.failed(FIRST_PAUSE, probe=False)
    breaker.abandoned(probe=False)

    assert breaker.state is State.HALF_OPEN


def test_word_that_it_is_back_ends_the_pause_and_closes_nothing():
    """The next call is the probe, and its outcome decides; while one is under way nothing changes."""
    breaker = Breaker()
    breaker.due(0.0)
    for _ in range(THRESHOLD):
        breaker.failed(0.0, probe=False)
    breaker.due(1.0)
    assert (breaker.state, breaker.passes(1.0)) == (State.OPEN, True)
    assert breaker.sent(1.0)
    breaker.due(2.0)
    assert not breaker.passes(2.0)
    breaker.failed(2.0, probe=True)
    assert not breaker.passes(2.0 + FIRST_PAUSE)
