import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.breaker import (
    FIRST_PAUSE,
    FIRST_SHARE,
    HALF_LIFE,
    LEAST_CALLS,
    LONGEST_PAUSE,
    LONGEST_PROBE,
    PRIOR,
    RAMP,
    SLOW,
    SLOW_ROW,
    THRESHOLD,
    TRANSITIONS,
    WEIGHT,
    WINDOW,
    Breaker,
    Event,
    State,
)


def opened(now=0.0):
    breaker = Breaker()
    for _ in range(THRESHOLD):
        breaker.failed(now, probe=False)
    return breaker


def told(breaker, outcomes, now=0.0, every=0.0):
    """Tell it of calls, x failed and . answered; return how many it took to open it, None if it did not."""
    for number, outcome in enumerate(outcomes, 1):
        if outcome == "x":
            breaker.failed(now + number * every, probe=False)
        else:
            breaker.succeeded(now + number * every)
        if breaker.state is State.OPEN:
            return number
    return None


def test_fewer_failures_than_the_threshold_change_nothing():
    """And a success forgets them."""
    breaker = Breaker()
    for _ in range(10):
        breaker.failed(0.0, probe=False)
        breaker.failed(0.0, probe=False)
        for _ in range(3):
            breaker.succeeded(0.0)

    assert breaker.passes(0.0)


def test_three_failures_in_a_row_open_it_for_ten_seconds():
    """Then one call may try."""
    breaker = opened()

    assert not breaker.passes(FIRST_PAUSE - 0.01)
    assert breaker.passes(FIRST_PAUSE)


def test_it_tells_how_long_it_keeps_calls_out():
    """As its pause, its turn and the word of others have it."""
    breaker = opened()
    assert breaker.left(FIRST_PAUSE - 4.0) == 4.0
    breaker.turn = 3.0
    assert breaker.left(FIRST_PAUSE) == 3.0
    breaker.elsewhere(FIRST_PAUSE + 7.0)
    assert breaker.left(FIRST_PAUSE) == 7.0
    assert breaker.left(FIRST_PAUSE + 7.0) == 0.0

    assert breaker.sent(FIRST_PAUSE + 7.0)
    assert breaker.left(FIRST_PAUSE + 8.0) == LONGEST_PROBE - 1.0
    breaker.succeeded(FIRST_PAUSE + 9.0)
    assert breaker.left(FIRST_PAUSE + 9.0) == 0.0


def test_half_open_lets_exactly_one_call_through():
    """Its outcome decides."""
    breaker = opened()
    breaker.sent(FIRST_PAUSE)

    assert breaker.state is State.HALF_OPEN
    assert not breaker.passes(FIRST_PAUSE + 20)
    breaker.succeeded(FIRST_PAUSE + 20)
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
            breaker.succeeded(FIRST_PAUSE + 1)
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


def test_a_deployment_that_fails_two_of_three_is_kept_out():
    """It never fails three in a row, and looks idle because it fails fast."""
    assert told(Breaker(), "xx." * 20) == LEAST_CALLS


def test_a_deployment_that_fails_half_is_not():
    """More than half it must be; there are retries for the rest."""
    assert told(Breaker(), "xx..." * 20 + "x." * 100) is None


def test_too_few_calls_in_half_a_minute_say_nothing():
    """A rate of nineteen calls is chance; calls of long ago say nothing about now."""
    seldom = WINDOW / (LEAST_CALLS - 3)

    assert told(Breaker(), "xx." * 30, every=seldom) is None
    assert told(Breaker(), "xx." * 30, every=seldom / 2) is not None
    breaker = Breaker()
    told(breaker, "xx." * 6)
    assert told(breaker, "xx", now=2 * WINDOW) is None


def test_a_deployment_that_crawls_is_kept_out():
    """Every one of its calls is held to the end, which is worse than a failure."""
    breaker = Breaker()
    for _ in range(SLOW_ROW - 1):
        breaker.slow(0.0, SLOW + 0.1)
    breaker.slow(0.0, SLOW)  # late, not too late
    for _ in range(SLOW_ROW - 1):
        breaker.slow(0.0, SLOW + 0.1)
        breaker.succeeded(0.0)
    assert breaker.passes(0.0)
    breaker.slow(0.0, SLOW + 0.1)

    assert not breaker.passes(FIRST_PAUSE - 0.01)
    assert breaker.passes(FIRST_PAUSE)


