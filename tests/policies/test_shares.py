from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.domain import Claim, Level, Meter, MeterKind
from policies.meters import HOUR_US, MINUTE_US, SECOND_US, SORTS, Keeping, Measure, amount, field
from policies.shares import AGAIN_US, Known, Shares, Verdict, stance

K = MeterKind
DAY_US = 24 * HOUR_US
NOON = 20_600 * DAY_US + 12 * HOUR_US
"""Noon of a day in 2026, UTC."""


def meter(kind, limit, burst=None, **more):
    return Meter(kind, limit, limit if burst is None else burst, **more)


def claim(*meters, tokens=0, output=0, money=0, model="m", level=None):
    levels = (level or Level("key", "key:k", meters),)
    return Claim("acme", "t", "k", model, levels, tokens, output, money)


def shares(*meters, used=0, held=0, live=1, at_us=NOON, zone="UTC"):
    """Return the shares of a gateway that was told the same of each meter."""
    known = {("key:k", field(each)): Known(used, at_us, held) for each in meters}
    return Shares(known, live, ZoneInfo(zone))


def admitted(one, what, at_us=NOON, most=10_000):
    """Return how often `what` is admitted in a row."""
    return next(times for times in range(most) if not one.admit(what, at_us).granted)


@pytest.mark.parametrize(("live", "calls"), [(1, 600), (2, 300), (7, 85), (600, 1), (601, 0)])
def test_a_rate_is_a_live_th_of_its_bucket_and_of_its_refill(live, calls):
    rate = meter(K.REQUESTS_PER_MINUTE, 600)
    one = shares(rate, live=live)

    assert admitted(one, claim(rate)) == calls
    assert admitted(one, claim(rate), NOON + MINUTE_US) == calls


def test_what_was_used_before_is_everybodys_and_refills_from_the_moment_it_was_told():
    rate = meter(K.REQUESTS_PER_MINUTE, 60)
    used = 60 * SORTS[rate.kind].ticks

    assert admitted(shares(rate, used=used, live=2), claim(rate)) == 0
    assert admitted(shares(rate, used=used, live=2), claim(rate), NOON + 20 * SECOND_US) == 10


def test_a_rates_wait_is_when_this_very_call_is_admitted_and_not_a_microsecond_longer():
    rate = meter(K.TOKENS_PER_MINUTE, 700, 500)
    one, what = shares(rate, live=3), claim(rate, tokens=100)
    assert admitted(one, what) == 1
    refused = one.admit(what, NOON)

    assert (refused.verdict, refused.meter, refused.level) == (Verdict.WAIT, rate, what.levels[0])
    assert not one.admit(what, NOON + refused.wait_us - 1).granted
    assert one.admit(what, NOON + refused.wait_us).granted


def test_a_call_that_fits_the_bucket_but_no_share_of_it_waits_for_the_store():
    rate = meter(K.TOKENS_PER_MINUTE, 1000)
    one = shares(rate, live=3)

    assert one.admit(claim(rate, tokens=334), NOON) == one.admit(claim(rate, tokens=1000), NOON)
    assert one.admit(claim(rate, tokens=334), NOON).wait_us == AGAIN_US
    assert one.admit(claim(rate, tokens=333), NOON).granted


@pytest.mark.parametrize("kind", [K.TOKENS_PER_HOUR, K.TOKENS_PER_WEEK, K.TOKENS_IN_ALL])
def test_a_call_larger_than_a_meter_ever_holds_is_told_so(kind):
    all_of_it = meter(kind, 1000)
    refused = shares(all_of_it).admit(claim(all_of_it, tokens=1001), NOON)

    assert (refused.verdict, refused.wait_us) == (Verdict.TOO_LARGE, 0)


@pytest.mark.parametrize(("used", "live", "calls"), [(0, 3, 33), (1, 3, 33), (2, 3, 32), (100, 3, 0), (250, 3, 0)])
@pytest.mark.parametrize("kind", [K.BUDGET_PER_DAY, K.BUDGET_IN_ALL])
def test_a_stock_is_a_live_th_of_what_was_left(kind, used, live, calls):
    stock = meter(kind, 100)

    assert admitted(shares(stock, used=used, live=live), claim(stock, money=1)) == calls


