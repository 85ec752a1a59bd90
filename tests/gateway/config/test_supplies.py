"""The proofs are tried out: meters told useless are run beside the others, over calls made to find them out."""

from datetime import UTC
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gateway.config.supplies import useless
from policies.domain import Meter, MeterKind
from policies.meters import HOUR_US, MINUTE_US, SECOND_US, SORTS, Keeping, Measure
from policies.periods import current_and_next

RPS, RPM, RPH = MeterKind.REQUESTS_PER_SECOND, MeterKind.REQUESTS_PER_MINUTE, MeterKind.REQUESTS_PER_HOUR
IPM, OPM, TPM = (
    MeterKind.INPUT_TOKENS_PER_MINUTE,
    MeterKind.OUTPUT_TOKENS_PER_MINUTE,
    MeterKind.TOKENS_PER_MINUTE,
)
IPH, OPH, TPH = MeterKind.INPUT_TOKENS_PER_HOUR, MeterKind.OUTPUT_TOKENS_PER_HOUR, MeterKind.TOKENS_PER_HOUR
TPD, TPW = MeterKind.TOKENS_PER_DAY, MeterKind.TOKENS_PER_WEEK
TPMO, TALL = MeterKind.TOKENS_PER_MONTH, MeterKind.TOKENS_IN_ALL
BPD, BPM = MeterKind.BUDGET_PER_DAY, MeterKind.BUDGET_PER_MONTH
SLOTS = MeterKind.CONCURRENT_REQUESTS

DAY_US = 24 * HOUR_US
MONDAY = 4 * DAY_US
"""The first Monday after 1970 began."""


def meter(kind, limit, burst=None, model=None):
    return Meter(kind, limit, limit if burst is None else burst, model=model)


class Counted:
    """One meter by its definition: a bucket that refills, or what was used in the period (in UTC)."""

    def __init__(self, meter):
        self.meter, self.sort = meter, SORTS[meter.kind]
        self.left, self.at, self.period = Fraction(meter.burst), 0, None

    def admits(self, now, amount):
        if self.sort.keeping is Keeping.RATE:
            refill = Fraction(self.meter.limit * (now - self.at), self.sort.period_us)
            self.left = min(Fraction(self.meter.burst), self.left + refill)
        elif self.sort.calendar is not None:
            period = current_and_next(self.sort.calendar, UTC, now)[0].ordinal
            if period != self.period:
                self.left, self.period = Fraction(self.meter.limit), period
        self.at = now
        return amount <= self.left

    def take(self, amount):
        self.left -= amount


def amount(meter, call):
    given, taken = call
    return {Measure.REQUESTS: 1, Measure.INPUT: given, Measure.OUTPUT: taken}.get(
        SORTS[meter.kind].measure, given + taken
    )


def refuses_alone(target, others, calls):
    """Say whether `target` refuses a call that all `others` admit; `calls`: (microseconds since the last, tokens)."""
    now, tried, rest = MONDAY, Counted(target), [Counted(other) for other in others]
    for wait, call in calls:
        now += wait
        verdicts = [one.admits(now, amount(one.meter, call)) for one in rest]
        own = tried.admits(now, amount(target, call))
        if all(verdicts):
            if not own:
                return True
            for one in (tried, *rest):
                one.take(amount(one.meter, call))
    return False


COUNTERS = [kind for kind in MeterKind if SORTS[kind].measure not in {Measure.MONEY, Measure.SLOTS}]


@st.composite
def meters(draw):
    """Draw a meter of a kind that the calls here use up."""
    kind, limit = draw(st.sampled_from(COUNTERS)), draw(st.integers(1, 40) | st.integers(1, 4000))
    return meter(kind, limit, draw(st.integers(1, limit)) if SORTS[kind].keeping is Keeping.RATE else None)


WAITS = st.sampled_from(
    [0, 1, SECOND_US, MINUTE_US, HOUR_US, 12 * HOUR_US, DAY_US - 1, DAY_US, 6 * DAY_US, 7 * DAY_US, 27 * DAY_US]
)
CALLS = st.lists(st.tuples(WAITS, st.tuples(st.integers(0, 60), st.integers(0, 60))), max_size=60)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(meters(), st.lists(meters(), min_size=1, max_size=4, unique_by=lambda one: one.kind), CALLS)
def test_a_meter_that_is_told_useless_refuses_nothing_that_the_others_admit(target, others, calls):
    others = [other for other in others if other.kind is not target.kind]
    assume(useless(target, others) is not None)
    assert not refuses_alone(target, others, calls)


def at_once(*calls):
    return [(0, call) for call in calls]