@pytest.mark.parametrize("by", ["rate", "slowness"])
def test_where_most_calls_succeed_only_those_after_a_probe_close_it(by):
    """The tenth slow call itself ends well a moment later; two of five still do where the rest fail."""
    breaker = Breaker()
    if by == "rate":
        told(breaker, "xx." * 20)
    else:
        for _ in range(SLOW_ROW):
            breaker.slow(0.0, 100.0)
    breaker.succeeded(1.0)
    assert breaker.state is State.OPEN
    breaker.sent(FIRST_PAUSE)
    breaker.succeeded(FIRST_PAUSE + 1)

    assert breaker.state is State.CLOSED


def test_an_answer_closes_one_that_failed_throughout():
    """It comes of a call that was sent there because there was nowhere else."""
    breaker = opened()
    breaker.succeeded(1.0)

    assert (breaker.state, breaker.closings) == (State.CLOSED, 1)


def test_one_that_has_closed_gets_its_calls_back_little_by_little():
    """Its cache is cold, and one good answer is no proof."""
    breaker = opened()
    assert breaker.share(0.0) == 1.0  # kept out by the state; where there is nowhere else it gets what it can take
    breaker.sent(FIRST_PAUSE)
    breaker.succeeded(10.0)

    assert [breaker.share(10.0 + RAMP * part) for part in (0, 0.5, 1, 2)] == [FIRST_SHARE, 0.625, 1.0, 1.0]
    assert Breaker().share(0.0) == 1.0


@pytest.mark.parametrize(("well_for", "pause"), [(RAMP - 1, 2 * FIRST_PAUSE), (RAMP, FIRST_PAUSE)])
def test_one_that_soon_fails_again_stays_out_for_longer(well_for, pause):
    """Else one that answers every fourth call would never be out for more than ten seconds."""
    breaker = opened()
    breaker.sent(FIRST_PAUSE)
    breaker.succeeded(FIRST_PAUSE)
    again = FIRST_PAUSE + well_for
    breaker.succeeded(again)
    for _ in range(THRESHOLD):
        breaker.failed(again, probe=False)

    assert not breaker.passes(again + pause - 0.01)
    assert breaker.passes(again + pause)


def test_the_probability_of_failing_follows_what_is_seen():
    """And drifts back, so that one that was ill is tried again."""
    breaker = Breaker()
    assert breaker.fails(1e6) == PRIOR
    breaker.failed(0.0, probe=False)
    once = breaker.fails(0.0)
    assert once == pytest.approx(PRIOR + WEIGHT * (1 - PRIOR))
    assert breaker.fails(HALF_LIFE) == pytest.approx((PRIOR + once) / 2)
    for _ in range(100):
        breaker.failed(0.0, probe=False)
    assert breaker.fails(0.0) > 0.99
    for _ in range(100):
        breaker.succeeded(0.0)

    assert breaker.fails(0.0) < PRIOR


def test_a_turn_lets_another_gateway_probe_first():
    """One that has no call to probe with is not waited for; our next probes are our own affair."""
    breaker = opened()
    breaker.turn = 0.6
    assert not breaker.passes(FIRST_PAUSE + 0.5)
    assert breaker.sent(FIRST_PAUSE + 0.6)
    breaker.begun(probe=True)
    assert breaker.sent(FIRST_PAUSE + 0.6)

    assert breaker.passes(FIRST_PAUSE + 0.6 + LONGEST_PROBE)


def test_word_that_it_is_back_keeps_the_turn():
    """Every gateway asks an idle backend whether it is back: not all of them need prove it."""
    breaker = opened()
    breaker.turn = 0.6
    breaker.due(1.0)

    assert not breaker.passes(1.5)
    assert breaker.passes(1.6)


def test_a_probe_elsewhere_holds_ours_back_while_we_hear_of_it():
    """A gateway that dies with its probe holds up nobody for longer."""
    breaker = opened()
    breaker.elsewhere(FIRST_PAUSE + 0.3)
    assert not breaker.sent(FIRST_PAUSE + 0.2)
    breaker.elsewhere(FIRST_PAUSE + 0.5)
    assert not breaker.sent(FIRST_PAUSE + 0.4)

    assert breaker.sent(FIRST_PAUSE + 0.5)


