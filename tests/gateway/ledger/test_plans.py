from datetime import UTC, datetime

import pytest
from msgspec import msgpack

from gateway.ledger import plans as module
from gateway.ledger.plans import Plans, pack
from policies.domain import Claim, Level, Meter, MeterKind, Standing

HOUR = 3_600_000_000
DAY = 24 * HOUR


def us(*moment):
    """Return a moment of UTC in microseconds since 1970."""
    return round(datetime(*moment, tzinfo=UTC).timestamp()) * 1_000_000


NOON = us(2026, 3, 4, 12)  # a Wednesday
TODAY = us(2026, 3, 4)
MONDAY = us(2026, 3, 2)
MARCH, APRIL, MAY = us(2026, 3, 1), us(2026, 4, 1), us(2026, 5, 1)
DAY_ORDINAL = datetime(2026, 3, 4, tzinfo=UTC).toordinal()


def meter(kind, limit=100, burst=None, **options):
    return Meter(kind, limit, burst or limit, **options)


def claim(*meters, key="k", model="m", zone="UTC", levels=None):
    levels = levels or (Level("organization", "org", ()), Level("key", f"key:{key}", tuple(meters)))
    return Claim("acme", "t", key, model, levels, 0, 0, time_zone=zone)


def told(packed):
    """Return the account, and the meters by their level."""
    account, levels = msgpack.decode(packed.blob)
    return account, dict(levels)


def periods(packed):
    """Return the periods that the meters of a plan tell, in order."""
    return [each[8] for meters in told(packed)[1].values() for each in meters]


def test_a_plan_says_whose_it_is_and_names_every_level():
    packed = pack(claim(), NOON)

    assert told(packed) == (["t", "k", "m"], {"org": [], "key:k": []})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (MeterKind.REQUESTS_PER_SECOND, ["r", "r", "requests_per_second", 100, 50, 1_000_000, 1, True, 0]),
        (MeterKind.TOKENS_PER_MINUTE, ["t", "r", "tokens_per_minute", 100, 50, 60_000_000, 1, True, 0]),
        (MeterKind.INPUT_TOKENS_PER_HOUR, ["i", "r", "input_tokens_per_hour", 100, 50, 3_600_000, 1000, True, 0]),
        (MeterKind.CONCURRENT_REQUESTS, ["s", "s", "concurrent_requests", 100, 50, 0, 1, True, 0]),
        (MeterKind.BUDGET_IN_ALL, ["m", "a", "budget_in_all", 100, 50, 0, 1, True, 0]),
        (
            MeterKind.BUDGET_PER_DAY,
            [
                *("m", "c", "budget_per_day", 100, 50, 0, 1, True),
                [DAY_ORDINAL, TODAY, TODAY + DAY, DAY_ORDINAL + 1, TODAY + 2 * DAY],
            ],
        ),
    ],
)
def test_a_meter_is_told_with_how_it_is_kept(kind, words):
    assert told(pack(claim(meter(kind, 100, 50)), NOON))[1]["key:k"] == [words]


def test_a_shadow_is_told_as_one():
    (words,) = told(pack(claim(meter(MeterKind.TOKENS_IN_ALL, enforce=False)), NOON))[1]["key:k"]

    assert words[7] is False


def test_only_meters_of_all_models_and_of_the_claims_own_are_in_the_plan_and_have_places():
    everybodys = meter(MeterKind.TOKENS_PER_MINUTE, 1)
    others = meter(MeterKind.TOKENS_PER_MINUTE, 2, model="other")
    own = meter(MeterKind.TOKENS_PER_MINUTE, 3, model="m")
    levels = (
        Level("organization", "org", (others,)),
        Level("team", "team:t", (others, everybodys, own)),
        Level("key", "key:k", (own,)),
    )

    packed = pack(claim(levels=levels), NOON)

    fields = {level: [each[2] for each in meters] for level, meters in told(packed)[1].items()}
    assert fields == {
        "org": [],
        "team:t": ["tokens_per_minute", "tokens_per_minute|m"],
        "key:k": ["tokens_per_minute|m"],
    }
    assert packed.meters == ((levels[1], everybodys), (levels[1], own), (levels[2], own))


def test_a_plan_tells_the_period_of_now_and_the_next_and_holds_until_the_first_of_them_ends():
    packed = pack(claim(*(meter(MeterKind(f"tokens_per_{each}")) for each in ("week", "day", "month"))), NOON)

    week, day, month = periods(packed)
    assert week[1:3] + week[4:] == [MONDAY, MONDAY + 7 * DAY, MONDAY + 14 * DAY]
    assert day[1:3] + day[4:] == [TODAY, TODAY + DAY, TODAY + 2 * DAY]
    assert month[1:3] + month[4:] == [MARCH, APRIL, MAY]
    assert [told[3] - told[0] for told in (week, day, month)] == [1, 1, 1]
    assert (packed.since_us, packed.until_us) == (TODAY, TODAY + DAY)


