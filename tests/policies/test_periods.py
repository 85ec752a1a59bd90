from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.periods import Period, current_and_next

HOUR_US = 3_600_000_000
ZONES = sorted(available_timezones() - {"localtime"})


def us(zone, *moment, fold=0):
    """Return a local moment in microseconds since 1970."""
    local = datetime(*moment, tzinfo=ZoneInfo(zone), fold=fold)
    return (local.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def at(calendar, zone, *moment, fold=0):
    return current_and_next(calendar, ZoneInfo(zone), us(zone, *moment, fold=fold))


def hours(period):
    return (period.end_us - period.start_us) / HOUR_US


@pytest.mark.parametrize(
    ("calendar", "first", "following", "ordinal"),
    [
        ("day", (2026, 3, 4), (2026, 3, 5), date(2026, 3, 4).toordinal()),
        ("week", (2026, 3, 2), (2026, 3, 9), (date(2026, 3, 2).toordinal() - 1) // 7),
        ("month", (2026, 3, 1), (2026, 4, 1), 2026 * 12 + 2),
    ],
)
def test_a_period_begins_at_its_first_local_midnight_and_ends_at_the_next_ones(calendar, first, following, ordinal):
    current, after = at(calendar, "Europe/Berlin", 2026, 3, 4, 15, 30)

    assert current == Period(ordinal, us("Europe/Berlin", *first), us("Europe/Berlin", *following))
    assert (after.ordinal, after.start_us) == (ordinal + 1, current.end_us)


def test_a_periods_last_microsecond_is_its_own_and_the_next_is_the_next_ones():
    midnight = us("Asia/Kolkata", 2026, 5, 1)
    for calendar in ("day", "month"):
        before, _ = current_and_next(calendar, ZoneInfo("Asia/Kolkata"), midnight - 1)
        after, _ = current_and_next(calendar, ZoneInfo("Asia/Kolkata"), midnight)

        assert before.end_us == after.start_us == midnight
        assert after.ordinal == before.ordinal + 1


def test_the_days_on_which_clocks_change_have_23_and_25_hours():
    assert hours(at("day", "Europe/Berlin", 2026, 3, 29, 12)[0]) == 23
    assert hours(at("day", "Europe/Berlin", 2026, 10, 25, 12)[0]) == 25
    assert hours(at("day", "Australia/Lord_Howe", 2026, 10, 4, 12)[0]) == 23.5
    assert hours(at("week", "Europe/Berlin", 2026, 3, 29, 12)[0]) == 7 * 24 - 1
    assert hours(at("month", "Europe/Berlin", 2026, 10, 1)[0]) == 31 * 24 + 1


def test_a_week_begins_on_monday_and_the_53rd_reaches_into_the_next_year():
    sunday, following = at("week", "UTC", 2027, 1, 3, 23, 59, 59)

    assert date(2027, 1, 3).isocalendar()[:2] == (2026, 53)
    assert sunday.start_us == us("UTC", 2026, 12, 28)
    assert following == at("week", "UTC", 2027, 1, 4)[0]
    assert following.ordinal == sunday.ordinal + 1


def test_february_has_its_29th_in_leap_years_and_only_then():
    assert hours(at("month", "UTC", 2028, 2, 29)[0]) == 29 * 24
    assert hours(at("month", "UTC", 2026, 2, 1)[0]) == 28 * 24
    assert hours(at("month", "UTC", 2100, 2, 1)[0]) == 28 * 24
    assert at("day", "UTC", 2028, 2, 28, 12)[1] == at("day", "UTC", 2028, 2, 29, 12)[0]


def test_december_is_followed_by_january():
    december, january = at("month", "America/New_York", 2026, 12, 31, 23)

    assert january.ordinal == december.ordinal + 1
    assert january.start_us == us("America/New_York", 2027, 1, 1)


@pytest.mark.parametrize(
    ("zone", "day"), [("America/Havana", (2026, 3, 8)), ("Asia/Beirut", (2026, 3, 29)), ("Africa/Cairo", (2026, 4, 24))]
)
def test_a_day_whose_midnight_does_not_exist_begins_when_the_clocks_are_put_forward(zone, day):
    current, following = at("day", zone, *day, 12)
    first = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=current.start_us)).astimezone(ZoneInfo(zone))

    assert (first.date(), first.hour) == (date(*day), 1)
    assert hours(current) == 23
    assert following.start_us == current.end_us
    assert current_and_next("day", ZoneInfo(zone), current.start_us - 1) == (
        Period(current.ordinal - 1, current.start_us - 24 * HOUR_US, current.start_us),
        current,
    )


def test_a_day_whose_midnight_comes_twice_begins_at_the_first():
    current, _ = at("day", "America/Havana", 2026, 11, 1, 0, 30, fold=1)

    assert current.start_us == us("America/Havana", 2026, 11, 1, fold=0)
    assert hours(current) == 25


def test_an_evening_that_comes_twice_after_midnight_was_seen_belongs_to_the_new_day():
    """Newfoundland put its clocks back at one minute past midnight."""
    seen = us("America/St_Johns", 2006, 10, 29)
    again, _ = at("day", "America/St_Johns", 2006, 10, 28, 23, 30, fold=1)

    assert again.start_us == seen
    assert again == at("day", "America/St_Johns", 2006, 10, 29, 12)[0]


def test_a_day_that_a_zone_left_out_is_passed_over():
    """Samoa had no 30 December 2011."""
    thursday, saturday = at("day", "Pacific/Apia", 2011, 12, 29, 12)

    assert hours(thursday) == 24
    assert saturday.start_us == thursday.end_us
    assert saturday.ordinal == date(2011, 12, 31).toordinal() == thursday.ordinal + 2
    assert saturday == at("day", "Pacific/Apia", 2011, 12, 31)[0]
    assert hours(at("week", "Pacific/Apia", 2011, 12, 29)[0]) == 6 * 24


@settings(max_examples=500)
@given(
    calendar=st.sampled_from(("day", "week", "month")),
    zone=st.sampled_from(ZONES),
    at_us=st.integers(us("UTC", 2012, 1, 1), us("UTC", 2100, 1, 1)),
)
def test_every_moment_lies_in_one_period_and_periods_follow_one_another(calendar, zone, at_us):
    current, following = current_and_next(calendar, ZoneInfo(zone), at_us)

    assert current.start_us <= at_us < current.end_us
    assert current.end_us == following.start_us < following.end_us
    assert following.ordinal == current.ordinal + 1
    for moment in (current.start_us, current.end_us - 1):
        assert current_and_next(calendar, ZoneInfo(zone), moment) == (current, following)
    assert current_and_next(calendar, ZoneInfo(zone), following.start_us)[0] == following


@settings(max_examples=300)
@given(zone=st.sampled_from(ZONES), at_us=st.integers(us("UTC", 1900, 1, 1), us("UTC", 2012, 1, 1)))
def test_no_oddity_of_the_past_makes_a_gap_either(zone, at_us):
    current, following = current_and_next("day", ZoneInfo(zone), at_us)

    assert current.start_us <= at_us < current.end_us == following.start_us < following.end_us
    assert current_and_next("day", ZoneInfo(zone), current.end_us)[0] == following
