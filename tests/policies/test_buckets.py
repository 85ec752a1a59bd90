import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.buckets import MEASURES, MOST, SLOT_WAIT_US, charged, decayed, slot_wait_us, standing, tightest, wait_us
from policies.domain import Meter, MeterKind, Standing

MINUTE = 60_000_000


def rate(limit, burst=None, kind=MeterKind.TOKENS_PER_MINUTE):
    return Meter(kind, limit, burst or limit, MINUTE)


METERS = st.builds(
    lambda limit, share: rate(limit, max(1, limit * share // 100)), st.integers(1, 10**8), st.integers(1, 100)
)


def test_every_kind_of_meter_has_a_measure():
    assert set(MEASURES) == set(MeterKind)


def test_an_empty_bucket_of_600_a_minute_gives_one_every_tenth_of_a_second():
    meter = rate(600)

    full = charged(0, 600, meter)

    assert wait_us(full, 1, meter) == 100_000
    assert wait_us(full, 600, meter) == MINUTE
    assert wait_us(decayed(full, 0, 99_999, meter.limit), 1, meter) == 1
    assert wait_us(decayed(full, 0, 100_000, meter.limit), 1, meter) == 0


def test_what_is_larger_than_the_bucket_never_fits():
    assert wait_us(0, 50, rate(600, burst=50)) == 0
    assert wait_us(0, 51, rate(600, burst=50)) is None


def test_debt_is_paid_by_later_refill():
    meter = rate(60)
    used = charged(charged(0, 60, meter), 60, meter)

    assert standing(used, meter) == Standing(limit=60, remaining=0, reset_us=2 * MINUTE)
    assert wait_us(used, 1, meter) == MINUTE + 1_000_000


def test_giving_back_more_than_is_used_leaves_a_full_bucket():
    meter = rate(60)

    assert charged(charged(0, 5, meter), -10, meter) == 0
    assert standing(0, meter) == Standing(limit=60, remaining=60, reset_us=0)


def test_a_clock_that_steps_back_refills_nothing():
    assert decayed(1000, at_us=500, now_us=400, limit=10) == 1000


def test_a_part_of_a_token_is_not_told_as_remaining():
    meter = rate(7)

    assert standing(1, meter) == Standing(limit=7, remaining=6, reset_us=1)


def test_slots_are_free_below_the_limit_only():
    slots = Meter(MeterKind.CONCURRENT_REQUESTS, 2, 2, 0)

    assert [slot_wait_us(used, slots) for used in (0, 1, 2, 3)] == [0, 0, SLOT_WAIT_US, SLOT_WAIT_US]


def test_the_tightest_standing_has_the_least_remaining_and_the_first_wins_a_tie():
    wide, narrow, other = Standing(100, 50, 1), Standing(10, 5, 2), Standing(20, 5, 3)

    assert tightest([wide, narrow, other]) == narrow
    assert tightest([]) is None


@given(METERS, st.integers(0, MOST), st.integers(0, 10**8))
def test_the_wait_is_the_first_microsecond_that_admits(meter, used, amount):
    wait = wait_us(used, amount, meter)

    if wait is None:
        assert amount > meter.burst
    else:
        assert wait_us(decayed(used, 0, wait, meter.limit), amount, meter) == 0
        assert wait == 0 or wait_us(decayed(used, 0, wait - 1, meter.limit), amount, meter) == 1


@given(METERS, st.lists(st.tuples(st.integers(0, 2 * MINUTE), st.integers(1, 1000)), max_size=30))
def test_no_window_admits_more_than_the_bucket_and_its_refill(meter, calls):
    used = now = admitted = 0
    for later, amount in calls:
        used, now = decayed(used, now, now + later, meter.limit), now + later
        if wait_us(used, amount, meter) == 0:
            used, admitted = charged(used, amount, meter), admitted + amount

    assert admitted * MINUTE <= meter.burst * MINUTE + now * meter.limit


@pytest.mark.parametrize("amount", [10**9, 10**15])
def test_debt_stays_where_a_double_is_exact(amount):
    assert charged(MOST - 1, amount, rate(10**8)) == MOST