def test_what_is_spent_for_good_is_told_apart_from_what_only_this_gateway_may_not_spend():
    stock = meter(K.TOKENS_IN_ALL, 100)
    spent = shares(stock, used=99, live=2).admit(claim(stock, tokens=2), NOON)
    shared = shares(stock, used=50, live=2).admit(claim(stock, tokens=26), NOON)

    assert (spent.verdict, spent.wait_us) == (Verdict.SPENT, 0)
    assert (shared.verdict, shared.wait_us) == (Verdict.WAIT, AGAIN_US)


def test_a_calendar_meter_waits_for_its_period_where_all_was_used_and_else_for_the_store():
    day = meter(K.TOKENS_PER_DAY, 100)
    used_up = shares(day, used=100, live=2).admit(claim(day, tokens=1), NOON)
    shared = shares(day, used=50, live=2).admit(claim(day, tokens=26), NOON)

    assert (used_up.verdict, used_up.wait_us) == (Verdict.WAIT, 12 * HOUR_US)
    assert (shared.verdict, shared.wait_us) == (Verdict.WAIT, AGAIN_US)


def test_a_period_that_ends_meanwhile_begins_anew_with_the_share_of_a_whole_limit():
    day = meter(K.TOKENS_PER_DAY, 100)
    one, what = shares(day, used=90, live=2), claim(day, tokens=1)

    assert admitted(one, what) == 5
    assert not one.admit(what, NOON + 12 * HOUR_US - 1).granted
    assert admitted(one, what, NOON + 12 * HOUR_US) == 50
    assert admitted(one, what, NOON + 5 * DAY_US) == 50


def test_periods_begin_in_the_organizations_time_zone():
    day = meter(K.TOKENS_PER_DAY, 100)
    one = shares(day, used=100, zone="Asia/Tokyo")

    assert not one.admit(claim(day, tokens=1), NOON + 3 * HOUR_US - 1).granted
    assert one.admit(claim(day, tokens=1), NOON + 3 * HOUR_US).granted


def test_what_a_calendar_meter_owes_the_next_period_pays():
    day = meter(K.TOKENS_PER_DAY, 100)
    one = shares(day, used=130, live=2)

    assert admitted(one, claim(day, tokens=1), NOON + DAY_US) == 35


@pytest.mark.parametrize(
    ("limit", "live", "held", "calls"), [(32, 3, 0, 10), (32, 3, 4, 6), (32, 3, 20, 0), (2, 5, 0, 1)]
)
def test_slots_are_a_share_of_all_less_those_held_and_at_least_one(limit, live, held, calls):
    slots = meter(K.CONCURRENT_REQUESTS, limit)

    assert admitted(shares(slots, used=limit, held=held, live=live), claim(slots)) == calls


def test_a_slot_comes_back_when_its_call_is_settled():
    slots = meter(K.CONCURRENT_REQUESTS, 2)
    one = shares(slots, held=1, live=2)
    assert one.admit(claim(slots), NOON).verdict is Verdict.WAIT

    one.settle(claim(slots), 0, 0, 0, admitted_us=NOON - 1, now_us=NOON)

    assert admitted(one, claim(slots)) == 1


def test_a_meter_that_was_never_touched_admits_nothing():
    rate, unknown = meter(K.REQUESTS_PER_MINUTE, 60), meter(K.TOKENS_PER_MINUTE, 60)
    one = shares(rate)
    refused = one.admit(claim(rate, unknown, tokens=1), NOON)

    assert (refused.verdict, refused.meter, refused.wait_us) == (Verdict.UNKNOWN, unknown, AGAIN_US)
    assert admitted(one, claim(rate)) == 60
    assert Shares({}, 1).admit(claim(rate), NOON).verdict is Verdict.UNKNOWN