def test_a_probe_that_ended_well_elsewhere_lets_ours_go_out_of_turn():
    """And closes nothing here: what reaches one gateway need not reach another."""
    breaker = opened()
    breaker.turn = 10.0
    breaker.elsewhere(100.0)
    breaker.well_elsewhere()

    assert breaker.state is State.OPEN
    assert breaker.sent(1.0)
    breaker.well_elsewhere()
    assert not breaker.sent(1.0)


def test_a_probe_that_failed_elsewhere_begins_our_pause_anew():
    """Else each of a hundred gateways would send its own call to find out."""
    breaker = opened()
    breaker.ill_elsewhere(FIRST_PAUSE, probe=True)
    assert not breaker.passes(3 * FIRST_PAUSE - 0.01)
    assert breaker.sent(3 * FIRST_PAUSE)
    breaker.ill_elsewhere(3 * FIRST_PAUSE, probe=True)
    assert breaker.state is State.HALF_OPEN
    breaker.failed(3 * FIRST_PAUSE, probe=True)
    closed = Breaker()
    closed.ill_elsewhere(0.0, probe=True)

    assert (breaker.openings, breaker.reopenings, closed.state) == (1, 1, State.CLOSED)
    assert not breaker.passes(7 * FIRST_PAUSE - 0.01)
    assert breaker.passes(7 * FIRST_PAUSE)


def test_one_that_opens_later_elsewhere_begins_our_pause_anew_and_no_longer():
    """So that pauses end together, and whose turn it is decides who probes; ten gateways that fail at once are one."""
    breaker = opened()
    for later in range(10):
        breaker.ill_elsewhere(later / 10, probe=False)

    assert not breaker.passes(0.9 + FIRST_PAUSE - 0.01)
    assert breaker.passes(0.9 + FIRST_PAUSE)


# What a breaker may be told, at a moment, of a probe or not.
TELLS = {
    "sent": lambda breaker, now, _: breaker.sent(now),
    "succeeded": lambda breaker, now, _: breaker.succeeded(now),
    "failed": lambda breaker, now, probe: breaker.failed(now, probe=probe),
    "slow": lambda breaker, now, much: breaker.slow(now, 10.0 if much else 1.0),
    "begun": lambda breaker, _, probe: breaker.begun(probe=probe),
    "abandoned": lambda breaker, _, probe: breaker.abandoned(probe=probe),
    "due": lambda breaker, now, _: breaker.due(now),
    "elsewhere": lambda breaker, now, _: breaker.elsewhere(now + 1.0),
    "well elsewhere": lambda breaker, *_: breaker.well_elsewhere(),
    "ill elsewhere": lambda breaker, now, probe: breaker.ill_elsewhere(now, probe=probe),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(TELLS)), st.floats(0.0, 40.0), st.booleans()), max_size=120))
def test_whatever_happens_the_laws_hold(steps):
    """Moves are the table's; one probe at a time; whoever is kept out is tried again within the longest pause."""
    allowed = {(state, to) for (state, _), to in TRANSITIONS.items()}
    breaker, now, busy_until = Breaker(), 0.0, -math.inf
    for what, later, probe in steps:
        now += later
        before = breaker.state
        is_probe = TELLS[what](breaker, now, probe)

        assert breaker.state is before or (before, breaker.state) in allowed
        if is_probe:
            assert now >= busy_until
            assert breaker.state is State.HALF_OPEN
            busy_until = now + LONGEST_PROBE
        elif breaker.state is not State.HALF_OPEN:
            busy_until = -math.inf
        assert 0.0 <= breaker.fails(now) <= 1.0
        assert FIRST_SHARE <= breaker.share(now) <= breaker.share(now + 1.0) <= 1.0
        assert breaker.passes(now + LONGEST_PAUSE)


@given(st.lists(st.booleans(), max_size=200))
def test_calls_that_mostly_succeed_never_open_it_by_their_rate(outcomes):
    """Whatever their order; three failures in a row are another law."""
    breaker, failed = Breaker(), 0
    for number, wish in enumerate(outcomes, 1):
        fails = wish and 2 * (failed + 1) <= number and breaker._failures < THRESHOLD - 1
        failed += fails
        told(breaker, "x" if fails else ".")

        assert breaker.state is State.CLOSED


def test_every_event_is_in_the_table():
    """One that moves nothing has no name."""
    assert {event for _, event in TRANSITIONS} == set(Event)