def test_periods_begin_where_the_organization_is():
    packed = pack(claim(meter(MeterKind.TOKENS_PER_DAY), zone="America/New_York"), us(2026, 3, 8, 2))

    # The 7th of March still, and the next day has 23 hours.
    assert periods(packed)[0][1:3] == [us(2026, 3, 7, 5), us(2026, 3, 8, 5)]
    assert periods(packed)[0][4] == us(2026, 3, 9, 4)


def test_a_plan_without_calendar_meters_holds_for_ever():
    packed = pack(claim(meter(MeterKind.TOKENS_PER_MINUTE)), NOON)

    assert packed.since_us == 0
    assert packed.until_us > us(9999, 1, 1)


def test_a_standing_is_of_the_meter_at_its_place_and_there_is_none_at_0():
    minute, day = meter(MeterKind.TOKENS_PER_MINUTE, 60), meter(MeterKind.BUDGET_PER_DAY, 100)
    packed = pack(claim(minute, day), NOON)

    assert packed.standing(0, 5, NOON) is None
    assert packed.standing(1, 30 * 60_000_000, NOON) == Standing("key", minute, 60, 30, 30_000_000)
    assert packed.standing(2, 30, NOON) == Standing("key", day, 100, 70, 12 * HOUR)


def test_after_midnight_a_plan_of_yesterday_tells_of_its_second_period():
    day = meter(MeterKind.TOKENS_PER_DAY)
    packed = pack(claim(day), NOON)

    assert packed.standing(1, 0, NOON + 13 * HOUR) == Standing("key", day, 100, 100, 23 * HOUR)
    assert packed.period(day, TODAY + DAY - 1).ordinal == DAY_ORDINAL
    assert packed.period(day, TODAY + DAY).ordinal == DAY_ORDINAL + 1


@pytest.fixture
def clock(monkeypatch):
    """Return what sets the wall clock to a moment."""

    def set_to(moment_us):
        monkeypatch.setattr(module.clock, "wall", lambda: moment_us / 1_000_000)

    set_to(NOON)
    return set_to


def test_plans_are_packed_once_for_the_same_levels_and_anew_for_others(clock):
    plans = Plans()
    one = claim(meter(MeterKind.TOKENS_PER_DAY))

    assert plans.pack(one) is plans.pack(claim(levels=one.levels))
    assert (
        plans.pack(claim(meter(MeterKind.TOKENS_PER_WEEK))).blob
        == pack(claim(meter(MeterKind.TOKENS_PER_WEEK)), NOON).blob
    )


def test_each_model_and_key_of_the_same_levels_has_a_plan_of_its_own(clock):
    plans = Plans()
    levels = claim(meter(MeterKind.TOKENS_PER_DAY), meter(MeterKind.TOKENS_PER_DAY, model="m")).levels
    claims = [claim(levels=levels, key=key, model=model) for key in "ab" for model in ("m", "n")]

    packed = [plans.pack(each) for each in claims]

    assert [told(each)[0] for each in packed] == [["t", key, model] for key in "ab" for model in ("m", "n")]
    assert [len(each.meters) for each in packed] == [2, 1, 2, 1]
    assert [plans.pack(each) for each in claims] == packed


def test_a_plan_is_packed_anew_when_the_first_of_its_periods_is_over(clock):
    plans = Plans()
    one = claim(meter(MeterKind.TOKENS_PER_DAY), meter(MeterKind.TOKENS_PER_MONTH))
    today = plans.pack(one)

    clock(TODAY + DAY - 1)
    assert plans.pack(one) is today

    clock(TODAY + DAY)
    tomorrow = plans.pack(one)
    assert periods(tomorrow)[0][0] == DAY_ORDINAL + 1
    assert periods(tomorrow)[1] == periods(today)[1]

    clock(NOON)  # a clock that was put back
    assert plans.pack(one) == today


def test_the_stores_clock_goes_before_our_own(clock):
    plans = Plans()
    one = claim(meter(MeterKind.TOKENS_PER_DAY))
    plans.pack(one)

    packed = plans.pack(one, NOON + 5 * DAY)

    assert periods(packed)[0][0] == DAY_ORDINAL + 5
    assert plans.pack(one, NOON + 5 * DAY) is packed


def test_the_memory_of_plans_is_bounded(clock, monkeypatch):
    monkeypatch.setattr(module, "MOST_PACKED", 3)
    plans = Plans()
    many = [claim(key=f"{i}") for i in range(10)]

    packed = [plans.pack(each) for each in many]

    assert packed == [pack(each, NOON) for each in many]
    assert len(plans._packed) <= 3