def test_a_refusal_takes_nothing_of_any_meter_and_names_the_longest_wait():
    minute, hour, slots = (
        meter(K.REQUESTS_PER_MINUTE, 60),
        meter(K.TOKENS_PER_HOUR, 60),
        meter(K.CONCURRENT_REQUESTS, 9),
    )
    one = shares(minute, hour, slots)
    assert one.admit(claim(minute, hour, slots, tokens=60), NOON).granted

    for _ in range(100):
        refused = one.admit(claim(minute, hour, slots, tokens=1), NOON)
        assert (refused.verdict, refused.meter, refused.wait_us) == (Verdict.WAIT, hour, MINUTE_US)

    assert admitted(one, claim(minute)) == 59


def test_a_call_that_needs_none_of_a_spent_meter_is_admitted():
    budget = meter(K.BUDGET_IN_ALL, 100)

    assert shares(budget, used=100).admit(claim(budget, money=0), NOON).granted


def test_a_shadow_counts_and_never_refuses():
    shadow = meter(K.REQUESTS_PER_MINUTE, 2, enforce=False)
    unknown = meter(K.TOKENS_PER_DAY, 1, enforce=False)
    one = shares(shadow)
    outcomes = [one.admit(claim(shadow, unknown, tokens=9), NOON) for _ in range(3)]

    assert all(each.granted for each in outcomes)
    of_unknown = ("key", K.TOKENS_PER_DAY)
    assert [each.shadows for each in outcomes] == [
        (of_unknown,),
        (of_unknown,),
        (("key", K.REQUESTS_PER_MINUTE), of_unknown),
    ]


def test_only_the_meters_of_the_claims_model_count():
    of_another = meter(K.REQUESTS_PER_MINUTE, 1, model="other")
    one = shares(of_another)

    assert one.admit(claim(of_another), NOON).granted
    assert admitted(one, claim(of_another, model="other")) == 1


@pytest.mark.parametrize("kind", [K.OUTPUT_TOKENS_PER_MINUTE, K.TOKENS_PER_MONTH, K.BUDGET_PER_DAY, K.TOKENS_IN_ALL])
def test_growth_and_settlement_are_of_the_share(kind):
    one, stock = shares(meter(kind, 100), live=2), meter(kind, 100)
    what = claim(stock, output=30, money=30)
    assert one.admit(what, NOON).granted

    assert one.grow(what, 20, 20, admitted_us=NOON, now_us=NOON).granted
    assert one.grow(what, 1, 1, admitted_us=NOON, now_us=NOON).verdict is Verdict.WAIT
    one.settle(what, 0, -40, -40, admitted_us=NOON, now_us=NOON)
    assert admitted(one, claim(stock, output=1, money=1)) == 40


def test_what_was_admitted_in_a_period_is_settled_in_it():
    day = meter(K.TOKENS_PER_DAY, 100)
    one = shares(day, live=2)
    assert one.admit(claim(day, tokens=50), NOON).granted
    assert one.admit(claim(day, tokens=20), NOON + DAY_US).granted

    one.settle(claim(day, tokens=50), -40, 0, 0, admitted_us=NOON, now_us=NOON + DAY_US)
    assert admitted(one, claim(day, tokens=1), NOON + DAY_US) == 30


def test_growth_after_its_period_ended_is_of_that_period():
    day = meter(K.TOKENS_PER_DAY, 100)
    one, late = shares(day), claim(day, tokens=60)
    assert one.admit(late, NOON).granted
    assert one.admit(claim(day, tokens=100), NOON + DAY_US).granted

    assert one.grow(late, 40, 0, admitted_us=NOON, now_us=NOON + DAY_US).granted
    refused = one.grow(late, 1, 0, admitted_us=NOON, now_us=NOON + DAY_US)
    assert (refused.verdict, refused.wait_us) == (Verdict.WAIT, AGAIN_US)


