import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.domain import Claim, Level, Meter, MeterKind, Standing
from policies.limits import duration, in_words, limit_headers, refusal, usd
from policies.meters import MOST, SORTS, largest
from policies.rejections import Reason

K = MeterKind
REQUESTS = Meter(K.REQUESTS_PER_MINUTE, 600, 600)
TOKENS = Meter(K.TOKENS_PER_MINUTE, 4000, 400)
SLOTS = Meter(K.CONCURRENT_REQUESTS, 32, 32)
BUDGET = Meter(K.BUDGET_PER_DAY, 25_000_000_000, 25_000_000_000)
IN_ALL = Meter(K.TOKENS_IN_ALL, 1000, 1000)
ORGANIZATION = Level("organization", "org", (TOKENS,))
TEAM = Level("team", "team:research", (REQUESTS,))
KEY = Level("key", "key:abc", (SLOTS,))
CLAIM = Claim("acme", "research", "abc", "m", (ORGANIZATION, TEAM, KEY), 300, 200, money=1_250_000_001)

HOUR_US = 3_600_000_000


def refused(level, meter, retry_after_us, *, too_large=False, tightest=None):
    return refusal(
        CLAIM,
        level,
        meter,
        retry_after_us=retry_after_us,
        too_large=too_large,
        requests=None,
        tokens=None,
        tightest=tightest,
    )


def standing(meter, remaining, reset_us, level="key"):
    return Standing(level, meter, meter.burst, remaining, reset_us)


def test_a_rate_that_is_used_up_names_the_level_the_meter_and_the_wait():
    no = refused(TEAM, REQUESTS, 1_150_001)

    assert no.message == "team 'research' has used its 600 requests_per_minute; try again in 1.2 s"
    assert (no.reason, no.level, no.meter) == (Reason.RATE_LIMITED, "team", "requests_per_minute")
    assert no.retry_after_us == 1_150_001
    assert no.shape.status == 429


def test_slots_are_named_as_running_calls():
    assert refused(KEY, SLOTS, 1_000_000).message == (
        "key 'abc' has all of its 32 concurrent_requests running; try again in 1 s"
    )


def test_an_organization_is_named_by_its_own_name_and_tokens_by_what_is_needed():
    assert refused(ORGANIZATION, TOKENS, 100).message == (
        "organization 'acme' has too little left of its 4000 tokens_per_minute, and this call needs 500 tokens; "
        "try again in 0.1 s"
    )


def test_what_is_left_is_told_where_a_standing_is_the_refusing_meters_own():
    none = standing(TOKENS, 0, 1, level="organization")
    some = standing(TOKENS, 120, 1, level="organization")
    anothers = standing(TOKENS, 120, 1, level="team")

    assert "has used its 4000 tokens_per_minute, and" in refused(ORGANIZATION, TOKENS, 1, tightest=none).message
    assert "has 120 left of its 4000 tokens_per_minute" in refused(ORGANIZATION, TOKENS, 1, tightest=some).message
    assert "has too little left" in refused(ORGANIZATION, TOKENS, 1, tightest=anothers).message


def test_a_meter_of_one_model_names_it():
    of_one = Meter(K.OUTPUT_TOKENS_PER_MINUTE, 100, 300, model="big")

    assert refused(KEY, of_one, 5_000_000).message == (
        "key 'abc' has too little left of its 100 output_tokens_per_minute for model 'big', "
        "and this call needs 200 output tokens; try again in 5 s"
    )


def test_a_calendar_meter_tells_when_its_period_begins_anew_and_money_is_exact():
    no = refused(KEY, BUDGET, 5 * HOUR_US + 1, tightest=standing(BUDGET, 70, 5 * HOUR_US + 1))

    assert no.message == (
        "key 'abc' has 0.00000007 USD left of its 25 USD budget_per_day, and this call needs 1.250000001 USD; "
        "try again in 5 h 1 min, when a new day begins"
    )
    assert no.reason is Reason.RATE_LIMITED


def test_what_never_comes_back_is_told_as_spent_and_has_no_time():
    no = refused(TEAM, IN_ALL, None, tightest=standing(IN_ALL, 0, None, level="team"))

    assert no.message == (
        "team 'research' has used its 1000 tokens_in_all, and this call needs 500 tokens; "
        "what is used does not come back: ask for a higher limit"
    )
    assert (no.reason, no.retry_after_us) == (Reason.SPENT, None)


