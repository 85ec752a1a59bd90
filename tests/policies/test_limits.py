import pytest

from policies.domain import Claim, Level, Meter, MeterKind, Standing
from policies.limits import duration, openai_headers, refusal
from policies.rejections import Reason

REQUESTS = Meter(MeterKind.REQUESTS_PER_MINUTE, 600, 600, 60_000_000)
TOKENS = Meter(MeterKind.TOKENS_PER_MINUTE, 4000, 400, 60_000_000)
SLOTS = Meter(MeterKind.CONCURRENT_REQUESTS, 32, 32, 0)
ORGANIZATION = Level("organization", "organization", (TOKENS,))
TEAM = Level("team", "team:research", (REQUESTS,))
KEY = Level("key", "abc", (SLOTS,))
CLAIM = Claim("acme", "abc", "m", (ORGANIZATION, TEAM, KEY), tokens=500, prompt_tokens=100)


def refused(level, meter, retry_after_us):
    return refusal(CLAIM, level, meter, retry_after_us=retry_after_us, requests=None, tokens=None)


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


def test_an_organization_is_named_by_its_own_name():
    assert refused(ORGANIZATION, TOKENS, 100).message.startswith("organization 'acme' has used its 4000")


def test_a_claim_larger_than_the_bucket_is_told_its_size_and_no_time():
    no = refused(ORGANIZATION, TOKENS, None)

    assert no.reason is Reason.TOO_LARGE_FOR_LIMIT
    assert no.retry_after_us is None
    assert "needs 500 tokens" in no.message
    assert "never hold more than 400" in no.message


def test_a_meter_that_can_hold_no_request_says_so():
    none = Meter(MeterKind.REQUESTS_PER_MINUTE, 1, 0, 60_000_000)

    assert "no call can be admitted" in refused(TEAM, none, None).message


def test_the_standings_travel_with_the_refusal():
    requests, tokens = Standing(1, 2, 3), Standing(4, 5, 6)

    no = refusal(CLAIM, TEAM, REQUESTS, retry_after_us=1, requests=requests, tokens=tokens)

    assert (no.requests, no.tokens) == (requests, tokens)


@pytest.mark.parametrize(("us", "words"), [(1, "0.1 s"), (59_900_000, "59.9 s"), (59_900_001, "60 s"), (61e6, "61 s")])
def test_waits_are_rounded_up(us, words):
    assert refused(TEAM, REQUESTS, int(us)).message.endswith(f"in {words}")


def test_headers_are_those_of_openai():
    assert openai_headers(Standing(600, 599, 100_000), Standing(40_000, 39_000, 360_000_000)) == [
        (b"x-ratelimit-limit-requests", b"600"),
        (b"x-ratelimit-remaining-requests", b"599"),
        (b"x-ratelimit-reset-requests", b"100ms"),
        (b"x-ratelimit-limit-tokens", b"40000"),
        (b"x-ratelimit-remaining-tokens", b"39000"),
        (b"x-ratelimit-reset-tokens", b"6m0s"),
    ]


def test_a_meter_that_no_level_has_has_no_header():
    assert openai_headers(None, None) == []
    assert [name for name, _ in openai_headers(None, Standing(1, 1, 0))] == [
        b"x-ratelimit-limit-tokens",
        b"x-ratelimit-remaining-tokens",
        b"x-ratelimit-reset-tokens",
    ]


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