def test_a_clock_that_steps_back_gives_nothing_again():
    rate, day = meter(K.REQUESTS_PER_MINUTE, 60), meter(K.TOKENS_PER_DAY, 60)
    one = shares(rate, day)
    assert admitted(one, claim(rate, day, tokens=1), NOON + DAY_US) == 60

    assert not one.admit(claim(rate), NOON).granted
    assert not one.admit(claim(day, tokens=1), NOON).granted
    assert not one.admit(claim(rate), NOON + DAY_US).granted


def test_what_was_told_later_than_the_clock_says_refills_from_then():
    rate = meter(K.REQUESTS_PER_MINUTE, 60)
    one = shares(rate, used=60 * SORTS[rate.kind].ticks, at_us=NOON + MINUTE_US)

    for now_us in (NOON, NOON + MINUTE_US):
        assert not one.admit(claim(rate), now_us).granted
    assert admitted(one, claim(rate), NOON + MINUTE_US + SECOND_US) == 1


COUNTED = [kind for kind in K if SORTS[kind].keeping is not Keeping.SLOTS]

steps = st.lists(
    st.tuples(
        st.integers(0, 3),  # which gateway
        st.integers(0, 3),  # 0 to 2: a call; 3: what it used last is less than was set aside
        st.integers(1, 60),  # how much
        st.sampled_from([0, 1, 999, 40_000, SECOND_US, MINUTE_US]),  # how much later
    ),
    max_size=60,
)


@given(
    kind=st.sampled_from(COUNTED),
    limit=st.integers(1, 200),
    used=st.integers(0, 260),
    live=st.integers(1, 4),
    steps=steps,
)
def test_all_gateways_together_never_admit_more_than_was_left(kind, limit, used, live, steps):
    """Whatever they admit, grow and give back, at every moment, beginning with the same knowledge."""
    one = meter(kind, limit)
    sort = SORTS[kind]
    unit = max(1, sort.ticks)
    gateways = [shares(one, used=used * unit, live=live) for _ in range(live)]
    open_calls = [[] for _ in range(live)]
    taken, now = 0, NOON
    for which, action, much, later in steps:
        which, now = which % live, now + later  # noqa: PLW2901 - fewer gateways than numbers
        if action < 3:
            what = claim(one, tokens=much if sort.measure is Measure.INPUT else 0, output=much, money=much)
            if gateways[which].admit(what, now).granted:
                open_calls[which].append((what, now))
                taken += amount(what, sort.measure)
            continue
        if sort.keeping is Keeping.RATE or not open_calls[which]:
            continue  # what a rate gives back may have been refilled already
        what, began = open_calls[which].pop()
        gateways[which].settle(what, 0, -what.output_tokens, -what.money, admitted_us=began, now_us=now)
        taken -= amount(what, sort.measure) - what.input_tokens
    refill = (now // sort.tick_us - NOON // sort.tick_us) * limit if sort.keeping is Keeping.RATE else 0

    assert taken * unit <= max(0, limit * unit - used * unit + refill)


@given(limit=st.integers(1, 40), live=st.integers(1, 9))
def test_slots_of_all_gateways_together_are_no_more_than_the_limit_or_one_each(limit, live):
    slots = meter(K.CONCURRENT_REQUESTS, limit)

    assert live * admitted(shares(slots, live=live), claim(slots)) <= max(limit, live)


LIMITED = (Meter(MeterKind.TOKENS_IN_ALL, 5, 5),)


def stanced(*levels):
    return stance(tuple(Level("key", f"k{i}", meters, when_down=down) for i, (down, meters) in enumerate(levels)))


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([("local", LIMITED), ("local", LIMITED)], "local"),
        ([("local", LIMITED), ("deny", LIMITED)], "deny"),
        ([("deny", LIMITED), ("local", LIMITED)], "deny"),
        ([("local", LIMITED), ("deny", ())], "local"),  # it limits nothing, so it denies nothing
        ([("local", ()), ("deny", LIMITED)], "deny"),
        ([("local", ()), ("local", ())], "local"),
        ([("local", ()), ("deny", ())], "deny"),
        ([], "local"),
    ],
)
def test_one_level_with_meters_that_says_deny_denies(levels, expected):
    assert stanced(*levels) == expected