@pytest.mark.parametrize(
    ("kind", "needs", "most", "remedy"),
    [
        (K.TOKENS_PER_MINUTE, "500 tokens", "40", "shorten the prompt or lower the maximum of output tokens"),
        (K.INPUT_TOKENS_PER_HOUR, "300 input tokens", "40", "shorten the prompt"),
        (K.OUTPUT_TOKENS_PER_HOUR, "200 output tokens", "40", "lower the maximum of output tokens"),
        (K.TOKENS_PER_WEEK, "500 tokens", "40", "shorten the prompt or lower the maximum of output tokens"),
        (
            K.BUDGET_PER_MONTH,
            "1.250000001 USD",
            "0.00000004 USD",
            "shorten the prompt, lower the maximum of output tokens or ask a cheaper model",
        ),
    ],
)
def test_a_claim_larger_than_a_meter_ever_holds_is_told_both_sizes_a_remedy_and_no_time(kind, needs, most, remedy):
    no = refused(ORGANIZATION, Meter(kind, 40, 40), 77, too_large=True)

    assert no.message == (
        f"this call needs {needs}, but the {kind} of organization 'acme' never hold more than {most}; {remedy}"
    )
    assert (no.reason, no.retry_after_us) == (Reason.TOO_LARGE_FOR_LIMIT, None)


@pytest.mark.parametrize("kind", [K.REQUESTS_PER_HOUR, K.CONCURRENT_REQUESTS])
def test_a_meter_that_can_hold_no_request_says_so(kind):
    assert "no call can be admitted" in refused(TEAM, Meter(kind, 0, 0), None, too_large=True).message


def test_every_kind_of_meter_can_refuse_in_words_that_name_it():
    for kind in K:
        for too_large in (False, True):
            for wait in (1, None):
                no = refused(TEAM, Meter(kind, 10, 10), wait, too_large=too_large)
                assert f"{kind}" in no.message
                assert "team 'research'" in no.message


def test_the_standings_travel_with_the_refusal():
    requests, tokens, tightest = (standing(meter, 0, 1) for meter in (REQUESTS, TOKENS, SLOTS))

    no = refusal(
        CLAIM, TEAM, REQUESTS, retry_after_us=1, too_large=False, requests=requests, tokens=tokens, tightest=tightest
    )

    assert (no.requests, no.tokens, no.tightest) == (requests, tokens, tightest)


@pytest.mark.parametrize(
    ("us", "words"),
    [
        (1, "0.1 s"),
        (59_900_000, "59.9 s"),
        (59_900_001, "1 min"),
        (61_000_000, "1 min 1 s"),
        (HOUR_US - 1, "1 h"),
        (HOUR_US + 1, "1 h 1 min"),
        (24 * HOUR_US - 1, "1 day"),
        (24 * HOUR_US + 1, "1 day 1 h"),
        (55 * HOUR_US, "2 days 7 h"),
        (31 * 24 * HOUR_US, "31 days"),
    ],
)
def test_waits_are_rounded_up_and_have_at_most_two_units(us, words):
    assert in_words(us) == words


