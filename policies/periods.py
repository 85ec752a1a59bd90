"""Calendar periods: the day, ISO week or month of a moment, in an organization's time zone, and the one after.

Law: periods follow one another without gap or overlap, whatever the clocks of a zone do. A period begins at the first
midnight of its first day; where that midnight does not exist, at the moment the clocks were put forward over it. A day
that a zone left out altogether (it crossed the date line) is no period: its number is passed over.
"""

from datetime import UTC, date, datetime, timedelta, tzinfo

from msgspec import Struct

from policies.meters import Calendar

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1)
WEEK = timedelta(weeks=1)


class Period(Struct, frozen=True):
    """One period: `start_us` is its first moment and `end_us` the first after it, in microseconds since 1970 (UTC).

    `ordinal` numbers periods of a kind; consecutive ones differ by 1.
    """

    ordinal: int
    start_us: int
    end_us: int


def current_and_next(calendar: Calendar, zone: tzinfo, at_us: int) -> tuple[Period, Period]:
    """Return the period of `calendar` that `at_us` lies in by the clocks of `zone`, and the one that follows it."""
    first = _first_day(calendar, (EPOCH + at_us * MICROSECOND).astimezone(zone).date())
    # Where clocks were put back over midnight, the evening comes twice and belongs to the new day the second time.
    while at_us >= _begins_us(_after(calendar, first), zone):
        first = _after(calendar, first)
    # Where they were put forward over midnight from before it, the old day lasts until what would have been midnight.
    while at_us < _begins_us(first, zone):
        first = _first_day(calendar, first - DAY)
    current = _period(calendar, first, zone)
    following = _period(calendar, _after(calendar, first), zone)
    while following.start_us == following.end_us:
        first = _after(calendar, first)
        following = _period(calendar, _after(calendar, first), zone)
    return current, following


def _period(calendar: Calendar, first: date, zone: tzinfo) -> Period:
    return Period(_ordinal(calendar, first), _begins_us(first, zone), _begins_us(_after(calendar, first), zone))


def _begins_us(day: date, zone: tzinfo) -> int:
    """Return the first midnight of `day`; one that does not exist is read by the offset that was valid before it."""
    return (datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC) - EPOCH) // MICROSECOND


def _first_day(calendar: Calendar, day: date) -> date:
    match calendar:
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)


def _after(calendar: Calendar, first: date) -> date:
    """Return the first day of the period after the one that begins with `first`."""
    match calendar:
        case "day":
            return first + DAY
        case "week":
            return first + WEEK
        case "month":
            return (first + timedelta(days=31)).replace(day=1)


def _ordinal(calendar: Calendar, first: date) -> int:
    match calendar:
        case "day":
            return first.toordinal()
        case "week":
            return (first.toordinal() - 1) // 7
        case "month":
            return first.year * 12 + first.month - 1
