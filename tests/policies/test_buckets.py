import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.buckets import (
    NEVER,
    SLOT_WAIT_US,
    Stock,
    ceil_div,
    charged,
    decayed,
    is_current,
    rate_wait_us,
    rolled,
    slot_wait_us,
    standing,
    stock_wait_us,
    stocked,
)
from policies.domain import Meter, MeterKind, Standing
from policies.meters import MOST, SORTS, Keeping, largest
from policies.periods import Period

MINUTE = 60_000_000
DAY = 86_400_000_000
NOW = 20_000 * DAY + DAY // 2 + 123_456
"""A little after the middle of the day 20,000."""


def rate(limit, burst=None, kind=MeterKind.TOKENS_PER_MINUTE):
    return Meter(kind, limit, burst or limit)


def daily(limit):
    return Meter(MeterKind.TOKENS_PER_DAY, limit, limit)


def period(ordinal, days=1):
    return Period(ordinal, ordinal * DAY, (ordinal + days) * DAY)


TODAY = period(20_000)
KINDS = st.sampled_from([kind for kind in MeterKind if SORTS[kind].keeping is Keeping.RATE])
METERS = st.builds(
    lambda kind, limit, share: rate(limit, max(1, limit * share // 100), kind),
    KINDS,
    st.integers(1, min(10**8, *(largest(kind) for kind in SORTS))),
    st.integers(1, 100),
)


def told(used, meter, at=TODAY):
    return standing("key", meter, used, NOW, at)


def test_an_empty_bucket_of_600_a_minute_gives_one_every_tenth_of_a_second():
    meter = rate(600)

    full = charged(0, 600, meter)

    assert rate_wait_us(full, 1, meter, NOW) == 100_000
    assert rate_wait_us(full, 600, meter, NOW) == MINUTE
    assert rate_wait_us(decayed(full, 0, 99_999, meter.limit), 1, meter, NOW) == 1
    assert rate_wait_us(decayed(full, 0, 100_000, meter.limit), 1, meter, NOW) == 0


def test_a_rate_by_the_hour_refills_at_every_millisecond_and_waits_to_the_next():
    meter = rate(3600, kind=MeterKind.REQUESTS_PER_HOUR)
    full = charged(0, 3600, meter)

    assert rate_wait_us(full, 1, meter, 5_000_000) == 1_000_000
    assert rate_wait_us(full, 1, meter, 5_000_400) == 1_000_000 - 400
    assert rate_wait_us(full - 1, 1, meter, 5_000_999) == 999_001


def test_what_is_larger_than_the_bucket_never_fits():
    assert rate_wait_us(0, 50, rate(600, burst=50), NOW) == 0
    assert rate_wait_us(0, 51, rate(600, burst=50), NOW) == NEVER


def test_debt_is_paid_by_later_refill():
    meter = rate(60)
    used = charged(charged(0, 60, meter), 60, meter)

    assert told(used, meter) == Standing("key", meter, limit=60, remaining=0, reset_us=2 * MINUTE)
    assert rate_wait_us(used, 1, meter, NOW) == MINUTE + 1_000_000


def test_giving_back_more_than_is_used_leaves_a_full_bucket():
    meter = rate(60)

    assert charged(charged(0, 5, meter), -10, meter) == 0
    assert told(0, meter) == Standing("key", meter, limit=60, remaining=60, reset_us=0)


def test_a_clock_that_steps_back_refills_nothing():
    assert decayed(1000, at=500, now=400, limit=10) == 1000


def test_a_part_of_a_token_is_not_told_as_remaining():
    meter = rate(7)

    assert told(1, meter) == Standing("key", meter, limit=7, remaining=6, reset_us=1)


def test_what_remains_of_a_rate_is_in_its_bucket():
    meter = rate(600, burst=50)

    assert told(charged(0, 10, meter), meter) == Standing("key", meter, limit=600, remaining=40, reset_us=1_000_000)


def test_slots_are_free_below_the_limit_only():
    slots = Meter(MeterKind.CONCURRENT_REQUESTS, 2, 2)

    assert [slot_wait_us(used, [], slots, NOW) for used in (0, 1, 2, 3)] == [0, 0, SLOT_WAIT_US, SLOT_WAIT_US]
    assert told(3, slots, None) == Standing("key", slots, limit=2, remaining=0, reset_us=None)


def test_a_slot_is_promised_for_the_first_end_that_was_predicted_and_after_that_for_a_moment_later():
    slots = Meter(MeterKind.CONCURRENT_REQUESTS, 1, 1)

    assert slot_wait_us(1, [NOW + 9, NOW + 5], slots, NOW) == 5
    assert slot_wait_us(1, [NOW + 9, NOW], slots, NOW) == SLOT_WAIT_US
    assert slot_wait_us(0, [NOW + 9], slots, NOW) == 0


def test_what_does_not_fit_a_day_any_more_waits_for_the_next():
    meter = daily(100)

    assert stock_wait_us(60, 40, meter, TODAY, NOW) == 0
    assert stock_wait_us(60, 41, meter, TODAY, NOW) == TODAY.end_us - NOW
    assert stock_wait_us(0, 101, meter, TODAY, NOW) == NEVER


def test_debt_of_more_than_a_day_waits_for_the_day_that_has_room():
    meter = daily(100)

    # 250 used: tomorrow owes 150, the day after 50.
    assert stock_wait_us(250, 50, meter, TODAY, NOW) == TODAY.end_us - NOW + DAY
    assert stock_wait_us(250, 51, meter, TODAY, NOW) == TODAY.end_us - NOW + 2 * DAY


def test_a_period_that_is_over_has_no_room_ever_again():
    assert stock_wait_us(100, 1, daily(100), period(19_990), NOW) == 1


def test_a_new_period_begins_with_what_those_before_owe_it():
    meter = daily(100)
    stock = Stock(150, 20_000, 5, 6)

    assert rolled(stock, TODAY, meter) is stock
    assert rolled(stock, period(19_999), meter) is stock
    begins = period(20_001)
    assert rolled(stock, begins, meter) == Stock(50, 20_001, begins.start_us, begins.start_us, 50, 150, 20_000)
    later = period(20_002)
    assert rolled(stock, later, meter) == Stock(0, 20_002, later.start_us, later.start_us, 0, 150, 20_000)


def test_what_was_admitted_today_is_charged_to_today():
    stock = Stock(60, 20_000, TODAY.start_us, NOW)

    assert stocked(stock, 15, daily(100), TODAY, NOW).used == 75
    assert stocked(stock, -70, daily(100), TODAY, NOW).used == 0
    assert stocked(stock, MOST, daily(100), TODAY, NOW).used == MOST


@pytest.mark.parametrize(
    ("amount", "before", "owed", "used"),
    [(-30, 120, 20, 30), (-50, 100, 0, 10), (-70, 80, 0, 10), (10, 160, 60, 70)],
)
def test_what_yesterday_gives_back_or_takes_changes_what_today_owes(amount, before, owed, used):
    """Today has used 10 by itself, and owed 50 of the 150 that yesterday had used of its 100."""
    stock = Stock(60, 20_000, TODAY.start_us, NOW, owed=50, before=150, before_ordinal=19_999)

    after = stocked(stock, amount, daily(100), period(19_999), NOW - DAY)

    assert (after.before, after.owed, after.used) == (before, owed, used)


def test_what_is_two_periods_ago_is_in_the_records_alone():
    stock = Stock(60, 20_000, TODAY.start_us, NOW, owed=50, before=150, before_ordinal=19_999)

    assert stocked(stock, -30, daily(100), period(19_998), NOW - 2 * DAY) is stock


def test_what_was_admitted_since_a_meter_began_is_current_whatever_its_plan_says():
    """A plan of long ago tells periods that are over; what its meter counts since then is told by when it began."""
    stock = Stock(0, 20_000, NOW - 3 * DAY, NOW)

    assert is_current(stock, period(19_998), NOW - 2 * DAY)
    assert is_current(stock, TODAY, NOW - 9 * DAY)
    assert not is_current(stock, period(19_990), NOW - 9 * DAY)


def test_a_calendar_meter_is_full_again_with_the_next_period_and_a_total_never():
    total = Meter(MeterKind.BUDGET_IN_ALL, 100, 100)

    assert told(30, daily(100)) == Standing("key", daily(100), 100, 70, TODAY.end_us - NOW)
    assert told(130, daily(100), period(19_990)) == Standing("key", daily(100), 100, 0, 0)
    assert told(30, total, None) == Standing("key", total, 100, 70, None)


def test_a_division_is_rounded_up():
    assert [ceil_div(a, 3) for a in (-3, -1, 0, 1, 3, 4)] == [-1, 0, 0, 1, 1, 2]


@given(METERS, st.integers(0, MOST), st.integers(0, 10**8), st.integers(0, 10**7))
def test_the_wait_is_the_first_microsecond_that_admits(meter, used, amount, phase):
    now = NOW + phase
    tick = SORTS[meter.kind].tick_us

    def wait_at(later):
        left = decayed(used, now // tick, (now + later) // tick, meter.limit)
        return rate_wait_us(left, amount, meter, now + later)

    wait = wait_at(0)

    if wait == NEVER:
        assert amount > meter.burst
    else:
        assert wait_at(wait) == 0
        assert wait == 0 or wait_at(wait - 1) == 1


@given(METERS, st.lists(st.tuples(st.integers(0, 2 * MINUTE), st.integers(1, 1000)), max_size=30))
def test_no_window_admits_more_than_the_bucket_and_its_refill(meter, calls):
    sort = SORTS[meter.kind]
    used = at = now = admitted = 0
    for later, amount in calls:
        now += later
        tick = now // sort.tick_us
        used, at = decayed(used, at, tick, meter.limit), tick
        if rate_wait_us(used, amount, meter, now) == 0:
            used, admitted = charged(used, amount, meter), admitted + amount

    assert admitted * sort.ticks <= meter.burst * sort.ticks + (now // sort.tick_us) * meter.limit


@given(st.integers(1, 1000), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000)), max_size=20))
def test_over_all_days_no_more_is_admitted_than_their_limits_and_debt_is_paid(limit, calls):
    """Each call is admitted with 1 and settled at once with what it used; no day begins with more than its debt."""
    meter, ordinal, spent = daily(limit), 20_000, 0
    stock = Stock(0, ordinal, TODAY.start_us, TODAY.start_us)
    for days, used in calls:
        ordinal += days
        now = period(ordinal).start_us
        stock = rolled(stock, period(ordinal), meter)
        before = stock.used
        if stock_wait_us(stock.used, 1, meter, period(ordinal), now) == 0:
            assert before < limit
            stock = stocked(stocked(stock, 1, meter, period(ordinal), now), used - 1, meter, period(ordinal), now)
            spent += used
        assert stock.used <= limit + 1000

    assert spent <= (ordinal - 20_000 + 1) * limit + 1000


@pytest.mark.parametrize("amount", [10**9, 10**15])
def test_debt_stays_where_a_double_is_exact(amount):
    assert charged(MOST - 1, amount, rate(10**8)) == MOST