@given(st.integers(1, 400 * 24 * HOUR_US))
def test_no_wait_in_words_is_shorter_than_it_is(us):
    units = {"s": 1_000_000, "min": 60_000_000, "h": HOUR_US, "day": 24 * HOUR_US, "days": 24 * HOUR_US}
    parts = re.findall(r"([\d.]+) (\w+)", in_words(us))
    told = sum(round(float(number) * 10) * units[unit] // 10 for number, unit in parts)

    assert us <= told <= us + us // 24 + 100_000


@pytest.mark.parametrize(
    ("nano", "written"),
    [
        (0, "0 USD"),
        (1, "0.000000001 USD"),
        (25_000_000_000, "25 USD"),
        (1_500_000_000, "1.5 USD"),
        (-70, "-0.00000007 USD"),
        (MOST, "9007199.254740991 USD"),
    ],
)
def test_money_is_written_exactly(nano, written):
    assert usd(nano) == written


def test_openais_headers_are_those_of_the_requests_and_the_tokens_meter():
    tokens = Meter(K.TOKENS_PER_MINUTE, 40_000, 40_000)

    assert limit_headers(standing(REQUESTS, 599, 100_000), standing(tokens, 39_000, 360_000_000), None) == [
        (b"x-ratelimit-limit-requests", b"600"),
        (b"x-ratelimit-remaining-requests", b"599"),
        (b"x-ratelimit-reset-requests", b"100ms"),
        (b"x-ratelimit-limit-tokens", b"40000"),
        (b"x-ratelimit-remaining-tokens", b"39000"),
        (b"x-ratelimit-reset-tokens", b"6m0s"),
    ]


def test_a_meter_that_no_level_has_has_no_header_nor_one_that_is_never_full_again_a_reset():
    assert limit_headers(None, None, None) == []
    assert [name for name, _ in limit_headers(None, standing(IN_ALL, 1, None), None)] == [
        b"x-ratelimit-limit-tokens",
        b"x-ratelimit-remaining-tokens",
    ]


@pytest.mark.parametrize(
    ("meter", "policy"),
    [
        (REQUESTS, '"key.requests_per_minute";q=600;qu="requests";w=60'),
        (TOKENS, '"key.tokens_per_minute";q=4000;qu="tokens";w=60;sluiceway-burst=400'),
        (SLOTS, '"key.concurrent_requests";q=32;qu="concurrent-requests"'),
        (BUDGET, '"key.budget_per_day";q=25000000;qu="micro-dollars";w=86400'),
        (IN_ALL, '"key.tokens_in_all";q=1000;qu="tokens"'),
        (Meter(K.INPUT_TOKENS_PER_HOUR, 5, 5), '"key.input_tokens_per_hour";q=5;qu="tokens";w=3600'),
        (Meter(K.REQUESTS_PER_SECOND, 5, 5), '"key.requests_per_second";q=5;qu="requests";w=1'),
        (Meter(K.TOKENS_PER_WEEK, 5, 5), '"key.tokens_per_week";q=5;qu="tokens";w=604800'),
        (Meter(K.BUDGET_PER_MONTH, 1999, 1999), '"key.budget_per_month";q=1;qu="micro-dollars"'),
        (Meter(K.TOKENS_PER_DAY, 5, 5, model="a/b:c"), '"key.tokens_per_day|a/b:c";q=5;qu="tokens";w=86400'),
    ],
)
def test_the_tightest_meters_policy_is_told_as_the_ietf_draft_writes_it(meter, policy):
    headers = dict(limit_headers(None, None, standing(meter, 3999, 1_000_001)))
    name = policy.partition(";")[0]
    left = 3 if "micro-dollars" in policy else 3999

    assert headers == {b"ratelimit-policy": policy.encode(), b"ratelimit": f"{name};r={left};t=2".encode()}


def test_no_time_is_told_where_a_meter_is_never_full_again_or_the_call_could_come_back_sooner():
    assert limit_headers(None, None, standing(IN_ALL, 7, None))[1] == (b"ratelimit", b'"key.tokens_in_all";r=7')
    full = standing(REQUESTS, 0, 60_000_000)
    assert limit_headers(None, None, full, 60_000_000)[1][1] == b'"key.requests_per_minute";r=0;t=60'
    assert limit_headers(None, None, full, 59_999_999)[1][1] == b'"key.requests_per_minute";r=0'


def test_no_limit_is_longer_than_an_integer_of_a_header_can_be():
    for kind in SORTS:
        meter = Meter(kind, largest(kind), largest(kind))
        for _, value in limit_headers(None, None, standing(meter, meter.limit, 0)):
            assert all(len(number) <= 15 for number in re.findall(rb"=(\d+)", value))


@pytest.mark.parametrize(
    ("us", "written"),
    [
        (0, "0s"),
        (1, "1ms"),
        (20_000, "20ms"),
        (999_001, "1s"),
        (1_000_000, "1s"),
        (8_640_000, "8.64s"),
        (59_999_001, "1m0s"),
        (360_000_000, "6m0s"),
        (60_000_001, "1m1s"),
        (3_723_000_000, "1h2m3s"),
        (3_600_000_000, "1h0m0s"),
    ],
)
def test_durations_are_written_as_openai_does(us, written):
    assert duration(us) == written