@pytest.mark.parametrize(
    ("target", "others", "calls"),
    [
        (meter(RPM, 600, 9), [meter(RPS, 10)], at_once(*[(1, 1)] * 10)),
        (meter(RPM, 599, 10), [meter(RPS, 10)], [(SECOND_US // 10, (1, 1))] * 6000),
        (meter(RPS, 2, 1), [meter(RPM, 6)], at_once((1, 1), (1, 1))),
        (meter(TPM, 149), [meter(IPM, 100), meter(OPM, 50)], at_once((100, 50))),
        (meter(TPM, 150), [meter(IPM, 100)], at_once((100, 51))),
        (meter(IPM, 99), [meter(TPM, 100)], at_once((100, 0))),
        (meter(TPD, 1439), [meter(TPM, 1)], [(MINUTE_US * (minute > 0), (1, 0)) for minute in range(1440)]),
        (meter(TPM, 9, 9), [meter(TPD, 5)], [(DAY_US - 1, (5, 0)), (1, (5, 0))]),
        (meter(TPM, 99), [meter(TALL, 100)], at_once((100, 0))),
        (meter(TPW, 69), [meter(TPD, 10)], [(DAY_US * (day > 0), (10, 0)) for day in range(7)]),
        (meter(TPMO, 309), [meter(TPD, 10)], [(DAY_US, (10, 0))] * 90),
        # The week from Monday, 27 April 1970, lies in two months.
        (meter(TPW, 19), [meter(TPMO, 10)], [(16 * 7 * DAY_US, (10, 0)), (6 * DAY_US, (10, 0))]),
        # March 1970 begins on a Sunday and ends on a Tuesday, so it touches six weeks.
        (meter(TPMO, 59), [meter(TPW, 10)], [(days * DAY_US, (10, 0)) for days in (55, 1, 7, 7, 7, 7)]),
        (meter(TPD, 9), [meter(TPW, 10)], at_once((10, 0))),
        (meter(TALL, 1000), [meter(TPMO, 10)], [(31 * DAY_US, (10, 0))] * 101),
    ],
    ids=lambda value: str(value.kind) if isinstance(value, Meter) else "",
)
def test_a_meter_that_some_calls_can_fill_is_not_told(target, others, calls):
    assert useless(target, others) is None
    assert refuses_alone(target, others, calls)


@pytest.mark.parametrize(
    ("target", "others", "fragment"),
    [
        (meter(RPM, 600), [meter(RPS, 10)], "requests_per_second lets through no more"),
        (meter(RPM, 600), [meter(RPS, 10)], "lower its limit below 600 or its burst below 10, or remove it"),
        (meter(RPH, 50, 1), [meter(RPS, 1, 1), meter(RPM, 1, 1)], None),
        (meter(RPH, 60, 1), [meter(RPS, 1, 1), meter(RPM, 1, 1)], "requests_per_minute lets through no more"),
        (meter(RPS, 1, 1), [meter(RPM, 1, 1)], "never refuses"),
        (meter(RPS, 1, 1), [meter(RPM, 1, 1)], "; remove it"),
        (
            meter(TPM, 150),
            [meter(IPM, 100), meter(OPM, 50)],
            "input_tokens_per_minute and output_tokens_per_minute let",
        ),
        (meter(TPM, 150), [meter(IPH, 100), meter(OPH, 50)], "lower its limit below 3 or its burst below 150, or"),
        (meter(OPM, 100), [meter(TPM, 100)], "tokens_per_minute lets through"),
        (meter(TPM, 100), [meter(OPM, 1)], None),
        (meter(TPD, 1561), [meter(TPM, 1)], "tokens_per_minute lets through at most 1,561 tokens in a day; write less"),
        (meter(TPD, 1560), [meter(TPM, 1)], None),
        (meter(TPM, 10), [meter(TPD, 5)], "tokens_per_day lets through no more"),
        (meter(TPM, 9), [meter(TPD, 5)], None),
        (meter(IPH, 100, 100), [meter(TALL, 100)], "; lower its burst below 100, or remove it"),
        (meter(TPD, 10), [meter(TPW, 10)], "tokens_per_week lets through at most 10 tokens in a day"),
        (meter(TPW, 70), [meter(TPD, 10)], "tokens_per_day lets through at most 70 tokens in a week"),
        (meter(TPMO, 310), [meter(TPD, 10)], "at most 310 tokens in a month"),
        (meter(TPMO, 60), [meter(TPW, 10)], "at most 60 tokens in a month"),
        (meter(TPW, 20), [meter(TPMO, 10)], "at most 20 tokens in a week"),
        (meter(TPMO, 10), [meter(TALL, 10)], "tokens_in_all lets through at most 10 tokens in a month"),
        (meter(BPM, 775 * 10**9 + 1), [meter(BPD, 25 * 10**9)], "lets through at most 775 USD in a month"),
        (meter(BPM, 775 * 10**9 - 1), [meter(BPD, 25 * 10**9)], None),
        (meter(BPD, 10), [meter(TALL, 1)], None),
        (
            meter(SLOTS, 5, model="m"),
            [meter(SLOTS, 5)],
            "the plan's own concurrent_requests lets through at most 5 slots",
        ),
        (meter(SLOTS, 4, model="m"), [meter(SLOTS, 5)], None),
        (meter(TALL, 5, model="m"), [meter(TALL, 5)], "at most 5 tokens in all"),
        (meter(RPM, 5, model="m"), [meter(RPM, 5)], "the plan's own requests_per_minute lets"),
        (
            meter(TPM, 9, model="m"),
            [meter(IPM, 5), meter(OPM, 4, model="m")],
            "the plan's own input_tokens_per_minute and output_tokens_per_minute let",
        ),
    ],
)
def test_a_useless_meter_is_told_with_what_makes_it_so_and_what_would_be_right(target, others, fragment):
    found = useless(target, others)
    if fragment is None:
        assert found is None
    else:
        assert fragment in f"{found.message}; {found.remedy}"


def test_of_two_meters_that_are_the_same_the_later_kind_is_useless():
    second, minute = meter(RPS, 1, 1), meter(RPM, 60, 1)
    assert useless(second, [second, minute]) is None
    assert useless(minute, [second, minute]) is not None


def test_a_meter_is_not_judged_by_itself():
    assert useless(meter(RPM, 5), [meter(RPM, 5)]) is None
